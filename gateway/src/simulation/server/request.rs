//! A request at the scripted server: its delays, its execution and its reply.

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_proto::reply::{put_chunk, put_simple};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::{ResizeRequest, Wish, put_resize};
use nbd_gateway_proto::{Chunk, ChunkFlags, Cmd, CmdFlags, Errno, Framing, Payload};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::disk::{SECTOR, bytes_of, writer_of};
use super::super::random::Random;
use super::super::scene::{Shared, World};
use super::Connection;

/// Milliseconds after the end of a connection within which its requests are executed: less than the guard.
const LATEST: u64 = 9_000;

/// A request that was received completely.
pub(super) struct Received {
    pub(super) header: RequestHeader,
    pub(super) payload: Payload,
    pub(super) framing: Framing,
    pub(super) life: u64,
    /// The step at which it was received.
    pub(super) at: u64,
    /// Whether it came when the server was shutting down.
    pub(super) refusable: bool,
    pub(super) random: Random,
}

enum Answer {
    Done,
    Data(Vec<u8>),
    Status,
    Size(u64),
    Failed(Errno),
}

impl Received {
    pub(super) async fn carry_out(mut self, world: Shared, connection: Arc<Connection>) {
        let (fails, slow) = {
            let world = world.lock();
            if world.server.faultless { (0, 0) } else { (world.server.profile.fails, world.server.profile.slow) }
        };
        let takes = |random: &mut Random| match random.percent(slow) {
            true => random.below(20_000),
            false => random.pick(&[0, 0, 1, random.clone().below(30)]),
        };
        let (first, second) = (takes(&mut self.random), takes(&mut self.random));
        wait(&connection, first, &mut self.random).await;
        if self.header.command == Cmd::RESIZE && self.header.flags.has(CmdFlags::NOTIFY) {
            return self.notify(&world, &connection).await;
        }
        let answer = {
            let mut world = world.lock();
            if world.server.life != self.life {
                return;
            }
            let fails = self.random.percent(fails);
            match world.server.leaving && self.refusable {
                true => Answer::Failed(Errno::ESHUTDOWN),
                false => self.act(&mut world, fails),
            }
        };
        wait(&connection, second, &mut self.random).await;
        self.reply(&connection, true, answer);
    }

    fn act(&mut self, world: &mut World, fails: bool) -> Answer {
        let RequestHeader { command, flags, offset, length, .. } = self.header;
        let fua = flags.has(CmdFlags::FUA);
        world.history.note(format_args!(
            "server: {command} {offset}+{length}{}{}",
            if fua { " FUA" } else { "" },
            if fails { " fails" } else { "" }
        ));
        if command == Cmd::FLUSH {
            if fails {
                return Answer::Failed(Errno::EIO);
            }
            world.disk.flush();
            return Answer::Done;
        }
        if command == Cmd::RESIZE {
            return self.resize(world, fails);
        }
        if offset + length > world.disk.size() {
            let changes = matches!(command, Cmd::WRITE | Cmd::WRITE_ZEROES | Cmd::TRIM);
            return Answer::Failed(if changes { Errno::ENOSPC } else { Errno::EINVAL });
        }
        let (from, to) = ((offset / SECTOR) as usize, ((offset + length) / SECTOR) as usize);
        // A request that fails is executed in part.
        let done = if fails { from + self.random.below((to - from) as u64 + 1) as usize } else { to };
        match command {
            Cmd::WRITE => {
                let bytes = self.payload.to_contiguous();
                for (sector, bytes) in (from..done).zip(bytes.chunks(SECTOR as usize)) {
                    match writer_of(bytes, sector) {
                        Some(by) => world.land(self.at, sector, by, fua),
                        None => world.history.violated(format_args!("sector {sector} got mixed or misplaced data")),
                    }
                }
            }
            Cmd::WRITE_ZEROES | Cmd::TRIM => (from..done).for_each(|sector| world.land(self.at, sector, 0, fua)),
            Cmd::READ if !fails => {
                let sectors = from..to;
                return Answer::Data(sectors.flat_map(|at| bytes_of(world.disk.get(at), at)).collect());
            }
            Cmd::BLOCK_STATUS if !fails => return Answer::Status,
            _ => {}
        }
        if fails { Answer::Failed(Errno::EIO) } else { Answer::Done }
    }

    fn resize(&self, world: &mut World, fails: bool) -> Answer {
        let Ok(request) = ResizeRequest::parse(&self.header, true) else { return Answer::Failed(Errno::EINVAL) };
        let sectors = match request.wish {
            Wish::Size { size } => (size / SECTOR) as usize,
            Wish::Query | Wish::Notify { .. } => return Answer::Size(world.disk.size()),
        };
        if !(sectors as u64 * SECTOR).is_multiple_of(u64::from(world.server.profile.minimum)) {
            return Answer::Failed(Errno::EINVAL);
        }
        if fails || sectors > world.server.profile.most {
            return Answer::Failed(Errno::ENOSPC);
        }
        if sectors != world.disk.sectors() {
            world.set_size(sectors, world.server.profile.exposes);
        }
        Answer::Size(world.disk.size())
    }

    /// Sends each new size until the connection is over.
    async fn notify(&self, world: &Shared, connection: &Connection) {
        let (mut sizes, mut cut) = (world.lock().server.sizes.follow(), connection.cut.follow());
        loop {
            let size = *sizes.borrow_and_update();
            self.reply(connection, false, Answer::Size(size));
            tokio::select! {
                // A cut first: sizes may change for ever.
                biased;
                () = is_cut(&mut cut) => return,
                changed = sizes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn reply(&self, connection: &Connection, done: bool, answer: Answer) {
        let RequestHeader { cookie, offset, length, .. } = self.header;
        if connection.is_cut() {
            return;
        }
        let out = &mut *connection.out.lock();
        let flags = ChunkFlags::NONE.with_if(ChunkFlags::DONE, done);
        let mut chunk = |flags, kind, body: &[u8]| {
            put_chunk(out, self.framing, flags, kind, cookie, offset, body.len());
            out.extend_from_slice(body);
        };
        match (self.framing, answer) {
            (Framing::Simple, answer) => {
                let errno = if let Answer::Failed(errno) = answer { errno.0 } else { 0 };
                put_simple(out, errno, cookie);
                if let Answer::Data(data) = answer {
                    out.extend_from_slice(&data);
                }
            }
            (_, Answer::Done) => chunk(flags, Chunk::NONE, &[]),
            (_, Answer::Data(data)) => {
                // In two chunks, in reverse order.
                let half = data.len() / 2;
                let middle = offset + half as u64;
                if half > 0 {
                    chunk(ChunkFlags::NONE, Chunk::OFFSET_DATA, &[&middle.to_be_bytes(), &data[half..]].concat());
                    chunk(flags, Chunk::OFFSET_DATA, &[&offset.to_be_bytes(), &data[..half]].concat());
                }
            }
            (Framing::Extended, Answer::Status) => {
                let body = [&[0; 4][..], &1u32.to_be_bytes(), &length.to_be_bytes(), &[0; 8]].concat();
                chunk(flags, Chunk::BLOCK_STATUS_EXT, &body);
            }
            (_, Answer::Status) => {
                let length = u32::try_from(length).unwrap();
                chunk(flags, Chunk::BLOCK_STATUS, &[&[0; 4][..], &length.to_be_bytes(), &[0; 4]].concat());
            }
            (framing, Answer::Size(size)) => put_resize(out, framing, done, cookie, offset, size),
            (_, Answer::Failed(errno)) => {
                chunk(flags, Chunk::ERROR, &[&errno.0.to_be_bytes()[..], &[0; 2]].concat());
            }
        }
        connection.wake.notify_one();
    }
}

/// Waits so many milliseconds, or less after the end of the connection.
async fn wait(connection: &Connection, millis: u64, random: &mut Random) {
    let due = Instant::now() + Duration::from_millis(millis);
    let mut cut = connection.cut.follow();
    tokio::select! {
        // In any order: both end the wait.
        biased;
        () = sleep_until(due) => {}
        () = is_cut(&mut cut) => {
            sleep_until(due.min(Instant::now() + Duration::from_millis(random.below(LATEST)))).await;
        }
    }
}

pub(super) async fn is_cut(cut: &mut watch::Receiver<bool>) {
    let _ = cut.wait_for(|cut| *cut).await;
}

impl World {
    fn land(&mut self, received: u64, sector: usize, by: u64, durable: bool) {
        let was = self.disk.get(sector);
        let step = self.history.now();
        if let Err(promise) = self.checker.land(step, received, sector, by, was) {
            self.history.violated(format_args!("{promise}"));
        }
        self.disk.set(sector, by, durable);
    }
}
