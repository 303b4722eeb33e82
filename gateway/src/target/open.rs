//! Opening a target: connecting the lanes to a server, or opening a disk of this process.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nbd_gateway_config::{self as config, OnBackendLoss, Resolved};
use nbd_gateway_metrics::{ExportMetrics, LossReason, Metrics};
use nbd_gateway_net::tls::{BackendTls, CertificateError};
use nbd_gateway_net::{Address, Pool};
use nbd_gateway_proto::ExportFlags;
use nbd_gateway_proto::handshake::client::Negotiated;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::embedded::Embedded;
use super::facts::usable_size;
use super::probes::Probes;
use super::read_ahead::ReadAhead;
use super::second::Second;
use super::{Facts, Lanes, Presence, Target, View};
use crate::driver::{Driver, Order};
use crate::embedded::{DiskError, EmbeddedDisk, Place};
use crate::fault::Fault;
use crate::fence::{self, Fence, Keeper, Marks};
use crate::lane::{self, Connected, DialError, Dialer, Durability, Lane, LateWrites, OnLoss};
use crate::ordered_watch::OrderedWatch;
use crate::shards::Shards;

/// What targets are made from.
#[derive(Debug)]
pub(crate) struct TargetParts {
    pub(crate) pool: Arc<Pool>,
    pub(crate) shards: Shards,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) state: PathBuf,
    probes: Probes,
    /// Backends of closed exports that have answered writes which no FLUSH has covered.
    undurable: Arc<Mutex<HashSet<String>>>,
}

impl TargetParts {
    pub(crate) fn new(
        pool: Arc<Pool>,
        shards: Shards,
        metrics: Arc<Metrics>,
        marks: Arc<Marks>,
        state: PathBuf,
    ) -> Self {
        Self { pool, shards, metrics, marks, state, probes: Probes::default(), undurable: Arc::default() }
    }
}

/// Receives sizes that new connections announce. A call, not another channel: the receiver has one queue already, in which
/// sizes keep their order among everything else.
pub(crate) trait ObserveSize: Send + Sync {
    /// The backend's size in bytes; it differs from the published size.
    fn observed(&self, size: u64);
}

/// Why a target can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenTargetError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{error}; that was connection {at} of {wanted}: does it take so many? if not, lower `lanes`")]
    Lane { error: DialError, at: usize, wanted: usize },
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

impl OpenTargetError {
    /// Whether the server answered and does not have an export of that name.
    pub(crate) fn is_unknown_name(&self) -> bool {
        matches!(self, Self::Dial(error) if error.is_unknown_name())
    }

    /// Whether another export or process has the file open.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Self::Disk(DiskError::Locked { .. }))
    }
}

/// Opens the configured backend, and creates its view. Calls `metrics` only after success. Cancel-safe: yes, connections
/// made so far are closed.
pub(crate) async fn open(
    config: &Resolved,
    parts: &TargetParts,
    driver: Option<&Driver>,
    metrics: impl Fn() -> ExportMetrics,
    observer: &Arc<dyn ObserveSize>,
) -> Result<(Arc<dyn Target>, Arc<View>), OpenTargetError> {
    let disk = match &config.backend {
        config::Backend::Nbd(uri) => {
            let connections = Connections::make(config, uri, parts, driver).await?;
            let view = Arc::new(View::new(connections.facts.size));
            // With other certificates it is another server: a negotiation holds for one pair only.
            let server = format!("{} {:?}", connections.dialer.address, uri.tls());
            let metrics = metrics();
            let lanes = connections.start(config, parts, server, &view, &metrics, observer);
            let target: Arc<dyn Target> = match config.read_ahead {
                Some(limit) => ReadAhead::new(lanes, Arc::clone(&view), limit.0, metrics),
                None => Arc::new(lanes),
            };
            return Ok((target, view));
        }
        config::Backend::File { path, size, beneath } => {
            open_file(config, &parts.state, path, size.map(|size| size.bytes()), beneath.as_deref()).await?
        }
        config::Backend::Memory { size } => EmbeddedDisk::memory(size.bytes())?,
    };
    let target = Embedded::new(disk, &config.resize.driver);
    metrics().lane_up.set(1);
    let view = Arc::new(View::new(target.facts().size));
    Ok((Arc::new(target), view))
}

async fn open_file(
    config: &Resolved,
    state: &Path,
    path: &Path,
    first_size: Option<u64>,
    beneath: Option<&Path>,
) -> Result<EmbeddedDisk, OpenTargetError> {
    // The gateway creates directories in its state directory only: elsewhere, a missing directory may be a missing mount.
    let makes_directories = path.starts_with(state);
    let place = Place { path: path.to_owned(), beneath: beneath.map(Path::to_owned), makes_directories };
    let read_only = config.read_only;
    Ok(tokio::task::spawn_blocking(move || EmbeddedDisk::open_file(place, first_size, read_only)).await??)
}

/// The connections of an export, before anything is sent over them.
struct Connections {
    all: Vec<Connected>,
    dialer: Dialer,
    facts: Facts,
    fence: Option<Fence>,
    late: Arc<LateWrites>,
    had_late_writes: bool,
    /// The backend's name in the marks.
    identity: String,
}

impl Connections {
    /// Connects. If an earlier process or opening left writes behind, the fence is used first, if there is one.
    async fn make(
        config: &Resolved,
        uri: &config::NbdUri,
        parts: &TargetParts,
        driver: Option<&Driver>,
    ) -> Result<Self, OpenTargetError> {
        let name = config.name.as_str();
        let tls = BackendTls::of(uri, Some(Arc::clone(&parts.metrics)))?.map(Arc::new);
        let export = uri.export().as_str().to_owned();
        let dialer = Dialer { address: Address::of(uri), export, tls, limit: config.dial_timeout, plain: false };
        let begun = Instant::now();
        let (mut first, mut dialer) = dialer.open().await?;
        let identity = format!("{} {}", dialer.address, dialer.export);
        let fence = Fence::of(config, driver, order(config, &dialer, &Facts::of(&first.negotiated, config)));
        let late = LateWrites::new(config.late_write_guard, fence.is_some());
        let left = parts.marks.left(&config.name, &identity);
        // By the time before the handshake: what was carried out after it is not in the size that it told.
        if let Some((lost, server)) = left.filter(|(lost, _)| *lost + config.late_write_guard > begun) {
            late.suspect(lost, server);
            late.connected(&first.link);
        }
        if let Some(fence) = fence.as_ref().filter(|_| late.wants_fence()) {
            first.goodbye().await;
            fence::use_fence(&late, fence, &dialer, &config.name).await;
            (first, dialer) = Dialer { plain: false, ..dialer }.open().await?;
        }
        let had_late_writes = late.any();
        if had_late_writes {
            tracing::info!(export = name, guard = ?config.late_write_guard, "an earlier gateway, or an earlier opening, did not end in order; writes wait until the server is over what was in flight");
        }
        late.marks(first.link.server.clone());
        let facts = Facts::of(&first.negotiated, config);
        let tail = first.negotiated.size - facts.size;
        if tail > 0 {
            tracing::warn!(
                export = name,
                size = first.negotiated.size,
                minimum = facts.minimum_block(),
                "the backend's last {tail} bytes are less than the smallest block that it takes, and can't be had; whole blocks are shown"
            );
        }
        let (wanted, mut all) = (config.lanes.get(), vec![first]);
        if wanted > 1 && !facts.flags.has(ExportFlags::CAN_MULTI_CONN) {
            tracing::warn!(
                export = name,
                lanes = wanted,
                "the backend does not set CAN_MULTI_CONN: a FLUSH would not cover several lanes; one is used"
            );
        } else {
            for at in 2..=wanted {
                let connected = dialer.dial().await;
                all.push(connected.map_err(|error| OpenTargetError::Lane { error, at, wanted })?);
            }
        }
        for connected in &all {
            late.connected(&connected.link);
        }
        Ok(Self { all, dialer, facts, fence, late, had_late_writes, identity })
    }

    /// Starts a lane on each, and the task that watches their late writes.
    fn start(
        self,
        config: &Resolved,
        parts: &TargetParts,
        server: String,
        view: &Arc<View>,
        metrics: &ExportMetrics,
        observer: &Arc<dyn ObserveSize>,
    ) -> Lanes {
        let Self { all, dialer, facts, fence, late, had_late_writes, identity } = self;
        let name = config.name.as_str().to_owned();
        metrics.lane_up.set(1);
        let policy = on_loss(config.on_backend_loss);
        let presence = Arc::new(Presence::new(all.len(), policy.hold, dialer.limit));
        let undurable = parts.undurable.lock().remove(&identity);
        let (durability, told) = (Arc::new(Durability::new(undurable)), Arc::default());
        let end = OrderedWatch::new(false);
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        for (at, connected) in all.into_iter().enumerate() {
            let lane = Lane::new(Arc::clone(&durability), Arc::clone(&late));
            let owner = Owner {
                basis: facts.clone(),
                view: Arc::clone(view),
                observer: Arc::clone(observer),
                metrics: metrics.clone(),
                presence: Arc::clone(&presence),
                at,
                told: Arc::clone(&told),
            };
            let life = lane::Life {
                dialer: dialer.clone(),
                policy,
                contexts: facts.contexts.clone(),
                owner: Arc::new(owner),
                end: end.follow(),
                pool: Arc::clone(&parts.pool),
                hurry: presence.hurry(at),
                name: name.clone(),
            };
            let shard = parts.shards.next();
            tasks.push(shard.spawn(lane::run(Arc::clone(&lane), connected, life)));
            lanes.push((lane, shard));
        }
        tracing::info!(export = name, backend = %dialer.address, lanes = lanes.len(), size = facts.size, framing = ?facts.framing, flags = %facts.flags, "backend opened");
        let keeper = Keeper {
            late: Arc::clone(&late),
            export: config.name.clone(),
            backend: identity.clone(),
            fence,
            dialer: dialer.clone(),
            marks: Arc::clone(&parts.marks),
            counted: metrics.late_writes.clone(),
        };
        Lanes {
            turns: lanes.iter().map(|(_, shard)| shard.turns()).collect(),
            lanes,
            durability,
            undurable: Arc::clone(&parts.undurable),
            late,
            had_late_writes,
            keeper: tokio::spawn(keeper.run()),
            marks: Arc::clone(&parts.marks),
            identity,
            end,
            dialer,
            presence,
            server: parts.probes.server(server),
            // Only then another connection is certainly not one too many.
            keeps: facts.flags.has(ExportFlags::CAN_MULTI_CONN),
            told,
            second: Second::default(),
            aside: false.into(),
            tasks: Mutex::new(tasks),
            name,
            facts,
        }
    }
}

/// The order that a fence gets: no change of size.
fn order(config: &Resolved, dialer: &Dialer, facts: &Facts) -> Order {
    let (export, tenant, was) = (config.name.clone(), config.tenant.clone(), facts.snapshot(&dialer.export));
    Order { export, tenant, from: facts.size, to: facts.size, was, limit: config.resize.timeout }
}

fn on_loss(policy: OnBackendLoss) -> OnLoss {
    match policy {
        OnBackendLoss::Error => OnLoss { hold: std::time::Duration::ZERO, durable: false },
        OnBackendLoss::Hold { time, durable } => OnLoss { hold: time, durable },
    }
}

/// What one lane is checked against, and where its connection is reported.
struct Owner {
    basis: Facts,
    view: Arc<View>,
    observer: Arc<dyn ObserveSize>,
    metrics: ExportMetrics,
    /// The connections of the export's lanes, and the number of this one.
    presence: Arc<Presence>,
    at: usize,
    /// The size from the last handshake.
    told: Arc<Mutex<Option<u64>>>,
}

impl lane::Owner for Owner {
    fn fits(&self, new: &Negotiated) -> Result<(), Fault> {
        // During a shrink, no client relies on data past the lowered end.
        let fits = self.basis.fits(self.view.size().min(self.view.end()), new);
        if let Err(how) = &fits {
            self.presence.differs(self.at, how.message());
        }
        fits
    }

    fn up(&self, negotiated: &Negotiated) {
        if self.presence.up(self.at) {
            self.metrics.lane_up.set(1);
        }
        let size = usable_size(negotiated);
        *self.told.lock() = Some(size);
        if size != self.view.size() {
            self.observer.observed(size);
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
