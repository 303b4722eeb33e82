//! Ending a session between two messages: it is read no further, what was admitted is answered and the replies are
//! written, then the connection is closed without anything more.
//!
//! A request of which only a part has come, or that still waited for a permit, was never admitted: it is dropped, and a
//! client that connects again sends it again. Nothing of it lands late (promise 14). A client that does not read its
//! replies keeps its session for [`PATIENCE`], then it is cut.

use std::task::Context;
use std::time::Duration;

use nbd_gateway_proto::{Buffers, Inbox};
use tokio::time::{Instant, sleep_until, timeout};

use super::Session;
use super::status::SessionStatus;
use super::transmission::{Step, Transmission, TransmissionEnd};

/// How long a client whose session the gateway closes may leave its replies unread.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what the client still sends is thrown away after the end of the stream: in all, and without a byte.
const LINGER: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(250));

impl Session {
    /// Ends it between two messages, soon: at once no further request is read, and it is over when those that were
    /// admitted are answered and their replies written ([`ended`](Self::ended)). The client gets no word, only the end
    /// of the stream.
    pub(crate) fn close(&self) {
        self.status.close();
        self.wake();
    }

    /// Waits until its connection is closed. Cancel-safe: yes.
    pub(crate) async fn ended(&self) {
        self.status.reached(SessionStatus::Gone).await;
    }

    /// Whether the gateway closes it between two messages.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.status.now(), SessionStatus::Draining | SessionStatus::Closing)
    }

    /// Whether, if the gateway closes it, everything is written.
    pub(super) fn has_closed(&self) -> bool {
        !self.is_closing() || self.out.is_empty()
    }

    /// Its client sends nothing more: who waits for something of its client need not wait any more. What it has in flight is answered,
    /// if anybody is there to hear it; its client may be gone already, or back on another connection, and must not be
    /// overtaken there (promise 14).
    pub(super) fn stops_reading(&self) {
        // A client that the gateway closes comes back when everything is answered. The status comes first: whoever answers
        // one of the requests that are found sees it.
        if self.status.leave() {
            self.export.core.adopt_orphans(self.id);
        }
    }
}

impl Transmission {
    /// Reads no further. True: the client has not read its replies in time.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) -> bool {
        if !matches!(self.step, Step::Closing(_)) {
            self.give_up_payload();
            self.step = Step::Closing(TransmissionEnd::ByGateway);
            if let Some(buffer) = self.inbox.forget() {
                self.pool.retire(buffer);
            }
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + PATIENCE)));
        while patience.as_mut().poll(cx).is_ready() {
            if self.session.out.is_blocked() {
                let told =
                    || tracing::info!(limit = ?PATIENCE, "a client does not read its replies; its session is cut");
                self.session.span.in_scope(told);
                return true;
            }
            // The backend has not answered yet: that is not the client's fault.
            patience.as_mut().reset(Instant::now() + PATIENCE);
        }
        false
    }

    /// Closes gently: a socket that is closed with bytes unread resets the connection, and over TCP takes back what it
    /// has not delivered.
    pub(super) async fn linger(&mut self) {
        if self.session.out.is_blocked() {
            return;
        }
        self.session.out.end();
        let over = Instant::now() + LINGER.0;
        let mut inbox = Inbox::default();
        while Instant::now() < over {
            let read = core::future::poll_fn(|cx| {
                let room = inbox.room(self.pool.as_ref());
                room.clear();
                self.read.poll_fill(cx, room)
            });
            if !matches!(timeout(LINGER.1, read).await, Ok(Ok(n)) if n > 0) {
                return;
            }
        }
    }
}
