//! Accepting on one socket: one connection after another, each given its place and a task of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::{ListenerMetrics, Open};
use nbd_gateway_net::{Listening, Stream};
use nbd_gateway_policy::backoff::Backoff;
use tokio::time::{Instant, sleep};

use crate::descriptors::{self, Use};
use crate::limits::Places;
use crate::session::{ListenerConfig, serve};

/// After the first failure to accept; doubled with each that follows.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A crowd that comes and goes makes it fail again and again.
const LOGGED_AGAIN: Duration = Duration::from_secs(10);

/// One socket's accepting.
pub(super) struct Accepting<'a> {
    label: &'a str,
    listening: &'a Listening,
    metrics: ListenerMetrics,
    places: Arc<Places>,
    /// Accepted, and waiting for its place.
    waiting: Option<Stream>,
    backoff: Backoff,
    logged: Option<Instant>,
}

impl<'a> Accepting<'a> {
    pub(super) fn new(
        label: &'a str,
        listening: &'a Listening,
        metrics: ListenerMetrics,
        front: &ListenerConfig,
    ) -> Self {
        let places = Places::new(front.arrivals.handshakes, front.most, Some(metrics.clone()));
        Self {
            label,
            listening,
            metrics,
            places,
            waiting: None,
            backoff: Backoff::named(SHORTEST_PAUSE, LONGEST_PAUSE, label),
            logged: None,
        }
    }

    /// The bounds are those of `front` from now on.
    pub(super) fn change(&self, front: &ListenerConfig) {
        self.places.change(front.arrivals.handshakes, front.most);
    }

    /// One step: a connection is accepted, gets its place, or a pause is over. Cancel-safe: yes, a connection that waits for
    /// its place waits on.
    pub(super) async fn step(&mut self, front: &Arc<ListenerConfig>) {
        if self.waiting.is_none() {
            if descriptors::are_short(Use::Client) {
                return self.make_room().await;
            }
            match self.listening.accept().await {
                Ok(stream) => {
                    self.backoff.reset();
                    stream.keep_alive(front.arrivals.keepalive);
                    self.waiting = Some(stream);
                }
                Err(error) => return self.rest(&error).await,
            }
        }
        let Some(stream) = self.waiting.take() else { return };
        let Some(handshake) = self.places.begin(stream.identity()) else {
            self.waiting = Some(stream);
            return self.places.freed().await;
        };
        let (front, open) = (Arc::clone(front), Open::new(&self.metrics.sessions));
        tokio::spawn(async move {
            serve(front, stream, handshake).await;
            drop(open);
        });
    }

    /// Of the descriptors only those are left that are kept.
    async fn make_room(&mut self) {
        if self.places.evict_one() {
            return sleep(SHORTEST_PAUSE).await;
        }
        let limit = descriptors::limit();
        let error = format!("of its {limit} descriptors the process has only those left that it keeps for itself");
        self.rest(&io::Error::other(error)).await;
    }

    async fn rest(&mut self, error: &io::Error) {
        if self.logged.is_none_or(|at| at.elapsed() > LOGGED_AGAIN) {
            self.logged = Some(Instant::now());
            tracing::error!(listener = self.label, %error, "can't accept a connection; trying again");
        }
        sleep(self.backoff.next_delay()).await;
    }
}
