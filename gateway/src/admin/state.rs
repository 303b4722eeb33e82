//! Whether the gateway takes clients, and what it counts.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Phase, Shared};

pub(super) async fn readyz(State(shared): State<Shared>) -> Response {
    match *shared.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Ready => "ready\n".into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    shared.metrics.ledger(shared.registry.ledger().is_up());
    // Counted where it changes, shown when it is looked at.
    shared.registry.tell_usage();
    match shared.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
