//! The admin interface: HTTP on an address of its own, for operators and Prometheus.
//!
//! `/livez` says that the process runs, `/readyz` that it takes clients. What changes something needs the token of
//! `admin.token-file`; bodies are bounded.

mod answer;
mod exports;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use nbd_gateway_config::AdminAddress;
use nbd_gateway_metrics::Metrics;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::export::Registry;
use crate::session::SessionTable;

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
    registry: Arc<Registry>,
    sessions: Arc<SessionTable>,
    phase: watch::Receiver<Phase>,
}

/// What the interface shows and changes.
#[derive(Debug)]
pub struct Inside {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The exports.
    pub registry: Arc<Registry>,
    /// The open sessions.
    pub sessions: Arc<SessionTable>,
    /// The token's file.
    pub token_file: Option<PathBuf>,
}

/// The longest body taken, in bytes.
const LONGEST_BODY: usize = 16 * 1024;

/// The interface, bound.
#[derive(Debug)]
pub struct Admin {
    listening: Listening,
    /// Where it listens, as a URL or as `unix:PATH`.
    pub url: String,
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
                Ok(Self { listening: Listening::Tcp(listener), url })
            }
            AdminAddress::Unix(path) => {
                crate::listener::clear_way(path).await.map_err(|e| e.to_string())?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                Ok(Self { listening: Listening::Unix(listener), url: address.to_string() })
            }
        }
    }

    /// Serves until `end` is true.
    pub async fn run(self, inside: Inside, phase: watch::Receiver<Phase>, mut end: watch::Receiver<bool>) {
        let Inside { metrics, registry, sessions, token_file } = inside;
        let token = token::Token(Arc::new(token_file));
        let changes = Router::new()
            .route("/api/v1/exports/{name}/resize", post(exports::resize))
            .route("/api/v1/exports/{name}/jobs/{job}", delete(exports::cancel))
            .route_layer(from_fn_with_state(token, token::require));
        let router = Router::new()
            .route("/api/v1/exports", get(exports::list))
            .route("/api/v1/tenants", get(exports::tenants))
            .route("/api/v1/sessions", get(exports::sessions))
            .merge(changes)
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render))
            .layer(DefaultBodyLimit::max(LONGEST_BODY))
            .with_state(Shared { metrics, registry, sessions, phase });
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
