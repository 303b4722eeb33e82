//! How often it is told that an export can't be opened: clients decide how often they try, and which names they make up.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::complaints::Complaints;

/// The least time between two lines about one export.
const PACE: Duration = Duration::from_secs(10);
/// So many exports are told apart; those beyond share one line.
const MANY: usize = 1000;

/// The exports that could not be opened lately.
#[derive(Debug)]
pub(super) struct Failures(Mutex<State>);

#[derive(Debug)]
struct State {
    exports: HashMap<String, Complaints>,
    others: Complaints,
}

impl Default for Failures {
    fn default() -> Self {
        Self(Mutex::new(State { exports: HashMap::new(), others: Complaints::new(PACE) }))
    }
}

impl Failures {
    /// Whether to tell that `export` could not be opened; if so, how many times it was not told since the last one that was.
    pub(super) fn admit(&self, export: &str) -> Option<u64> {
        let now = Instant::now();
        let State { exports, others } = &mut *self.0.lock();
        if let Some(known) = exports.get_mut(export) {
            return known.admit(now);
        }
        if exports.len() >= MANY {
            exports.retain(|_, known| !known.is_over(now));
        }
        if exports.len() >= MANY {
            return others.admit(now);
        }
        exports.entry(export.to_owned()).or_insert_with(|| Complaints::new(PACE)).admit(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_export_is_told_of_now_and_then_and_made_up_names_are_not_remembered_for_ever() {
        let failures = Failures::default();
        assert_eq!(
            [failures.admit("a"), failures.admit("a"), failures.admit("b"), failures.admit("a")],
            [Some(0), None, Some(0), None]
        );
        tokio::time::advance(PACE).await;
        assert_eq!(failures.admit("a"), Some(2));
        let told = (0..5000).filter(|n| failures.admit(&format!("made-up/{n}")).is_some()).count();
        assert_eq!((told, failures.0.lock().exports.len()), (MANY, MANY));
        tokio::time::advance(PACE).await;
        // Of the 4001 without a line of their own one was told.
        assert_eq!(failures.0.lock().others.admit(Instant::now()), Some(4000));
        assert_eq!(failures.admit("made-up/4999"), Some(0));
        assert_eq!(failures.0.lock().exports.len(), 1);
    }
}
