//! The interface's connections: how many there are, and how long one may be silent or leave what it is sent untaken.
//!
//! Most of those who come have not said yet who they are, and whatever they do must cost the clients of exports nothing: the
//! files that a process may have open are theirs. Knows nothing of what is asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::Listening;
use super::patience::Patience;

/// The most connections at a time; who comes then waits until one is left.
const CONNECTIONS: usize = 256;
/// The most of one address of another host; who comes then is turned away.
const OF_ONE_PEER: usize = 128;
/// How long the head of a request may take, and a connection may have none.
const SILENCE: Duration = Duration::from_secs(30);
/// How long what is sent may be left untaken.
const UNTAKEN: Duration = Duration::from_secs(30);
/// Until the next try, when nobody can be let in: there are no more files to be had.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves until `end` is true, then finishes what has been asked. Cancel-safe: connections are cut.
pub(super) async fn serve(listening: Listening, router: Router, mut end: watch::Receiver<bool>) {
    let (places, mut connections) = (Places::default(), JoinSet::new());
    let going = end.clone();
    loop {
        let begin = async {
            // Nobody closes it.
            let Ok(one) = Arc::clone(&places.all).acquire_owned().await else { return };
            match &listening {
                Listening::Tcp(listener) => match listener.accept().await {
                    Ok((stream, peer)) => match places.place(one, peer.ip().to_canonical()) {
                        Some(place) => drop(connections.spawn(one_of(stream, router.clone(), going.clone(), place))),
                        None => tracing::debug!(%peer, "this address has too many connections to the admin interface"),
                    },
                    Err(error) => shut(&error).await,
                },
                Listening::Unix(listener) => match listener.accept().await {
                    Ok((stream, _)) => {
                        let place = Place { _one: one, peer: None };
                        drop(connections.spawn(one_of(stream, router.clone(), going.clone(), place)));
                    }
                    Err(error) => shut(&error).await,
                },
            }
        };
        tokio::select! {
            () = begin => {}
            () = over(&mut end) => break,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listening);
    while connections.join_next().await.is_some() {}
}

async fn shut(error: &std::io::Error) {
    tracing::warn!(%error, "can't accept a connection to the admin interface; trying again");
    tokio::time::sleep(PAUSE).await;
}

async fn over(end: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say so.
    drop(end.wait_for(|end| *end).await);
}

/// One connection, to its end.
async fn one_of<S>(stream: S, router: Router, mut end: watch::Receiver<bool>, _place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let stream = TokioIo::new(Patience::new(stream, UNTAKEN));
    let mut connection = std::pin::pin!(http.serve_connection(stream, TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = over(&mut end) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection to the admin interface ended");
    }
}

/// Who may be there at a time.
struct Places {
    all: Arc<Semaphore>,
    peers: Peers,
}

/// How many connections an address has.
type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Given back when it is dropped.
struct Place {
    _one: OwnedSemaphorePermit,
    peer: Option<(IpAddr, Peers)>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS)), peers: Peers::default() }
    }
}

impl Places {
    /// A place for somebody who comes from there; none: too many do. All of this host come from one address.
    fn place(&self, one: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        if peer.is_loopback() {
            return Some(Place { _one: one, peer: None });
        }
        let mut peers = self.peers.lock();
        let count = peers.entry(peer).or_default();
        if *count >= OF_ONE_PEER {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place { _one: one, peer: Some((peer, Arc::clone(&self.peers))) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((peer, peers)) = &self.peer else { return };
        if let Entry::Occupied(mut count) = peers.lock().entry(*peer) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    fn one(places: &Places) -> OwnedSemaphorePermit {
        Arc::clone(&places.all).try_acquire_owned().unwrap()
    }

    #[tokio::test]
    async fn a_peer_that_comes_too_often_leaves_room_for_others() {
        let places = Places::default();
        let [peer, other, here] = ["192.0.2.1", "192.0.2.2", "127.0.0.1"].map(|text| text.parse().unwrap());
        let mut held: Vec<_> = (0..OF_ONE_PEER).map(|_| places.place(one(&places), peer).unwrap()).collect();
        assert!(places.place(one(&places), peer).is_none());
        held.push(places.place(one(&places), other).unwrap());
        held.extend((1..OF_ONE_PEER).map(|_| places.place(one(&places), here).unwrap()));
        assert_eq!(places.all.available_permits(), 0);
        drop(held.drain(..1));
        assert!(places.place(one(&places), peer).is_some());
        drop(held);
        assert_eq!((places.all.available_permits(), places.peers.lock().len()), (CONNECTIONS, 0));
    }

    struct Near(DuplexStream, JoinHandle<()>, watch::Sender<bool>);

    fn connected() -> Near {
        let late = || async {
            tokio::time::sleep(3 * SILENCE).await;
            "late"
        };
        let router = Router::new().route("/", get(|| async { "x".repeat(100_000) })).route("/late", get(late));
        let (near, far) = duplex(1024);
        let (ending, end) = watch::channel(false);
        let place = Place { _one: one(&Places::default()), peer: None };
        Near(near, tokio::spawn(one_of(far, router, end, place)), ending)
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_only_half_of_it_is_let_go() {
        for said in ["", "GET / HTTP/1.1\r\nHost:"] {
            let Near(mut near, connection, _ending) = connected();
            near.write_all(said.as_bytes()).await.unwrap();
            let began = Instant::now();
            connection.await.unwrap();
            assert_eq!(began.elapsed(), SILENCE, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_let_go_and_who_is_slow_is_not() {
        let Near(mut near, connection, _ending) = connected();
        near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut took, mut some) = (0, [0; 1024]);
        for _ in 0..9 {
            tokio::time::sleep(UNTAKEN - Duration::from_secs(1)).await;
            took += near.read(&mut some).await.unwrap();
        }
        assert!(took > 4096 && !connection.is_finished(), "{took}");
        let began = Instant::now();
        connection.await.unwrap();
        assert_eq!(began.elapsed(), UNTAKEN);
    }

    /// A resize may take minutes.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_may_be_silent_and_then_ask_again() {
        let Near(mut near, connection, _ending) = connected();
        for _ in 0..2 {
            near.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"late") {
                read.push(near.read_u8().await.unwrap());
            }
        }
        let began = Instant::now();
        connection.await.unwrap();
        assert_eq!(began.elapsed(), SILENCE);
    }

    #[tokio::test]
    async fn at_the_end_what_was_asked_is_answered_and_who_asked_nothing_is_let_go() {
        let Near(near, connection, ending) = connected();
        ending.send_replace(true);
        connection.await.unwrap();
        drop(near);
        let Near(mut near, connection, ending) = connected();
        near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'H');
        ending.send_replace(true);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(&[b'x'; 100_000]));
        connection.await.unwrap();
    }
}
