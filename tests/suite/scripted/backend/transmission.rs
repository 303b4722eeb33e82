//! The scripted backend's transmission phase: one thread takes requests, another answers them, so that replies can be
//! held back while requests still come in.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use super::{Fault, Resizing, Script, Seen, Shared};
use crate::scripted::numbers::{
    EXTENDED_REPLY, EXTENDED_REQUEST, REQUEST, SIMPLE_REPLY, STRUCTURED_REPLY, chunk, cmd, cmd_flag, errno, flag,
};
use crate::scripted::{Framing, Link};
use crate::trouble::{Trouble, ensure};

pub(super) fn serve(
    mut link: Link,
    shared: &Arc<Shared>,
    script: &Script,
    framing: Framing,
    number: u32,
) -> Result<(), Trouble> {
    let out = Link(link.0.try_clone()?);
    let (sender, requests) = mpsc::channel();
    let replier = thread::spawn({
        let pinned = if script.pins { shared.story.lock().disk.len() } else { usize::MAX };
        let replier = Replier { shared: shared.clone(), script: script.clone(), framing, out, pinned };
        move || replier.run(&requests)
    });
    let taken = take(&mut link, shared, framing, number, &sender);
    drop(sender);
    let _ = replier.join();
    taken
}

/// Takes requests until DISC or the end.
fn take(
    link: &mut Link,
    shared: &Shared,
    framing: Framing,
    connection: u32,
    requests: &mpsc::Sender<(Seen, Vec<u8>)>,
) -> Result<(), Trouble> {
    loop {
        let magic = link.take_u32()?;
        let expected = if framing == Framing::Extended { EXTENDED_REQUEST } else { REQUEST };
        ensure(magic == expected, || format!("a request begins with {magic:#x}"))?;
        let (flags, command) = (link.take_u16()?, link.take_u16()?);
        let (cookie, offset) = (link.take_u64()?, link.take_u64()?);
        let length = if framing == Framing::Extended { link.take_u64()? } else { u64::from(link.take_u32()?) };
        let seen = Seen { connection, flags, command, cookie, offset, length };
        let has_payload =
            if framing == Framing::Extended { flags & cmd_flag::PAYLOAD_LEN != 0 } else { command == cmd::WRITE };
        let payload = if has_payload { link.take(length as usize)? } else { Vec::new() };
        shared.tell(|story| story.seen.push(seen));
        if command == cmd::DISC {
            return Ok(());
        }
        // The replier may have closed the connection, on purpose.
        let _ = requests.send((seen, payload));
    }
}

struct Replier {
    shared: Arc<Shared>,
    script: Script,
    framing: Framing,
    out: Link,
    /// No request may end past this.
    pinned: usize,
}

impl Replier {
    fn run(mut self, requests: &mpsc::Receiver<(Seen, Vec<u8>)>) {
        while let Ok(first) = requests.recv() {
            // Whoever holds replies back wants to see more requests meanwhile, so no deadline ends a hold.
            while !self.shared.wait(|story| !story.held) {}
            let mut batch = vec![first];
            batch.extend(requests.try_iter());
            if self.shared.story.lock().backwards {
                batch.reverse();
            }
            for (request, payload) in batch {
                let good = self.reply_to(&request, &payload);
                let (bytes, over) = self.spoil(&request, good);
                if self.out.send(&bytes).is_err() || over {
                    super::close(&self.out.0);
                    return;
                }
            }
        }
    }

    /// Does what was asked, and says so.
    fn reply_to(&mut self, request: &Seen, payload: &[u8]) -> Vec<u8> {
        if let Some((_, error)) = self.script.refuses.filter(|(command, _)| *command == request.command) {
            return self.error(request, error, b"refused by script", Some(request.offset));
        }
        match self.script.fault {
            Some(Fault::ShuttingDown(command) | Fault::ShuttingDownSilently(command)) if command == request.command => {
                return self.error(request, errno::ESHUTDOWN, b"", None);
            }
            Some(Fault::ShuttingDownSilently(_)) => return Vec::new(),
            _ => {}
        }
        let fua = if self.script.flags & flag::FUA == 0 { 0 } else { cmd_flag::FUA };
        let known = match (request.command, self.framing) {
            (cmd::READ, Framing::Simple) => 0,
            (cmd::READ, _) if self.script.flags & flag::DF != 0 => cmd_flag::DF,
            (cmd::WRITE, Framing::Extended) => fua | cmd_flag::PAYLOAD_LEN,
            (cmd::WRITE | cmd::TRIM, _) => fua,
            (cmd::WRITE_ZEROES, _) => fua | cmd_flag::NO_HOLE,
            (cmd::BLOCK_STATUS, _) => cmd_flag::REQ_ONE,
            (cmd::RESIZE, _) => cmd_flag::QUERY | cmd_flag::NOTIFY,
            _ => 0,
        };
        if request.flags & !known != 0 {
            return self.error(request, errno::EINVAL, b"a flag that was not offered", None);
        }
        if let Resizing::Native { .. } = self.script.resizing
            && request.command == cmd::RESIZE
        {
            return self.resize(request);
        }
        let mut story = self.shared.story.lock();
        match (self.script.resizing, request.command) {
            (Resizing::Explicit { exposes }, cmd::RESIZE) => {
                if request.length != 0 || request.offset == 0 {
                    return self.error(request, errno::EINVAL, b"not a size", None);
                }
                story.disk.resize(request.offset as usize, exposes);
                if self.script.pins {
                    self.pinned = request.offset as usize;
                }
                drop(story);
                return self.plain(request);
            }
            (Resizing::ByWrites, cmd::WRITE | cmd::WRITE_ZEROES) => {
                let end = (request.offset + request.length) as usize;
                if end > story.disk.len() {
                    story.disk.resize(end, 0);
                }
            }
            (Resizing::No | Resizing::Explicit { .. } | Resizing::ByWrites | Resizing::Native { .. }, _) => {}
        }
        let end =
            request.offset.checked_add(request.length).filter(|end| *end <= story.disk.len().min(self.pinned) as u64);
        let Some(end) = end else {
            let is_write = matches!(request.command, cmd::WRITE | cmd::WRITE_ZEROES);
            return self.error(request, if is_write { errno::ENOSPC } else { errno::EINVAL }, b"past the end", None);
        };
        let range = request.offset as usize..end as usize;
        match request.command {
            cmd::READ => {
                let data = story.disk[range].to_vec();
                drop(story);
                return self.data(request, &data);
            }
            cmd::WRITE => story.disk[range].copy_from_slice(payload),
            cmd::WRITE_ZEROES | cmd::TRIM => story.disk[range].fill(0),
            cmd::BLOCK_STATUS => {
                drop(story);
                return self.status(request);
            }
            cmd::FLUSH | cmd::CACHE => {}
            _ => return self.error(request, errno::EINVAL, b"unknown command", None),
        }
        self.plain(request)
    }

    /// NBD_CMD_RESIZE by the book, and what the fault makes of it.
    fn resize(&self, request: &Seen) -> Vec<u8> {
        let size = |size: u64| self.chunk(request, chunk::DONE, chunk::RESIZE, &size.to_be_bytes());
        if request.flags & cmd_flag::NOTIFY != 0 {
            return self.notify(request);
        }
        let mut story = self.shared.story.lock();
        if request.flags & cmd_flag::QUERY != 0 {
            return size(story.disk.len() as u64);
        }
        match self.script.fault {
            Some(Fault::ResizeOther(other)) => {
                story.disk.resize(other as usize, 0);
                size(other)
            }
            Some(Fault::ResizeUnchanged) => size(request.offset),
            Some(Fault::ResizeHuge) => size(1 << 63),
            Some(Fault::ResizeTorn) => {
                story.disk.resize(request.offset as usize, 0);
                self.chunk(request, chunk::DONE, chunk::RESIZE, &[0; 5])
            }
            Some(Fault::ResizeLate) if !story.landed => {
                let answer = size(request.offset);
                let (shared, mut out, wished) = (self.shared.clone(), self.out.0.try_clone(), request.offset);
                thread::spawn(move || {
                    while !shared.wait(|story| story.landed) {}
                    shared.tell(|story| {
                        if !story.closing {
                            story.disk.resize(wished as usize, 0)
                        }
                    });
                    // The gateway may have hung up meanwhile.
                    let _ = out.as_mut().map(|out| out.write_all(&answer));
                });
                Vec::new()
            }
            _ => {
                story.disk.resize(request.offset as usize, 0);
                size(request.offset)
            }
        }
    }

    /// One notice and no more, or a flood of them.
    fn notify(&self, request: &Seen) -> Vec<u8> {
        if self.script.fault == Some(Fault::NoticeRefused) {
            return self.error(request, errno::EINVAL, b"not now", None);
        }
        let now = self.shared.tell(|story| {
            story.flooding = request.length != 1;
            story.disk.len() as u64
        });
        let last = if request.length == 1 { chunk::DONE } else { 0 };
        let notice = self.chunk(request, last, chunk::RESIZE, &now.to_be_bytes());
        if self.script.fault == Some(Fault::NoticeFlood) && last == 0 {
            let (shared, out, notice) = (self.shared.clone(), self.out.0.try_clone(), notice.clone());
            let over = self.chunk(request, chunk::DONE, chunk::NONE, &[]);
            thread::spawn(move || -> std::io::Result<()> {
                let mut out = out?;
                while shared.story.lock().flooding {
                    out.write_all(&notice)?;
                    thread::park_timeout(std::time::Duration::from_micros(200));
                }
                out.write_all(&over)
            });
        }
        notice
    }

    fn plain(&self, request: &Seen) -> Vec<u8> {
        match self.framing {
            Framing::Simple | Framing::Structured => simple(0, request.cookie, &[]),
            Framing::Extended => self.chunk(request, chunk::DONE, chunk::NONE, &[]),
        }
    }

    fn error(&self, request: &Seen, error: u32, words: &[u8], offset: Option<u64>) -> Vec<u8> {
        if self.framing == Framing::Simple {
            return simple(error, request.cookie, &[]);
        }
        let mut body = [&error.to_be_bytes()[..], &(words.len() as u16).to_be_bytes(), words].concat();
        body.extend(offset.iter().flat_map(|offset| offset.to_be_bytes()));
        self.chunk(request, chunk::DONE, if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR }, &body)
    }

    fn data(&self, request: &Seen, data: &[u8]) -> Vec<u8> {
        if self.framing == Framing::Simple {
            return simple(0, request.cookie, data);
        }
        if !self.script.chunked || request.flags & cmd_flag::DF != 0 {
            return self.data_chunk(request, chunk::DONE, request.offset, data);
        }
        let mut bytes = Vec::new();
        for (index, block) in data.chunks(1 << 16).enumerate().rev() {
            let offset = request.offset + ((index as u64) << 16);
            if block.iter().all(|byte| *byte == 0) {
                let body = [&offset.to_be_bytes()[..], &(block.len() as u32).to_be_bytes()].concat();
                bytes.extend(self.chunk(request, 0, chunk::OFFSET_HOLE, &body));
            } else {
                bytes.extend(self.data_chunk(request, 0, offset, block));
            }
        }
        bytes.extend(self.chunk(request, chunk::DONE, chunk::NONE, &[]));
        bytes
    }

    fn data_chunk(&self, request: &Seen, flags: u16, offset: u64, data: &[u8]) -> Vec<u8> {
        self.chunk(request, flags, chunk::OFFSET_DATA, &[&offset.to_be_bytes()[..], data].concat())
    }

    /// Two extents per context: the first 64 KiB, flagged with the context's id, and the rest.
    fn status(&self, request: &Seen) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, _) in (7_u32..).zip(self.script.contexts) {
            let first = request.length.min(1 << 16);
            let mut extents = vec![(first, u64::from(id))];
            if request.length > first && request.flags & cmd_flag::REQ_ONE == 0 {
                extents.push((request.length - first, 0));
            }
            bytes.extend(self.status_chunk(request, id, &extents));
        }
        bytes.extend(self.chunk(request, chunk::DONE, chunk::NONE, &[]));
        bytes
    }

    fn status_chunk(&self, request: &Seen, id: u32, extents: &[(u64, u64)]) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        if self.framing == Framing::Extended {
            body.extend((extents.len() as u32).to_be_bytes());
            body.extend(
                extents.iter().flat_map(|(length, flags)| [length.to_be_bytes(), flags.to_be_bytes()].concat()),
            );
            self.chunk(request, 0, chunk::BLOCK_STATUS_EXT, &body)
        } else {
            body.extend(
                extents.iter().flat_map(|(length, flags)| {
                    [(*length as u32).to_be_bytes(), (*flags as u32).to_be_bytes()].concat()
                }),
            );
            self.chunk(request, 0, chunk::BLOCK_STATUS, &body)
        }
    }

    fn chunk(&self, request: &Seen, flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
        self.chunk_that_claims(request, flags, kind, body.len() as u32, body)
    }

    fn chunk_that_claims(&self, request: &Seen, flags: u16, kind: u16, length: u32, body: &[u8]) -> Vec<u8> {
        let extended = self.framing == Framing::Extended;
        let magic = if extended { EXTENDED_REPLY } else { STRUCTURED_REPLY };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(request.cookie.to_be_bytes());
        if extended {
            bytes.extend(request.offset.to_be_bytes());
            bytes.extend(u64::from(length).to_be_bytes());
        } else {
            bytes.extend(length.to_be_bytes());
        }
        bytes.extend(body);
        bytes
    }

    /// The good reply turned into what the fault makes of it, and whether the connection ends there.
    fn spoil(&self, request: &Seen, good: Vec<u8>) -> (Vec<u8>, bool) {
        let Some(fault) = self.script.fault else { return (good, false) };
        let half = vec![0x55; request.length as usize / 2];
        let (start, middle) = (request.offset, request.offset + half.len() as u64);
        let end = request.offset + request.length;
        let done = || self.chunk(request, chunk::DONE, chunk::NONE, &[]);
        let with_done = |mut bytes: Vec<u8>| {
            bytes.extend(done());
            bytes
        };
        let bytes = match fault {
            Fault::ReplyNever => return (Vec::new(), true),
            Fault::ReplyCutAt(at) => return (good[..at.min(good.len())].to_vec(), true),
            Fault::ReplyWrong => [&[0xde, 0xad, 0xbe, 0xef], &good[4..]].concat(),
            Fault::CookieUnknown => {
                // The cookie stands after 8 bytes in all framings of both styles.
                let mut bytes = good;
                bytes[8..16].iter_mut().for_each(|byte| *byte ^= 0xa5);
                bytes
            }
            Fault::ReplyTwice => [good.clone(), good].concat(),
            Fault::ReplyLonger if self.framing == Framing::Simple => [good, half].concat(),
            Fault::ReplyLonger => {
                self.data_chunk(request, chunk::DONE, start, &vec![0x55; request.length as usize + 512])
            }
            Fault::ChunkEndless => {
                self.chunk_that_claims(request, chunk::DONE, chunk::OFFSET_DATA, u32::MAX, &start.to_be_bytes())
            }
            Fault::ChunkBefore => with_done(self.data_chunk(request, 0, start.saturating_sub(512), &half)),
            Fault::ChunkAfter => with_done(self.data_chunk(request, 0, end, &half)),
            Fault::ChunksOverlap => {
                let chunks = [start, middle - 1, middle].map(|at| self.data_chunk(request, 0, at, &half));
                with_done(chunks.concat())
            }
            Fault::ChunkMissing => with_done(self.data_chunk(request, 0, start, &half)),
            Fault::ChunkShort => with_done(self.chunk(request, 0, chunk::OFFSET_DATA, &[0; 5])),
            Fault::HoleEmpty => {
                with_done(self.chunk(request, 0, chunk::OFFSET_HOLE, &[&start.to_be_bytes()[..], &[0; 4]].concat()))
            }
            Fault::ChunkUnknown => with_done(self.chunk(request, 0, 0x0123, &half)),
            Fault::ReplySimple => simple(0, request.cookie, &[half.clone(), half].concat()),
            Fault::ReplyStructured => self.data_chunk(request, chunk::DONE, start, &[half.clone(), half].concat()),
            Fault::ErrorLong => self.error(request, errno::EIO, &[b'x'; 60_000], None),
            Fault::ErrorTorn => {
                let body = [&errno::EIO.to_be_bytes()[..], &5000_u16.to_be_bytes(), b"short"].concat();
                self.chunk(request, chunk::DONE, chunk::ERROR, &body)
            }
            Fault::ErrorZero => self.error(request, 0, b"no error", None),
            Fault::StatusForeign => with_done(self.status_chunk(request, 99, &[(request.length, 0)])),
            Fault::StatusEmpty => with_done(self.status_chunk(request, 7, &[(0, 0), (request.length, 0)])),
            Fault::StatusTorn => {
                with_done(self.chunk(request, 0, chunk::BLOCK_STATUS, &[0, 0, 0, 7, 0, 0, 1, 0, 0, 0]))
            }
            Fault::StatusTwice => {
                let once = self.status_chunk(request, 7, &[(request.length, 0)]);
                with_done([once.clone(), once].concat())
            }
            Fault::StatusMissing => done(),
            Fault::StatusShredded if request.command == cmd::BLOCK_STATUS => {
                let extents: Vec<_> = (0..request.length / 512).map(|at| (512, at % 2 * 3)).collect();
                let ids = (7_u32..).zip(self.script.contexts);
                with_done(ids.flat_map(|(id, _)| self.status_chunk(request, id, &extents)).collect())
            }
            Fault::DataShredded if request.command == cmd::READ => with_done(
                (start..end)
                    .step_by(1024)
                    .flat_map(|at| {
                        let hole = [&(at + 512).to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
                        let data = self.data_chunk(request, 0, at, &[0x55; 512]);
                        [data, self.chunk(request, 0, chunk::OFFSET_HOLE, &hole)].concat()
                    })
                    .collect(),
            ),
            Fault::ChunksEndless => {
                let hole = [&start.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
                let none = [&errno::EIO.to_be_bytes()[..], &[0; 2]].concat();
                let one = match request.command {
                    cmd::READ => self.chunk(request, 0, chunk::OFFSET_HOLE, &hole),
                    cmd::BLOCK_STATUS => self.status_chunk(request, 99, &[(512, 0)]),
                    _ => self.chunk(request, 0, chunk::ERROR, &none),
                };
                // More than anybody listens to.
                return (one.repeat(1 << 18), true);
            }
            Fault::AnswersOnce => return (good, true),
            Fault::ErrorWordy => self.error(request, errno::EIO, &[b'x'; 4096], None),
            _ => good,
        };
        (bytes, false)
    }
}

fn simple(error: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    [&SIMPLE_REPLY.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
}
