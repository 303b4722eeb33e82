//! A moment as an age.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

/// How long ago a moment was, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Age(u64);

impl Age {
    /// How long ago `moment` was; 0 for the future.
    pub(crate) fn of(moment: Instant) -> Self {
        Self(u64::try_from(moment.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment of this age. One from before the clock began is now.
    pub(crate) fn ago(self) -> Instant {
        let now = Instant::now();
        now.checked_sub(Duration::from_nanos(self.0)).unwrap_or(now)
    }
}
