//! Replies cut at every byte, rubbish of every kind, and what each error says.

use proptest::prelude::*;

use super::*;
use crate::{BUFFER, Heap};

fn inbox(bytes: &[u8]) -> Inbox {
    let mut inbox = Inbox::default();
    inbox.room(&Heap).extend_from_slice(bytes);
    inbox
}

/// What the reader makes of `bytes`, one string per event, fed in pieces of `piece`.
fn read(framing: Framing, bytes: &[u8], piece: usize) -> Result<Vec<String>, ReplyError> {
    let (mut reader, mut inbox, mut events) = (ReplyReader::new(framing), Inbox::default(), Vec::new());
    let expected = |cookie: Cookie| match cookie.0 {
        1 => Some(Expected { read: Some(4), extents: MAX_EXTENTS }),
        2 => Some(Expected { read: None, extents: MAX_EXTENTS }),
        _ => None,
    };
    for bytes in bytes.chunks(piece.max(1)) {
        inbox.room(&Heap).extend_from_slice(bytes);
        while let Some(event) = reader.next(&mut inbox, expected)? {
            let body = match event.body {
                Body::Whole(p) => format!("whole {:?}", &p.to_contiguous()[..]),
                Body::Piece(Piece::Data { offset, payload }) => {
                    format!("data {offset} {:?}", &payload.to_contiguous()[..])
                }
                Body::Piece(hole) => format!("{hole:?}"),
                other => format!("{other:?}"),
            };
            events.push(format!("{} {} {body}", event.cookie.0, event.done));
        }
    }
    Ok(events)
}

fn chunk(framing: Framing, flags: u16, kind: Chunk, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_chunk(&mut out, framing, ChunkFlags(flags), kind, Cookie(cookie), 0, payload.len());
    out.extend_from_slice(payload);
    out
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], bytes].concat()
}

#[test]
fn every_reply_is_the_same_however_it_is_cut() {
    let mut simple = Vec::new();
    put_simple(&mut simple, 0, Cookie(1));
    simple.extend_from_slice(b"abcd");
    put_simple(&mut simple, 28, Cookie(2));
    let error = [&5u32.to_be_bytes()[..], &2u16.to_be_bytes(), b"no", &7u64.to_be_bytes()].concat();
    for (framing, bytes, expect) in [
        (
            Framing::Simple,
            simple,
            vec!["1 true whole [97, 98, 99, 100]", r#"2 true Error { errno: ENOSPC, message: "", offset: None }"#],
        ),
        (
            Framing::Structured,
            [
                chunk(Framing::Structured, 0, Chunk::OFFSET_DATA, 1, &data(8, b"ab")),
                chunk(Framing::Structured, 1, Chunk::ERROR_OFFSET, 1, &error),
                chunk(Framing::Structured, 1, Chunk::NONE, 2, b""),
            ]
            .concat(),
            vec![
                "1 false data 8 [97, 98]",
                r#"1 true Error { errno: EIO, message: "no", offset: Some(7) }"#,
                "2 true Nothing",
            ],
        ),
        (
            Framing::Extended,
            [
                chunk(Framing::Extended, 1, Chunk::OFFSET_HOLE, 1, &[data(8, &4u32.to_be_bytes())].concat()),
                chunk(
                    Framing::Extended,
                    1,
                    Chunk::BLOCK_STATUS_EXT,
                    2,
                    &[&3u32.to_be_bytes()[..], &1u32.to_be_bytes(), &9u64.to_be_bytes(), &1u64.to_be_bytes()].concat(),
                ),
            ]
            .concat(),
            vec!["1 true Hole { offset: 8, length: 4 }", "2 true Status { context: 3, extents: [(9, 1)] }"],
        ),
    ] {
        for piece in 1..=bytes.len() {
            assert_eq!(read(framing, &bytes, piece).unwrap(), expect, "{framing:?} in pieces of {piece}");
        }
    }
}

#[test]
fn each_breach_of_the_protocol_has_its_sentence() {
    use Framing::{Extended, Simple, Structured};
    let mut unknown = Vec::new();
    put_simple(&mut unknown, 0, Cookie(77));
    let mut simple_read = Vec::new();
    put_simple(&mut simple_read, 0, Cookie(1));
    let s = |flags, kind, cookie, payload: &[u8]| chunk(Structured, flags, kind, cookie, payload);
    let mut huge = Vec::new();
    put_chunk(&mut huge, Extended, ChunkFlags::DONE, Chunk::BLOCK_STATUS_EXT, Cookie(2), 0, (1 << 40) + 8);
    for (framing, bytes, says) in [
        (
            Simple,
            b"junk".to_vec(),
            "reply magic is 0x6a756e6b, which starts no reply in the negotiated framing (Simple)",
        ),
        (Simple, unknown, "reply to cookie 0x000000000000004d, which was never sent or is already answered"),
        (Structured, simple_read, "simple reply with data to a READ although Structured replies were negotiated"),
        (
            Structured,
            s(1, Chunk::NONE, 2, b"x"),
            "NBD_REPLY_TYPE_NONE chunk with a payload of 1 bytes, allowed here: 0",
        ),
        (
            Structured,
            s(0, Chunk::NONE, 2, b""),
            "NBD_REPLY_TYPE_NONE chunk with a payload of 0 bytes, allowed here: 0, with the DONE flag",
        ),
        (
            Structured,
            s(1, Chunk::OFFSET_DATA, 1, &data(0, b"abcde")),
            "NBD_REPLY_TYPE_OFFSET_DATA chunk with a payload of 13 bytes, allowed here: 9 to 8 more than the READ asks for",
        ),
        (
            Structured,
            s(1, Chunk::OFFSET_DATA, 2, &data(0, b"a")),
            "NBD_REPLY_TYPE_OFFSET_DATA chunk in reply to another command",
        ),
        (
            Structured,
            s(1, Chunk::OFFSET_HOLE, 1, &data(0, &0u32.to_be_bytes())),
            "NBD_REPLY_TYPE_OFFSET_HOLE chunk whose inner lengths disagree with its own",
        ),
        (Structured, s(1, Chunk::BLOCK_STATUS, 2, &[0; 12]), "BLOCK_STATUS chunk with an extent of length 0"),
        (Structured, s(1, Chunk::ERROR, 2, &[0; 6]), "error chunk with error 0"),
        (
            Structured,
            s(1, Chunk::ERROR, 2, &[0, 0, 0, 5, 0, 9, b'x']),
            "NBD_REPLY_TYPE_ERROR chunk whose inner lengths disagree with its own",
        ),
        (Structured, s(1, Chunk(0x1234), 2, b"x"), "0x1234 chunk in reply to another command"),
        (
            Extended,
            huge,
            "NBD_REPLY_TYPE_BLOCK_STATUS_EXT chunk with a payload of 1099511627784 bytes, allowed here: at most 128 Ki extents",
        ),
    ] {
        let error = read(framing, &bytes, bytes.len()).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
}

/// Once a compact chunk could bring twice as many as an extended one, and that one fewer than stated.
#[test]
fn as_many_extents_as_stated_are_read_in_either_framing_and_no_more() {
    for (framing, kind, head, each) in
        [(Framing::Structured, Chunk::BLOCK_STATUS, 4, 8), (Framing::Extended, Chunk::BLOCK_STATUS_EXT, 8, 16)]
    {
        for (extents, taken) in [(MAX_EXTENTS, true), (MAX_EXTENTS + 1, false)] {
            let mut bytes = Vec::new();
            put_chunk(&mut bytes, framing, ChunkFlags::DONE, kind, Cookie(2), 0, head + each * extents);
            let taken = if taken { Ok(vec![]) } else { Err("at most 128 Ki extents") };
            let read = read(framing, &bytes, bytes.len()).map_err(|bad| match bad {
                ReplyError::Length { allowed, .. } => allowed,
                other => panic!("{other}"),
            });
            assert_eq!(read, taken, "{extents} extents in {kind}");
        }
    }
}

/// Once each byte that is no UTF-8 became three, so that a message could be three times as long as any string.
#[test]
fn an_error_message_of_rubbish_is_no_longer_than_a_string_may_be() {
    let control = [&5u32.to_be_bytes()[..], &4096u16.to_be_bytes(), &[0xff; 4096]].concat();
    let bytes = chunk(Framing::Structured, 1, Chunk::ERROR, 2, &control);
    let mut inbox = inbox(&bytes);
    let event =
        ReplyReader::new(Framing::Structured).next(&mut inbox, |_| Some(Expected { read: None, extents: MAX_EXTENTS }));
    let Body::Error { message, .. } = event.unwrap().unwrap().body else { panic!("no error") };
    assert_eq!(message.len(), 4095);
}

proptest! {
    #[test]
    fn rubbish_never_panics_and_never_reserves_more_than_was_asked_for(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in 0usize..4,
        framing in prop_oneof![Just(Framing::Simple), Just(Framing::Structured), Just(Framing::Extended)],
    ) {
        let start: &[u8] = match magic {
            0 => &SIMPLE_REPLY_MAGIC.to_be_bytes(),
            1 => &STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            2 => &EXTENDED_REPLY_MAGIC.to_be_bytes(),
            _ => &[],
        };
        let mut inbox = inbox(&[start, &bytes].concat());
        let mut reader = ReplyReader::new(framing);
        while let Ok(Some(_)) = reader.next(&mut inbox, |c| Some(Expected { read: (c.0 % 2 == 0).then_some(512), extents: MAX_EXTENTS })) {}
        let room = inbox.room(&Heap).capacity();
        prop_assert!(room <= BUFFER, "{}", room);
    }
}
