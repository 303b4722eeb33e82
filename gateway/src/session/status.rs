//! How far a session is: one value that only rises.
//!
//! What becomes of requests in flight depends on who ended the session first. If its client left, they are orphans
//! (`target/orphans.rs`); if the gateway closes it, they are answered before the connection ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SessionStatus {
    /// Requests are read.
    Open,
    /// The gateway closes it: no further request is read, those that were admitted are answered.
    Draining,
    /// Its client has sent its last byte, and may be back on another connection. It still gets its replies.
    Left,
    /// As `Left`, and the gateway closes it: its client has a limited time to read its replies.
    Closing,
    /// The connection is closed: replies have nowhere to go.
    Gone,
}

impl SessionStatus {
    const ALL: [Self; 5] = [Self::Open, Self::Draining, Self::Left, Self::Closing, Self::Gone];

    fn place(self) -> usize {
        Self::ALL.iter().position(|status| *status == self).unwrap_or_default()
    }
}

/// The status of one session, and a way to wait for a later one.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The status' place in [`SessionStatus::ALL`].
    place: AtomicUsize,
    changed: Notify,
}

impl Progress {
    /// The status now. Takes no lock: every reply asks.
    pub(super) fn now(&self) -> SessionStatus {
        SessionStatus::ALL.get(self.place.load(Ordering::Acquire)).copied().unwrap_or(SessionStatus::Gone)
    }

    /// The gateway closes the session.
    pub(super) fn close(&self) {
        self.change(|now| match now {
            SessionStatus::Open => SessionStatus::Draining,
            SessionStatus::Left => SessionStatus::Closing,
            other => other,
        });
    }

    /// The client has sent its last byte. Whether it was the first to end the session.
    pub(super) fn leave(&self) -> bool {
        self.change(|now| if now == SessionStatus::Open { SessionStatus::Left } else { now }) == SessionStatus::Open
    }

    /// At least this status from now on.
    pub(super) fn rise(&self, to: SessionStatus) {
        self.change(|now| now.max(to));
    }

    /// The status before.
    fn change(&self, next: impl Fn(SessionStatus) -> SessionStatus) -> SessionStatus {
        let mut before = self.now();
        while let Err(place) =
            self.place.compare_exchange(before.place(), next(before).place(), Ordering::AcqRel, Ordering::Acquire)
        {
            before = SessionStatus::ALL.get(place).copied().unwrap_or(SessionStatus::Gone);
        }
        self.changed.notify_waiters();
        before
    }

    /// Waits for this status, or a later one. Cancel-safe: yes.
    pub(super) async fn reached(&self, least: SessionStatus) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.now() >= least {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_ends_a_session_first_is_remembered() {
        let (closed, left) = (Progress::default(), Progress::default());
        closed.close();
        assert!(!closed.leave());
        assert_eq!(closed.now(), SessionStatus::Draining);
        assert!(left.leave() && !left.leave());
        assert_eq!(left.now(), SessionStatus::Left);
        left.close();
        assert_eq!(left.now(), SessionStatus::Closing);
        closed.rise(SessionStatus::Left);
        left.rise(SessionStatus::Left);
        assert_eq!((closed.now(), left.now()), (SessionStatus::Left, SessionStatus::Closing), "it only rises");
    }

    #[tokio::test]
    async fn a_later_status_ends_the_waiting_for_an_earlier_one() {
        let progress = Progress::default();
        progress.reached(SessionStatus::Open).await;
        tokio::join!(biased; progress.reached(SessionStatus::Draining), async { progress.rise(SessionStatus::Gone) });
    }
}
