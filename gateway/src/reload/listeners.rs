//! The listeners that are in force: each accepts in a task of its own, by a front that can be replaced.
//!
//! Owns which of a new configuration's listeners are there already: the first of an address (port 0 can stand several
//! times) is the first of it in the other file. What is new is bound before anything changes; dropped instead, it has
//! never accepted.

use std::sync::Arc;

use nbd_gateway_config::{Config, Limits, Listener, ListenerTls as Asked};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::Pool;
use nbd_gateway_net::tls::{CertificateError, ListenerTls};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::export::Registry;
use crate::listener::{BindError, Bound, Inherited};
use crate::session::{ListenerConfig, SessionTable};

/// What the connections of all listeners share.
pub(crate) struct ListenerContext {
    pub registry: Arc<Registry>,
    pub table: Arc<SessionTable>,
    pub pool: Arc<Pool>,
    /// Turns true when the gateway drains.
    pub drain: watch::Receiver<bool>,
}

impl ListenerContext {
    fn front(&self, asked: &Listener, tls: Option<Arc<ListenerTls>>, limits: &Limits) -> ListenerConfig {
        ListenerConfig {
            listener: asked.to_string().into(),
            registry: Arc::clone(&self.registry),
            table: Arc::clone(&self.table),
            pool: Arc::clone(&self.pool),
            drain: self.drain.clone(),
            handshake: limits.handshake_timeout,
            option_length: limits.option_length,
            most: limits.sessions_per_listener,
            arrivals: limits.arrivals,
            tls,
        }
    }
}

/// One listener of the configuration, accepting; systemd can have handed over several sockets for it.
struct OpenListener {
    asked: Listener,
    front: watch::Sender<Arc<ListenerConfig>>,
    accepting: Vec<JoinHandle<()>>,
}

pub(crate) struct Listeners {
    metrics: Arc<Metrics>,
    inherited: Inherited,
    open: Vec<OpenListener>,
}

/// A listener of a configuration that is not in force yet.
pub(crate) struct PlannedListener {
    asked: Listener,
    tls: Option<Arc<ListenerTls>>,
    how: How,
}

enum How {
    /// It is new.
    Bound(Vec<Bound>),
    /// It is there already; TLS as it is, if that is as before.
    There { tls_stays: bool },
}

/// Why a listener can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("listener {address}: {fault}")]
    Certificates {
        address: String,
        /// What is wrong with them.
        fault: CertificateError,
    },
}

/// Why listeners can't be had.
pub(crate) struct ListenerErrors {
    /// The first that can't.
    pub first: ListenerError,
    pub others: Vec<ListenerError>,
}

impl PlannedListener {
    /// Where it listens, as URIs, with the port that the kernel chose; nothing for one that is there already.
    pub(crate) fn uris(&self) -> impl Iterator<Item = &str> {
        let bound = if let How::Bound(bound) = &self.how { bound.as_slice() } else { &[] };
        bound.iter().map(|bound| bound.uri.as_str())
    }
}

impl Listeners {
    /// None is open yet.
    pub(crate) const fn new(metrics: Arc<Metrics>, inherited: Inherited) -> Self {
        Self { metrics, inherited, open: Vec::new() }
    }

    /// Binds what is new of a configuration's listeners, and reads their certificates. Changes nothing.
    ///
    /// # Errors
    /// Everything that keeps a listener from being had.
    pub(crate) async fn plan(&mut self, config: &Config) -> Result<Vec<PlannedListener>, ListenerErrors> {
        let (mut planned, mut errors) = (Vec::new(), Vec::new());
        let mut known: Vec<&Listener> = self.open.iter().map(|listener| &listener.asked).collect();
        let mut there = Vec::new();
        for listener in &config.listeners {
            let at = known.iter().position(|known| known.address == listener.address);
            there.push(at.map(|at| known.remove(at).tls == listener.tls));
        }
        for (asked, there) in config.listeners.iter().zip(there) {
            let tls = match there {
                Some(true) => Ok(None),
                _ => certificates(asked, &self.metrics),
            };
            let bound = match there {
                Some(_) => Ok(Vec::new()),
                None => {
                    let only_v6 = config.shares_port_with_ipv4(&asked.address);
                    let backlog = config.limits.arrivals.backlog;
                    Bound::bind(&asked.address, only_v6, backlog, &mut self.inherited).await
                }
            };
            match (tls, bound) {
                (Ok(tls), Ok(bound)) => {
                    let secure = tls.as_ref().is_some_and(|tls| tls.is_required());
                    let bound = bound.into_iter().map(|bound| bound.announced_as(secure)).collect();
                    let how = there.map_or(How::Bound(bound), |tls_stays| How::There { tls_stays });
                    planned.push(PlannedListener { asked: asked.clone(), tls, how });
                }
                (tls, bound) => errors.extend(tls.err().into_iter().chain(bound.err().map(ListenerError::from))),
            }
        }
        let mut errors = errors.into_iter();
        match errors.next() {
            None => Ok(planned),
            Some(first) => Err(ListenerErrors { first, others: errors.collect() }),
        }
    }

    /// Opens what was planned, and changes and closes what is there to be as that. Sessions go on. What connections that
    /// come from now on go by is what the plan says.
    pub(crate) fn open(&mut self, planned: Vec<PlannedListener>, limits: &Limits, context: &ListenerContext) {
        let mut before = std::mem::take(&mut self.open);
        for PlannedListener { asked, tls, how } in planned {
            match how {
                How::Bound(bound) => {
                    let (front, fronts) = watch::channel(Arc::new(context.front(&asked, tls, limits)));
                    let accept = |bound: Bound| {
                        let metrics = self.metrics.listener(&bound.label);
                        tokio::spawn(bound.run(fronts.clone(), metrics, context.drain.clone()))
                    };
                    let accepting = bound.into_iter().map(accept).collect();
                    self.open.push(OpenListener { asked, front, accepting });
                }
                How::There { tls_stays } => {
                    let Some(at) = before.iter().position(|listener| listener.asked.address == asked.address) else {
                        continue;
                    };
                    let listener = before.remove(at);
                    let now = Arc::clone(&listener.front.borrow());
                    let tls = if tls_stays { now.tls.clone() } else { tls };
                    listener.front.send_replace(Arc::new(context.front(&asked, tls, limits)));
                    self.open.push(OpenListener { asked, ..listener });
                }
            }
        }
        // Those that are left stop to accept: their fronts' senders are dropped here.
    }

    /// Waits until none accepts any more, once they have been told to.
    pub(crate) async fn closed(self) {
        for accepting in self.open.into_iter().flat_map(|listener| listener.accepting) {
            // One that did panic accepts nothing either.
            let _ = accepting.await;
        }
    }
}

/// The certificates of a listener that speaks TLS.
fn certificates(listener: &Listener, metrics: &Arc<Metrics>) -> Result<Option<Arc<ListenerTls>>, ListenerError> {
    match &listener.tls {
        Asked::Off => Ok(None),
        Asked::On { require, certificates, verify_peer } => {
            ListenerTls::open(certificates, *require, *verify_peer, Some(Arc::clone(metrics)))
                .map(|tls| Some(Arc::new(tls)))
                .map_err(|fault| ListenerError::Certificates { address: listener.to_string(), fault })
        }
    }
}
