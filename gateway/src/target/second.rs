//! Whether a backend answers one more connection beside its lanes. `qemu-nbd` without `-e` leaves it without a greeting.
//!
//! Silence alone proves nothing: a server may hang, its host may be paused. So it is believed to take one connection only if
//! none beside its lanes was ever answered, and tried again nevertheless, after pauses that grow.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The first pause before it is tried again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Results of the attempts so far.
#[derive(Debug, Default)]
pub(super) struct Second(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    answered: bool,
    /// Attempts in a row that were not answered.
    late: u32,
    again: Option<Instant>,
}

impl Second {
    /// Whether it takes one connection only, as far as is known.
    pub(super) fn is_refused(&self) -> bool {
        let state = self.0.lock();
        state.late > 0 && !state.answered
    }

    /// Whether there is a point in trying now.
    pub(super) fn is_due(&self) -> bool {
        let state = self.0.lock();
        state.late == 0 || state.answered || state.again.is_none_or(|again| Instant::now() >= again)
    }

    /// It was answered. Whether that ends a silence.
    pub(super) fn answered(&self) -> bool {
        let mut state = self.0.lock();
        state.answered = true;
        core::mem::take(&mut state.late) > 0
    }

    /// It was not answered in time. Whether that is news.
    pub(super) fn late(&self) -> bool {
        let mut state = self.0.lock();
        let pause = PAUSES.0.saturating_mul(1 << state.late.min(16)).min(PAUSES.1);
        state.again = Some(Instant::now() + pause);
        state.late = state.late.saturating_add(1);
        state.late == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answered_is_tried_again_after_pauses_that_grow() {
        let second = Second::default();
        assert!(second.is_due() && !second.is_refused());
        for (nth, seconds) in [10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
            assert_eq!(second.late(), nth == 0);
            assert!(second.is_refused() && !second.is_due());
            tokio::time::advance(Duration::from_secs(seconds - 1)).await;
            assert!(!second.is_due(), "{seconds}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(second.is_due(), "{seconds}");
        }
        assert!(second.answered() && !second.is_refused() && second.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answered_before_only_hangs() {
        let second = Second::default();
        assert!(!second.answered());
        assert!(second.late() && !second.late());
        assert!(!second.is_refused() && second.is_due());
        assert!(second.answered());
    }
}
