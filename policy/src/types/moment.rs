//! Time as an argument: nanoseconds since an instant that the caller chose once, usually the start of the process.

use std::time::Duration;

/// A point in time, in nanoseconds since the caller's own beginning. Monotonic if the caller's clock is; where one
/// is handed a moment earlier than the last, decisions take it as "no time has passed".
///
/// It ends after 584 years; arithmetic saturates there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The beginning that the caller counts from.
    pub const START: Self = Self(0);

    /// The moment so many nanoseconds after the beginning.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment that is `elapsed` after the beginning; saturates.
    #[must_use]
    pub fn from_elapsed(elapsed: Duration) -> Self {
        Self::START.after(elapsed)
    }

    /// Nanoseconds since the beginning.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// This much later; saturates at the end of time.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        let late = Moment::from_nanos(u64::MAX - 1);
        assert_eq!(late.after(Duration::from_secs(1)), Moment::from_nanos(u64::MAX));
        assert_eq!(Moment::START.after(Duration::MAX), Moment::from_nanos(u64::MAX));
        assert_eq!(Moment::START.since(late), Duration::ZERO);
        assert_eq!(Moment::from_elapsed(Duration::from_micros(3)).nanos(), 3_000);
    }
}
