//! The one place of assembly: bind, build, run, drain.
//!
//! [`App::build`] binds first and tells the addresses; [`App::run`] serves, reading the configuration anew whenever it is
//! asked to ([`reload`](crate::reload)), until told to stop, then drains: listeners close, what was admitted is finished, new requests get ESHUTDOWN, backends get DISC, all within `drain-timeout` and
//! a second.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{Config, Tenant};
use nbd_gateway_ledger::LedgerError;
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::tls::BackendTls;
use nbd_gateway_net::{Pool, check_backlog};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::accounting::cache::LedgerCache;
use crate::admin::{Admin, AdminContext, Phase};
use crate::export::{Registry, aliases, tight};
use crate::listener::Inherited;
use crate::log::ORDERED;
use crate::reload::{
    Ask, Embedded, ListenerContext, ListenerError, Listeners, PlannedListener, Reload, Reloader, Source,
    check_backend_certificates,
};
use crate::service::{Service, ServiceStatus};
use crate::session::SessionTable;
use crate::shards::{Shard, Shards};
use crate::token::TokenFile;

/// How long backends and the admin interface have, after `drain-timeout`, to be let go.
const LET_GO: Duration = Duration::from_secs(1);
/// Receive buffers kept for the next reader: 16 MiB.
const BUFFERS_KEPT: usize = 128;

/// How long after half of a crowd of clients has left its memory is given back.
const CROWD_LEAVES: Duration = Duration::from_secs(1);

/// Why the gateway can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Listener(#[from] ListenerError),
    #[error("cannot start a thread for the admin interface: {0}")]
    AdminThread(io::Error),
    /// Files of exports are where they can't be.
    #[error("{0}")]
    Files(String),
    #[error("{0}")]
    Export(#[from] crate::export::OpenError),
    #[error("{0}")]
    Ledger(#[from] Box<LedgerError>),
}

/// How many embedded exports are opened at a time at the start: their records are then written to the ledger together.
const OPENED_AT_A_TIME: usize = 64;

/// Opens every embedded export that has a name of its own.
async fn open_embedded(config: &Config, registry: &Arc<Registry>, embedded: &Embedded) -> Result<(), StartError> {
    let mut names = config.embedded().map(str::to_owned);
    let mut opening = JoinSet::new();
    loop {
        for name in names.by_ref().take(OPENED_AT_A_TIME.saturating_sub(opening.len())) {
            let registry = Arc::clone(registry);
            opening.spawn(async move { registry.open(&name).await.map(|lease| (name, lease)) });
        }
        match opening.join_next().await {
            Some(Ok(opened)) => {
                let (name, lease) = opened?;
                embedded.lock().insert(name, lease);
            }
            // It panicked, which is in the log. A client that comes for the export opens it.
            Some(Err(_)) => {}
            None => return Ok(()),
        }
    }
}

/// The gateway, bound and ready to run.
pub(crate) struct App {
    config: Arc<Config>,
    listeners: Listeners,
    planned: Vec<PlannedListener>,
    /// The admin interface and its thread.
    admin: Option<(Admin, Shard)>,
    registry: Arc<Registry>,
    cache: Arc<LedgerCache>,
    table: Arc<SessionTable>,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    embedded: Embedded,
    /// Looks at what is not counted as it is, and gives memory back; until the drain.
    looking: JoinSet<()>,
    /// Of backends, for the metrics.
    certificates: Vec<BackendTls>,
    reload: (Reload, mpsc::Receiver<Ask>),
}

impl App {
    /// Binds every address and opens the embedded exports.
    pub(crate) async fn build(config: Config, shards: Shards, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let config = Arc::new(config);
        check_backlog(config.limits.arrivals.backlog);
        let mut listeners = Listeners::new(Arc::clone(&metrics), Inherited::from_env());
        let planned = match listeners.plan(&config).await {
            Ok(planned) => planned,
            Err(error) => return Err(error.first.into()),
        };
        let certificates = check_backend_certificates(&config, None, &metrics);
        let misplaced = aliases::misplaced_files(&config);
        if !misplaced.is_empty() {
            return Err(StartError::Files(misplaced.join("\n")));
        }
        aliases::warn(&config, &[]);
        for tight in tight::tight(&config) {
            tracing::warn!(target: ORDERED, %tight, "quota is too small");
        }
        let admin = match &config.admin {
            Some(address) => Some((
                Admin::bind(address, &config).await.map_err(ListenerError::from)?,
                shards.apart("admin").map_err(StartError::AdminThread)?,
            )),
            None => None,
        };
        let pool = Arc::new(Pool::new(BUFFERS_KEPT));
        let (cache, snapshot) = LedgerCache::open(&config.state).map_err(Box::new)?;
        let cache = Arc::new(cache);
        let table = Arc::<SessionTable>::default();
        let registry = Registry::new(
            Arc::clone(&config),
            Arc::clone(&pool),
            shards,
            Arc::clone(&metrics),
            Arc::clone(&cache),
            Arc::<SessionTable>::clone(&table),
        );
        let measure = registry.remember(&snapshot);
        // Before anything of theirs is opened: it may grow.
        registry.allowances.restore(&snapshot.orders).await;
        registry.count_files().await;
        let embedded = Embedded::default();
        open_embedded(&config, &registry, &embedded).await?;
        registry.expect_looks();
        let mut looking = JoinSet::new();
        looking.spawn(Arc::clone(&registry).measure_all(measure));
        let sweeps = Arc::clone(&cache);
        looking.spawn(async move { sweeps.marks.sweep().await });
        looking.spawn(Arc::clone(&registry).look_before_growth());
        looking.spawn(give_back_after_crowds(Arc::clone(&table)));
        let reload = Reload::new();
        Ok(Self {
            config,
            listeners,
            planned,
            admin,
            registry,
            cache,
            table,
            pool,
            metrics,
            embedded,
            looking,
            certificates,
            reload,
        })
    }

    /// The URI of each listener, with the port that the kernel chose.
    pub(crate) fn listening(&self) -> impl Iterator<Item = &str> {
        self.planned.iter().flat_map(PlannedListener::uris)
    }

    /// Where the admin interface is.
    pub(crate) fn admin(&self) -> Option<&str> {
        self.admin.as_ref().map(|(admin, _)| admin.url.as_str())
    }

    /// The way to have the configuration read anew while it runs.
    pub(crate) fn reload(&self) -> Reload {
        self.reload.0.clone()
    }

    /// Serves until `stop` completes or an operator orders the end, then drains; the service manager is told of
    /// all of it. The configuration is read anew from `source`. Cancel-safe: no.
    pub(crate) async fn run(self, source: Source, stop: impl Future<Output = ()>, service: Service) {
        let (drain, draining) = watch::channel(false);
        let (phase, phases) = watch::channel(Phase::Starting);
        let (end, ending) = watch::channel(false);
        let (order, mut ordered) = watch::channel(false);
        let token_file = TokenFile::new(self.config.token_file.clone());
        let (reload, mut asked) = self.reload;
        let context = ListenerContext {
            registry: Arc::clone(&self.registry),
            table: Arc::clone(&self.table),
            pool: Arc::clone(&self.pool),
            drain: draining,
        };
        let admin_context = AdminContext {
            metrics: Arc::clone(&self.metrics),
            registry: Arc::clone(&self.registry),
            sessions: Arc::clone(&self.table),
            token_file: token_file.clone(),
            reload,
            drain: Arc::new(order),
        };
        let status = status(phases.clone(), Arc::clone(&self.registry), Arc::clone(&self.table));
        let mut running = Reloader {
            source,
            listeners: self.listeners,
            context,
            registry: Arc::clone(&self.registry),
            metrics: self.metrics,
            token_file,
            embedded: self.embedded,
            certificates: self.certificates,
            service: service.clone(),
        };
        running.begin(self.planned, &self.config.limits);
        let control = Handle::current();
        let admin = self.admin.map(|(admin, apart)| apart.spawn(admin.run(admin_context, control, phases, ending)));
        phase.send_replace(Phase::Ready);
        service.ready().await;
        let tending = tokio::spawn(service.clone().tend(self.registry.shards().clone(), status));

        tokio::select! {
            // Orders to stop first: reloads may be asked for again and again.
            biased;
            () = stop => {}
            // An error would mean that nobody can order it any more.
            Ok(_) = ordered.wait_for(|ordered| *ordered) => {}
            () = running.serve(&mut asked) => {}
        }
        // Whoever asks from now on is told that it is too late.
        drop(asked);
        let limits = self.registry.config().limits;

        let sessions = self.table.len();
        // Measured from here, so that a backend may take what the sessions did not need.
        let over = tokio::time::Instant::now() + limits.drain_timeout;
        tracing::info!(sessions, limit = ?limits.drain_timeout, "draining");
        phase.send_replace(Phase::Draining);
        drain.send_replace(true);
        // The admin interface has as long again as the backends.
        service.stopping(limits.drain_timeout + 2 * LET_GO).await;
        let embedded = running.end().await;
        if tokio::time::timeout_at(over, self.table.emptied()).await.is_err() {
            let left = self.table.len();
            tracing::warn!(sessions = left, limit = ?limits.drain_timeout, "drain-timeout is over; the sessions left are cut");
            self.table.all().iter().for_each(|session| session.cut());
        }
        drop(self.looking);
        embedded.lock().clear();
        if tokio::time::timeout_at(over + LET_GO, self.registry.close_all()).await.is_err() {
            tracing::warn!(limit = ?limits.drain_timeout + LET_GO, "a backend did not answer what was in flight; it is left");
        }
        self.cache.close().await;
        end.send_replace(true);
        if let Some(admin) = admin {
            // A scrape that hangs must not hold the end up.
            let soon = tokio::time::Instant::now() + LET_GO;
            let _ = tokio::time::timeout_at(soon.min(over + LET_GO), admin).await;
        }
        tending.abort();
        tracing::info!("stopped");
    }
}

/// Gives memory back to the host when half of a crowd of clients has left, and each time that half of the rest has.
async fn give_back_after_crowds(table: Arc<SessionTable>) {
    loop {
        table.halved().await;
        // The others leave meanwhile, perhaps.
        tokio::time::sleep(CROWD_LEAVES).await;
        // A thread that ends early has given back what it could.
        let _ = tokio::task::spawn_blocking(nbd_gateway_heap::give_back).await;
    }
}

/// How the gateway is, for the service manager.
fn status(
    phase: watch::Receiver<Phase>,
    registry: Arc<Registry>,
    sessions: Arc<SessionTable>,
) -> impl Fn() -> ServiceStatus {
    move || {
        let over_quota = |tenant: &&Tenant| registry.usage(&tenant.id).is_some_and(|usage| usage.over_quota);
        ServiceStatus {
            draining: *phase.borrow() == Phase::Draining,
            exports: registry.open_exports(),
            sessions: sessions.len(),
            over_quota: registry.config().tenants().iter().filter(over_quota).count(),
        }
    }
}
