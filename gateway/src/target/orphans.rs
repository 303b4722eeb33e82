//! Requests that may still change data although their session has ended (promise 14).
//!
//! While one is unanswered by the backend, no overlapping request of any session is sent: a client that reconnects and
//! writes again must not be overwritten by its own past.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Core;
use crate::proto::Cookie;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Orphan {
    session: u64,
    cookie: Cookie,
    offset: u64,
    end: u64,
}

/// All of an export's.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// As many as in the list; read on the hot path.
    count: AtomicUsize,
    list: Mutex<Vec<Orphan>>,
    settled: Notify,
    /// Requests that may change data and wait in a task of the gateway's own: orphans, once their session is gone.
    waiting: Mutex<Vec<(u64, Orphan)>>,
    next: AtomicU64,
}

impl Orphans {
    /// Whether there are any orphans.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Adds the requests that `find` returns, of a session that was just marked gone. `find` runs under the list's lock, so
    /// that a concurrent answer waits to settle its orphan.
    pub(super) fn adopt(&self, session: u64, find: impl FnOnce() -> Vec<(Cookie, u64, u64)>) {
        let mut list = self.list.lock();
        for (cookie, offset, end) in find() {
            let orphan = Orphan { session, cookie, offset, end };
            // One that has just gone from its task to the backend's table is found in both.
            if !list.contains(&orphan) {
                list.push(orphan);
            }
        }
        self.count.store(list.len(), Ordering::Release);
    }

    /// An orphan was answered.
    pub(super) fn settle(&self, session: u64, cookie: Cookie) {
        let mut list = self.list.lock();
        if let Some(at) = list.iter().position(|o| o.session == session && o.cookie == cookie) {
            list.swap_remove(at);
            self.count.store(list.len(), Ordering::Release);
            drop(list);
            self.settled.notify_waiters();
        }
    }

    /// A request waits from now on, until [`waits_no_more`](Self::waits_no_more).
    pub(super) fn wait(&self, session: u64, cookie: Cookie, offset: u64, end: u64) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().push((id, Orphan { session, cookie, offset, end }));
        id
    }

    /// Of a request that waits only this part may still be carried out.
    pub(super) fn narrow(&self, id: u64, offset: u64, end: u64) {
        let mut waiting = self.waiting.lock();
        if let Some((_, orphan)) = waiting.iter_mut().find(|(other, _)| *other == id) {
            (orphan.offset, orphan.end) = (offset, end);
        }
    }

    pub(super) fn waits_no_more(&self, id: u64) {
        self.waiting.lock().retain(|(other, _)| *other != id);
    }

    /// Those of a session that wait.
    pub(super) fn waiting_of(&self, session: u64) -> Vec<(Cookie, u64, u64)> {
        let waiting = self.waiting.lock();
        waiting.iter().filter(|(_, o)| o.session == session).map(|(_, o)| (o.cookie, o.offset, o.end)).collect()
    }

    /// Those of other sessions that overlap `offset..end` now: a session's own requests are in no order.
    pub(super) fn ahead(&self, offset: u64, end: u64, session: u64) -> Ahead {
        if !self.any() {
            return Ahead(Vec::new());
        }
        let overlaps = |o: &&Orphan| o.session != session && o.offset < end && offset < o.end;
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

/// A request that waits in a task: an orphan, once its session is gone.
#[derive(Debug)]
pub(crate) struct Waiting {
    core: Arc<Core>,
    id: Option<u64>,
}

impl Waiting {
    pub(super) fn new(core: &Arc<Core>, id: Option<u64>) -> Self {
        Self { core: Arc::clone(core), id }
    }

    /// From now on, only this part of it may still change data.
    pub(super) fn narrow(&self, offset: u64, end: u64) {
        if let Some(id) = self.id {
            self.core.orphans.narrow(id, offset, end);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.core.orphans.waits_no_more(id);
        }
    }
}

/// The orphans that a request has to wait for.
#[derive(Debug)]
pub(super) struct Ahead(Vec<Orphan>);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_overlapping_request_waits_for_the_orphan_and_another_does_not() {
        let orphans = Orphans::default();
        orphans.adopt(7, || vec![(Cookie(1), 100, 200)]);
        assert!(orphans.any());
        orphans.clear_of(orphans.ahead(200, 300, 1)).await;
        orphans.clear_of(orphans.ahead(150, 160, 7)).await;
        orphans.settle(8, Cookie(1));
        let waiting = orphans.clear_of(orphans.ahead(150, 160, 1));
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await, "another session's answer settles nothing");
        orphans.settle(7, Cookie(1));
        waiting.await;
        assert!(!orphans.any());
    }

    #[tokio::test]
    async fn what_waits_in_a_task_is_an_orphan_when_its_session_leaves() {
        let orphans = Orphans::default();
        let id = orphans.wait(7, Cookie(1), 100, 200);
        orphans.wait(8, Cookie(1), 300, 400);
        // In the backend's table already.
        orphans.adopt(7, || [vec![(Cookie(1), 100, 200)], orphans.waiting_of(7)].concat());
        orphans.waits_no_more(id);
        assert!(orphans.waiting_of(7).is_empty());
        orphans.clear_of(orphans.ahead(300, 400, 1)).await;
        let waiting = orphans.clear_of(orphans.ahead(150, 160, 1));
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await);
        orphans.settle(7, Cookie(1));
        waiting.await;
        assert!(!orphans.any());
    }

    /// A client that gave up and sent the same again, twice: the two waited for each other for ever.
    #[tokio::test]
    async fn what_waits_for_an_orphan_does_not_wait_for_what_waits_for_it() {
        let orphans = Orphans::default();
        orphans.adopt(1, || vec![(Cookie(1), 100, 200)]);
        orphans.wait(2, Cookie(1), 100, 200);
        let second = orphans.clear_of(orphans.ahead(100, 200, 2));
        tokio::pin!(second);
        assert!(futures_pending(second.as_mut()).await);
        orphans.adopt(2, || orphans.waiting_of(2));
        orphans.wait(3, Cookie(1), 100, 200);
        let third = orphans.clear_of(orphans.ahead(100, 200, 3));
        tokio::pin!(third);
        orphans.adopt(3, || orphans.waiting_of(3));
        orphans.settle(1, Cookie(1));
        assert!(futures_pending(third.as_mut()).await, "the second is still there");
        second.await;
        orphans.settle(2, Cookie(1));
        third.await;
    }

    async fn futures_pending(mut future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }
}
