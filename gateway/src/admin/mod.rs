//! The admin interface: HTTP on an address of its own, for operators and Prometheus.
//!
//! What there is to ask for is in `routes`; what is answered in [`view`]. What changes something needs the token of
//! `admin.token-file`, and everything does but `/livez`, `/readyz` and the page without what it shows where the address can be
//! reached from other hosts. Where it can't, only names of this host are answered (`host`). Bodies and connections are bounded. The interface ends last, so that a drain can be watched.

pub(crate) mod accept;
mod answer;
mod events;
mod host;
mod name;
mod openapi;
mod order;
mod overview;
mod paced;
mod page;
mod patience;
mod routes;
mod state;
mod stream;
mod text;
mod token;
pub(crate) mod view;

use std::sync::Arc;

use nbd_gateway_config::{AdminAddress, Config, ListenAddress};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::Listening;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::paced::Paced;
use self::text::{Encoded, Kept};

pub(crate) use self::name::in_a_path;

use self::stream::Streams;
use crate::export::Registry;
use crate::listener::{BindError, SocketFile, clear_way};
use crate::reload::Reload;
use crate::session::SessionTable;
use crate::token::TokenFile;

/// The state of the process, as `/readyz` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not yet taking clients.
    Starting,
    /// Taking clients.
    Ready,
    /// Finishing what was admitted.
    Draining,
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    sessions: Arc<SessionTable>,
    phase: watch::Receiver<Phase>,
    reload: Reload,
    drain: Arc<watch::Sender<bool>>,
    /// Places for those who follow the events.
    streams: Streams,
    /// The runtime that accepts and dials: orders are carried out there.
    control: Handle,
    answers: Answers,
}

/// Answers that readers share.
#[derive(Clone, Debug, Default)]
struct Answers {
    kept: Kept,
    alive: Paced<Option<String>>,
    metrics: Paced<Encoded>,
    exports: Paced<Encoded>,
    unopened: Paced<Encoded>,
    tenants: Paced<Encoded>,
    sessions: Paced<Encoded>,
}

/// What the interface shows and changes.
#[derive(Debug)]
pub(crate) struct AdminContext {
    pub metrics: Arc<Metrics>,
    pub registry: Arc<Registry>,
    pub sessions: Arc<SessionTable>,
    pub token_file: TokenFile,
    /// The way to have the configuration read anew.
    pub reload: Reload,
    /// Set to true, the gateway drains.
    pub drain: Arc<watch::Sender<bool>>,
}

/// The interface, bound.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Where it listens, as a URL or as `unix:PATH`.
    pub url: String,
    _file: Option<SocketFile>,
    reach: Reach,
    listening: Listening,
}

/// Who can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Whom the file system lets.
    Socket,
    /// Everybody on this host, and whatever their browsers show.
    Host,
    Others,
}

impl Admin {
    /// Binds. Within a runtime.
    pub(crate) async fn bind(address: &AdminAddress, config: &Config) -> Result<Self, BindError> {
        let failed = |error| BindError::Admin { address: address.to_string(), error };
        let backlog = config.limits.arrivals.backlog;
        match address {
            AdminAddress::Tcp(tcp) => {
                let only_v6 = config.shares_port_with_ipv4(&ListenAddress::Tcp(*tcp));
                let listening = Listening::tcp(*tcp, only_v6, backlog).map_err(failed)?;
                let url = listening.local_tcp().map_or_else(|| address.to_string(), |bound| format!("http://{bound}"));
                let reach = if tcp.ip().is_loopback() { Reach::Host } else { Reach::Others };
                Ok(Self { url, _file: None, reach, listening })
            }
            AdminAddress::Unix(path) => {
                clear_way(path).await?;
                let listening = Listening::unix(path, backlog).map_err(failed)?;
                let file = Some(SocketFile::of(path));
                Ok(Self { url: address.to_string(), _file: file, reach: Reach::Socket, listening })
            }
        }
    }

    /// Serves until `end` is true, in a thread of its own that is none of the gateway's others: whatever readers ask for
    /// costs those nothing. Orders are carried out by `control`.
    pub(crate) async fn run(
        self,
        context: AdminContext,
        control: Handle,
        phase: watch::Receiver<Phase>,
        end: watch::Receiver<bool>,
    ) {
        let AdminContext { metrics, registry, sessions, token_file, reload, drain } = context;
        let streams = Streams::default();
        let answers = Answers::default();
        let shared = Shared { metrics, registry, sessions, phase, reload, drain, streams, control, answers };
        let Self { _file, reach, listening, .. } = self;
        let config = Arc::clone(&shared.registry);
        let keepalive = move || config.config().limits.arrivals.keepalive;
        let listening = match listening.rehome() {
            Ok(listening) => listening,
            Err(error) => return tracing::error!(%error, "cannot serve the admin interface"),
        };
        accept::serve(listening, routes::router(&token_file, reach, shared), keepalive, end).await;
    }
}
