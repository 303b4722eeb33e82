//! The scripted backend's side of the handshake.

use std::sync::Arc;

use super::{Fault, Resizing, Script, Shared, fall_silent};
use crate::scripted::numbers::{IHAVEOPT, NBDMAGIC, OPTION_REPLY, flag, info, opt, rep};
use crate::scripted::{Framing, Link};
use crate::trouble::{Trouble, ensure};

/// Negotiates; the framing of the transmission phase, if there is one.
pub(super) fn shake(link: &mut Link, script: &Script, shared: &Arc<Shared>) -> Result<Option<Framing>, Trouble> {
    let mut greeting = [NBDMAGIC.to_be_bytes(), IHAVEOPT.to_be_bytes()].concat();
    greeting.extend(3_u16.to_be_bytes());
    match script.fault {
        Some(Fault::GreetingNever) => {
            fall_silent(link);
            return Ok(None);
        }
        Some(Fault::GreetingCutAt(end)) => {
            link.send(&greeting[..end])?;
            return Ok(None);
        }
        Some(Fault::GreetingWrong) => greeting[..8].copy_from_slice(b"HTTP/1.1"),
        _ => {}
    }
    link.send(&greeting)?;
    link.take_u32()?;
    let mut framing = Framing::Simple;
    loop {
        let magic = link.take_u64()?;
        ensure(magic == IHAVEOPT, || format!("an option begins with {magic:#x}"))?;
        let (option, length) = (link.take_u32()?, link.take_u32()?);
        let data = link.take(length as usize)?;
        if script.fault == Some(Fault::OptionsUnanswered) {
            fall_silent(link);
            return Ok(None);
        }
        let extra = !matches!(option, opt::GO | opt::INFO | opt::EXPORT_NAME | opt::ABORT);
        match script.fault {
            Some(Fault::ExtrasRefused(kind)) if extra => {
                reply(link, script, option, kind, &[])?;
                continue;
            }
            Some(Fault::ExtrasHungUpOn) if extra => return Ok(None),
            _ => {}
        }
        match option {
            opt::STRUCTURED_REPLY if script.framing != Framing::Simple => {
                framing = Framing::Structured;
                reply(link, script, option, rep::ACK, &[])?;
            }
            opt::EXTENDED_HEADERS if script.framing == Framing::Extended => {
                framing = Framing::Extended;
                reply(link, script, option, rep::ACK, &[])?;
            }
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT if script.framing != Framing::Simple => {
                contexts(link, script, option, &data)?;
            }
            opt::LIST => {
                reply(link, script, option, rep::SERVER, &[0; 4])?;
                reply(link, script, option, rep::ACK, &[])?;
            }
            opt::INFO | opt::GO => {
                let size = shared.story.lock().disk.len() as u64;
                let bytes = opened(script, option, framing, size, &data);
                if let Some(Fault::GoCutAt(end)) = script.fault {
                    link.send(&bytes[..end])?;
                    return Ok(None);
                }
                if shared.story.lock().info_late {
                    shared.tell(|story| (story.info_late, story.info_waits) = (false, true));
                    shared.wait(|story| !story.info_waits);
                }
                link.send(&bytes)?;
                if option == opt::GO && script.fault != Some(Fault::GoRefused) {
                    return Ok(Some(framing));
                }
            }
            opt::EXPORT_NAME => {
                let size = shared.story.lock().disk.len() as u64;
                link.send(&[&size.to_be_bytes()[..], &flags(script, framing).to_be_bytes()].concat())?;
                return Ok(Some(framing));
            }
            opt::ABORT => {
                reply(link, script, option, rep::ACK, &[])?;
                return Ok(None);
            }
            _ => reply(link, script, option, rep::ERR_UNSUP, &[])?,
        }
    }
}

/// DF makes sense only with structured replies.
fn flags(script: &Script, framing: Framing) -> u16 {
    if framing == Framing::Simple { script.flags & !flag::DF } else { script.flags }
}

/// All replies to INFO or GO.
fn opened(script: &Script, option: u32, framing: Framing, size: u64, data: &[u8]) -> Vec<u8> {
    let size = if script.fault == Some(Fault::GoWithHugeSize) { u64::MAX } else { size };
    let mut export = info::EXPORT.to_be_bytes().to_vec();
    export.extend(size.to_be_bytes());
    export.extend(flags(script, framing).to_be_bytes());
    let mut bytes = Vec::new();
    match script.fault {
        Some(Fault::GoRefused) => return encode(script, option, rep::ERR_POLICY, b"not today"),
        Some(Fault::GoWithoutSize) => {}
        Some(Fault::GoWithShortInfo) => bytes.extend(encode(script, option, rep::INFO, &export[..7])),
        _ => bytes.extend(encode(script, option, rep::INFO, &export)),
    }
    let blocks = if script.fault == Some(Fault::BlockSizeOdd) { Some([1000, 4096, 1 << 25]) } else { script.blocks };
    if let Some(blocks) = blocks {
        let mut data = info::BLOCK_SIZE.to_be_bytes().to_vec();
        data.extend(blocks.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(encode(script, option, rep::INFO, &data));
    }
    let name = u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize;
    let wants_resize = data[4 + name + 2..].chunks(2).any(|kind| kind == info::RESIZE.to_be_bytes());
    if let Resizing::Native { features } = script.resizing
        && wants_resize
    {
        let bounds = [0, i64::MAX as u64, 1_u64].map(u64::to_be_bytes).concat();
        let told = [&info::RESIZE.to_be_bytes()[..], &features.to_be_bytes(), &bounds].concat();
        bytes.extend(encode(script, option, rep::INFO, &told));
    }
    bytes.extend(encode(script, option, rep::ACK, &[]));
    bytes
}

fn contexts(link: &mut Link, script: &Script, option: u32, data: &[u8]) -> Result<(), Trouble> {
    let queries = queries(data).ok_or_else(|| Trouble::new("a torn meta context request"))?;
    for (id, name) in (7_u32..).zip(script.contexts) {
        // A LIST without queries asks for everything; a query that ends with a colon, for a namespace.
        let listed = option == opt::LIST_META_CONTEXT
            && (queries.is_empty() || queries.iter().any(|q| q.ends_with(':') && name.starts_with(q.as_str())));
        if listed || queries.iter().any(|query| query == name) {
            reply(link, script, option, rep::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()].concat())?;
        }
    }
    reply(link, script, option, rep::ACK, &[])
}

fn queries(data: &[u8]) -> Option<Vec<String>> {
    let mut rest = data;
    let number = |rest: &mut &[u8]| -> Option<usize> {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        *rest = tail;
        Some(u32::from_be_bytes(*head) as usize)
    };
    let name = number(&mut rest)?;
    rest = rest.get(name..)?;
    let count = number(&mut rest)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        let length = number(&mut rest)?;
        let (query, tail) = rest.split_at_checked(length)?;
        queries.push(String::from_utf8_lossy(query).into_owned());
        rest = tail;
    }
    Some(queries)
}

fn reply(link: &mut Link, script: &Script, option: u32, kind: u32, data: &[u8]) -> Result<(), Trouble> {
    link.send(&encode(script, option, kind, data))
}

fn encode(script: &Script, option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let (magic, option, length) = match script.fault {
        Some(Fault::OptionReplyWrong) => (0x0102_0304_0506_0708, option, data.len() as u32),
        Some(Fault::OptionReplyForAnother) => (OPTION_REPLY, option ^ 0x40, data.len() as u32),
        Some(Fault::OptionReplyEndless) => (OPTION_REPLY, option, u32::MAX),
        _ => (OPTION_REPLY, option, data.len() as u32),
    };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes
}
