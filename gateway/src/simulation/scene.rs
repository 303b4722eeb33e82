//! The gateway under test, the world around it, and the checks that hold at every moment.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nbd_gateway_policy::types::TenantId;
use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::checker::{Change, Checker, End, Knowledge};
use super::disk::{Disk, SECTOR};
use super::history::History;
use super::random::Random;
use super::server::{Profile, State};
use crate::export::{Export, Registry};
use crate::ordered_watch::OrderedWatch;
use crate::session::tests::Scene as Gateway;

/// State that clients, server and checks share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) history: History,
    pub(super) disk: Disk,
    pub(super) checker: Checker,
    pub(super) server: State,
    /// The largest size that the disk has had, in bytes.
    pub(super) largest: u64,
    /// Whether the size was also changed from outside the gateway.
    pub(super) outside: bool,
    /// The last open export with its generation and size.
    shown: Option<(Weak<Export>, u64, u64)>,
}

pub(super) type Shared = Arc<Mutex<World>>;

/// A false statement about the server in the configuration. Simulations have to find its consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FalseClaim {
    Nothing,
    /// The server executes nothing after the end of a connection.
    NoLateWrites,
    /// The server loses nothing that it answered.
    Durable,
    /// A grow exposes zeroes.
    Zeroed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Active,
    /// Clients send no new requests.
    Quiet,
    /// There was time to answer every request.
    Still,
    Over,
}

#[derive(Clone)]
pub(super) struct Scene(Arc<Inner>);

struct Inner {
    world: Shared,
    gateway: Gateway,
    tenant: TenantId,
    conversations: AtomicU64,
    phase: OrderedWatch<Phase>,
}

/// The configuration of one simulation.
fn configuration(random: &mut Random, profile: &Profile, claim: FalseClaim, socket: &Path) -> String {
    let granularity = u64::from(profile.minimum).max(SECTOR);
    let most = profile.most as u64 * SECTOR;
    let quota = random.pick(&["", "quota = \"40KiB\"", "quota = \"48KiB\"\nresize-rate = \"10/min\""]);
    let lanes = random.between(1, 3);
    let hold = random.pick(&["30s", "30s", "2s"]);
    let durable = profile.durable || claim == FalseClaim::Durable;
    let guard = if claim == FalseClaim::NoLateWrites { "0s" } else { "10s" };
    let idle = random.pick(&["0s", "5s", "60s"]);
    let automatic = random.pick(&["always", "opt-in", "reconnect"]);
    let over_quota = random.pick(&["reject", "clamp"]);
    let grace = random.pick(&["0s", "2s"]);
    let requests = random.pick(&[2, 256]);
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\n{quota}\n\
         [[export]]\nname = \"e\"\ntenant = \"t\"\nbackend = \"nbd+unix:///e?socket={}\"\nlanes = {lanes}\n\
         max-size = {most}\nlate-write-guard = \"{guard}\"\nidle-timeout = \"{idle}\"\n\
         on-backend-loss = {{ hold = \"{hold}\", durable = {durable} }}\n[export.limits]\nsession-requests = {requests}\n\
         [export.resize]\nautomatic = \"{automatic}\"\nshrink = true\nshrink-grace = \"{grace}\"\nstep = 0\n\
         granularity = {granularity}\nover-quota = \"{over_quota}\"\ntimeout = \"10s\"\n",
        socket.display()
    )
}

impl Scene {
    pub(super) fn new(random: &mut Random, claim: FalseClaim, socket: &Path, verbose: bool) -> Self {
        let profile = Profile::random(random, claim);
        let text = configuration(random, &profile, claim, socket);
        // A multiple of the largest minimum block.
        let sectors = random.between(8, 16) as usize * 4;
        let mut history = History::new(verbose);
        let shown = text.replace(&socket.display().to_string(), "SOCKET");
        history.note(format_args!("server: {profile:?}, {sectors} sectors\n{shown}"));
        let (disk, checker) = (Disk::new(sectors), Checker::new(sectors));
        let size = disk.size();
        let server = State::new(profile, size);
        let world = World { history, disk, checker, server, largest: size, outside: false, shown: None };
        let gateway = Gateway::of(&text);
        let phase = OrderedWatch::new(Phase::Active);
        let tenant = TenantId::new("t").unwrap();
        Self(Arc::new(Inner {
            world: Arc::new(Mutex::new(world)),
            gateway,
            tenant,
            conversations: AtomicU64::new(0),
            phase,
        }))
    }

    pub(super) fn world(&self) -> &Shared {
        &self.0.world
    }

    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.0.gateway.front.registry
    }

    pub(super) fn sessions(&self) -> usize {
        self.0.gateway.front.table.len()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.0.phase.set(phase);
    }

    pub(super) fn drain(&self) {
        self.0.gateway.drain.send_replace(true);
    }

    pub(super) fn phase(&self) -> Phase {
        self.0.phase.look(|phase| *phase)
    }

    /// Waits until `phase` begins; for ever, if it has begun.
    pub(super) fn later(&self, phase: Phase) -> impl Future<Output = ()> + use<> {
        let mut now = self.0.phase.follow();
        let past = *now.borrow() >= phase;
        async move {
            match past {
                true => std::future::pending().await,
                false => drop(now.wait_for(|now| *now >= phase).await),
            }
        }
    }

    pub(super) fn next_conversation(&self) -> u64 {
        self.0.conversations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The client's end of a new connection.
    pub(super) fn connect(&self) -> UnixStream {
        self.0.gateway.connect()
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) -> u64 {
        let step = self.0.world.lock().history.note(what);
        self.check();
        step
    }

    pub(super) fn violated(&self, promise: fmt::Arguments<'_>) {
        self.0.world.lock().history.violated(promise);
    }

    fn hold(&self, promise: Result<(), String>) {
        if let Err(promise) = promise {
            self.violated(format_args!("{promise}"));
        }
    }

    pub(super) fn begin(&self, change: Change, from: usize, to: usize, fua: bool) -> u64 {
        let mut world = self.0.world.lock();
        let step = world.history.now();
        world.checker.begin(step + 1, change, from, to, fua)
    }

    pub(super) fn ended(&self, operation: u64, end: End) {
        let promise = {
            let world = &mut *self.0.world.lock();
            world.checker.end(world.history.now(), operation, end, &world.disk)
        };
        self.hold(promise);
    }

    pub(super) fn flushed(&self, since: u64, knowledge: Knowledge) {
        let promise = {
            let world = self.0.world.lock();
            world.checker.flushed(since, knowledge, &world.disk)
        };
        self.hold(promise);
    }

    pub(super) fn read(&self, since: u64, sector: usize, by: Option<u64>) {
        let promise = self.0.world.lock().checker.read(since, sector, by);
        self.hold(promise);
    }

    /// A client was told this size.
    pub(super) fn told(&self, size: u64) {
        if size > self.0.world.lock().largest {
            self.violated(format_args!("a client was told a size of {size}, more than the disk ever had"));
        }
    }

    /// The published size; none, if the export is closed.
    pub(super) fn shown(&self) -> Option<u64> {
        self.registry().open_now().first().map(|export| export.size())
    }

    /// Checks sizes, generations and quota.
    fn check(&self) {
        let open = self.registry().open_now();
        let Some(export) = open.first() else { return };
        let (shown, end, own) = (export.view().shown(), export.view().end(), Arc::downgrade(export));
        let usage = self.registry().usage(&self.0.tenant);
        let promise = {
            let mut world = self.0.world.lock();
            let before =
                world.shown.replace((own.clone(), shown.generation, shown.size)).filter(|(same, ..)| same.ptr_eq(&own));
            let size = world.disk.size();
            let counted = usage.map_or(u64::MAX, |usage| usage.used.0 + usage.reserved.0 + usage.unsettled.0);
            let quota = usage.and_then(|usage| usage.quota).map_or(u64::MAX, |quota| quota.0);
            match before {
                Some((_, generation, _)) if generation > shown.generation => {
                    Err(format!("generation {} came after {generation}", shown.generation))
                }
                Some((_, generation, size)) if generation == shown.generation && size != shown.size => {
                    Err(format!("size {} has the generation of {size}", shown.size))
                }
                _ if end > size => Err(format!("requests are admitted up to {end}, and the disk has {size} bytes")),
                _ if world.outside => Ok(()),
                _ if counted < size => Err(format!("the disk has {size} bytes, and {counted} are counted")),
                _ if counted > quota => Err(format!("{counted} bytes are counted, over the quota of {quota}")),
                _ => Ok(()),
            }
        };
        self.hold(promise);
    }
}
