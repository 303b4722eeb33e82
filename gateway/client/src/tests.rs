//! The commands against a server in this process: good ones of each framing, and ones with one named fault.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::connect::Connection;
use super::{ClientError, read, write};
use nbd_gateway_net::Negotiation;
use nbd_gateway_proto::handshake::client::Wishes;
use nbd_gateway_proto::handshake::{Ask, BlockSizes, Offer, Progress, Server, Tls};
use nbd_gateway_proto::reply::{put_chunk, put_simple};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Chunk, ChunkFlags, Cmd, CmdFlags, Cookie, ExportFlags, Framing, Heap, Inbox};

mod resizes;
mod scripted;
mod watches;

const FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// Refuses the request at this offset with ENOSPC and a message.
    Refuses(u64),
    /// Closes the connection instead of answering the request at this offset.
    HangsUp(u64),
    /// Answers with another cookie.
    OtherCookie,
    /// Leaves the last byte of a READ out.
    ShortRead,
}

/// A disk and its manners.
#[derive(Clone, Debug)]
struct Disk {
    bytes: Vec<u8>,
    flags: ExportFlags,
    sizes: Option<BlockSizes>,
    wrong: Wrong,
    /// Commands in the order in which they came, DISC included.
    seen: Vec<Cmd>,
}

impl Disk {
    fn new(length: usize) -> Self {
        let bytes = (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap() | 1).collect();
        let flags = ExportFlags::HAS_FLAGS.with(ExportFlags::SEND_FLUSH);
        Self { bytes, flags, sizes: None, wrong: Wrong::Nothing, seen: Vec::new() }
    }
}

/// A connection over a stream that is there already.
async fn over(stream: DuplexStream, wishes: Wishes) -> Result<Connection, ClientError> {
    let nowhere = "nbd://nowhere".parse().unwrap();
    let finished = Negotiation::over(stream, wishes).finish().await;
    let (negotiation, export) = finished.map_err(|error| ClientError::of(&nowhere, error))?;
    let (stream, inbox) = negotiation.into_parts();
    Ok(Connection::over(Box::new(stream), export, inbox))
}

/// A connection to a disk, and the task that serves it and gives the disk back.
async fn connect(disk: Disk, framing: Framing) -> (Connection, JoinHandle<Disk>) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let serving = tokio::spawn(serve(theirs, disk));
    let wishes = Wishes { framing, ..Wishes::go("x") };
    (over(ours, wishes).await.unwrap(), serving)
}

async fn serve(mut stream: DuplexStream, mut disk: Disk) -> Disk {
    let (mut server, mut inbox) = (Server::new(4096, Tls::Off), Inbox::default());
    while !server.is_finished() {
        if let Progress::Ask(Ask::Info { name, infos, .. }) = server.handle_input(inbox.bytes()).unwrap() {
            let size = u64::try_from(disk.bytes.len()).unwrap();
            let (flags, block_sizes) = (disk.flags, disk.sizes);
            server
                .answer_info(&infos, &Offer { size, flags, name: &name, description: None, block_sizes, resize: None });
        }
        stream.write_all(&core::mem::take(server.output())).await.unwrap();
        if !server.is_finished() {
            stream.read_buf(inbox.room(&Heap)).await.unwrap();
        }
    }
    let framing = server.framing();
    loop {
        // Everything that has come is answered in the opposite order.
        let mut replies: Vec<Vec<u8>> = Vec::new();
        let mut over = false;
        while let Some(header) = RequestHeader::take(&mut inbox, framing).unwrap() {
            let length = usize::try_from(header.length).unwrap();
            let payload = if header.command == Cmd::WRITE {
                assert_eq!(header.flags.has(CmdFlags::PAYLOAD_LEN), framing == Framing::Extended);
                loop {
                    if let Some(payload) = inbox.payload(length) {
                        break payload.to_contiguous();
                    }
                    assert_ne!(stream.read_buf(inbox.room(&Heap)).await.unwrap(), 0);
                }
            } else {
                bytes::Bytes::new()
            };
            disk.seen.push(header.command);
            if header.command == Cmd::DISC || disk.wrong == Wrong::HangsUp(header.offset) {
                over = true;
                break;
            }
            if let Some(minimum) = disk.sizes.map(|sizes| u64::from(sizes.minimum)) {
                assert_eq!((header.offset % minimum, header.length % minimum), (0, 0), "{header:?}");
                assert!(header.length <= u64::from(disk.sizes.unwrap().maximum), "{header:?}");
            }
            replies.push(reply(&mut disk, framing, &header, &payload));
        }
        for reply in replies.iter().rev() {
            let _ = stream.write_all(reply).await;
        }
        if over || stream.read_buf(inbox.room(&Heap)).await.unwrap() == 0 {
            return disk;
        }
    }
}

/// One whole reply. With structured replies a READ comes as its second half, then its first; zeroes come as holes.
fn reply(disk: &mut Disk, framing: Framing, header: &RequestHeader, payload: &[u8]) -> Vec<u8> {
    let (mut out, from) = (Vec::new(), usize::try_from(header.offset).unwrap());
    let to = from + usize::try_from(header.length).unwrap();
    let cookie = if disk.wrong == Wrong::OtherCookie { Cookie(99) } else { header.cookie };
    let chunk = |out: &mut Vec<u8>, done: bool, kind, parts: &[&[u8]]| {
        let flags = ChunkFlags::NONE.with_if(ChunkFlags::DONE, done);
        put_chunk(out, framing, flags, kind, cookie, header.offset, parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| out.extend_from_slice(part));
    };
    if disk.wrong == Wrong::Refuses(header.offset) && header.command != Cmd::FLUSH {
        match framing {
            Framing::Simple => put_simple(&mut out, 28, cookie),
            _ => chunk(&mut out, true, Chunk::ERROR, &[&28u32.to_be_bytes(), &4u16.to_be_bytes(), b"full"]),
        }
        return out;
    }
    if header.command == Cmd::WRITE {
        disk.bytes[from..to].copy_from_slice(payload);
    }
    match (framing, header.command) {
        (Framing::Simple, Cmd::READ) => {
            put_simple(&mut out, 0, cookie);
            out.extend_from_slice(&disk.bytes[from..to]);
        }
        (Framing::Simple, _) => put_simple(&mut out, 0, cookie),
        (_, Cmd::READ) => {
            let (half, to) = (from + (to - from) / 2, to - usize::from(disk.wrong == Wrong::ShortRead));
            for (from, to) in [(half, to), (from, half)] {
                let offset = u64::try_from(from).unwrap().to_be_bytes();
                let bytes = &disk.bytes[from..to];
                if bytes.iter().any(|byte| *byte != 0) {
                    chunk(&mut out, false, Chunk::OFFSET_DATA, &[&offset, bytes]);
                } else if !bytes.is_empty() {
                    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
                    chunk(&mut out, false, Chunk::OFFSET_HOLE, &[&offset, &length]);
                }
            }
            chunk(&mut out, true, Chunk::NONE, &[]);
        }
        _ => chunk(&mut out, true, Chunk::NONE, &[]),
    }
    out
}

#[tokio::test]
async fn what_is_read_is_what_is_there_whatever_the_framing_and_the_order_of_replies() {
    let mut disk = Disk::new(40 << 20);
    disk.bytes[3 << 20..9 << 20].fill(0);
    for framing in FRAMINGS {
        let (mut connection, serving) = connect(disk.clone(), framing).await;
        assert_eq!(connection.export().framing, framing);
        for (offset, length) in [(0, 40 << 20), (1, (40 << 20) - 2), (5, 0), (4_000_000, 1), ((40 << 20) - 3, 3)] {
            let mut got = Vec::new();
            read::copy(&mut connection, offset, length, &mut got, "sink").await.unwrap();
            let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(offset + length).unwrap());
            assert!(got == disk.bytes[from..to], "{framing:?} {offset} {length}");
        }
        connection.leave().await;
        assert_eq!(serving.await.unwrap().seen.last(), Some(&Cmd::DISC));
    }
}

#[tokio::test]
async fn what_is_written_is_there_and_flushed_last() {
    let source: Vec<u8> = (0..20_000_001u32).map(|i| u8::try_from(i % 241).unwrap()).collect();
    for framing in FRAMINGS {
        let disk = Disk::new(21_000_000);
        let mut expected = disk.bytes.clone();
        expected[77..77 + source.len()].copy_from_slice(&source);
        let (mut connection, serving) = connect(disk, framing).await;
        let written = write::copy(&mut connection, 77, None, false, &mut &source[..], "source").await.unwrap();
        assert_eq!(written, 20_000_001);
        assert!(write::flush(&mut connection).await.unwrap());
        connection.leave().await;
        let disk = serving.await.unwrap();
        assert!(disk.bytes == expected, "{framing:?}");
        assert_eq!(disk.seen[disk.seen.len() - 2..], [Cmd::FLUSH, Cmd::DISC]);
    }
}

#[tokio::test]
async fn block_sizes_are_kept_to_and_an_unaligned_read_is_cut_out_of_an_aligned_one() {
    let mut disk = Disk::new(3 << 20);
    disk.sizes = Some(BlockSizes { minimum: 4096, preferred: 4096, maximum: 10_000 });
    let bytes = disk.bytes.clone();
    let (mut connection, serving) = connect(disk, Framing::Structured).await;
    assert_eq!((connection.minimum(), connection.longest()), (4096, 8192));
    let mut got = Vec::new();
    read::copy(&mut connection, 4097, 100_000, &mut got, "sink").await.unwrap();
    assert!(got == bytes[4097..104_097]);
    write::copy(&mut connection, 8192, None, false, &mut &[7; 40_960][..], "source").await.unwrap();
    for (offset, source) in [(1, 4096), (4096, 5000)] {
        let fault =
            write::copy(&mut connection, offset, Some(source), false, &mut &[][..], "source").await.unwrap_err();
        assert!(matches!(fault, ClientError::Unaligned { minimum: 4096, .. }), "{fault}");
    }
    connection.leave().await;
    assert!(serving.await.unwrap().bytes[8192..49_152].iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_maximum_without_end_stays_at_one_mebibyte() {
    let mut disk = Disk::new(1);
    disk.sizes = Some(BlockSizes { minimum: 512, preferred: 512, maximum: u32::MAX });
    assert_eq!(connect(disk, Framing::Simple).await.0.longest(), 1 << 20);
}

#[tokio::test]
async fn without_flush_none_is_sent() {
    let mut disk = Disk::new(512);
    disk.flags = ExportFlags::HAS_FLAGS;
    let (mut connection, serving) = connect(disk, Framing::Simple).await;
    assert!(!write::flush(&mut connection).await.unwrap());
    connection.leave().await;
    assert_eq!(serving.await.unwrap().seen, [Cmd::DISC]);
}

#[tokio::test]
async fn a_read_only_export_is_not_written_to() {
    let mut disk = Disk::new(512);
    disk.flags = disk.flags.with(ExportFlags::READ_ONLY);
    let (mut connection, serving) = connect(disk, Framing::Simple).await;
    let fault = write::copy(&mut connection, 0, None, false, &mut &[1][..], "source").await.unwrap_err();
    assert_eq!(fault.to_string(), "the export is read-only");
    connection.leave().await;
    assert_eq!(serving.await.unwrap().seen, [Cmd::DISC]);
}

#[tokio::test]
async fn input_past_the_end_is_refused_before_it_is_sent_if_its_length_is_known() {
    let (mut connection, serving) = connect(Disk::new(3 << 20), Framing::Simple).await;
    let long = vec![1; (3 << 20) + 1];
    let known =
        write::copy(&mut connection, 0, Some((3 << 20) + 1), false, &mut &long[..], "source").await.unwrap_err();
    assert_eq!(
        known.to_string(),
        "the range of 3.00 MiB (3145729 bytes) at offset 0 ends past the end of the export, which has 3 MiB (3145728 bytes)"
    );
    let unknown = write::copy(&mut connection, 0, None, false, &mut &long[..], "source").await.unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "stopped after 3 MiB (3145728 bytes): the range of 1 byte at offset 3145728 ends past the end of the export, which has 3 MiB (3145728 bytes)"
    );
    connection.leave().await;
    assert_eq!(serving.await.unwrap().seen, [Cmd::WRITE, Cmd::WRITE, Cmd::WRITE, Cmd::DISC]);
}

#[tokio::test]
async fn a_refusal_names_command_place_and_reason_and_the_connection_ends_politely() {
    for (framing, reason) in [(Framing::Simple, ""), (Framing::Structured, ": full"), (Framing::Extended, ": full")] {
        let mut disk = Disk::new(4 << 20);
        disk.wrong = Wrong::Refuses(1 << 20);
        let (mut connection, serving) = connect(disk, framing).await;
        let fault = read::copy(&mut connection, 0, 4 << 20, &mut Vec::new(), "sink").await.unwrap_err().to_string();
        let expected = format!("the server says ENOSPC to NBD_CMD_READ of 1 MiB at offset 1048576{reason}");
        assert!(fault.ends_with(&expected), "{fault}");
        connection.leave().await;
        assert_eq!(serving.await.unwrap().seen.last(), Some(&Cmd::DISC));
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_or_lies_is_told_by_how() {
    for (wrong, says) in [
        (Wrong::HangsUp(0), "the server closed the connection with 4 requests unanswered"),
        (Wrong::OtherCookie, "the server broke the protocol: reply to cookie 0x0000000000000063"),
        (Wrong::ShortRead, "the server broke the protocol: its data for the 1 MiB at offset 3145728 is not all there"),
    ] {
        let mut disk = Disk::new(4 << 20);
        disk.wrong = wrong;
        let (mut connection, _serving) = connect(disk, Framing::Structured).await;
        let fault = read::copy(&mut connection, 0, 4 << 20, &mut Vec::new(), "sink").await.unwrap_err().to_string();
        assert!(fault.starts_with(says), "{wrong:?}: {fault}");
    }
}

/// A file on a full disk, and one that can't be read.
struct Full;
impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
impl std::io::Read for Full {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

#[tokio::test]
async fn a_file_that_fails_is_named_and_the_connection_ends_politely() {
    let (mut connection, serving) = connect(Disk::new(4 << 20), Framing::Extended).await;
    let fault = read::copy(&mut connection, 0, 4 << 20, &mut Full, "out.img").await.unwrap_err();
    assert_eq!(fault.to_string(), "out.img: no storage space");
    connection.leave().await;
    assert_eq!(serving.await.unwrap().seen.last(), Some(&Cmd::DISC));
    let (mut connection, serving) = connect(Disk::new(4 << 20), Framing::Extended).await;
    let mut source = std::io::Read::chain(&[1; 5000][..], Full);
    let fault = write::copy(&mut connection, 0, None, false, &mut source, "in.img").await.unwrap_err();
    assert_eq!(fault.to_string(), "in.img: invalid data");
    connection.leave().await;
    assert_eq!(serving.await.unwrap().seen.last(), Some(&Cmd::DISC));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_greeting_does_not_hold_us_for_ever() {
    let dir = std::env::temp_dir().join(format!("nbd-gateway-client-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("silent.sock");
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let uri = format!("nbd+unix:///x?socket={}", path.display()).parse().unwrap();
    let fault = Connection::open(&uri, Wishes::go("x")).await.err().unwrap();
    let expect = format!(
        "unix:{}: connected, but the server sent no greeting within 10 s: is it accepting, and does it take one more connection?",
        path.display()
    );
    assert_eq!(fault.to_string(), expect);
    drop(listener);
    let fault = Connection::open(&uri, Wishes::go("x")).await.err().unwrap();
    assert!(matches!(fault, ClientError::Connect { .. }), "{fault}");
    std::fs::remove_dir_all(&dir).unwrap();
}
