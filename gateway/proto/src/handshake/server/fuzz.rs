//! The body of the fuzz target for the side that clients connect to.
//!
//! One export, "disk", with two contexts, behind a server with a low option limit. What the server says is read back with
//! the decoders of the connecting side.

use bytes::{BufMut, BytesMut};

use super::{Ask, Offer, Progress, Server, ServerHandshakeError, Tls, match_contexts};
use crate::handshake::BlockSizes;
use crate::handshake::info::{InfoItem, Listed, MAX_REPLY, MetaContext, REPLY_HEAD, ReplyHead};
use crate::{ExportFlags, Framing, Info, MAX_STRING, OPT_MAGIC, Opt, Rep};

const EXPORT: &str = "disk";
/// The longest option data taken; low, so that a fuzzer gets past it.
const LIMIT: u32 = 256;
/// Magic, style, flags.
const GREETING: usize = 18;

/// How a handshake ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Waiting,
    Aborted,
    Entered,
    NoSuchExport,
    Bad(ServerHandshakeError),
}

/// All that can be seen of a handshake from outside.
#[derive(Debug, PartialEq, Eq)]
struct Played {
    end: End,
    said: Vec<u8>,
    rest: Vec<u8>,
    framing: Framing,
    selected: Vec<usize>,
}

/// Plays a client that sends `data`, at once and in pieces. The first byte chooses the length of a piece, whether TLS is
/// there or required, and whether the rest is sent as it is or is a script of options: option, length, body, ….
pub(crate) fn fuzz_server(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let input = if how & 0x80 == 0 { data.to_vec() } else { script(data) };
    let tls = match how >> 5 & 3 {
        0 => Tls::Off,
        1 => Tls::Allow,
        _ => Tls::Require,
    };
    let whole = play(&input, tls, usize::MAX);
    let cut = play(&input, tls, usize::from(how & 0x1f).saturating_add(1));
    assert_eq!(whole, cut, "the outcome depends on how the input is cut");
    let refused = read_back(&whole);
    if refused {
        assert!(whole.selected.is_empty(), "a selection of contexts that failed left the one before in force");
    }
    assert!(whole.selected.is_empty() || whole.framing != Framing::Simple, "contexts without structured replies");
}

fn script(mut data: &[u8]) -> Vec<u8> {
    let mut input = BytesMut::new();
    input.put_u32(3);
    while let [option, length, rest @ ..] = data {
        let (body, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        put_option(&mut input, Opt(u32::from(*option)), body);
        data = rest;
    }
    input.into()
}

fn play(input: &[u8], tls: Tls, piece: usize) -> Played {
    let contexts = ["base:allocation".to_owned(), "qemu:dirty-bitmap:b0".to_owned()];
    let (mut server, mut buffer, mut said) = (Server::new(LIMIT, tls), BytesMut::new(), Vec::new());
    let mut end = End::Waiting;
    let mut pieces = input.chunks(piece);
    while end == End::Waiting {
        let (before, framing, secured) = (buffer.len(), server.framing(), server.secured);
        let progress = server.handle_input(&mut buffer);
        said.append(server.output());
        assert!(buffer.len() <= before, "a handshake only takes from its input");
        assert!(server.framing() >= framing || server.secured != secured, "a framing that was agreed on is gone");
        match progress {
            Err(bad) => end = End::Bad(bad),
            Ok(Progress::Aborted) => end = End::Aborted,
            Ok(Progress::Ask(ask)) => {
                let held = buffer.len();
                assert!(matches!(server.handle_input(&mut buffer), Ok(Progress::More)), "it goes on before an answer");
                assert_eq!(buffer.len(), held, "it takes input before an answer");
                end = answer(&mut server, &mut buffer, &contexts, ask);
            }
            Ok(Progress::More) => {
                let most = usize::try_from(LIMIT).unwrap_or(usize::MAX).saturating_add(16);
                assert!(buffer.len() < most, "waits for more with {} bytes of one option", buffer.len());
                let Some(more) = pieces.next() else { break };
                buffer.extend_from_slice(more);
            }
        }
    }
    said.append(server.output());
    assert_eq!(server.is_finished(), matches!(end, End::Aborted | End::Entered));
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    Played { end, said, rest: buffer.to_vec(), framing: server.framing(), selected: server.selected(EXPORT) }
}

fn answer(server: &mut Server, buffer: &mut BytesMut, contexts: &[String], ask: Ask) -> End {
    assert!(server.tls != Tls::Require || server.secured || ask == Ask::StartTls, "{ask:?} before TLS");
    match &ask {
        Ask::Info { name, infos, .. } => {
            assert!(fits(name), "a name of {} bytes", name.len());
            assert!(infos.iter().all(|info| Info::NAMED.contains(info)), "{infos:?}");
        }
        Ask::Contexts { name, queries, .. } => assert!(fits(name) && queries.iter().all(|q| fits(q))),
        Ask::ExportName { name } => assert!(fits(name), "a name of {} bytes", name.len()),
        Ask::List | Ask::StartTls => {}
    }
    match ask {
        Ask::List => {
            server.list(EXPORT, Some("a disk"));
            server.end_list();
        }
        Ask::StartTls => start_tls(server, buffer),
        Ask::ExportName { name } if name == EXPORT => {
            server.answer_export_name(4096, ExportFlags::HAS_FLAGS);
            return End::Entered;
        }
        Ask::ExportName { .. } => return End::NoSuchExport,
        Ask::Info { name, .. } | Ask::Contexts { name, .. } if name != EXPORT => {
            server.refuse(Rep::ERR_UNKNOWN, "no such export");
        }
        Ask::Info { infos, go, .. } => {
            let offer = Offer {
                size: 4096,
                flags: ExportFlags::HAS_FLAGS,
                name: EXPORT,
                description: Some("a disk"),
                block_sizes: Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 65536 }),
                resize: Some([0; 26]),
            };
            server.answer_info(&infos, &offer);
            if go {
                return End::Entered;
            }
        }
        Ask::Contexts { set, queries, .. } => {
            server.answer_contexts(EXPORT, &match_contexts(&numbered(contexts), &queries, set));
        }
    }
    End::Waiting
}

/// What follows is taken as if it came through TLS. As it is, in the clear, it must not be.
fn start_tls(server: &mut Server, buffer: &mut BytesMut) {
    if !buffer.is_empty() {
        assert_eq!(server.answer_start_tls(buffer), Err(ServerHandshakeError::Injected(buffer.len())));
    }
    let inside = core::mem::take(buffer);
    assert_eq!(server.answer_start_tls(buffer), Ok(()));
    assert_eq!((server.framing(), server.selected(EXPORT)), (Framing::Simple, vec![]), "not all is forgotten");
    *buffer = inside;
}

fn fits(text: &str) -> bool {
    u32::try_from(text.len()).is_ok_and(|length| length <= MAX_STRING)
}

/// Reads all that the server said; whether the last selection of contexts was refused.
fn read_back(played: &Played) -> bool {
    let Some((_, mut said)) = played.said.split_at_checked(GREETING) else {
        unreachable!("a greeting of {} bytes", played.said.len())
    };
    let mut refused = false;
    while let Some(Ok(head)) = ReplyHead::decode(said) {
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        let (body, rest) = said.split_at_checked(length.saturating_add(REPLY_HEAD)).unwrap_or_default();
        assert!(!body.is_empty() && head.length <= MAX_REPLY, "a reply of {length} bytes that is not there");
        if head.opt == Opt::SET_META_CONTEXT {
            refused = head.rep.is_error();
        }
        read_reply(head, body);
        said = rest;
    }
    // What is left is the answer to NBD_OPT_EXPORT_NAME, which is no option reply.
    let left = said.len();
    assert!(left == 0 || (played.end == End::Entered && (left == 10 || left == 134)), "{left} bytes that are no reply");
    refused
}

/// One reply, encoded again from what the connecting side makes of it.
fn read_reply(head: ReplyHead, whole: &[u8]) {
    let body = whole.get(REPLY_HEAD..).unwrap_or_default();
    let mut again = BytesMut::new();
    match head.rep {
        Rep::INFO => match InfoItem::decode(body) {
            Ok(item) => item.encode(head.opt, &mut again),
            Err(bad) => unreachable!("NBD_REP_INFO: {bad}"),
        },
        Rep::SERVER => match Listed::decode(body) {
            Ok(listed) => listed.encode(&mut again),
            Err(bad) => unreachable!("NBD_REP_SERVER: {bad}"),
        },
        Rep::META_CONTEXT => match MetaContext::decode(body) {
            Ok(context) => context.encode(head.opt, &mut again),
            Err(bad) => unreachable!("NBD_REP_META_CONTEXT: {bad}"),
        },
        Rep::ACK => return assert!(body.is_empty(), "NBD_REP_ACK has data"),
        error => {
            assert!(error.is_error(), "{error} has no place here");
            return assert!(core::str::from_utf8(body).is_ok_and(fits), "{error} without a message for people");
        }
    }
    assert_eq!(&again[..], whole, "a reply that does not encode to what was read");
}

fn put_option(out: &mut BytesMut, option: Opt, data: &[u8]) {
    out.put_u64(OPT_MAGIC);
    out.put_u32(option.0);
    out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.put_slice(data);
}

/// What real clients say, each also as a script.
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let info = |name: &str, infos: &[Info]| {
        let mut data = BytesMut::new();
        put_string(&mut data, name);
        data.put_u16(u16::try_from(infos.len()).unwrap_or(u16::MAX));
        infos.iter().for_each(|info| data.put_u16(info.0));
        data
    };
    let contexts = |queries: &[&str]| {
        let mut data = BytesMut::new();
        put_string(&mut data, EXPORT);
        data.put_u32(u32::try_from(queries.len()).unwrap_or(u32::MAX));
        queries.iter().for_each(|query| put_string(&mut data, query));
        data
    };
    let (none, everything) = (BytesMut::new, info(EXPORT, Info::NAMED));
    let conversations = [
        vec![(Opt::EXPORT_NAME, BytesMut::from(EXPORT))],
        vec![(Opt::EXPORT_NAME, BytesMut::from("none"))],
        vec![(Opt::LIST, none()), (Opt::INFO, info(EXPORT, &[])), (Opt::ABORT, none())],
        vec![(Opt::STARTTLS, none()), (Opt(99), BytesMut::from("?")), (Opt::INFO, info("none", &[Info::NAME]))],
        vec![
            (Opt::STRUCTURED_REPLY, none()),
            (Opt::LIST_META_CONTEXT, contexts(&[])),
            (Opt::LIST_META_CONTEXT, contexts(&["qemu:"])),
            (Opt::SET_META_CONTEXT, contexts(&["base:allocation"])),
            (Opt::GO, info(EXPORT, &[Info::BLOCK_SIZE])),
        ],
        vec![
            (Opt::EXTENDED_HEADERS, none()),
            (Opt::STRUCTURED_REPLY, none()),
            (Opt::SET_META_CONTEXT, contexts(&["base:allocation", "qemu:dirty-bitmap:b0", "x:y"])),
            (Opt::SET_META_CONTEXT, contexts(&["base:"])),
            (Opt::GO, everything),
        ],
        vec![(Opt::INFO, BytesMut::zeroed(255)), (Opt::SET_META_CONTEXT, BytesMut::zeroed(7))],
    ];
    let mut seeds = Vec::new();
    for conversation in conversations {
        let (mut raw, mut script) = (BytesMut::from(&[6, 0, 0, 0, 3][..]), vec![0x83]);
        for (option, data) in conversation {
            put_option(&mut raw, option, &data);
            script.push(u8::try_from(option.0).unwrap_or(u8::MAX));
            script.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
            script.extend_from_slice(&data);
        }
        seeds.extend([raw.to_vec(), script]);
    }
    // With TLS allowed, and with it required.
    for tls in [0x20, 0x40] {
        let mut raw = BytesMut::from(&[6 | tls, 0, 0, 0, 3][..]);
        for option in [Opt::STRUCTURED_REPLY, Opt::STARTTLS, Opt::LIST, Opt::STARTTLS] {
            put_option(&mut raw, option, &[]);
        }
        put_option(&mut raw, Opt::GO, &info(EXPORT, &[Info::NAME]));
        seeds.push(raw.to_vec());
    }
    // An option over the limit, to be thrown away.
    let mut long = BytesMut::from(&[28, 0, 0, 0, 3][..]);
    put_option(&mut long, Opt::GO, &[7; 300]);
    put_option(&mut long, Opt::LIST, &[]);
    seeds.push(long.to_vec());
    seeds
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text.as_bytes());
}
fn numbered(contexts: &[String]) -> Vec<(usize, &str)> {
    contexts.iter().map(String::as_str).enumerate().collect()
}
