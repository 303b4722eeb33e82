//! What serves an export: lanes to an NBD server, or an embedded disk. The same jobs go to either.

use nbd_gateway_policy::types::Bytes;
use std::sync::Arc;

use nbd_gateway_config::{self as config, Driver, OnBackendLoss, Resolved};
use nbd_gateway_metrics::{ExportMetrics, LossReason};
use nbd_gateway_policy as policy;
use nbd_gateway_policy::style::{BackendStyle, Grows, Tells};
use nbd_gateway_policy::types::ExportName;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::presence::Presence;
use super::probes::{Server, enter};
use super::view::View;
use crate::accounting::cache::Notes;
use crate::driver::{Driver as Beside, Order, Was};
use crate::embedded::{DiskError, EmbeddedDisk, Place};
use crate::export::Shared;
use crate::fence::{self, Fence, Keeper};
use crate::lane::{self, DialError, Dialer, Durability, Lane, LateWrites, Look, OnLoss};
use crate::net::Address;
use crate::proto::handshake::BlockSizes;
use crate::proto::handshake::client::Negotiated;
use crate::proto::resize::ResizeInfo;
use crate::proto::{Cookie, ExportFlags, Framing};
use crate::request::{Finished, Job};
use crate::resize::{Resizer, style};
use crate::session::Turns;
use crate::shards::Shard;
use crate::tls::{BackendTls, CertificateFault};

/// What the backend said about itself.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Size in bytes.
    pub size: u64,
    /// Its transmission flags.
    pub flags: ExportFlags,
    /// How its connections are framed; Extended for an embedded disk, which has 64-bit lengths too.
    pub framing: Framing,
    /// Its metadata contexts.
    pub contexts: Vec<String>,
    /// Its block sizes, if it says any.
    pub block_sizes: Option<BlockSizes>,
    /// Its description.
    pub description: Option<String>,
    /// What it said about resizing.
    pub resize: Option<ResizeInfo>,
    /// How it grows and tells.
    pub style: BackendStyle,
}

impl Facts {
    /// What a handshake told.
    fn of(negotiated: &Negotiated, config: &Resolved) -> Self {
        Self {
            size: usable(negotiated),
            flags: negotiated.flags,
            framing: negotiated.framing,
            contexts: negotiated.contexts.iter().map(|(name, _)| name.clone()).collect(),
            block_sizes: negotiated.block_sizes,
            description: negotiated.description.clone(),
            resize: negotiated.resize,
            style: style::of_backend(negotiated, &config.resize.driver),
        }
    }

    /// Offsets and lengths must be multiples of this, in bytes.
    pub(crate) fn minimum_block(&self) -> u64 {
        u64::from(self.block_sizes.map_or(1, |s| s.minimum).max(1))
    }

    /// The largest payload of one request, in bytes: a multiple of the minimum. 32 MiB where the backend says nothing.
    pub(crate) fn largest_payload(&self) -> u64 {
        let maximum = u64::from(self.block_sizes.map_or(32 << 20, |s| s.maximum)).min(64 << 20);
        (maximum / self.minimum_block() * self.minimum_block()).max(self.minimum_block())
    }

    /// The longest range of one request without payload, in bytes: with compact headers, the largest multiple of 64 KiB
    /// (no block is larger) below 2^32.
    pub(crate) fn longest_range(&self) -> u64 {
        if self.framing == Framing::Extended { u64::MAX } else { 0xffff_0000 }
    }
}

/// What serves an export.
#[derive(Debug)]
pub(crate) enum Backend {
    /// An NBD server.
    Lanes(Box<Lanes>),
    /// This process.
    Embedded(EmbeddedDisk),
}

/// Connections to one NBD server's export.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<(Arc<Lane>, Shard)>,
    /// In which order sessions come to each lane, where that matters.
    turns: Vec<Arc<Turns>>,
    durability: Arc<Durability>,
    late: Arc<LateWrites>,
    /// Ends the wait of what late writes hold back.
    keeper: JoinHandle<()>,
    /// Where its marks are kept, and what the backend is called there.
    notes: Arc<Notes>,
    identity: String,
    end: watch::Sender<bool>,
    dialer: Dialer,
    presence: Arc<Presence>,
    /// Looks at sizes.
    server: Arc<Server>,
    /// Whether the server lets connections be that only look.
    keeps: bool,
    /// The size that the last handshake told since the backend was asked for another.
    told: Arc<Mutex<Option<u64>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Lanes {
    /// The export's name at the backend.
    pub(crate) fn export(&self) -> &str {
        &self.dialer.export
    }

    /// The backend's size as one more connection that enters the export is told it.
    pub(crate) async fn probe(&self) -> Result<u64, DialError> {
        enter(&self.dialer).await
    }

    /// The same for whoever only wants to know, when nobody else looks at this server's sizes.
    pub(crate) async fn look(&self) -> Result<u64, DialError> {
        self.server.size(&self.dialer, self.keeps).await
    }

    /// The size that a lane's handshake told since [`forget_handshake_size`](Self::forget_handshake_size), in bytes.
    pub(crate) fn size_from_handshake(&self) -> Option<u64> {
        *self.told.lock()
    }

    /// What was told so far is out of date.
    pub(crate) fn forget_handshake_size(&self) {
        *self.told.lock() = None;
    }

    /// They have ended. What the server may still carry out is left to whoever opens the export next.
    async fn settle_mark(&self, export: &ExportName) {
        let marks = self.notes.marks();
        if let Some((lost, server)) = self.late.outstanding() {
            marks.leave(export, &self.identity, server, lost);
        } else if self.late.has_mark() || marks.has(export) {
            marks.unmark(export).await;
        }
    }

    /// Replaces connections by new ones, all or all but the first, or has those come back that were taken aside.
    pub(crate) async fn renew(&self, which: policy::plan::Lanes) {
        let lanes = |first| self.lanes.iter().skip(first).map(|(lane, _)| lane);
        match which {
            policy::plan::Lanes::Keep => {}
            policy::plan::Lanes::RehandshakeOthers => together(lanes(1), Lane::renew).await,
            policy::plan::Lanes::ReplaceAfter => together(lanes(0), Lane::renew).await,
            policy::plan::Lanes::DropBefore => together(lanes(0), Lane::resume).await,
        }
    }

    /// Closes all connections, and has requests wait until they are [renewed](Self::renew).
    pub(crate) async fn step_aside(&self) {
        together(self.lanes.iter().map(|(lane, _)| lane), Lane::step_aside).await;
    }

    fn of(&self, session: u64) -> Option<&(Arc<Lane>, Shard)> {
        self.lanes.get(self.number_of(session))
    }

    fn number_of(&self, session: u64) -> usize {
        let count = u64::try_from(self.lanes.len()).unwrap_or(1).max(1);
        usize::try_from(session % count).unwrap_or(0)
    }
}

/// Does the same with several lanes at a time. Dropped, it still is done.
async fn together<'a, F>(lanes: impl Iterator<Item = &'a Arc<Lane>>, act: impl Fn(&'a Lane) -> F)
where
    F: Future<Output = ()>,
{
    let mut acts: Vec<_> = lanes.map(|lane| Box::pin(act(lane))).collect();
    // Each is begun at once, whatever another waits for.
    std::future::poll_fn(|cx| {
        acts.retain_mut(|act| act.as_mut().poll(cx).is_pending());
        if acts.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Why a backend can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unopened {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{error}; that was connection {at} of {wanted}: does it take so many? if not, lower `lanes`")]
    Lane { error: DialError, at: usize, wanted: usize },
    #[error(transparent)]
    Certificates(#[from] CertificateFault),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Task(String),
}

impl Unopened {
    /// Whether the server is there and does not have an export of that name.
    pub(crate) fn is_unknown_name(&self) -> bool {
        matches!(self, Self::Dial(error) if error.is_unknown_name())
    }
}

impl Backend {
    /// Opens what the configuration names; `metrics` is asked once that is done. Cancel-safe: yes, connections made so far
    /// are closed.
    pub(crate) async fn open(
        config: &Resolved,
        shared: &Shared,
        metrics: impl Fn() -> ExportMetrics,
        resizer: &Resizer,
        beside: Option<&Beside>,
    ) -> Result<(Self, Facts, Arc<View>), Unopened> {
        match &config.backend {
            config::Backend::Nbd(uri) => Self::dial(config, uri, shared, metrics, resizer, beside).await,
            config::Backend::File { path, size, beneath } => {
                let mut place = Place::named(path);
                if let Some(beneath) = beneath {
                    place = place.beneath(beneath);
                }
                // What is in the state directory is the gateway's to arrange; a directory elsewhere may be a mount that is
                // missing, and its disk would land on another file system.
                if path.starts_with(&shared.state) {
                    place = place.making_directories();
                }
                let (size, read_only) = (size.map(|size| size.bytes()), config.read_only);
                let open = move || EmbeddedDisk::open_file(place, size, read_only);
                let opened = tokio::task::spawn_blocking(open).await.map_err(|e| Unopened::Task(e.to_string()))?;
                Ok(Self::embedded(opened?, &config.resize.driver, &metrics()))
            }
            config::Backend::Memory { size } => {
                Ok(Self::embedded(EmbeddedDisk::memory(size.bytes())?, &config.resize.driver, &metrics()))
            }
        }
    }

    fn embedded(disk: EmbeddedDisk, driver: &Driver, metrics: &ExportMetrics) -> (Self, Facts, Arc<View>) {
        let facts = disk.facts();
        metrics.lane_up.set(1);
        let block_sizes = BlockSizes {
            minimum: facts.minimum_block,
            preferred: facts.preferred_block,
            maximum: facts.maximum_payload,
        };
        let facts = Facts {
            size: facts.size,
            flags: facts.flags,
            framing: Framing::Extended,
            contexts: facts.contexts,
            block_sizes: Some(block_sizes),
            description: None,
            resize: None,
            style: BackendStyle {
                grows: if *driver == Driver::None { Grows::Fixed } else { Grows::Embedded },
                tells: Tells::Itself,
            },
        };
        let view = Arc::new(View::new(facts.size));
        (Backend::Embedded(disk), facts, view)
    }

    async fn dial(
        config: &Resolved,
        uri: &config::NbdUri,
        shared: &Shared,
        metrics: impl Fn() -> ExportMetrics,
        resizer: &Resizer,
        beside: Option<&Beside>,
    ) -> Result<(Self, Facts, Arc<View>), Unopened> {
        let tls = BackendTls::of(uri, Some(Arc::clone(&shared.metrics)))?.map(Arc::new);
        let export = uri.export().as_str().to_owned();
        let dialer = Dialer { address: Address::of(uri), export, tls, limit: config.dial_timeout, plain: false };
        let (mut first, mut dialer) = dialer.open().await?;
        let identity = format!("{} {}", dialer.address, dialer.export);
        let fence = Fence::of(config, beside, fencing(config, &dialer, &Facts::of(&first.negotiated, config)));
        let late = LateWrites::new(config.late_write_guard, fence.is_some());
        if let Some((lost, server)) = shared.notes.marks().left(&config.name, &identity) {
            late.suspect(lost, server);
            late.connected(&first.link);
            late.expire();
        }
        if let Some(fence) = fence.as_ref().filter(|_| late.wants_fence()) {
            first.goodbye().await;
            fence::use_fence(&late, fence, &dialer, &config.name).await;
            (first, dialer) = Dialer { plain: false, ..dialer }.open().await?;
        }
        if late.any() {
            tracing::info!(export = config.name.as_str(), guard = ?config.late_write_guard, "an earlier gateway, or an earlier opening, did not end in order; writes wait until the server is over what was in flight");
        }
        if !config.read_only {
            late.marks(first.link.server.clone());
        }
        let facts = Facts::of(&first.negotiated, config);
        let tail = first.negotiated.size - facts.size;
        if tail > 0 {
            tracing::warn!(
                export = config.name.as_str(),
                size = first.negotiated.size,
                minimum = facts.minimum_block(),
                "the backend's last {tail} bytes are less than the smallest block that it takes, and can't be had; whole blocks are shown"
            );
        }
        let view = Arc::new(View::new(facts.size));
        let wanted = config.lanes.get();
        let mut connections = vec![first];
        if wanted > 1 && !facts.flags.has(ExportFlags::CAN_MULTI_CONN) {
            tracing::warn!(
                export = config.name.as_str(),
                lanes = wanted,
                "the backend does not set CAN_MULTI_CONN: a FLUSH would not cover several lanes; one is used"
            );
        } else {
            for at in 2..=wanted {
                let connected = dialer.dial().await;
                connections.push(connected.map_err(|error| Unopened::Lane { error, at, wanted })?);
            }
        }
        let durability = Arc::new(Durability::default());
        for connected in &connections {
            late.connected(&connected.link);
        }
        let (end, ending) = watch::channel(false);
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        let metrics = metrics();
        metrics.lane_up.set(1);
        let policy = on_loss(config.on_backend_loss);
        let presence = Arc::new(Presence::new(connections.len(), policy.hold, dialer.limit));
        let told = Arc::default();
        for (at, connected) in connections.into_iter().enumerate() {
            let lane = Lane::new(Arc::clone(&durability), Arc::clone(&late));
            let life = lane::Life {
                dialer: dialer.clone(),
                policy,
                contexts: facts.contexts.clone(),
                owner: Arc::new(Owner {
                    basis: facts.clone(),
                    view: Arc::clone(&view),
                    resizer: resizer.clone(),
                    metrics: metrics.clone(),
                    presence: Arc::clone(&presence),
                    at,
                    told: Arc::clone(&told),
                }),
                end: ending.clone(),
                pool: Arc::clone(&shared.pool),
                hurry: presence.hurry(at),
                name: config.name.as_str().to_owned(),
            };
            let shard = shared.shards.next();
            tasks.push(shard.spawn(lane::run(Arc::clone(&lane), connected, life)));
            lanes.push((lane, shard));
        }
        tracing::info!(export = config.name.as_str(), backend = %dialer.address, lanes = lanes.len(), size = facts.size, framing = ?facts.framing, flags = %facts.flags, "backend opened");
        // The same server by other certificates is another one: what is asked there was agreed on with that one.
        let server = shared.probes.server(format!("{} {:?}", dialer.address, uri.tls()));
        // Where several connections are none too many for sure.
        let keeps = facts.flags.has(ExportFlags::CAN_MULTI_CONN);
        let keeper = Keeper {
            late: Arc::clone(&late),
            export: config.name.clone(),
            backend: identity.clone(),
            fence,
            dialer: dialer.clone(),
            notes: Arc::clone(&shared.notes),
            counted: metrics.late_writes.clone(),
        };
        let (keeper, notes, tasks) = (tokio::spawn(keeper.run()), Arc::clone(&shared.notes), Mutex::new(tasks));
        let turns = lanes.iter().map(|(_, shard)| shard.turns()).collect();
        let lanes = Lanes {
            lanes,
            turns,
            durability,
            late,
            keeper,
            notes,
            identity,
            end,
            dialer,
            presence,
            server,
            keeps,
            told,
            tasks,
        };
        Ok((Backend::Lanes(Box::new(lanes)), facts, view))
    }

    /// Takes a batch of one session; a session's requests all take the same lane.
    pub(crate) fn submit(&self, session: u64, jobs: &mut Vec<Job>, finished: &mut Finished) {
        if jobs.is_empty() {
            return;
        }
        match self {
            Backend::Embedded(disk) => disk.submit(jobs),
            Backend::Lanes(lanes) => {
                if let Some((lane, _)) = lanes.of(session) {
                    lane.submit(jobs, finished);
                }
            }
        }
    }

    /// The shard on which a session is to live: its lane's. An embedded disk has none of its own.
    pub(crate) fn shard(&self, session: u64) -> Option<Shard> {
        match self {
            Backend::Embedded(_) => None,
            Backend::Lanes(lanes) => lanes.of(session).map(|(_, shard)| shard.clone()),
        }
    }

    /// In which order a session comes to its lane; an embedded disk has none.
    pub(crate) fn turns(&self, session: u64) -> Option<Arc<Turns>> {
        match self {
            Backend::Embedded(_) => None,
            Backend::Lanes(lanes) => lanes.turns.get(lanes.number_of(session)).cloned(),
        }
    }

    /// Whether a FLUSH of one session covers the answered writes of all.
    pub(crate) fn flush_covers_all(&self, flags: ExportFlags) -> bool {
        match self {
            Backend::Embedded(_) => true,
            Backend::Lanes(lanes) => lanes.lanes.len() == 1 || flags.has(ExportFlags::CAN_MULTI_CONN),
        }
    }

    /// How many times answered, unflushed writes may have been lost.
    pub(crate) fn losses(&self) -> u64 {
        match self {
            Backend::Embedded(_) => 0,
            Backend::Lanes(lanes) => lanes.durability.losses(),
        }
    }

    /// The ranges of a session's requests in flight that may change data.
    pub(crate) fn ranges_of(&self, session: u64) -> Vec<(Cookie, u64, u64)> {
        match self {
            Backend::Embedded(disk) => disk.ranges_of(session),
            Backend::Lanes(lanes) => lanes.lanes.iter().flat_map(|(lane, _)| lane.ranges_of(session)).collect(),
        }
    }

    /// Waits until no late write overlaps `from..to`. An embedded disk has none. Cancel-safe: yes.
    pub(crate) async fn clear_of_late_writes(&self, from: u64, to: u64) {
        if let Backend::Lanes(lanes) = self {
            lanes.late.clear_of(from, to).await;
        }
    }

    /// What a task of the gateway's own had with the backend in `from..to`, and gave up waiting for, holds back whatever
    /// overlaps it.
    pub(crate) fn left_behind(&self, from: u64, to: u64) {
        if let Backend::Lanes(lanes) = self {
            lanes.lanes.iter().for_each(|(lane, _)| lane.left_behind(from, to));
        }
    }

    /// A driver has ended the server, or its connections, at `begun` at the earliest.
    pub(crate) fn fenced(&self, begun: tokio::time::Instant) {
        if let Backend::Lanes(lanes) = self {
            lanes.late.fenced(begun);
        }
    }

    /// Whether a RESIZE was in flight on a lost connection, and may still be carried out.
    pub(crate) fn resize_in_doubt(&self) -> bool {
        matches!(self, Backend::Lanes(lanes) if lanes.late.has_resize())
    }

    /// It was carried out.
    pub(crate) fn resize_confirmed(&self) {
        if let Backend::Lanes(lanes) = self {
            lanes.late.resize_confirmed();
        }
    }

    /// Goes by another time for late writes from now on.
    pub(crate) fn set_late_write_guard(&self, guard: std::time::Duration) {
        if let Backend::Lanes(lanes) = self {
            lanes.late.set_guard(guard);
        }
    }

    /// Whether a request past `end` is in flight. An embedded disk waits for its own.
    pub(crate) fn beyond(&self, end: u64) -> bool {
        match self {
            Backend::Embedded(_) => false,
            Backend::Lanes(lanes) => lanes.lanes.iter().any(|(lane, _)| lane.beyond(end)),
        }
    }

    /// Whether the server is there; an embedded disk always is.
    pub(crate) fn presence(&self) -> Option<&Arc<Presence>> {
        match self {
            Backend::Embedded(_) => None,
            Backend::Lanes(lanes) => Some(&lanes.presence),
        }
    }

    /// How its connections are; an embedded disk has none.
    pub(crate) fn look(&self) -> Vec<Look> {
        match self {
            Backend::Embedded(_) => Vec::new(),
            Backend::Lanes(lanes) => lanes.lanes.iter().map(|(lane, _)| lane.look()).collect(),
        }
    }

    /// Finishes what is in flight and lets go.
    pub(crate) async fn close(&self, export: &ExportName) {
        let name = export.as_str();
        match self {
            Backend::Embedded(disk) => {
                if let Err(error) = disk.close().await {
                    tracing::error!(export = name, %error, "closing the disk failed");
                }
            }
            Backend::Lanes(lanes) => {
                lanes.end.send_replace(true);
                let tasks = core::mem::take(&mut *lanes.tasks.lock());
                for task in tasks {
                    // A lane's task does not panic; if it did, its jobs have failed with EIO.
                    let _ = task.await;
                }
                lanes.keeper.abort();
                lanes.settle_mark(export).await;
                tracing::info!(export = name, "backend let go");
            }
        }
    }
}

/// What a fence is told.
fn fencing(config: &Resolved, dialer: &Dialer, facts: &Facts) -> Order {
    let was = Was {
        name: dialer.export.clone(),
        flags: facts.flags,
        contexts: facts.contexts.clone(),
        description: facts.description.clone(),
    };
    Order { export: config.name.clone(), tenant: config.tenant.clone(), from: facts.size, to: facts.size, was }
}

fn on_loss(policy: OnBackendLoss) -> OnLoss {
    match policy {
        OnBackendLoss::Error => OnLoss { hold: std::time::Duration::ZERO, durable: false },
        OnBackendLoss::Hold { time, durable } => OnLoss { hold: time, durable },
    }
}

/// What the lanes of an export were when it was opened, and where their fate is counted.
struct Owner {
    basis: Facts,
    view: Arc<View>,
    resizer: Resizer,
    metrics: ExportMetrics,
    /// How the export's lanes are connected, and which of them this is.
    presence: Arc<Presence>,
    at: usize,
    /// What the last handshake told.
    told: Arc<Mutex<Option<u64>>>,
}

impl lane::Owner for Owner {
    fn fits(&self, new: &Negotiated) -> Result<(), String> {
        // While a shrink is under way, what lies past the lowered end is nobody's any more.
        let fits = fits(&self.basis, self.view.size().min(self.view.end()), new);
        if let Err(how) = &fits {
            self.presence.differs(self.at, how);
        }
        fits
    }

    fn up(&self, negotiated: &Negotiated) {
        if self.presence.up(self.at) {
            self.metrics.lane_up.set(1);
        }
        let size = usable(negotiated);
        *self.told.lock() = Some(size);
        if size != self.view.size() {
            self.resizer.seen(size);
        }
    }

    fn lost(&self) {
        self.presence.lost(self.at);
        self.metrics.lane_up.set(0);
        self.metrics.reconnect(LossReason::Lost);
    }

    fn unreachable(&self, why: &str) {
        self.presence.unreachable(self.at, why);
    }
}

/// The size that can be had, in bytes: a server takes whole blocks only, and its disk may end inside one.
fn usable(negotiated: &Negotiated) -> u64 {
    let minimum = u64::from(negotiated.block_sizes.map_or(1, |sizes| sizes.minimum).max(1));
    negotiated.size - negotiated.size % minimum
}

/// Whether a connection made later can take over for the first: nothing that clients were told may be missing.
fn fits(basis: &Facts, was: u64, new: &Negotiated) -> Result<(), String> {
    let is = usable(new);
    if is < was {
        return Err(format!("its size is {} and was {}; a size never goes back by itself", Bytes(is), Bytes(was)));
    }
    let missing = basis.flags.without(ExportFlags::READ_ONLY).without(new.flags);
    if missing != ExportFlags::NONE {
        return Err(format!("it no longer offers {missing}"));
    }
    if new.flags.has(ExportFlags::READ_ONLY) && !basis.flags.has(ExportFlags::READ_ONLY) {
        return Err("it has become read-only".to_owned());
    }
    if let Some(lost) = basis.contexts.iter().find(|c| !new.contexts.iter().any(|(name, _)| name == *c)) {
        return Err(format!("it no longer has the metadata context {lost}"));
    }
    let sizes = |s: Option<BlockSizes>| s.map_or((1, 32 << 20), |s| (s.minimum, s.maximum));
    let ((minimum, maximum), (new_minimum, new_maximum)) = (sizes(basis.block_sizes), sizes(new.block_sizes));
    if new_minimum > minimum || new_maximum < maximum {
        return Err(format!(
            "its block sizes are {} to {} and were {} to {}",
            Bytes(u64::from(new_minimum)),
            Bytes(u64::from(new_maximum)),
            Bytes(u64::from(minimum)),
            Bytes(u64::from(maximum))
        ));
    }
    Ok(())
}
