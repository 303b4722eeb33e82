//! How often a lane complains about its backend's answers: a backend that floods must not fill the log.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two complaints.
const PACE: Duration = Duration::from_secs(1);

/// One lane's complaints.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
    not_shown: u64,
}

impl Complaints {
    /// Whether to complain now; if so, how many complaints were not shown since the last one that was.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < PACE) {
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
    fn one_a_second_is_shown_and_the_next_tells_how_many_were_not() {
        let mut complaints = Complaints::default();
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
