//! Where clients arrive: binding, and accepting for ever.
//!
//! Accepting never ends because of an error (promise 17): it is logged, and after a pause tried again. It pauses before the
//! last descriptors are taken, and for a moment while all places of handshakes are taken by young ones (`places`). What a
//! listener's connections go by can change while it accepts; those that are there keep what they came by.

mod accepting;
mod inherited;
mod socket_file;

use std::io;
use std::sync::Arc;

use nbd_gateway_config::{ExportName, ListenAddress, NbdUri};
use nbd_gateway_metrics::ListenerMetrics;
use nbd_gateway_net::Listening;
use tokio::sync::watch;

use accepting::Accepting;
pub(crate) use inherited::Inherited;
pub(crate) use socket_file::{SocketFile, clear_way};

use crate::session::ListenerConfig;

/// Why a listener can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The address is taken, not ours, or not to be had.
    #[error("can't listen on {address}: {error}")]
    Bind { address: String, error: io::Error },
    /// The same of the admin interface.
    #[error("can't listen on {address} for the admin interface: {error}")]
    Admin { address: String, error: io::Error },
    /// Another process answers on the socket.
    #[error("can't listen on unix:{0}: another process already does; stop it, or choose another path")]
    Busy(String),
    /// The path exists and is no socket: it is not ours to remove.
    #[error("can't listen on unix:{0}: the file exists and is not a socket")]
    NotASocket(String),
    /// systemd handed over no such socket.
    #[error(
        "systemd handed over no socket named {name:?}; it gave: {given}; set FileDescriptorName={name} in the .socket unit"
    )]
    NoSuchName {
        name: String,
        /// LISTEN_FDNAMES.
        given: String,
    },
    /// What was handed over can't be accepted from.
    #[error(
        "descriptor {descriptor}, handed over as {name:?}, is not a listening stream socket; the .socket unit needs ListenStream= and Accept=no"
    )]
    NotListening { name: String, descriptor: usize },
}

#[derive(Debug)]
pub(crate) struct Bound {
    /// The address as configured: the metrics' label.
    pub label: String,
    /// What it is as a URI, with the port that the kernel chose.
    pub uri: String,
    /// Removed before the socket is closed: afterwards the path may be another process's.
    _file: Option<SocketFile>,
    listening: Listening,
}

impl Bound {
    /// Binds one address; takes all sockets of a name of systemd's, so at least one is given back. With `only_v6`, `[::]`
    /// takes no IPv4 connections. Within a runtime.
    pub(crate) async fn bind(
        address: &ListenAddress,
        only_v6: bool,
        backlog: u32,
        inherited: &mut Inherited,
    ) -> Result<Vec<Self>, BindError> {
        let label = address.to_string();
        let failed = |error| BindError::Bind { address: label.clone(), error };
        let (listening, path) = match address {
            ListenAddress::Tcp(address) => (vec![Listening::tcp(*address, only_v6, backlog).map_err(failed)?], None),
            ListenAddress::Zoned { address, zone, port } => {
                (vec![Listening::zoned(*address, zone, *port, backlog).map_err(failed)?], None)
            }
            ListenAddress::Unix(path) => {
                clear_way(path).await?;
                (vec![Listening::unix(path, backlog).map_err(failed)?], Some(path.clone()))
            }
            ListenAddress::Systemd(name) => (inherited.take(name)?, None),
        };
        let bound = |listening: Listening| {
            let tcp = || listening.local_tcp().map(|address| format!("nbd://{address}").replace('%', "%25"));
            let unix = || {
                let uri = NbdUri::unix(listening.local_path()?, ExportName::new("").ok()?).ok()?;
                Some(uri.to_string())
            };
            // An abstract socket: no URI can say it.
            let uri = tcp().or_else(unix).unwrap_or_else(|| label.clone());
            Self { label: label.clone(), uri, _file: path.as_deref().map(SocketFile::of), listening }
        };
        Ok(listening.into_iter().map(bound).collect())
    }

    /// The same, with an URI that asks for TLS if clients have to.
    pub(crate) fn announced_as(mut self, secure: bool) -> Self {
        if secure && let Some(rest) = self.uri.strip_prefix("nbd") {
            self.uri = format!("nbds{rest}");
        }
        self
    }

    /// Accepts until `drain` turns true, or nobody says any more what connections go by: the listener has been taken out.
    /// Each connection is served in a task of its own, by the front that is there when it comes.
    pub(crate) async fn run(
        self,
        mut front: watch::Receiver<Arc<ListenerConfig>>,
        metrics: ListenerMetrics,
        drain: watch::Receiver<bool>,
    ) {
        let mut drained = drain;
        let first = Arc::clone(&front.borrow());
        let mut accepting = Accepting::new(&self.label, &self.listening, metrics, &first);
        drop(first);
        loop {
            let now = Arc::clone(&front.borrow_and_update());
            accepting.change(&now);
            loop {
                tokio::select! {
                    // Connections last: they may come for ever. A new front counts from the next connection.
                    biased;
                    _ = drained.wait_for(|d| *d) => return,
                    changed = front.changed() => if changed.is_ok() { break } else { return },
                    () = accepting.step(&now) => {}
                }
            }
        }
    }
}
