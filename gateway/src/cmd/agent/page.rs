//! The agent's page of metrics, over HTTP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nbd_gateway_metrics::AgentMetrics;
use nbd_gateway_net::Listening;
use tokio::sync::watch;

use crate::admin::accept;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 128;
/// How long the host of who asks may answer nothing.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves `/metrics` at `address` as long as the runtime lives; gives the address with the port that it got.
pub(super) fn serve(address: SocketAddr, metrics: AgentMetrics) -> io::Result<SocketAddr> {
    let listening = Listening::tcp(address, false, BACKLOG)?;
    let bound = listening.local_tcp().unwrap_or(address);
    let router = Router::new().route("/metrics", get(render)).with_state(metrics);
    tokio::spawn(async move {
        // Nobody ends it before the runtime does.
        let (_never, end) = watch::channel(false);
        accept::serve(listening, router, || KEEPALIVE, end).await;
    });
    Ok(bound)
}

async fn render(State(metrics): State<AgentMetrics>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
