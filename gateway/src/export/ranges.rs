//! Exclusive ranges of an export, for writes to a backend whose blocks are larger than the client's (promise 16).

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::proto::Cookie;

#[derive(Clone, Copy, Debug)]
struct Held {
    id: u64,
    offset: u64,
    end: u64,
    /// For whom: the session and its request that may change data, if it may.
    owner: Option<(u64, Cookie)>,
}

/// The ranges held now.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    next: AtomicU64,
    held: Mutex<Vec<Held>>,
    freed: Notify,
}

/// A range that is nobody else's while this lives.
#[derive(Debug)]
pub(super) struct Exclusive<'a> {
    ranges: &'a Ranges,
    id: u64,
}

impl Ranges {
    /// Waits until nobody holds any of `offset..end`, and holds it. Cancel-safe: yes. A task holds one range at a time.
    pub(super) async fn exclusive(&self, offset: u64, end: u64, owner: Option<(u64, Cookie)>) -> Exclusive<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        loop {
            let freed = self.freed.notified();
            {
                let mut held = self.held.lock();
                if !held.iter().any(|h| h.offset < end && offset < h.end) {
                    held.push(Held { id, offset, end, owner });
                    return Exclusive { ranges: self, id };
                }
            }
            freed.await;
        }
    }

    /// What a session's requests hold.
    pub(super) fn ranges_of(&self, session: u64) -> Vec<(Cookie, u64, u64)> {
        let of = |h: &Held| h.owner.filter(|(s, _)| *s == session).map(|(_, cookie)| (cookie, h.offset, h.end));
        self.held.lock().iter().filter_map(of).collect()
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.ranges.held.lock().retain(|h| h.id != self.id);
        self.ranges.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn overlapping_ranges_take_turns() {
        let ranges = Ranges::default();
        let first = ranges.exclusive(0, 4096, Some((1, Cookie(9)))).await;
        let _beside = ranges.exclusive(4096, 8192, None).await;
        assert_eq!(ranges.ranges_of(1), [(Cookie(9), 0, 4096)]);
        let second = ranges.exclusive(1000, 1001, None);
        tokio::pin!(second);
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        drop(first);
        second.await;
    }
}
