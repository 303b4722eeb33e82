//! Exclusive ranges of an export, for writes to a backend whose blocks are larger than the client's (promise 16).

use nbd_gateway_policy::types::ByteRange;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    id: u64,
    range: ByteRange,
}

/// The ranges held now.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    held: Mutex<Vec<Held>>,
    freed: Notify,
}

/// An exclusive range; dropping this frees it.
#[derive(Debug)]
pub(super) struct Exclusive<'a> {
    ranges: &'a Ranges,
    held: Held,
}

impl Ranges {
    /// Waits until nobody else holds any of `range`, and has `id` hold it. Cancel-safe: yes. Each holds one range at a time.
    pub(super) async fn exclusive(&self, id: u64, range: ByteRange) -> Exclusive<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut all = self.held.lock();
                if !all.iter().any(|h| h.id != id && h.range.overlaps(range)) {
                    let held = Held { id, range };
                    all.push(held);
                    return Exclusive { ranges: self, held };
                }
            }
            freed.await;
        }
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.ranges.held.lock().retain(|h| *h != self.held);
        self.ranges.freed.notify_waiters();
    }
}

#[cfg(test)]
impl Ranges {
    /// The range that it holds.
    pub(super) fn of(&self, id: u64) -> Option<ByteRange> {
        self.held.lock().iter().find(|h| h.id == id).map(|h| h.range)
    }

    /// It holds that range, as before, until it has asked for it itself and has let go of it.
    pub(super) fn hold_again(&self, id: u64, range: ByteRange) {
        self.held.lock().push(Held { id, range });
    }

    /// It holds nothing any more.
    pub(super) fn free(&self, id: u64) {
        self.held.lock().retain(|h| h.id != id);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn overlapping_ranges_take_turns() {
        let ranges = Ranges::default();
        let range = |offset, length| ByteRange::at(offset, length).unwrap();
        let first = ranges.exclusive(1, range(0, 4096)).await;
        let _beside = ranges.exclusive(2, range(4096, 4096)).await;
        let second = ranges.exclusive(3, range(1000, 1));
        tokio::pin!(second);
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        drop(first);
        second.await;
    }
}
