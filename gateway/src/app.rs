//! The one place of assembly: bind, build, run, drain.
//!
//! [`App::build`] binds first and tells the addresses; [`App::run`] serves until told to stop, then drains: listeners
//! close, what was admitted is finished, new requests get ESHUTDOWN, backends get DISC, all within `drain-timeout` and
//! a second.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{self as config, Config};
use nbd_gateway_metrics::Metrics;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{Admin, Inside, Phase};
use crate::export::{Lease, Registry};
use crate::ledger::LedgerError;
use crate::listener::{BindError, Bound, Inherited};
use crate::net::Pool;
use crate::resize::notes::Notes;
use crate::service::{Glance, Service};
use crate::session::{Front, SessionTable};
use crate::shards::Shards;
use crate::tls::{BackendTls, CertificateFault, ListenerTls};

/// How long backends and the admin interface have, after `drain-timeout`, to be let go.
const LET_GO: Duration = Duration::from_secs(1);
/// Receive buffers kept for the next reader: 16 MiB.
const BUFFERS_KEPT: usize = 128;

/// Why the gateway can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin interface.
    #[error("{0}")]
    Admin(String),
    /// An embedded export.
    #[error("{0}")]
    Export(#[from] crate::export::OpenError),
    /// The ledger.
    #[error("{0}")]
    Ledger(#[from] Box<LedgerError>),
    /// A listener's certificates.
    #[error("listener {address}: {fault}")]
    Certificates {
        /// As configured.
        address: String,
        /// What is wrong with them.
        fault: CertificateFault,
    },
    /// The metrics.
    #[error("the metrics can't be set up: {0}")]
    Metrics(String),
}

/// The gateway, bound and ready to run.
pub struct App {
    config: Arc<Config>,
    listeners: Vec<(Bound, Option<ListenerTls>)>,
    admin: Option<Admin>,
    registry: Arc<Registry>,
    notes: Arc<Notes>,
    table: Arc<SessionTable>,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    /// Embedded exports with a name of their own are open as long as the gateway runs.
    embedded: Vec<Lease>,
}

impl App {
    /// Binds every address and opens the embedded exports.
    pub async fn build(config: Config, shards: Shards) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let metrics =
            Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|e| StartError::Metrics(e.to_string()))?);
        let mut inherited = Inherited::from_env();
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            for bound in Bound::bind(&listener.address, &mut inherited).await? {
                let tls = listener_tls(listener, &metrics)?;
                listeners.push((bound.announced_as(tls.as_ref().is_some_and(ListenerTls::is_required)), tls));
            }
        }
        look_at_backend_certificates(&config, &metrics);
        let admin = match &config.admin {
            Some(address) => Some(Admin::bind(address).await.map_err(StartError::Admin)?),
            None => None,
        };
        let pool = Arc::new(Pool::new(BUFFERS_KEPT));
        let (notes, snapshot) = Notes::open(&config.state).map_err(Box::new)?;
        let notes = Arc::new(notes);
        let registry =
            Registry::new(Arc::clone(&config), Arc::clone(&pool), shards, Arc::clone(&metrics), Arc::clone(&notes));
        let measure = registry.remember(&snapshot);
        let mut embedded = Vec::new();
        for name in config.listable() {
            if config.export_for(name).is_ok_and(|export| export.backend.is_embedded()) {
                embedded.push(registry.open(name).await?);
            }
        }
        // Opened for a look, and let go when idle. What can't be opened stays counted as it was.
        let looking = Arc::clone(&registry);
        tokio::spawn(async move {
            for name in measure {
                if let Err(error) = looking.open(&name).await {
                    tracing::warn!(export = name, %error, "an export of the ledger can't be measured; it counts at its last size");
                }
            }
        });
        let table = Arc::clone(registry.sessions());
        Ok(Self { config, listeners, admin, registry, notes, table, pool, metrics, embedded })
    }

    /// The URI of each listener, with the port that the kernel chose.
    pub fn listening(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|(bound, _)| bound.uri.as_str())
    }

    /// Where the admin interface is.
    pub fn admin(&self) -> Option<&str> {
        self.admin.as_ref().map(|a| a.url.as_str())
    }

    /// Serves until `stop` completes or an operator orders the end, then drains; the service manager is told of
    /// all of it. Cancel-safe: no.
    pub async fn run(self, stop: impl Future<Output = ()>, service: Service) {
        let (drain, draining) = watch::channel(false);
        let (phase, phases) = watch::channel(Phase::Starting);
        let (end, ending) = watch::channel(false);
        let (order, mut ordered) = watch::channel(false);
        let limits = self.config.limits;
        let mut accepting = JoinSet::new();
        for (listener, tls) in self.listeners {
            let front = Arc::new(Front {
                listener: listener.label.clone(),
                refusals: Arc::default(),
                registry: Arc::clone(&self.registry),
                table: Arc::clone(&self.table),
                pool: Arc::clone(&self.pool),
                drain: draining.clone(),
                handshake: limits.handshake_timeout,
                option_length: limits.option_length,
                tls,
            });
            let metrics = self.metrics.listener(&listener.label);
            accepting.spawn(listener.run(front, metrics, limits.sessions_per_listener, draining.clone()));
        }
        let inside = Inside {
            metrics: Arc::clone(&self.metrics),
            registry: Arc::clone(&self.registry),
            sessions: Arc::clone(&self.table),
            token_file: self.config.token_file.clone(),
            drain: Arc::new(order),
        };
        let glance = glance(phases.clone(), Arc::clone(&self.registry), Arc::clone(&self.table));
        let admin = self.admin.map(|admin| tokio::spawn(admin.run(inside, phases, ending)));
        phase.send_replace(Phase::Ready);
        service.ready().await;
        let tending = tokio::spawn(service.clone().tend(self.registry.shards().clone(), glance));

        tokio::select! {
            () = stop => {}
            // An error would mean that nobody can order it any more.
            Ok(_) = ordered.wait_for(|ordered| *ordered) => {}
        }

        let sessions = self.table.len();
        // Measured from here, so that a backend may take what the sessions did not need.
        let over = tokio::time::Instant::now() + limits.drain_timeout;
        tracing::info!(sessions, limit = ?limits.drain_timeout, "draining");
        phase.send_replace(Phase::Draining);
        drain.send_replace(true);
        // The admin interface has as long again as the backends.
        service.stopping(limits.drain_timeout + 2 * LET_GO).await;
        while accepting.join_next().await.is_some() {}
        if tokio::time::timeout_at(over, self.table.emptied()).await.is_err() {
            let left = self.table.len();
            tracing::warn!(sessions = left, limit = ?limits.drain_timeout, "drain-timeout is over; the sessions left are cut");
            self.table.cut_all();
        }
        drop(self.embedded);
        if tokio::time::timeout_at(over + LET_GO, self.registry.close_all()).await.is_err() {
            tracing::warn!(limit = ?limits.drain_timeout + LET_GO, "a backend did not answer what was in flight; it is left");
        }
        self.notes.close().await;
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

/// How the gateway is, for the service manager.
fn glance(phase: watch::Receiver<Phase>, registry: Arc<Registry>, sessions: Arc<SessionTable>) -> impl Fn() -> Glance {
    move || {
        let over_quota = |tenant: &&config::Tenant| registry.usage(&tenant.id).is_some_and(|usage| usage.over_quota);
        Glance {
            draining: *phase.borrow() == Phase::Draining,
            exports: registry.open_exports(),
            sessions: sessions.len(),
            over_quota: registry.tenants().iter().filter(over_quota).count(),
        }
    }
}

/// The certificates of a listener that speaks TLS.
fn listener_tls(listener: &config::Listener, metrics: &Arc<Metrics>) -> Result<Option<ListenerTls>, StartError> {
    match &listener.tls {
        config::ListenerTls::Off => Ok(None),
        config::ListenerTls::On { require, certificates, verify_peer } => {
            ListenerTls::open(certificates, *require, *verify_peer, Some(Arc::clone(metrics)))
                .map(Some)
                .map_err(|fault| StartError::Certificates { address: listener.to_string(), fault })
        }
    }
}

/// Tells now what would keep backends from being reached, and has the metrics of their certificates from the start. They
/// may still become right: nothing ends for it.
fn look_at_backend_certificates(config: &Config, metrics: &Arc<Metrics>) {
    for tls in config.backends_tls() {
        let name = tls.hostname.as_deref().unwrap_or("localhost");
        let certificates = tls.certificates.as_deref();
        if let Err(fault) = BackendTls::open(certificates, name, tls.verify_peer, Some(Arc::clone(metrics))) {
            tracing::error!(%fault, "a backend with TLS can't be reached until this is mended");
        }
    }
}
