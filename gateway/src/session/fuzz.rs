//! The body of the fuzz target for requests: from a client's bytes to what is admitted.
//!
//! Decodes and admits as a session in transmission does, without sockets and permits. A second opinion on every verdict
//! is written down here rule by rule.

use super::admit::{Rules, Verdict, admit, narrow};
use nbd_gateway_policy::access::{Verb, Verbs};

use crate::request::Failure;
use nbd_gateway_proto::fuzz::{framing, receive};
use nbd_gateway_proto::request::{COMPACT_REQUEST, EXTENDED_REQUEST, RequestHeader, RequestMagicError};
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, ExportFlags, Framing, Inbox};

/// Size of the export in bytes.
const END: u64 = 1 << 20;
/// The largest payload in bytes.
const LARGEST: u64 = 1 << 16;

/// What came of one request.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Admitted { header: RequestHeader, flags: CmdFlags, payload: Vec<u8>, only: Option<Box<[usize]>> },
    Nothing(RequestHeader),
    Refused(RequestHeader, Failure),
    Disconnected,
    Ended(&'static str),
    Bad(RequestMagicError),
}

/// What is awaited.
enum Step {
    Header,
    Payload(RequestHeader, CmdFlags),
    Contexts(RequestHeader, usize),
    Skip(RequestHeader, Failure, u64),
    Over,
}

/// Plays a client that sends `data` in transmission, at once and in pieces. The first four bytes choose the framing, the
/// number of contexts and draining, the length of a piece, and the transmission flags.
pub(crate) fn fuzz_requests(data: &[u8]) {
    let [choice, piece, flags_high, flags_low, data @ ..] = data else { return };
    let rules = Rules {
        framing: framing(*choice),
        flags: ExportFlags(u16::from_be_bytes([*flags_high, *flags_low])),
        verbs: if choice & 0x10 == 0 { Verbs::ALL } else { Verbs::ALL.without(Verb::Trim) },
        end: END,
        grows: false,
        largest: LARGEST,
        contexts: usize::from(choice >> 2 & 3),
        draining: choice & 0x80 != 0,
    };
    let whole = play(&rules, data, usize::MAX);
    let cut = play(&rules, data, usize::from(*piece).saturating_add(1));
    assert_eq!(whole, cut, "the outcome depends on how the input is cut");
    whole.iter().for_each(|told| check(&rules, told));
}

fn play(rules: &Rules, mut data: &[u8], piece: usize) -> Vec<Told> {
    let selected: Vec<usize> = (0..rules.contexts).collect();
    let (mut inbox, mut step, mut told) = (Inbox::default(), Step::Header, Vec::new());
    loop {
        step = match step {
            Step::Header => {
                let bytes = peeked(&inbox, rules.framing);
                match RequestHeader::take(&mut inbox, rules.framing) {
                    Ok(Some(header)) => {
                        let mut again = Vec::new();
                        header.put(rules.framing, &mut again);
                        assert_eq!(Some(again), bytes, "a header that does not encode to what was read");
                        follow(&mut told, header, admit(rules, &header), None)
                    }
                    Ok(None) if data.is_empty() => return told,
                    Ok(None) => {
                        receive(&mut inbox, &mut data, piece);
                        Step::Header
                    }
                    Err(bad) => {
                        told.push(Told::Bad(bad));
                        Step::Over
                    }
                }
            }
            Step::Payload(header, flags) => match inbox.payload(usize::try_from(header.length).unwrap_or(usize::MAX)) {
                Some(payload) => {
                    let payload = payload.to_contiguous().to_vec();
                    told.push(Told::Admitted { header, flags, payload, only: None });
                    Step::Header
                }
                None if data.is_empty() => return told,
                None => {
                    receive(&mut inbox, &mut data, piece);
                    Step::Payload(header, flags)
                }
            },
            Step::Contexts(mut header, length) => match inbox.payload(length) {
                Some(payload) => {
                    let (verdict, only) = narrow(rules, &mut header, &payload.to_contiguous(), &selected);
                    follow(&mut told, header, verdict, Some(only))
                }
                None if data.is_empty() => return told,
                None => {
                    receive(&mut inbox, &mut data, piece);
                    Step::Contexts(header, length)
                }
            },
            Step::Skip(header, failure, left) => match left.saturating_sub(inbox.skip(left)) {
                0 => {
                    told.push(Told::Refused(header, failure));
                    Step::Header
                }
                _ if data.is_empty() => return told,
                left => {
                    receive(&mut inbox, &mut data, piece);
                    Step::Skip(header, failure, left)
                }
            },
            Step::Over => return told,
        };
    }
}

/// The next header's bytes, if they are there.
fn peeked(inbox: &Inbox, framing: Framing) -> Option<Vec<u8>> {
    match framing {
        Framing::Extended => inbox.peek::<EXTENDED_REQUEST>().map(|b| b.to_vec()),
        Framing::Simple | Framing::Structured => inbox.peek::<COMPACT_REQUEST>().map(|b| b.to_vec()),
    }
}

fn follow(told: &mut Vec<Told>, header: RequestHeader, verdict: Verdict, only: Option<Box<[usize]>>) -> Step {
    match verdict {
        Verdict::Go(flags) if header.command == Cmd::WRITE => return Step::Payload(header, flags),
        Verdict::Go(flags) => told.push(Told::Admitted { header, flags, payload: Vec::new(), only }),
        Verdict::Nothing => told.push(Told::Nothing(header)),
        Verdict::Contexts(length) => return Step::Contexts(header, length),
        Verdict::Refuse(failure, skip) => return Step::Skip(header, failure, skip),
        Verdict::Disconnect => told.push(Told::Disconnected),
        Verdict::End(why) => told.push(Told::Ended(why)),
    }
    if matches!(told.last(), Some(Told::Disconnected | Told::Ended(_))) { Step::Over } else { Step::Header }
}

/// The second opinion.
fn check(rules: &Rules, told: &Told) {
    let (header, flags, payload, only) = match told {
        Told::Admitted { header, flags, payload, only } => (header, *flags, payload, only),
        Told::Nothing(header) => {
            assert_eq!(header.length, 0, "answered without the backend: {header:?}");
            assert!(header.offset <= END && !rules.draining, "past the end, or draining: {header:?}");
            return;
        }
        Told::Refused(header, failure) => {
            assert_ne!(failure.errno.0, 0, "refused without an error: {header:?}");
            return assert!(!failure.message.is_empty(), "refused without a reason: {header:?}");
        }
        Told::Disconnected | Told::Ended(_) | Told::Bad(_) => return,
    };
    let told = rules.flags;
    let writes = header.command.changes_data();
    assert!(!rules.draining, "admitted while draining: {header:?}");
    assert!(!writes || !told.has(ExportFlags::READ_ONLY), "admitted to a read-only export: {header:?}");
    let within = header.offset.checked_add(header.length).is_some_and(|end| end <= END);
    assert!(within, "admitted past the end: {header:?}");
    assert_eq!(header.length == 0, header.command == Cmd::FLUSH, "admitted with this length: {header:?}");
    let (length, written) = (header.length, u64::try_from(payload.len()).unwrap_or(u64::MAX));
    assert_eq!(written, if header.command == Cmd::WRITE { length } else { 0 }, "a payload of another length");
    let needs = match header.command {
        Cmd::READ | Cmd::WRITE => {
            assert!(length <= LARGEST, "admitted over the largest payload: {header:?}");
            ExportFlags::NONE
        }
        Cmd::FLUSH => ExportFlags::SEND_FLUSH,
        Cmd::TRIM => {
            assert!(rules.verbs.has(Verb::Trim), "admitted without the verb: {header:?}");
            ExportFlags::SEND_TRIM
        }
        Cmd::WRITE_ZEROES => ExportFlags::SEND_WRITE_ZEROES,
        Cmd::CACHE => ExportFlags::SEND_CACHE,
        Cmd::BLOCK_STATUS => {
            let asked = only.as_deref().unwrap_or_default();
            assert!(rules.contexts > 0 && asked.iter().all(|c| *c < rules.contexts), "{asked:?}");
            assert!(only.is_some() == header.flags.has(CmdFlags::PAYLOAD_LEN), "{only:?} of {header:?}");
            ExportFlags::NONE
        }
        other => unreachable!("{other} is not for a backend"),
    };
    assert!(told.has(needs), "admitted although not offered: {header:?}");
    assert!(header.flags.has(flags), "flags {flags} that the client did not set: {header:?}");
    let allowed = CmdFlags::NONE
        .with_if(CmdFlags::FUA, writes && told.has(ExportFlags::SEND_FUA))
        .with_if(CmdFlags::DF, header.command == Cmd::READ && told.has(ExportFlags::SEND_DF))
        .with_if(CmdFlags::REQ_ONE, header.command == Cmd::BLOCK_STATUS)
        .with_if(CmdFlags::NO_HOLE, header.command == Cmd::WRITE_ZEROES)
        .with_if(CmdFlags::FAST_ZERO, header.command == Cmd::WRITE_ZEROES && told.has(ExportFlags::SEND_FAST_ZERO));
    assert!(allowed.has(flags), "flags {flags} for {header:?}");
}

/// Every command in every framing, with what it brings.
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, framing) in [(0x08, Framing::Simple), (0x09, Framing::Structured), (0x0a, Framing::Extended)] {
        for flags in [0x1ffd_u16, 0x0003] {
            let [high, low] = flags.to_be_bytes();
            let mut conversation = vec![choice, 20, high, low];
            for command in Cmd::NAMED.iter().filter(|command| **command != Cmd::DISC) {
                let mut request = Vec::new();
                put(*command, CmdFlags::NONE, framing, 512, &mut request);
                put(*command, CmdFlags::FUA, framing, 1, &mut request);
                conversation.extend_from_slice(&request);
                seeds.push([&[choice, 3, high, low], &request[..]].concat());
            }
            put(Cmd::READ, CmdFlags::DF, framing, 4096, &mut conversation);
            put(Cmd::READ, CmdFlags::NONE, framing, END, &mut conversation);
            put(Cmd::WRITE_ZEROES, CmdFlags::NO_HOLE.with(CmdFlags::FAST_ZERO), framing, 4096, &mut conversation);
            put(Cmd::BLOCK_STATUS, CmdFlags::REQ_ONE, framing, 4096, &mut conversation);
            put(Cmd(77), CmdFlags(0xffff), framing, 0, &mut conversation);
            put(Cmd::DISC, CmdFlags::NONE, framing, 0, &mut conversation);
            seeds.push(conversation);
        }
    }
    // A BLOCK_STATUS for one context, with its length in the payload.
    let mut status = vec![0x0a, 7, 0x1f, 0xfd];
    for id in [1u32, 2] {
        let flags = CmdFlags::PAYLOAD_LEN;
        let header = RequestHeader { flags, command: Cmd::BLOCK_STATUS, cookie: Cookie(9), offset: 0, length: 12 };
        header.put(Framing::Extended, &mut status);
        status.extend_from_slice(&4096u64.to_be_bytes());
        status.extend_from_slice(&id.to_be_bytes());
    }
    seeds.push(status);
    seeds
}

fn put(command: Cmd, flags: CmdFlags, framing: Framing, length: u64, out: &mut Vec<u8>) {
    let writes = command == Cmd::WRITE;
    let flags = flags.with_if(CmdFlags::PAYLOAD_LEN, writes && framing == Framing::Extended);
    let length = if command == Cmd::FLUSH { 0 } else { length };
    let header = RequestHeader { flags, command, cookie: Cookie(0x1122_3344_5566_7788), offset: 0, length };
    header.put(framing, out);
    if writes {
        out.extend(std::iter::repeat_n(0x77, usize::try_from(length).unwrap_or_default()));
    }
}
