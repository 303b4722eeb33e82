//! A client whose replies depend on its requests alone: requests that are in flight together do not overlap, and one that may
//! change the size is alone.

use std::time::Duration;

use nbd_gateway_proto::resize::{Context, Wish};
use nbd_gateway_proto::{Cmd, CmdFlags, ExportFlags};
use tokio::time::sleep;

use super::super::disk::SECTOR;
use super::super::random::Random;
use super::super::scene::Scene;
use super::{Conversation, Flow, LONGEST};

/// Runs a client that sends so many batches, each when the one before is answered.
pub(in crate::simulation) async fn run_in_batches(scene: Scene, batches: u64, mut random: Random) {
    let id = scene.next_conversation();
    let Some(stream) = scene.connect() else { return };
    let (conversation, mut pieces) = (random.split(), random.split());
    let (watches, breaks_off) = (random.percent(30), random.percent(50));
    let Some(mut conversation) = Conversation::begin(scene.clone(), id, stream, watches, conversation).await else {
        return scene.violated(format_args!("conversation {id} found no export"));
    };
    conversation.watch();
    for _ in 0..batches {
        let crash = conversation.batch().then(|| tokio::spawn(crash(scene.clone(), pieces.split())));
        if !conversation.is_answered(&mut pieces).await {
            // So that it sees the size that its write has brought.
            return scene.record(id, "is cut off".to_owned());
        }
        if let Some(crash) = crash {
            // None is within the next batch.
            let _ = crash.await;
        }
    }
    // The last notice is due.
    sleep(Duration::from_secs(1)).await;
    conversation.read();
    conversation.hear();
    scene.record(id, format!("was told {} bytes last", conversation.size));
    if breaks_off {
        conversation.break_off(&mut random).await;
    }
    conversation.end();
}

/// The server crashes within a batch, loses nothing, and is back soon.
async fn crash(scene: Scene, mut random: Random) {
    sleep(Duration::from_millis(random.below(20))).await;
    scene.world().lock().crash(&mut random);
    sleep(Duration::from_millis(random.below(700))).await;
    scene.world().lock().start();
}

impl Conversation {
    /// Waits for another size, if it may.
    fn watch(&mut self) {
        if self.agreed.contexts.iter().any(|(name, _)| name == Context::Watch.name()) {
            self.ask(Cmd::BLOCK_STATUS, CmdFlags::NONE, 0, 1, None, &[]);
            self.watch = Some(self.cookie);
        }
    }

    /// Asks for much that changes nothing, and breaks off within a request, or when some of it is answered.
    async fn break_off(&mut self, random: &mut Random) {
        for place in 0..self.size / SECTOR / LONGEST {
            self.ask(Cmd::READ, CmdFlags::NONE, place * LONGEST, LONGEST, None, &[]);
        }
        self.out.truncate(random.below(self.out.len() as u64 + 1) as usize);
        while !self.out.is_empty() && self.stream.writable().await.is_ok() && self.write() {}
        sleep(Duration::from_millis(random.below(20))).await;
    }

    /// Sends a batch. Whether the server is to crash meanwhile.
    fn batch(&mut self) -> bool {
        let sectors = self.size / SECTOR;
        let features = self.agreed.resize.map(|info| info.features);
        let can = |wish: Wish| features.is_some_and(|features| features.has(wish.needs()));
        match self.random.below(10) {
            0 => {
                let length = self.random.between(1, LONGEST);
                let from = sectors - self.random.below(3);
                self.change(Cmd::WRITE, CmdFlags::NONE, from, length);
                return false;
            }
            1 if can(Wish::Size { size: 0 }) => {
                let size = self.random.between(sectors, sectors + 8) * SECTOR;
                self.resize(Wish::Size { size });
                return false;
            }
            2 if can(Wish::Notify { interval: Duration::ZERO, most: 0 }) && !self.notified => {
                self.notified = true;
                self.resize(Wish::Notify { interval: Duration::ZERO, most: 0 });
            }
            3 if can(Wish::Query) => self.resize(Wish::Query),
            _ => {}
        }
        for place in 0..sectors / LONGEST {
            if self.random.percent(70) {
                self.ask_at(place * LONGEST);
            }
        }
        self.random.percent(15)
    }

    /// A request within `LONGEST` sectors from there on.
    fn ask_at(&mut self, first: u64) {
        let length = self.random.between(1, LONGEST);
        let from = first + self.random.below(LONGEST - length + 1);
        let has = |flag| self.agreed.flags.has(flag);
        let fua = CmdFlags::NONE.with_if(CmdFlags::FUA, has(ExportFlags::SEND_FUA) && length.is_multiple_of(3));
        let far = 1 << 40;
        match self.random.below(20) {
            0..8 => self.change(Cmd::WRITE, fua, from, length),
            8..13 => self.ask(Cmd::READ, CmdFlags::NONE, from, length, None, &[]),
            13 if has(ExportFlags::SEND_WRITE_ZEROES) => self.change(Cmd::WRITE_ZEROES, fua, from, length),
            14 if has(ExportFlags::SEND_FLUSH) => self.ask(Cmd::FLUSH, CmdFlags::NONE, 0, 0, None, &[]),
            15 | 16 if self.agreed.contexts.iter().any(|(name, _)| name == "base:allocation") => {
                self.ask(Cmd::BLOCK_STATUS, CmdFlags::NONE, from, length, None, &[]);
            }
            17 => self.ask(Cmd(77), CmdFlags::NONE, 0, 0, None, &[]),
            18 => self.ask(Cmd::READ, CmdFlags::NONE, far, length, None, &[]),
            _ => self.ask(Cmd::WRITE, CmdFlags(1 << 9), from, length, None, &vec![9; (length * SECTOR) as usize]),
        }
    }

    /// Sends the rest in pieces, and takes the replies. False: the connection is over.
    async fn is_answered(&mut self, pieces: &mut Random) -> bool {
        while self.hear() == Flow::On {
            if self.out.is_empty() && self.requests() == 0 {
                return true;
            }
            tokio::select! {
                // Replies first, so that a busy client hears them. They end when all requests are answered.
                biased;
                ready = self.stream.readable() => if ready.is_err() || !self.read() {
                    return false;
                },
                ready = self.stream.writable(), if !self.out.is_empty() => {
                    let piece = self.out.len().min(pieces.between(1, 900) as usize);
                    let rest = self.out.split_off(piece);
                    let written = ready.is_ok() && self.write();
                    self.out.extend_from_slice(&rest);
                    if !written {
                        return false;
                    }
                    if pieces.percent(30) {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        }
        false
    }
}
