//! Requests that may still change data although their session is gone (promise 14).
//!
//! While one is unanswered by the backend, no overlapping request of any session is sent: a client that reconnects and
//! writes again must not be overwritten by its own past.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::proto::Cookie;

#[derive(Clone, Copy, Debug)]
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
}

impl Orphans {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Takes over what `find` finds of a session that has just been marked gone. Found under the list's lock, so that an
    /// answer that comes meanwhile waits to settle it.
    pub(super) fn adopt(&self, session: u64, find: impl FnOnce() -> Vec<(Cookie, u64, u64)>) {
        let mut list = self.list.lock();
        list.extend(find().into_iter().map(|(cookie, offset, end)| Orphan { session, cookie, offset, end }));
        self.count.store(list.len(), Ordering::Release);
    }

    /// One has been answered.
    pub(super) fn settle(&self, session: u64, cookie: Cookie) {
        let mut list = self.list.lock();
        if let Some(at) = list.iter().position(|o| o.session == session && o.cookie == cookie) {
            list.swap_remove(at);
            self.count.store(list.len(), Ordering::Release);
            drop(list);
            self.settled.notify_waiters();
        }
    }

    /// Waits until none overlaps `offset..end`. Cancel-safe: yes.
    pub(super) async fn clear_of(&self, offset: u64, end: u64) {
        loop {
            let settled = self.settled.notified();
            if !self.list.lock().iter().any(|o| o.offset < end && offset < o.end) {
                return;
            }
            settled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_overlapping_request_waits_for_the_orphan_and_another_does_not() {
        let orphans = Orphans::default();
        orphans.adopt(7, || vec![(Cookie(1), 100, 200)]);
        assert!(orphans.any());
        orphans.clear_of(200, 300).await;
        orphans.settle(8, Cookie(1));
        let waiting = orphans.clear_of(150, 160);
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await, "another session's answer settles nothing");
        orphans.settle(7, Cookie(1));
        waiting.await;
        assert!(!orphans.any());
    }

    async fn futures_pending(mut future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }
}
