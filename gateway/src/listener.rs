//! Where clients arrive: binding, and accepting for ever.
//!
//! Accepting never ends because of an error (promise 17): it is logged, and after a pause tried again. A connection beyond
//! the limit is closed before the handshake; the limit is a tower stack, because accepting is rare and made of policies. What a listener's connections go by can change while it accepts; those that
//! are there keep what they came by.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use nbd_gateway_config::{ExportName, ListenAddress, NbdUri};
use nbd_gateway_metrics::{ListenerMetrics, Open};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::net::{Listening, Stream};
use crate::session::{Front, serve};

/// After the first failure to accept; doubled with each that follows.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// A crowd that comes and goes makes it fail again and again.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// Why a listener can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not to be had.
    #[error("can't listen on {address}: {error}")]
    Bind {
        /// As configured.
        address: String,
        /// Why not.
        error: io::Error,
    },
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
        /// As configured.
        name: String,
        /// LISTEN_FDNAMES.
        given: String,
    },
}

/// A listener that is bound.
#[derive(Debug)]
pub struct Bound {
    /// The address as configured: the metrics' label.
    pub label: String,
    /// What it is as a URI, with the port that the kernel chose.
    pub uri: String,
    /// Removed before the socket is closed: afterwards the path may be another process's.
    _file: Option<SocketFile>,
    listening: Listening,
}

/// The path of a Unix socket that this process bound; the file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// The file at `path`, which has just been bound.
    pub(crate) fn of(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already, or not ours any more: nothing to do about it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket that systemd handed over. It is systemd's too, so its queue takes clients whether it is listened at or not.
#[derive(Debug)]
enum Handed {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Handed {
    /// To accept from; it can be had again later.
    fn listening(&self) -> io::Result<Listening> {
        match self {
            Self::Tcp(tcp) => {
                let tcp = tcp.try_clone()?;
                tcp.set_nonblocking(true)?;
                Ok(Listening::Tcp(TcpListener::from_std(tcp)?))
            }
            Self::Unix(unix) => {
                let unix = unix.try_clone()?;
                unix.set_nonblocking(true)?;
                Ok(Listening::Unix(UnixListener::from_std(unix)?))
            }
        }
    }
}

/// Sockets handed over by systemd (LISTEN_FDS, LISTEN_FDNAMES); read once, at the start, and kept to the end: a listener
/// that was taken out of the configuration can come back.
pub struct Inherited {
    names: Vec<String>,
    fds: ListenFd,
    handed: HashMap<String, Vec<Handed>>,
}

impl Inherited {
    /// What the environment says.
    pub fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(str::to_owned).collect();
        Self { names, fds: ListenFd::from_env(), handed: HashMap::new() }
    }

    /// All sockets of this name: those of one `.socket` unit share theirs.
    fn take(&mut self, name: &str) -> io::Result<Vec<Listening>> {
        for (at, _) in self.names.iter().enumerate().filter(|(_, n)| *n == name) {
            let handed = if let Ok(Some(tcp)) = self.fds.take_tcp_listener(at) {
                Handed::Tcp(tcp)
            } else if let Some(unix) = self.fds.take_unix_listener(at)? {
                Handed::Unix(unix)
            } else {
                continue;
            };
            self.handed.entry(name.to_owned()).or_default().push(handed);
        }
        self.handed.get(name).into_iter().flatten().map(Handed::listening).collect()
    }

    fn given(&self) -> String {
        let given = self.names.join(", ");
        if given.is_empty() { "none".to_owned() } else { given }
    }
}

impl Bound {
    /// Binds one address; takes all sockets of a name of systemd's, so at least one is given back. Within a runtime.
    pub async fn bind(address: &ListenAddress, inherited: &mut Inherited) -> Result<Vec<Self>, BindError> {
        let label = address.to_string();
        let failed = |error| BindError::Bind { address: label.clone(), error };
        let (listening, path) = match address {
            ListenAddress::Tcp(address) => {
                (vec![Listening::Tcp(TcpListener::bind(address).await.map_err(failed)?)], None)
            }
            ListenAddress::Unix(path) => {
                clear_way(path).await?;
                (vec![Listening::Unix(UnixListener::bind(path).map_err(failed)?)], Some(path.clone()))
            }
            ListenAddress::Systemd(name) => {
                let listening = inherited.take(name).map_err(failed)?;
                if listening.is_empty() {
                    return Err(BindError::NoSuchName { name: name.clone(), given: inherited.given() });
                }
                (listening, None)
            }
        };
        let bound = |listening: Listening| {
            let tcp = || listening.local_tcp().map(|address| format!("nbd://{address}"));
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
    pub fn announced_as(mut self, secure: bool) -> Self {
        if secure && let Some(rest) = self.uri.strip_prefix("nbd") {
            self.uri = format!("nbds{rest}");
        }
        self
    }

    /// Accepts until `drain` turns true, or nobody says any more what connections go by: the listener has been taken out.
    /// Each connection is served in a task of its own, by the front that is there when it comes.
    pub async fn run(
        self,
        mut front: watch::Receiver<Arc<Front>>,
        metrics: ListenerMetrics,
        mut drain: watch::Receiver<bool>,
    ) {
        let first = Arc::clone(&front.borrow());
        let mut places = Places::new(first.most);
        let stack =
            ServiceBuilder::new().load_shed().layer(places.bound()).service(service_fn(move |arrival: Arrival| {
                let Arrival { front, stream, open } = arrival;
                async move {
                    serve(front, stream).await;
                    drop(open);
                    Ok::<(), std::convert::Infallible>(())
                }
            }));
        let (mut pause, mut told) = (SHORTEST_PAUSE, None::<Instant>);
        loop {
            let accepted = tokio::select! {
                accepted = self.listening.accept() => accepted,
                _ = drain.wait_for(|d| *d) => break,
                changed = front.changed() => if changed.is_ok() { continue } else { break },
            };
            match accepted {
                Ok(stream) => {
                    pause = SHORTEST_PAUSE;
                    let front = Arc::clone(&front.borrow_and_update());
                    places.change(front.most);
                    admit(stack.clone(), Arrival { front, stream, open: Open::new(&metrics.sessions) }, &self.label)
                        .await;
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will close theirs.
                    if told.is_none_or(|at| at.elapsed() > TOLD_AGAIN) {
                        told = Some(Instant::now());
                        tracing::error!(listener = self.label, %error, "can't accept a connection; trying again");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = drain.wait_for(|d| *d) => break,
                    }
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }
}

/// A connection that has just come.
struct Arrival {
    /// What it goes by.
    front: Arc<Front>,
    stream: Stream,
    open: Open,
}

async fn admit<S>(mut stack: S, arrival: Arrival, label: &str)
where
    S: Service<Arrival, Response = (), Error = tower::BoxError> + Send + 'static,
    S::Future: Send,
{
    let (peer, most, label) = (arrival.stream.peer(), arrival.front.most, label.to_owned());
    let Ok(ready) = stack.ready().await else { return };
    let served = ready.call(arrival);
    tokio::spawn(async move {
        // The one way to fail is to be over the limit; then the stream is already dropped, and so closed.
        if served.await.is_err() {
            tracing::warn!(listener = label, %peer, limit = most, "connection refused: the listener is at sessions-per-listener");
        }
    });
}

/// How many connections there may be at a time; that can change while some are there.
struct Places {
    free: Arc<Semaphore>,
    most: u32,
}

impl Places {
    fn new(most: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS))), most }
    }

    /// The layer that keeps to it.
    fn bound(&self) -> GlobalConcurrencyLimitLayer {
        GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&self.free))
    }

    /// So many from now on. Those who are there stay; of fewer places the next ones that get free are taken away first.
    fn change(&mut self, most: u32) {
        let (more, fewer) = (most.saturating_sub(self.most), self.most.saturating_sub(most));
        self.most = most;
        self.free.add_permits(usize::try_from(more).unwrap_or_default());
        let gone = self.free.forget_permits(usize::try_from(fewer).unwrap_or_default());
        let in_use = fewer.saturating_sub(u32::try_from(gone).unwrap_or(fewer));
        if in_use > 0 {
            let free = Arc::clone(&self.free);
            tokio::spawn(async move {
                // It is never closed.
                if let Ok(taken) = free.acquire_many_owned(in_use).await {
                    taken.forget();
                }
            });
        }
    }
}

/// Removes a socket that nobody listens on any more; anything else in the way is an error.
pub(crate) async fn clear_way(path: &Path) -> Result<(), BindError> {
    let shown = path.display().to_string();
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if !meta.file_type().is_socket() => Err(BindError::NotASocket(shown)),
        Ok(_) => match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| BindError::Bind { address: format!("unix:{shown}"), error })
            }
            // Its end came in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A queue that is full, or a socket that others may not use, has an owner too.
            Ok(_) | Err(_) => Err(BindError::Busy(shown)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settled() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn places_that_are_taken_away_are_free_ones_first_and_then_those_that_get_free() {
        let mut places = Places::new(8);
        let three = Arc::clone(&places.free).acquire_many_owned(3).await.unwrap();
        places.change(4);
        assert_eq!(places.free.available_permits(), 1);
        places.change(1);
        assert_eq!(places.free.available_permits(), 0);
        settled().await;
        drop(three);
        settled().await;
        assert_eq!(places.free.available_permits(), 1);
        // As many again, however often it was changed.
        places.change(0);
        places.change(u32::MAX);
        places.change(8);
        settled().await;
        assert_eq!(places.free.available_permits(), 8);
    }
}
