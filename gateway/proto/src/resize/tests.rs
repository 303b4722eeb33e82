//! Numbers pinned to their document, bytes written out by hand, every wrong value by its sentence, and every cut.

use proptest::prelude::*;

use super::fuzz::fuzz_resize;
use super::*;
use crate::reply::{Body, Expected, MAX_EXTENTS, ReplyReader};
use crate::{ExportFlags, Heap, Inbox};

fn hex(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

const INFO: ResizeInfo = ResizeInfo { features: Features(0x2d), minimum: 1 << 30, maximum: 8 << 30, granularity: 512 };

fn request(flags: CmdFlags, offset: u64, length: u64) -> RequestHeader {
    RequestHeader { flags, command: Cmd::RESIZE, cookie: Cookie(7), offset, length }
}

#[test]
fn each_number_is_the_one_that_the_document_gives() {
    assert_eq!(ExportFlags::SEND_RESIZE.0, 0x200);
    assert_eq!((Cmd::RESIZE.0, Info::RESIZE.0, Chunk::RESIZE.0), (8, 0x5253, 0x5253));
    assert_eq!((CmdFlags::QUERY.0, CmdFlags::NOTIFY.0), (0x40, 0x80));
    assert!(!Chunk::RESIZE.is_error());
    let names: Vec<(u16, &str)> = Features::NAMED.iter().map(|(bit, name)| (bit.0, *name)).collect();
    let expected = [(1, "EXPLICIT"), (2, "AUTOMATIC"), (4, "QUERY"), (8, "NOTIFY"), (0x10, "SHRINK"), (0x20, "ZEROED")];
    assert_eq!(names, expected);
    assert_eq!(Features(0x41).to_string(), "0x41 EXPLICIT");
}

#[test]
fn each_context_is_found_by_its_name() {
    for context in Context::ALL {
        assert!(context.name().starts_with(CONTEXT_PREFIX));
        assert_eq!(Context::of(&context.to_string()), Some(context));
    }
    for name in ["x-resize:", "x-resize:watc", "x-resize:Watch", "base:allocation", ""] {
        assert_eq!(Context::of(name), None);
    }
}

#[test]
fn an_offer_is_written_field_by_field_and_read_back() {
    let whole = hex("5253 002d 0000000040000000 0000000200000000 0000000000000200");
    assert_eq!(whole.len(), RESIZE_INFO);
    assert_eq!(INFO.to_body(), whole[2..]);
    assert_eq!(ResizeInfo::parse(&whole), Ok(INFO));
    for cut in 0..whole.len() {
        assert_eq!(ResizeInfo::parse(&whole[..cut]), Err(ResizeInfoError::Length { length: cut }));
    }
    let longer = [&whole[..], &[0]].concat();
    assert_eq!(ResizeInfo::parse(&longer), Err(ResizeInfoError::Length { length: 29 }));
}

#[test]
fn bounds_that_are_not_multiples_of_the_granularity_are_read() {
    // The size now may be odd: then it is the minimum where there is no shrink, and the maximum where there is no room.
    for (minimum, maximum) in [(513, 513), (513, MAX_SIZE), (0, MAX_SIZE), (0, 0)] {
        let info = ResizeInfo { minimum, maximum, ..INFO };
        assert_eq!(ResizeInfo::parse(&whole(&info)), Ok(info));
    }
}

fn whole(info: &ResizeInfo) -> Vec<u8> {
    [&Info::RESIZE.0.to_be_bytes()[..], &info.to_body()].concat()
}

#[test]
fn a_malformed_offer_is_refused_with_the_value_at_fault() {
    let refused = |whole: &[u8]| ResizeInfo::parse(whole).unwrap_err().to_string();
    assert_eq!(refused(&[0x52, 0x53]), "it is 2 bytes long and must be 28");
    let mut other = whole(&INFO);
    other[1] = 3;
    assert_eq!(refused(&other), "its type is 0x5203, not NBD_INFO_RESIZE");
    for granularity in [0, 3, 513, (1 << 62) + 1, 1 << 63, u64::MAX] {
        assert_eq!(
            refused(&whole(&ResizeInfo { granularity, ..INFO })),
            format!("its granularity of {granularity} bytes is not a power of two from 1 to 2^62")
        );
    }
    assert_eq!(
        refused(&whole(&ResizeInfo { maximum: 1 << 63, ..INFO })),
        "its maximum of 9223372036854775808 bytes is more than 2^63-1"
    );
    assert_eq!(
        refused(&whole(&ResizeInfo { minimum: 2, maximum: 1, ..INFO })),
        "its minimum of 2 bytes is more than its maximum of 1"
    );
}

#[test]
fn simple_replies_leave_neither_query_nor_notify() {
    let all = Features(0x3f);
    assert_eq!(all.with_framing(Framing::Simple), Features(0x33));
    assert_eq!(all.with_framing(Framing::Structured), all);
    assert_eq!(all.with_framing(Framing::Extended), all);
}

#[test]
fn each_form_of_the_request_is_told_apart() {
    let millis = |millis| Duration::from_millis(millis);
    let none = CmdFlags::NONE;
    for (flags, offset, length, wish, needs) in [
        (none, 1, 0, Wish::Size { size: 1 }, Features::EXPLICIT),
        (none, MAX_SIZE, 0, Wish::Size { size: MAX_SIZE }, Features::EXPLICIT),
        (CmdFlags::QUERY, 0, 0, Wish::Query, Features::QUERY),
        (CmdFlags::NOTIFY, 0, 0, Wish::Notify { interval: millis(0), most: 0 }, Features::NOTIFY),
        (
            CmdFlags::NOTIFY,
            MAX_INTERVAL,
            u64::MAX,
            Wish::Notify { interval: millis(MAX_INTERVAL), most: u64::MAX },
            Features::NOTIFY,
        ),
    ] {
        for durable in [false, true] {
            let header = request(flags.with_if(CmdFlags::FUA, durable), offset, length);
            let parsed = ResizeRequest::parse(&header, true).unwrap();
            assert_eq!(parsed, ResizeRequest { wish, durable });
            assert_eq!(parsed.header(Cookie(7), Framing::Extended), header);
            assert_eq!(wish.needs(), needs);
        }
    }
    let most = ResizeRequest { wish: Wish::Notify { interval: millis(1 << 40), most: 1 << 40 }, durable: false };
    let header = most.header(Cookie(7), Framing::Structured);
    assert_eq!((header.offset, header.length), (MAX_INTERVAL, u64::from(u32::MAX)));
}

#[test]
fn a_malformed_request_is_refused_with_the_value_at_fault() {
    let both = CmdFlags::QUERY.with(CmdFlags::NOTIFY);
    for (flags, offset, length, says) in [
        (CmdFlags::NONE, 0, 0, "NBD_CMD_RESIZE to 0 bytes: a size is 1 to 2^63-1 bytes"),
        (CmdFlags::NONE, 1 << 63, 0, "NBD_CMD_RESIZE to 9223372036854775808 bytes: a size is 1 to 2^63-1 bytes"),
        (CmdFlags::NONE, 9, 1, "NBD_CMD_RESIZE with length 1: it must be 0 unless NOTIFY is set"),
        (CmdFlags::QUERY, 0, 1, "NBD_CMD_RESIZE with length 1: it must be 0 unless NOTIFY is set"),
        (CmdFlags::QUERY, 9, 0, "NBD_CMD_RESIZE with QUERY and offset 9: it must be 0"),
        (both, 0, 0, "NBD_CMD_RESIZE with QUERY and NOTIFY together: send them one at a time"),
        (
            CmdFlags::NOTIFY,
            MAX_INTERVAL + 1,
            0,
            "NBD_CMD_RESIZE with NOTIFY and an interval of 4294967296 ms: it is at most 4294967295",
        ),
        (CmdFlags(0x1c1), 0, 0, "NBD_CMD_RESIZE with flags 0x100, which are not offered for it here"),
    ] {
        let error = ResizeRequest::parse(&request(flags, offset, length), true).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
    let fua = request(CmdFlags::FUA, 512, 0);
    let says = "NBD_CMD_RESIZE with flags 0x1 FUA, which are not offered for it here";
    assert_eq!(ResizeRequest::parse(&fua, false).unwrap_err().to_string(), says);
    assert_eq!(ResizeError::ERRNO, Errno::EINVAL);
}

#[test]
fn each_of_the_65536_flags_is_taken_only_if_the_command_has_it() {
    for flags in 0..=u16::MAX {
        for fua in [false, true] {
            let allowed = match flags & !1 {
                0 | 0x40 | 0x80 => flags & 1 == 0 || fua,
                _ => false,
            };
            // An offset of 0 suits QUERY and NOTIFY, any other only a size and NOTIFY.
            let offset = u64::from(flags & 0xc0 == 0);
            let parsed = ResizeRequest::parse(&request(CmdFlags(flags), offset, 0), fua);
            assert_eq!(parsed.is_ok(), allowed, "{flags:#x} {fua}: {parsed:?}");
        }
    }
}

/// What a reader makes of `bytes` in pieces of `piece`: size or the end's errno, and whether it was the last.
fn read(framing: Framing, bytes: &[u8], piece: usize) -> Vec<(Result<u64, Option<Errno>>, bool)> {
    let (mut reader, mut inbox, mut open, mut events) = (ReplyReader::new(framing), Inbox::default(), true, Vec::new());
    for bytes in bytes.chunks(piece) {
        inbox.room(&Heap).extend_from_slice(bytes);
        let waits = |open: bool| {
            move |c: Cookie| (open && c.0 == 0x1122).then_some(Expected { read: None, extents: MAX_EXTENTS })
        };
        while let Some(event) = reader.next(&mut inbox, waits(open)).unwrap() {
            open = !event.done;
            let body = match event.body {
                Body::Resize { size } => Ok(size),
                Body::Nothing => Err(None),
                Body::Error { errno, .. } => Err(Some(errno)),
                other => panic!("{other:?}"),
            };
            events.push((body, event.done));
        }
    }
    assert!(inbox.is_empty());
    events
}

#[test]
fn the_chunk_is_written_as_the_document_says() {
    let mut out = Vec::new();
    put_resize(&mut out, Framing::Structured, false, Cookie(0x1122), 0x99, 1 << 30);
    assert_eq!(out, hex("668e33ef 0000 5253 0000000000001122 00000008 0000000040000000"));
    out.clear();
    put_resize(&mut out, Framing::Extended, true, Cookie(0x1122), 0x99, 1 << 30);
    let expected = "6e8a278c 0001 5253 0000000000001122 0000000000000099 0000000000000008 0000000040000000";
    assert_eq!(out, hex(expected));
}

#[test]
fn a_notify_is_read_chunk_by_chunk_until_its_end_however_it_is_cut() {
    for framing in [Framing::Structured, Framing::Extended] {
        let mut standing = Vec::new();
        for size in [1 << 30, 2 << 30, 5] {
            put_resize(&mut standing, framing, false, Cookie(0x1122), 250, size);
        }
        let told = vec![(Ok(1 << 30), false), (Ok(2 << 30), false), (Ok(5), false)];
        let (mut counted, mut replaced, mut drained) = (standing.clone(), standing.clone(), standing);
        put_resize(&mut counted, framing, true, Cookie(0x1122), 250, 6);
        put_chunk(&mut replaced, framing, ChunkFlags::DONE, Chunk::NONE, Cookie(0x1122), 250, 0);
        put_chunk(&mut drained, framing, ChunkFlags::DONE, Chunk::ERROR, Cookie(0x1122), 250, 6);
        drained.extend_from_slice(&hex("0000006c 0000"));
        for (bytes, end) in [(counted, Ok(6)), (replaced, Err(None)), (drained, Err(Some(Errno::ESHUTDOWN)))] {
            let expected = [told.clone(), vec![(end, true)]].concat();
            for piece in 1..=bytes.len() {
                assert_eq!(read(framing, &bytes, piece), expected, "{framing:?} in pieces of {piece}");
            }
        }
    }
}

#[test]
fn a_chunk_after_the_end_or_of_another_length_breaks_the_protocol() {
    let mut inbox = Inbox::default();
    let mut out = Vec::new();
    put_chunk(&mut out, Framing::Structured, ChunkFlags::NONE, Chunk::RESIZE, Cookie(1), 0, 4);
    inbox.room(&Heap).extend_from_slice(&out);
    let waits = |read| move |c: Cookie| (c.0 == 1).then_some(Expected { read, extents: MAX_EXTENTS });
    let error = ReplyReader::new(Framing::Structured).next(&mut inbox, waits(None)).unwrap_err();
    assert_eq!(error.to_string(), "NBD_REPLY_TYPE_RESIZE chunk with a payload of 4 bytes, allowed here: 8");
    for (cookie, read, says) in [
        (2, None, "reply to cookie 0x0000000000000002, which was never sent or is already answered"),
        (1, Some(512), "NBD_REPLY_TYPE_RESIZE chunk in reply to another command"),
    ] {
        let (mut inbox, mut out) = (Inbox::default(), Vec::new());
        put_resize(&mut out, Framing::Structured, true, Cookie(cookie), 0, 1);
        inbox.room(&Heap).extend_from_slice(&out);
        let error = ReplyReader::new(Framing::Structured).next(&mut inbox, waits(read)).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
}

proptest! {
    #[test]
    fn a_sane_offer_is_read_back_as_it_was_written(
        features: u16, a in 0..=MAX_SIZE, b in 0..=MAX_SIZE, shift in 0u32..=62,
    ) {
        let info = ResizeInfo {
            features: Features(features), minimum: a.min(b), maximum: a.max(b), granularity: 1 << shift,
        };
        prop_assert_eq!(ResizeInfo::parse(&whole(&info)), Ok(info));
    }

    #[test]
    fn what_is_sent_is_what_is_read(
        wish in prop_oneof![
            (1..=MAX_SIZE).prop_map(|size| Wish::Size { size }),
            Just(Wish::Query),
            (0..=MAX_INTERVAL, 0..=u64::from(u32::MAX))
                .prop_map(|(ms, most)| Wish::Notify { interval: Duration::from_millis(ms), most }),
        ],
        durable: bool, cookie: u64, extended: bool,
    ) {
        let framing = if extended { Framing::Extended } else { Framing::Structured };
        let request = ResizeRequest { wish, durable };
        let (mut bytes, mut inbox) = (Vec::new(), Inbox::default());
        request.header(Cookie(cookie), framing).put(framing, &mut bytes);
        inbox.room(&Heap).extend_from_slice(&bytes);
        let header = RequestHeader::take(&mut inbox, framing).unwrap().unwrap();
        prop_assert_eq!((header.command, header.cookie), (Cmd::RESIZE, Cookie(cookie)));
        prop_assert_eq!(ResizeRequest::parse(&header, true), Ok(request));
    }

    #[test]
    fn rubbish_is_read_within_bounds_or_refused(
        data in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            (any::<[u8; 18]>(), 0u32..64).prop_map(|(rest, shift)| {
                [&[0x52, 0x53][..], &rest, &(1u64 << shift).to_be_bytes()].concat()
            }),
            (0usize..6, any::<u64>(), 0u64..3).prop_map(|(flags, offset, length)| {
                let flags = [0u16, 1, 0x40, 0x41, 0x80, 0xc0][flags];
                [&flags.to_be_bytes()[..], &(offset >> (offset & 63)).to_be_bytes(), &length.to_be_bytes()].concat()
            }),
        ],
    ) {
        fuzz_resize(&data);
    }
}
