//! The admin interface: HTTP on an address of its own, for operators and Prometheus.
//!
//! It reads; nothing here changes state yet. `/livez` says that the process runs, `/readyz` that it takes clients.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nbd_gateway_config::AdminAddress;
use nbd_gateway_metrics::Metrics;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::listener::{SocketFile, clear_way};

/// The state of the process, as `/readyz` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
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
    phase: watch::Receiver<Phase>,
}

/// The interface, bound.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens, as a URL or as `unix:PATH`.
    pub url: String,
    _file: Option<SocketFile>,
    listening: Listening,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Admin {
    /// Binds. Fails with a sentence.
    pub async fn bind(address: &AdminAddress) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("can't listen on {address} for the admin interface: {error}");
        match address {
            AdminAddress::Tcp(tcp) => {
                let listener = TcpListener::bind(tcp).await.map_err(failed)?;
                let url = format!("http://{}", listener.local_addr().map_err(failed)?);
                Ok(Self { url, _file: None, listening: Listening::Tcp(listener) })
            }
            AdminAddress::Unix(path) => {
                clear_way(path).await.map_err(|e| e.to_string())?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = Some(SocketFile::of(path));
                Ok(Self { url: address.to_string(), _file: file, listening: Listening::Unix(listener) })
            }
        }
    }

    /// Serves until `end` is true.
    pub async fn run(self, metrics: Arc<Metrics>, phase: watch::Receiver<Phase>, mut end: watch::Receiver<bool>) {
        let router = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render))
            .with_state(Shared { metrics, phase });
        let ended = async move {
            // An error means that nobody is left to say so.
            let _ = end.wait_for(|e| *e).await;
        };
        let served = match self.listening {
            Listening::Tcp(listener) => axum::serve(listener, router).with_graceful_shutdown(ended).await,
            Listening::Unix(listener) => axum::serve(listener, router).with_graceful_shutdown(ended).await,
        };
        if let Err(error) = served {
            tracing::error!(%error, "the admin interface ended");
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match *shared.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Ready => "ready\n".into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

async fn render(State(shared): State<Shared>) -> Response {
    match shared.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
