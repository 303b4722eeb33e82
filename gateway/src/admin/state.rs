//! Whether the gateway lives and takes clients, and what it counts.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::{Phase, Shared, text};
use crate::fault::Fault;
use crate::service::silent_threads;

/// How long `/livez` waits for the answer of every thread that moves requests.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same question as the service manager's watchdog: does every thread that moves requests or takes clients answer?
pub(super) async fn livez(State(shared): State<Shared>) -> Response {
    let looked = shared.answers.alive.ask(|| {
        let (shards, control) = (shared.registry.shards().clone(), shared.control.clone());
        async move { silent_threads(&shards, &control, PATIENCE).await }
    });
    match looked.await {
        None => "alive\n".into_response(),
        Some(silent) => (StatusCode::SERVICE_UNAVAILABLE, format!("{silent}\n")).into_response(),
    }
}

pub(super) async fn readyz(State(shared): State<Shared>) -> Response {
    match *shared.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Ready => "ready\n".into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    let encoded = shared.answers.metrics.ask(|| {
        let shared = shared.clone();
        shared.answers.kept.clone().encode(move |to| {
            shared.metrics.ledger(shared.registry.ledger().is_up());
            // Counted where it changes, shown when it is looked at.
            shared.registry.tell_usage();
            shared.registry.open_now().iter().for_each(|export| export.tell_wait());
            shared.metrics.render_to(to).map_err(|error| Fault::us(format!("cannot encode the metrics: {error}")))
        })
    });
    text::answer("text/plain; version=0.0.4; charset=utf-8", &encoded.await)
}
