//! A moment as an age.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

/// How long until a moment, in nanoseconds; 0 for the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait(u64);

impl Wait {
    pub(crate) fn until(moment: Instant) -> Self {
        Self(nanos(moment.saturating_duration_since(Instant::now())))
    }

    /// The moment when it is over.
    pub(crate) fn over(self) -> Instant {
        Instant::now() + Duration::from_nanos(self.0)
    }
}

/// A time, as states have it.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How long ago a moment was, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Age(u64);

impl Age {
    /// How long ago `moment` was; 0 for the future.
    pub(crate) fn of(moment: Instant) -> Self {
        Self(nanos(moment.elapsed()))
    }

    /// The moment of this age. One from before the clock began is now.
    pub(crate) fn ago(self) -> Instant {
        let now = Instant::now();
        now.checked_sub(Duration::from_nanos(self.0)).unwrap_or(now)
    }
}
