//! The agent's page of metrics, over HTTP.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nbd_gateway_metrics::AgentMetrics;
use tokio::net::TcpListener;

use super::AgentFault;

/// Serves `/metrics` at `address` as long as the runtime lives; gives the address with the port that it got.
pub(super) async fn serve(address: SocketAddr, metrics: AgentMetrics) -> Result<SocketAddr, AgentFault> {
    let failed = |cause| AgentFault::Metrics { address, cause };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let router = Router::new().route("/metrics", get(render)).with_state(metrics);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(bound)
}

async fn render(State(metrics): State<AgentMetrics>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
