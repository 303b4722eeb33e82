//! Exclusive ranges of an export, for writes to a backend whose blocks are larger than the client's (promise 16).

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug)]
struct Held {
    id: u64,
    offset: u64,
    end: u64,
}

/// The ranges held now.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    next: AtomicU64,
    held: Mutex<Vec<Held>>,
    freed: Notify,
}

/// An exclusive range; dropping this frees it.
#[derive(Debug)]
pub(super) struct Exclusive<'a> {
    ranges: &'a Ranges,
    id: u64,
}

impl Ranges {
    /// Waits until nobody holds any of `offset..end`, and holds it. Cancel-safe: yes. A task holds one range at a time.
    pub(super) async fn exclusive(&self, offset: u64, end: u64) -> Exclusive<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        loop {
            let freed = self.freed.notified();
            {
                let mut held = self.held.lock();
                if !held.iter().any(|h| h.offset < end && offset < h.end) {
                    held.push(Held { id, offset, end });
                    return Exclusive { ranges: self, id };
                }
            }
            freed.await;
        }
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
        let first = ranges.exclusive(0, 4096).await;
        let _beside = ranges.exclusive(4096, 8192).await;
        let second = ranges.exclusive(1000, 1001);
        tokio::pin!(second);
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        drop(first);
        second.await;
    }
}
