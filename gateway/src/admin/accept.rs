//! The interface's connections: how many there are, and how long one may be silent or leave what it is sent untaken.
//!
//! Most of those who come have not said yet who they are, and whatever they do must cost the clients of exports nothing: the
//! files that a process may have open are theirs. Places are those of [`limits`](crate::limits): one address has at most
//! half of them, and when all are taken, the oldest connection of the address that has most is closed, one without a request
//! first. So an operator gets in. Knows nothing of what is asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nbd_gateway_net::{Listening, Peer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::patience::Patience;
use crate::descriptors::{self, Use};
use crate::limits::{Handshake, Places};

/// The most connections at a time; one address has at most half of them.
const CONNECTIONS: u32 = 256;
/// How long the head of a request may take, and a connection may have none.
const SILENCE: Duration = Duration::from_secs(30);
/// How long what is sent may be left untaken.
const UNTAKEN: Duration = Duration::from_secs(30);
/// What one connection holds of a request, and of an answer that is not taken: so much each, in bytes.
const HELD: usize = 32 * 1024;
/// Until the next try, when nobody can be let in: there are no more files to be had.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves until `end` is true, then finishes what has been asked. A host that answers nothing for `keepalive` is gone.
/// Cancel-safe: connections are cut.
pub(crate) async fn serve(
    listening: Listening,
    router: Router,
    keepalive: impl Fn() -> Duration,
    mut end: watch::Receiver<bool>,
) {
    let (places, mut connections) = (Places::new(CONNECTIONS, 0, None), JoinSet::new());
    let going = end.clone();
    loop {
        let begin = async {
            if descriptors::are_short(Use::Operator) {
                places.evict_one();
                return pause(&std::io::Error::other("too few descriptors are left")).await;
            }
            let stream = match listening.accept().await {
                Ok(stream) => stream,
                Err(error) => return pause(&error).await,
            };
            stream.keep_alive(keepalive());
            let peer = stream.identity();
            let place = loop {
                match places.begin(peer) {
                    Some(place) => break place,
                    None => places.freed().await,
                }
            };
            drop(connections.spawn(one_of(stream, peer, router.clone(), going.clone(), place)));
        };
        tokio::select! {
            // The end first: connections may come for ever.
            biased;
            () = over(&mut end) => break,
            () = begin => {}
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listening);
    while connections.join_next().await.is_some() {}
}

async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "can't accept a connection to the admin interface; trying again");
    tokio::time::sleep(PAUSE).await;
}

async fn over(end: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say so.
    drop(end.wait_for(|end| *end).await);
}

/// One connection, to its end.
async fn one_of<S>(stream: S, peer: Peer, router: Router, mut end: watch::Receiver<bool>, mut place: Handshake)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(HELD);
    let stream = TokioIo::new(Patience::new(stream, UNTAKEN));
    let evicted = place.evicted();
    let place = Arc::new(place);
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let (place, router) = (Arc::clone(&place), router.clone());
        async move {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            place.busy(true);
            let answered = router.oneshot(request).await;
            place.busy(false);
            answered
        }
    });
    let mut connection = std::pin::pin!(http.serve_connection(stream, answer));
    let ended = tokio::select! {
        // A connection that has ended need not be ended. Each branch happens once.
        biased;
        ended = connection.as_mut() => ended,
        () = evicted => return tracing::debug!(%peer, "a connection to the admin interface made room for another"),
        () = over(&mut end) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection to the admin interface ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    struct Near(DuplexStream, JoinHandle<()>, watch::Sender<bool>);

    fn connected() -> Near {
        let late = || async {
            tokio::time::sleep(3 * SILENCE).await;
            "late"
        };
        let router = Router::new().route("/", get(|| async { "x".repeat(100_000) })).route("/late", get(late));
        let (near, far) = duplex(1024);
        let (ending, end) = watch::channel(false);
        let place = Places::new(1, 0, None).begin(Peer::Unknown).unwrap();
        Near(near, tokio::spawn(one_of(far, Peer::Unknown, router, end, place)), ending)
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
    async fn who_asks_nothing_makes_room_for_an_operator() {
        let listening = Listening::tcp("127.0.0.1:0".parse().unwrap(), false, 1024).unwrap();
        let address = listening.local_tcp().unwrap();
        let router = Router::new().route("/", get(|| async { "here" }));
        let (_ending, end) = watch::channel(false);
        tokio::spawn(serve(listening, router, || Duration::from_secs(60), end));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let mut operator = tokio::net::TcpStream::connect(address).await.unwrap();
        operator.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(SILENCE / 2, operator.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("here"), "{answer}");
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
