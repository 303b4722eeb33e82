//! Requests that may still change data although their session has ended (promise 14).
//!
//! While one is unanswered by the backend, no overlapping request of any session is sent: a client that reconnects and
//! writes again must not be overwritten by its own past.

use std::sync::atomic::{AtomicUsize, Ordering};

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::Cookie;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::request::{Origin, SessionId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orphan {
    pub(super) origin: Origin,
    pub(super) cookie: Cookie,
    pub(super) range: ByteRange,
}

/// All of an export's.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// As many as in the list; read on the hot path.
    count: AtomicUsize,
    list: Mutex<Vec<Orphan>>,
    settled: Notify,
}

impl Orphans {
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Adds the requests that `find` returns, of a session that was just marked gone. `find` runs under the list's lock, so
    /// that a concurrent answer waits to settle its orphan.
    pub(super) fn adopt(&self, origin: Origin, find: impl FnOnce() -> Vec<(Cookie, ByteRange)>) {
        let mut list = self.list.lock();
        for (cookie, range) in find() {
            let orphan = Orphan { origin, cookie, range };
            // One that has just gone from its task to the backend's table is found in both.
            if !list.contains(&orphan) {
                list.push(orphan);
            }
        }
        self.count.store(list.len(), Ordering::Release);
    }

    /// An orphan was answered.
    pub(super) fn settle(&self, origin: Origin, cookie: Cookie) {
        let mut list = self.list.lock();
        if let Some(at) = list.iter().position(|o| o.origin == origin && o.cookie == cookie) {
            list.swap_remove(at);
            self.count.store(list.len(), Ordering::Release);
            drop(list);
            self.settled.notify_waiters();
        }
    }

    /// Those of other sessions that overlap `range` now: a session's own requests are in no order.
    pub(super) fn ahead(&self, range: Option<ByteRange>, session: SessionId) -> Ahead {
        let Some(range) = range.filter(|_| self.any()) else { return Ahead(Vec::new()) };
        let overlaps = |o: &&Orphan| o.origin != Origin::Session(session) && o.range.overlaps(range);
        Ahead(self.list.lock().iter().filter(overlaps).copied().collect())
    }

    /// Waits until these have been answered. Not for any that have come since: one that waits for this request, and is left
    /// behind by its client too, would never be. Cancel-safe: yes.
    pub(super) async fn clear_of(&self, Ahead(mut ahead): Ahead) {
        loop {
            let settled = self.settled.notified();
            if !ahead.is_empty() {
                let list = self.list.lock();
                ahead.retain(|orphan| list.contains(orphan));
            }
            if ahead.is_empty() {
                return;
            }
            settled.await;
        }
    }
}

/// The orphans that a request has to wait for.
#[derive(Debug, Default)]
pub(super) struct Ahead(Vec<Orphan>);

#[cfg(test)]
mod tests {
    use super::*;

    fn from(session: u64) -> Origin {
        Origin::Session(SessionId::after(session))
    }

    #[tokio::test]
    async fn an_overlapping_request_waits_for_the_orphan_and_another_does_not() {
        let orphans = Orphans::default();
        orphans.adopt(from(7), || vec![(Cookie(1), ByteRange::at(100, 100).unwrap())]);
        assert!(orphans.any());
        orphans.clear_of(orphans.ahead(ByteRange::at(200, 100), SessionId::after(1))).await;
        orphans.clear_of(orphans.ahead(ByteRange::at(150, 10), SessionId::after(7))).await;
        orphans.settle(from(8), Cookie(1));
        let waiting = orphans.clear_of(orphans.ahead(ByteRange::at(150, 10), SessionId::after(1)));
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await, "another session's answer settles nothing");
        orphans.settle(from(7), Cookie(1));
        waiting.await;
        assert!(!orphans.any());
    }

    /// A client that gave up and sent the same again, twice: the two waited for each other for ever.
    #[tokio::test]
    async fn what_waits_for_an_orphan_does_not_wait_for_what_waits_for_it() {
        let orphans = Orphans::default();
        orphans.adopt(from(1), || vec![(Cookie(1), ByteRange::at(100, 100).unwrap())]);
        let second = orphans.clear_of(orphans.ahead(ByteRange::at(100, 100), SessionId::after(2)));
        tokio::pin!(second);
        assert!(futures_pending(second.as_mut()).await);
        orphans.adopt(from(2), || vec![(Cookie(1), ByteRange::at(100, 100).unwrap())]);
        let third = orphans.clear_of(orphans.ahead(ByteRange::at(100, 100), SessionId::after(3)));
        tokio::pin!(third);
        orphans.adopt(from(3), || vec![(Cookie(1), ByteRange::at(100, 100).unwrap())]);
        orphans.settle(from(1), Cookie(1));
        assert!(futures_pending(third.as_mut()).await, "the second is still there");
        second.await;
        orphans.settle(from(2), Cookie(1));
        third.await;
    }

    async fn futures_pending(mut future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }
}
