//! The gateway under test, the world around it, and the checks that hold at every moment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nbd_gateway_policy::quota::Usage;
use nbd_gateway_policy::types::TenantId;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::checker::{Change, Checker, End, Knowledge};
use super::disk::{Disk, SECTOR};
use super::history::History;
use super::killed::Ledgers;
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
    pub(super) shown: Option<(Weak<Export>, u64, u64)>,
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
    /// None while it is killed.
    gateway: Mutex<Option<Arc<Gateway>>>,
    /// Their tasks go on, and reach nobody.
    killed: Mutex<Vec<Arc<Gateway>>>,
    pub(super) ledgers: Ledgers,
    /// The configuration, with [`SOCKET`] for where the server listens.
    text: String,
    directory: PathBuf,
    /// How often the gateway was killed.
    pub(super) kills: OrderedWatch<u32>,
    tenant: TenantId,
    conversations: AtomicU64,
    /// The replies, by the cookies of their requests.
    transcript: Mutex<BTreeMap<u64, String>>,
    /// How many sessions went on after a hand-over.
    went_on: AtomicU64,
    phase: OrderedWatch<Phase>,
}

/// Stands for the path of the server's socket.
const SOCKET: &str = "SOCKET";

/// The export reads ahead of its clients.
const READ_AHEAD: &str = "read-ahead = \"1MiB\"\n";

/// Where the server listens for the gateway that comes after so many kills. No earlier one finds it there.
pub(super) fn socket(directory: &Path, kills: u32) -> PathBuf {
    directory.join(format!("socket-{kills}"))
}

/// The configuration of one simulation.
fn configuration(random: &mut Random, profile: &Profile, claim: FalseClaim) -> String {
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
    let ahead = random.clone().percent(35);
    let (ahead, exclusive) = if ahead { (READ_AHEAD, "exclusive = true\n") } else { ("", "") };
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\n{quota}\n\
         [[export]]\nname = \"e\"\ntenant = \"t\"\nbackend = \"nbd+unix:///e?socket={SOCKET}\"\nlanes = {lanes}\n\
         max-size = {most}\nlate-write-guard = \"{guard}\"\nidle-timeout = \"{idle}\"\n\
         on-backend-loss = {{ hold = \"{hold}\", durable = {durable} }}\n{ahead}[export.limits]\nsession-requests = {requests}\n\
         [export.resize]\nautomatic = \"{automatic}\"\nshrink = true\nshrink-grace = \"{grace}\"\nstep = 0\n\
         granularity = {granularity}\nover-quota = \"{over_quota}\"\ntimeout = \"10s\"\n{exclusive}",
    )
}

impl Scene {
    pub(super) fn new(random: &mut Random, claim: FalseClaim, directory: &Path, verbose: bool) -> Self {
        let profile = Profile::random(random, claim);
        let text = configuration(random, &profile, claim);
        Self::with(random, profile, text, directory, verbose)
    }

    /// With a server that answers soon and without errors, and loses nothing; no limit depends on the time.
    pub(super) fn patient(random: &mut Random, directory: &Path) -> Self {
        let random_profile = Profile::random(random, FalseClaim::Nothing);
        let profile = Profile { durable: true, fails: 0, cuts: 0, slow: 0, ..random_profile };
        let text = configuration(random, &profile, FalseClaim::Nothing);
        let text = text
            .replace("hold = \"2s\"", "hold = \"30s\"")
            .replace("resize-rate = \"10/min\"", "")
            .replace(READ_AHEAD, "");
        Self::with(random, profile, text, directory, false)
    }

    fn with(random: &mut Random, profile: Profile, text: String, directory: &Path, verbose: bool) -> Self {
        // A multiple of the largest minimum block.
        let sectors = random.between(8, 16) as usize * 4;
        let mut history = History::new(verbose);
        history.note(format_args!("server: {profile:?}, {sectors} sectors\n{text}"));
        let (disk, checker) = (Disk::new(sectors), Checker::new(sectors));
        let size = disk.size();
        let server = State::new(profile, size);
        let world = World { history, disk, checker, server, largest: size, outside: false, shown: None };
        let phase = OrderedWatch::new(Phase::Active);
        let tenant = TenantId::new("t").unwrap();
        let scene = Self(Arc::new(Inner {
            world: Arc::new(Mutex::new(world)),
            gateway: Mutex::default(),
            killed: Mutex::default(),
            ledgers: Ledgers::default(),
            text,
            directory: directory.to_owned(),
            kills: OrderedWatch::new(0),
            tenant,
            conversations: AtomicU64::new(0),
            transcript: Mutex::default(),
            went_on: AtomicU64::new(0),
            phase,
        }));
        scene.begin_gateway();
        scene
    }

    /// Whether it reads ahead: nobody else changes the server's disk then.
    pub(super) fn reads_ahead(&self) -> bool {
        self.0.text.contains(READ_AHEAD)
    }

    /// A gateway that knows the ledger's contents.
    pub(super) fn begin_gateway(&self) {
        let kills = self.0.kills.look(|kills| *kills);
        let text = self.0.text.replace(SOCKET, &socket(&self.0.directory, kills).display().to_string());
        let (cache, snapshot) = self.0.ledgers.next();
        let gateway = Gateway::with(&text, cache);
        let registry = &gateway.front.registry;
        let measure = registry.remember(&snapshot);
        registry.expect_looks();
        tokio::spawn(Arc::clone(registry).measure_all(measure));
        *self.0.gateway.lock() = Some(Arc::new(gateway));
    }

    /// The gateway ends between two steps: nobody has its connections any more, and its ledger writes nothing.
    pub(super) async fn kill_gateway(&self) {
        let killed = self.0.gateway.lock().take();
        self.0.killed.lock().extend(killed);
        self.0.world.lock().leave_gateway();
        self.0.kills.set(self.0.kills.look(|kills| kills + 1));
        self.0.ledgers.stop().await;
    }

    /// Each kill from now on.
    pub(super) fn kills(&self) -> watch::Receiver<u32> {
        self.0.kills.follow()
    }

    pub(super) fn world(&self) -> &Shared {
        &self.0.world
    }

    fn gateway(&self) -> Option<Arc<Gateway>> {
        self.0.gateway.lock().clone()
    }

    pub(super) fn registry(&self) -> Option<Arc<Registry>> {
        self.gateway().map(|gateway| Arc::clone(&gateway.front.registry))
    }

    pub(super) fn sessions(&self) -> usize {
        self.gateway().map_or(0, |gateway| gateway.front.table.len())
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.0.phase.set(phase);
    }

    pub(super) fn drain(&self) {
        if let Some(gateway) = self.gateway() {
            gateway.drain.send_replace(true);
        }
    }

    /// See [`Gateway::hand_over`].
    pub(super) async fn hand_over(&self) -> Option<usize> {
        let sessions = self.gateway()?.hand_over().await?;
        self.0.went_on.fetch_add(sessions as u64, Ordering::Relaxed);
        Some(sessions)
    }

    pub(super) fn record(&self, cookie: u64, reply: String) {
        self.0.transcript.lock().insert(cookie, reply);
    }

    /// The replies so far, and how many sessions went on after a hand-over.
    pub(super) fn recorded(&self) -> (BTreeMap<u64, String>, u64) {
        (self.0.transcript.lock().clone(), self.0.went_on.load(Ordering::Relaxed))
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

    /// The client's end of a new connection; none: there is no gateway.
    pub(super) fn connect(&self) -> Option<UnixStream> {
        self.gateway().map(|gateway| gateway.connect())
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
        self.registry()?.open_now().first().map(|export| export.size())
    }

    /// Checks sizes, generations and quota.
    fn check(&self) {
        let Some(registry) = self.registry() else { return };
        let open = registry.open_now();
        let usage = registry.usage(&self.0.tenant);
        let Some(export) = open.first() else { return self.check_closed(usage) };
        let (shown, end, own) = (export.core.view().shown(), export.core.view().end(), Arc::downgrade(export));
        let promise = {
            let mut world = self.0.world.lock();
            let before = world.shown.replace((own, shown.generation, shown.size));
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

    /// A closed export counts as it was.
    fn check_closed(&self, usage: Option<Usage>) {
        let Some(usage) = usage.filter(|usage| usage.exports > 0) else { return };
        let promise = {
            let world = self.0.world.lock();
            let (size, counted) = (world.disk.size(), usage.used.0 + usage.reserved.0 + usage.unsettled.0);
            match counted >= size || world.outside {
                true => Ok(()),
                false => Err(format!("the disk has {size} bytes, and {counted} are counted while it is closed")),
            }
        };
        self.hold(promise);
    }
}
