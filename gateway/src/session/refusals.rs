//! How often refusals are told to the log: clients decide how many there are, and must not be able to fill it.

use std::time::Duration;

use nbd_gateway_policy::rate::{Limiter, Oversize, Rate};
use nbd_gateway_policy::types::Moment;
use parking_lot::Mutex;
use tokio::time::Instant;

/// So many a second in the long run.
const A_SECOND: u64 = 10;
/// So many at once.
const AT_ONCE: u64 = 100;

/// The refusals of one listener.
#[derive(Debug)]
pub struct Refusals {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None would be no bound; the rate that is written here is one.
    limiter: Option<Limiter>,
    not_shown: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        let rate = Rate::new(A_SECOND, Duration::from_secs(1), AT_ONCE, Oversize::Refuse);
        let limiter = rate.ok().map(|rate| Limiter::new(rate, Moment::from_nanos(0)));
        Self { start: Instant::now(), state: Mutex::new(State { limiter, not_shown: 0 }) }
    }
}

impl Refusals {
    /// Whether to tell of one more now; if so, how many were not told of since the last one that was.
    pub(super) fn admit(&self) -> Option<u64> {
        let now = Moment::from_elapsed(self.start.elapsed());
        let state = &mut *self.state.lock();
        if state.limiter.as_mut().is_some_and(|limiter| limiter.take(now, 1).is_err()) {
            state.not_shown = state.not_shown.saturating_add(1);
            return None;
        }
        Some(core::mem::take(&mut state.not_shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_in_part_and_the_next_line_says_how_many_are_missing() {
        let refusals = Refusals::default();
        let told = (0..1000).filter(|_| refusals.admit().is_some()).count();
        assert_eq!(told, 100);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(refusals.admit(), Some(900));
        assert_eq!(refusals.admit(), None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(refusals.admit(), Some(1));
        assert_eq!(refusals.admit(), Some(0));
    }
}
