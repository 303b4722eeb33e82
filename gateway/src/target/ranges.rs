//! Exclusive ranges of an export, for writes to a backend whose blocks are larger than the client's (promise 16).

use std::sync::atomic::{AtomicU64, Ordering};

use nbd_gateway_policy::types::ByteRange;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug)]
struct Held {
    id: u64,
    range: ByteRange,
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
    /// Waits until nobody holds any of `range`, and holds it. Cancel-safe: yes. A task holds one range at a time.
    pub(super) async fn exclusive(&self, range: ByteRange) -> Exclusive<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        loop {
            let freed = self.freed.notified();
            {
                let mut held = self.held.lock();
                if !held.iter().any(|h| h.range.overlaps(range)) {
                    held.push(Held { id, range });
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
        let range = |offset, length| ByteRange::at(offset, length).unwrap();
        let first = ranges.exclusive(range(0, 4096)).await;
        let _beside = ranges.exclusive(range(4096, 4096)).await;
        let second = ranges.exclusive(range(1000, 1));
        tokio::pin!(second);
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        drop(first);
        second.await;
    }
}
