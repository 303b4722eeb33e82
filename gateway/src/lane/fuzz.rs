//! The body of the fuzz target for replies: from a backend's bytes to the outcome of each request.
//!
//! A lane with one request of every kind in flight; its own decoder and table, without sockets.

use std::sync::Arc;

use bytes::Bytes;

use super::decode::Decoder;
use super::table::cookie;
use super::{Durability, Lane};
use crate::request::{Failure, Finished, Found, Job, Outcome, Request, Status};
use nbd_gateway_proto::fuzz::{framing, receive};
use nbd_gateway_proto::reply::{Body, Event, Expected, MAX_EXTENTS, ReplyError, ReplyReader, put_chunk, put_simple};
use nbd_gateway_proto::{Chunk, ChunkFlags, Cmd, CmdFlags, Cookie, Errno, Framing, Inbox, MAX_STRING, Payload, Piece};

/// Metadata contexts of the export, by their numbers on this connection.
pub(super) const CONTEXTS: [u32; 2] = [7, 9];

/// What is in flight, in this order.
const REQUESTS: [(Cmd, CmdFlags, u64, u64); 9] = [
    (Cmd::READ, CmdFlags::NONE, 0x1000, 64),
    (Cmd::READ, CmdFlags::DF, 0, 8),
    (Cmd::READ, CmdFlags::NONE, u64::MAX >> 1, 0x1_8000),
    (Cmd::WRITE, CmdFlags::FUA, 0, 16),
    (Cmd::FLUSH, CmdFlags::NONE, 0, 0),
    (Cmd::BLOCK_STATUS, CmdFlags::NONE, 0, 0x10_0000),
    (Cmd::TRIM, CmdFlags::NONE, 0, 0x1000),
    (Cmd::WRITE_ZEROES, CmdFlags::FAST_ZERO, 0, 0x1000),
    (Cmd::CACHE, CmdFlags::NONE, 0, 0x1000),
];

/// An outcome without the cuts of its payloads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Done,
    Whole(Bytes),
    Pieces(Vec<(u64, Result<Bytes, u64>)>),
    Status(Vec<Status>),
    Resized(u64),
    Failed(Failure),
}

/// All that can be seen of a connection from outside.
#[derive(Debug, PartialEq, Eq)]
struct Played {
    end: Option<ReplyError>,
    told: Vec<(Cmd, u64, u64, Told)>,
    in_flight: usize,
}

/// Plays a backend that sends `data`, at once and in pieces. The first byte chooses the framing, and whether the rest is
/// sent as it is or is a script of chunks: which request, type, flags, length, payload, ….
pub(crate) fn fuzz_replies(data: &[u8]) {
    let [choice, piece, data @ ..] = data else { return };
    let framing = framing(*choice);
    let stream = if choice & 0x80 == 0 { data.to_vec() } else { script(framing, data) };
    let whole = play(framing, &stream, usize::MAX);
    let cut = play(framing, &stream, usize::from(*piece).saturating_add(1));
    assert_eq!(whole, cut, "the outcome depends on how the input is cut");
    assert_eq!(whole.told.len().saturating_add(whole.in_flight), REQUESTS.len(), "a request is lost, or told twice");
    whole.told.iter().for_each(|(command, offset, length, told)| check(*command, *offset, *length, told));
    echo(framing, &stream);
}

fn script(framing: Framing, mut data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [request, kind, flags, length, rest @ ..] = data {
        let (payload, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        let cookie = cookie_of(usize::from(*request));
        // Every type that has a meaning within few values, so that a fuzzer finds them.
        let kind = match kind {
            0x53 => Chunk::RESIZE,
            kind => Chunk(u16::from(kind & 0x7f) | if kind & 0x80 == 0 { 0 } else { 0x8000 }),
        };
        if framing == Framing::Simple || flags & 0x80 != 0 {
            put_simple(&mut stream, u32::from(kind.0), cookie);
        } else {
            put_chunk(&mut stream, framing, ChunkFlags(u16::from(*flags)), kind, cookie, 0, payload.len());
        }
        stream.extend_from_slice(payload);
        data = rest;
    }
    stream
}

/// The cookie that a fresh table gives to its request number `at`.
fn cookie_of(at: usize) -> Cookie {
    cookie(at, u32::try_from(at).unwrap_or(u32::MAX).wrapping_add(1))
}

fn play(framing: Framing, mut stream: &[u8], piece: usize) -> Played {
    let lane = Lane::new(Arc::new(Durability::default()), Arc::default());
    let (mut jobs, _waiting): (Vec<_>, Vec<_>) = REQUESTS
        .iter()
        .map(|(command, flags, offset, length)| {
            let payload = if *command == Cmd::WRITE { vec![1; 16].into() } else { Payload::empty() };
            Job::for_task(Request { command: *command, flags: *flags, offset: *offset, length: *length, payload })
        })
        .unzip();
    let mut finished = Finished::default();
    lane.submit(&mut jobs, &mut finished);
    {
        let mut table = lane.table.lock();
        lane.out.append(|batch| table.up(framing, 1, &lane.late, batch));
    }
    let mut decoder = Decoder::new(framing, CONTEXTS.to_vec(), String::new());
    let (mut inbox, mut end) = (Inbox::default(), None);
    while end.is_none() && !stream.is_empty() {
        receive(&mut inbox, &mut stream, piece);
        end = decoder.decode(&mut inbox, &lane).err();
    }
    let told = decoder.done.drain(..).map(|(job, outcome)| {
        let Request { command, offset, length, .. } = job.request;
        (command, offset, length, tell(outcome))
    });
    Played { end, told: told.collect(), in_flight: lane.in_flight() }
}

pub(super) fn tell(outcome: Outcome) -> Told {
    match outcome {
        Outcome::Done => Told::Done,
        Outcome::Found(Found::Whole(payload)) => Told::Whole(payload.to_contiguous()),
        Outcome::Found(Found::Pieces(pieces)) => Told::Pieces(
            pieces
                .into_iter()
                .map(|piece| match piece {
                    Piece::Data { offset, payload } => (offset, Ok(payload.to_contiguous())),
                    Piece::Hole { offset, length } => (offset, Err(length)),
                })
                .collect(),
        ),
        Outcome::Status(statuses) => Told::Status(statuses),
        Outcome::Resized(size) => Told::Resized(size),
        Outcome::Failed(failure) => Told::Failed(failure),
    }
}

/// What a session may rely on.
fn check(command: Cmd, offset: u64, length: u64, told: &Told) {
    match told {
        Told::Resized(_) => assert_eq!(command, Cmd::RESIZE, "a size in answer to another command"),
        Told::Done => assert!(!matches!(command, Cmd::READ | Cmd::BLOCK_STATUS), "{command} without an answer"),
        Told::Whole(bytes) => {
            assert_eq!((command, u64::try_from(bytes.len())), (Cmd::READ, Ok(length)), "data of another length");
        }
        Told::Pieces(pieces) => {
            assert_eq!(command, Cmd::READ, "data in answer to another command");
            let length_of = |piece: &Result<Bytes, u64>| match piece {
                Ok(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                Err(hole) => *hole,
            };
            let mut order: Vec<(u64, u64)> = pieces.iter().map(|(at, piece)| (*at, length_of(piece))).collect();
            order.sort_unstable();
            let end = order.into_iter().fold(offset, |end, (at, length)| {
                assert_eq!(at, end, "a byte twice, or never");
                end.saturating_add(length)
            });
            assert_eq!(end, offset.saturating_add(length), "a byte too many, or never");
        }
        Told::Status(statuses) => {
            assert_eq!(command, Cmd::BLOCK_STATUS, "extents in answer to another command");
            assert!(!statuses.is_empty(), "no extents at all");
            for (at, status) in statuses.iter().enumerate() {
                assert!(status.context < CONTEXTS.len(), "context {} of {}", status.context, CONTEXTS.len());
                assert!(!status.extents.is_empty() && status.extents.iter().all(|e| e.length > 0), "an empty extent");
                let twice = statuses.iter().skip(at.saturating_add(1)).any(|s| s.context == status.context);
                assert!(!twice, "a context twice");
            }
        }
        Told::Failed(failure) => {
            assert_ne!(failure.errno.0, 0, "failed without an error");
            let length = u32::try_from(failure.message.len()).unwrap_or(u32::MAX);
            assert!(length <= MAX_STRING, "a message of {length} bytes");
        }
    }
}

/// Reads the stream without a lane, and holds each event against what its own encoding reads back as.
fn echo(framing: Framing, mut stream: &[u8]) {
    let expected = |cookie: Cookie| {
        let (_, (command, _, _, length)) = REQUESTS.iter().enumerate().find(|(at, _)| cookie_of(*at) == cookie)?;
        Some(Expected { read: (*command == Cmd::READ).then_some(*length), extents: MAX_EXTENTS })
    };
    let (mut reader, mut inbox) = (ReplyReader::new(framing), Inbox::default());
    while !stream.is_empty() {
        receive(&mut inbox, &mut stream, usize::MAX);
        loop {
            let event = match reader.next(&mut inbox, expected) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => return,
            };
            let mut bytes = Vec::new();
            put_event(framing, &event, &mut bytes);
            let (mut again, mut second) = (ReplyReader::new(framing), Inbox::default());
            let (mut rest, mut read) = (&bytes[..], None);
            while !rest.is_empty() {
                receive(&mut second, &mut rest, usize::MAX);
                read = match again.next(&mut second, expected) {
                    Ok(read) => read,
                    Err(bad) => unreachable!("{event:?} encodes to what is refused: {bad}"),
                };
            }
            assert_eq!(read.map(seen), Some(seen(event)), "an event that does not encode to what was read");
            assert!(second.is_empty(), "an event that encodes to more than one");
        }
    }
}

/// An event without the cuts of its payload.
fn seen(Event { cookie, done, body }: Event) -> (Cookie, bool, String) {
    let body = match body {
        Body::Whole(payload) => format!("whole {:?}", payload.to_contiguous()),
        Body::Piece(Piece::Data { offset, payload }) => format!("data {offset} {:?}", payload.to_contiguous()),
        other => format!("{other:?}"),
    };
    (cookie, done, body)
}

/// Appends an event as a backend says it.
pub(super) fn put_event(framing: Framing, event: &Event, out: &mut Vec<u8>) {
    let mut control = Vec::new();
    let mut payload = &Payload::empty();
    let kind = match &event.body {
        Body::Nothing if framing == Framing::Simple => return put_simple(out, 0, event.cookie),
        Body::Error { errno, .. } if framing == Framing::Simple => return put_simple(out, errno.0, event.cookie),
        Body::Whole(payload) => {
            put_simple(out, 0, event.cookie);
            return payload.segments().for_each(|s| out.extend_from_slice(s));
        }
        Body::Nothing => Chunk::NONE,
        Body::Piece(Piece::Data { offset, payload: data }) => {
            control.extend_from_slice(&offset.to_be_bytes());
            payload = data;
            Chunk::OFFSET_DATA
        }
        Body::Piece(Piece::Hole { offset, length }) => {
            control.extend_from_slice(&offset.to_be_bytes());
            control.extend_from_slice(&u32::try_from(*length).unwrap_or(u32::MAX).to_be_bytes());
            Chunk::OFFSET_HOLE
        }
        Body::Status { context, extents } if framing == Framing::Extended => {
            control.extend_from_slice(&context.to_be_bytes());
            control.extend_from_slice(&u32::try_from(extents.len()).unwrap_or(u32::MAX).to_be_bytes());
            let fields = extents.iter().flat_map(|(length, flags)| [*length, *flags]);
            fields.for_each(|field| control.extend_from_slice(&field.to_be_bytes()));
            Chunk::BLOCK_STATUS_EXT
        }
        Body::Status { context, extents } => {
            control.extend_from_slice(&context.to_be_bytes());
            let fields = extents.iter().flat_map(|(length, flags)| [*length, *flags]);
            let fields = fields.map(|field| u32::try_from(field).unwrap_or(u32::MAX));
            fields.for_each(|field| control.extend_from_slice(&field.to_be_bytes()));
            Chunk::BLOCK_STATUS
        }
        Body::Resize { size } => {
            control.extend_from_slice(&size.to_be_bytes());
            Chunk::RESIZE
        }
        Body::Error { errno, message, offset } => {
            control.extend_from_slice(&errno.0.to_be_bytes());
            control.extend_from_slice(&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
            control.extend_from_slice(message.as_bytes());
            offset.iter().for_each(|offset| control.extend_from_slice(&offset.to_be_bytes()));
            if offset.is_some() { Chunk::ERROR_OFFSET } else { Chunk::ERROR }
        }
    };
    let flags = ChunkFlags::NONE.with_if(ChunkFlags::DONE, event.done);
    put_chunk(out, framing, flags, kind, event.cookie, 0, control.len().saturating_add(payload.len()));
    out.extend_from_slice(&control);
    payload.segments().for_each(|s| out.extend_from_slice(s));
}

/// Every event in every framing that has it: each request answered well, in pieces, and with an error.
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let error = |offset| Body::Error { errno: Errno::EIO, message: "bad sector".to_owned(), offset };
    let mut seeds = Vec::new();
    for (choice, framing) in [(0, Framing::Simple), (1, Framing::Structured), (2, Framing::Extended)] {
        let mut conversation = vec![choice, 50];
        for (at, (command, flags, offset, length)) in REQUESTS.iter().enumerate().filter(|(at, _)| *at != 2) {
            let bytes = |n: u64| Payload::from(vec![0x77; usize::try_from(n).unwrap_or_default()]);
            let data = |offset: u64, n: u64| Body::Piece(Piece::Data { offset, payload: bytes(n) });
            let well = match (*command, framing) {
                (Cmd::READ, Framing::Simple) => vec![Body::Whole(bytes(*length))],
                (Cmd::READ, _) if *flags == CmdFlags::DF => vec![data(*offset, *length)],
                (Cmd::READ, _) => vec![
                    data(offset.saturating_add(length / 2), length / 2),
                    Body::Piece(Piece::Hole { offset: *offset, length: length / 2 }),
                ],
                (Cmd::BLOCK_STATUS, Framing::Structured | Framing::Extended) => CONTEXTS
                    .iter()
                    .map(|context| Body::Status { context: *context, extents: vec![(4096, 3), (*length, 0)] })
                    .collect(),
                _ => vec![Body::Nothing],
            };
            let last = well.len().saturating_sub(1);
            let mut reply = Vec::new();
            for (i, body) in well.into_iter().enumerate() {
                put_event(framing, &Event { cookie: cookie_of(at), done: i == last, body }, &mut reply);
            }
            conversation.extend_from_slice(&reply);
            for body in [error(None), error(Some(*offset)), Body::Resize { size: 1 }] {
                let mut seed = vec![choice, 9];
                put_event(framing, &Event { cookie: cookie_of(at), done: true, body }, &mut seed);
                if seed.len() > 2 {
                    seeds.push(seed);
                }
            }
        }
        seeds.push(conversation);
    }
    // As a script: data and a hole for the first READ, an error for the second, extents, and the rest done.
    let hole = [&0x1000u64.to_be_bytes()[..], &56u32.to_be_bytes()].concat();
    let data = [&0x1038u64.to_be_bytes()[..], &[1; 8]].concat();
    let extents = [7u32, 4096, 0].map(u32::to_be_bytes).concat();
    let chunks: [(u8, u8, u8, &[u8]); 6] = [
        (0, 2, 0, &hole),
        (0, 1, 1, &data),
        (1, 0x81, 1, &[0, 0, 0, 5, 0, 0]),
        (5, 5, 1, &extents),
        (3, 0, 1, &[]),
        (4, 0, 0x80, &[]),
    ];
    let mut script = vec![0x81, 30];
    for (request, kind, flags, payload) in chunks {
        script.extend([request, kind, flags, u8::try_from(payload.len()).unwrap_or(u8::MAX)]);
        script.extend_from_slice(payload);
    }
    seeds.push(script);
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_whole_conversations_answer_what_is_in_flight() {
        let seeds = fuzz_seeds();
        for choice in 0..3 {
            let longest = seeds.iter().filter(|seed| seed[0] == choice).max_by_key(|seed| seed.len()).unwrap();
            let played = play(framing(choice), &longest[2..], usize::MAX);
            assert_eq!((played.end, played.in_flight), (None, 1), "all but the largest READ");
            let failed = played.told.iter().filter(|(_, _, _, told)| matches!(told, Told::Failed(_))).count();
            assert_eq!(failed, usize::from(choice == 0), "simple replies have no extents");
        }
    }
}
