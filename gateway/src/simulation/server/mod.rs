//! The scripted server. It answers late, out of order, with errors, and up to a random byte only.
//!
//! After the end of a connection it still executes the requests that it received, within less than the guard for late
//! writes. A crash loses the requests that it has not executed, and its cache.

mod connection;
mod request;

use std::sync::Arc;

use nbd_gateway_proto::{ExportFlags, Features, Framing};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

use super::disk::GARBAGE;
use super::random::Random;
use super::scene::{FalseClaim, Shared, World, socket};
use crate::ordered_watch::OrderedWatch;
use connection::serve;

/// Properties of the server, for one simulation.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) framing: Framing,
    pub(super) several: bool,
    pub(super) minimum: u32,
    pub(super) features: Option<Features>,
    /// Whether a crash loses nothing that it answered.
    pub(super) durable: bool,
    /// Content of new sectors.
    pub(super) exposes: u64,
    pub(super) most: usize,
    pub(super) allocation: bool,
    /// Percentage of requests that fail.
    pub(super) fails: u64,
    /// Percentage of connections that are cut at a random byte.
    pub(super) cuts: u64,
    /// Percentage of requests that take seconds.
    pub(super) slow: u64,
}

impl Profile {
    /// A random server that does not fulfil `claim`.
    pub(super) fn random(random: &mut Random, claim: FalseClaim) -> Self {
        let resizes = Features::EXPLICIT.with(Features::QUERY);
        let features = match random.below(4) {
            0 => None,
            1 => Some(resizes.with(Features::SHRINK)),
            2 => Some(resizes.with(Features::NOTIFY).with(Features::SHRINK)),
            _ => Some(resizes.with(Features::NOTIFY).with(Features::SHRINK).with(Features::ZEROED)),
        };
        let zeroed = features.is_some_and(|features| features.has(Features::ZEROED));
        Self {
            framing: random.pick(&[Framing::Simple, Framing::Structured, Framing::Extended]),
            several: random.percent(60),
            minimum: random.pick(&[1, 1, 512, 1024, 2048]),
            features,
            durable: random.percent(20) && claim != FalseClaim::Durable,
            exposes: if (zeroed || random.percent(50)) && claim != FalseClaim::Zeroed { 0 } else { GARBAGE },
            most: 112,
            allocation: random.percent(50),
            fails: random.pick(&[0, 0, 2, 5]),
            cuts: random.pick(&[0, 20, 50, 80]),
            slow: random.pick(&[0, 2, 10]),
        }
    }

    fn flags(&self) -> ExportFlags {
        ExportFlags::HAS_FLAGS
            .with(ExportFlags::SEND_FLUSH)
            .with(ExportFlags::SEND_FUA)
            .with(ExportFlags::SEND_TRIM)
            .with(ExportFlags::SEND_WRITE_ZEROES)
            .with_if(ExportFlags::SEND_DF, self.framing != Framing::Simple)
            .with_if(ExportFlags::CAN_MULTI_CONN, self.several)
            .with_if(ExportFlags::SEND_RESIZE, self.features.is_some())
    }
}

/// The state of the server beside its disk.
#[derive(Debug)]
pub(super) struct State {
    pub(super) profile: Profile,
    /// For which gateway the server listens, by the number of kills before it; none: it is down.
    up: watch::Sender<Option<u32>>,
    kills: u32,
    /// Number of crashes.
    life: u64,
    connections: Vec<Arc<Connection>>,
    /// Whether the server shuts down: it answers `ESHUTDOWN` to what comes, and executes what came before.
    leaving: bool,
    /// Whether fault injection has ended.
    pub(super) faultless: bool,
    sizes: OrderedWatch<u64>,
}

impl State {
    pub(super) fn new(profile: Profile, size: u64) -> Self {
        let (up, sizes) = (watch::Sender::new(Some(0)), OrderedWatch::new(size));
        Self { profile, up, kills: 0, life: 0, connections: Vec::new(), leaving: false, faultless: false, sizes }
    }
}

/// The part of a connection that its requests use.
#[derive(Debug, Default)]
struct Connection {
    out: parking_lot::Mutex<Vec<u8>>,
    wake: Notify,
    cut: OrderedWatch<bool>,
    number: u64,
}

impl Connection {
    fn is_cut(&self) -> bool {
        self.cut.look(|cut| *cut)
    }
}

impl World {
    /// Ends a random connection.
    pub(super) fn cut_one(&mut self, random: &mut Random) {
        self.server.connections.retain(|connection| !connection.is_cut());
        if !self.server.connections.is_empty() {
            let at = random.below(self.server.connections.len() as u64) as usize;
            let connection = self.server.connections.swap_remove(at);
            self.history.note(format_args!("server cuts connection {}", connection.number));
            connection.cut.set(true);
        }
    }

    /// The server is about to end: it refuses what comes.
    pub(super) fn leave(&mut self) {
        self.history.note(format_args!("server shuts down"));
        self.server.leaving = true;
    }

    /// The server ends at once.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let step = self.history.note(format_args!("server crashes"));
        self.server.life += 1;
        self.server.leaving = false;
        self.server.up.send_replace(None);
        let kept = if self.server.profile.durable { 100 } else { random.pick(&[0, 50, 100]) };
        self.disk.lose(|| random.percent(kept));
        self.checker.lost(step, &self.disk);
        self.server.connections.drain(..).for_each(|connection| connection.cut.set(true));
    }

    pub(super) fn start(&mut self) {
        self.history.note(format_args!("server is up"));
        self.server.up.send_replace(Some(self.server.kills));
    }

    /// The gateway is killed: its connections end, and no other ones of it are accepted.
    pub(super) fn leave_gateway(&mut self) {
        self.checker.killed = self.history.note(format_args!("gateway is killed"));
        self.server.kills += 1;
        let kills = self.server.kills;
        self.server.up.send_modify(|up| *up = up.map(|_| kills));
        self.server.connections.drain(..).for_each(|connection| connection.cut.set(true));
    }

    /// Grows the disk from outside the gateway.
    pub(super) fn grow_outside(&mut self, more: usize) {
        let sectors = self.disk.sectors() + more;
        if sectors <= self.server.profile.most {
            self.outside = true;
            // The gateway zeroes nothing of it.
            self.set_size(sectors, 0);
        }
    }

    fn set_size(&mut self, sectors: usize, content: u64) {
        let before = self.disk.sectors();
        let step = self.history.note(format_args!("server has {sectors} sectors, was {before}"));
        self.disk.resize(sectors, content);
        self.checker.resized(step, before, sectors, content);
        self.largest = self.largest.max(self.disk.size());
        self.server.sizes.set(self.disk.size());
    }
}

/// Listens in `directory` while the server is up.
pub(super) async fn run(world: Shared, directory: std::path::PathBuf, mut random: Random) {
    let mut up = world.lock().server.up.subscribe();
    let mut number = 0;
    loop {
        let Ok(kills) = up.wait_for(Option::is_some).await.map(|up| *up) else { return };
        let path = socket(&directory, kills.unwrap_or_default());
        let listener = UnixListener::bind(&path).unwrap();
        loop {
            tokio::select! {
                // A crash or kill first: connections in the queue are not served after it.
                biased;
                _ = up.wait_for(|up| *up != kills) => break,
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    number += 1;
                    let connection = Arc::new(Connection { number, ..Connection::default() });
                    world.lock().server.connections.push(Arc::clone(&connection));
                    tokio::spawn(serve(Arc::clone(&world), stream, connection, random.split()));
                }
            }
        }
        drop(listener);
        let _ = std::fs::remove_file(&path);
    }
}
