//! A look at the clock that a batch of requests shares: it costs as much as all that is counted of a request.
//!
//! A [`Stamp`] belongs to one that works on a batch, and never outlives that: whoever waits forgets it. How old it may become
//! is bounded by the work done under it, not by time, which nobody knows without looking: 32 small requests or
//! 128 KiB, some microseconds, less than the first bucket of any duration it is used for.

use tokio::time::Instant;

/// What may be done under one look, in bytes.
const WORTH: u64 = 128 * 1024;
/// What a request counts for beside its payload.
const REQUEST: u64 = 4096;

/// The time, as last looked at in this batch.
#[derive(Debug, Default)]
pub(crate) struct Stamp {
    at: Option<Instant>,
    left: u64,
}

impl Stamp {
    /// The time after one more request was worked on, with so many bytes; as old as the work of that bound at most.
    pub(crate) fn now(&mut self, bytes: u64) -> Instant {
        let left = self.left.checked_sub(REQUEST.saturating_add(bytes));
        match (self.at, left) {
            (Some(at), Some(left)) => {
                self.left = left;
                at
            }
            _ => {
                let now = Instant::now();
                (self.at, self.left) = (Some(now), WORTH);
                now
            }
        }
    }

    /// Time may have passed: the batch is over, or something was waited for.
    pub(crate) fn forget(&mut self) {
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many requests of so many bytes share a look, the one that looked included.
    async fn sharing(bytes: u64) -> u32 {
        let mut stamp = Stamp::default();
        let first = stamp.now(bytes);
        tokio::time::advance(Duration::from_millis(1)).await;
        let mut count = 1;
        while stamp.now(bytes) == first {
            count += 1;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_the_clock_is_shared_by_what_is_done_in_microseconds() {
        assert_eq!(sharing(0).await, 33);
        assert_eq!(sharing(4096).await, 17);
        assert_eq!(sharing(60 * 1024).await, 3);
        assert_eq!(sharing(128 * 1024).await, 1);
        assert_eq!(sharing(u64::MAX).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_wait_the_clock_is_looked_at_again() {
        let mut stamp = Stamp::default();
        let first = stamp.now(0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(stamp.now(0), first);
        stamp.forget();
        assert_eq!(stamp.now(0), first + Duration::from_millis(1));
    }
}
