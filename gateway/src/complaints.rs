//! How often one thing is complained of: a backend that floods, or clients that hammer, must not fill the log.

use std::time::Duration;

use tokio::time::Instant;

/// The complaints about one thing.
#[derive(Debug)]
pub(crate) struct Complaints {
    pace: Duration,
    last: Option<Instant>,
    not_shown: u64,
}

impl Complaints {
    /// None yet, and no two within `pace`.
    pub(crate) const fn new(pace: Duration) -> Self {
        Self { pace, last: None, not_shown: 0 }
    }

    /// Whether it would be shown: the pace has passed.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.pace)
    }

    /// Whether to complain now; if so, how many complaints were not shown since the last one that was.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if !self.is_over(now) {
            self.not_shown = self.not_shown.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(core::mem::take(&mut self.not_shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_each_pace_is_shown_and_the_next_tells_how_many_were_not() {
        let mut complaints = Complaints::new(Duration::from_secs(1));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(complaints.admit(at(0)), Some(0));
        assert_eq!([1, 500, 999].map(|millis| complaints.admit(at(millis))), [None; 3]);
        assert_eq!(complaints.admit(at(1000)), Some(3));
        assert_eq!(complaints.admit(at(1999)), None);
        assert_eq!(complaints.admit(at(9000)), Some(1));
        assert_eq!(complaints.admit(at(20_000)), Some(0));
    }
}
