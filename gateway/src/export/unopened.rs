//! The exports that could not be opened at the last attempt: which, why, since when. For operators alone: the reasons name
//! backends. A name leaves when it was opened, and when the configuration has it no more.

use std::collections::HashMap;
use std::time::SystemTime;

use parking_lot::Mutex;

/// As many names as are kept: clients make up those that fit a template. Beyond that the one that was tried last longest ago
/// is forgotten.
const MOST: usize = 1000;

/// An export that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unopened {
    pub export: String,
    /// Why not, at the last attempt.
    pub why: String,
    /// The first attempt that failed since one succeeded.
    pub since: SystemTime,
    pub last: SystemTime,
    /// How many there were.
    pub attempts: u64,
}

#[derive(Debug, Default)]
pub(super) struct List(Mutex<HashMap<String, Unopened>>);

impl List {
    /// One more attempt failed, at `now`.
    pub(super) fn failed(&self, export: &str, why: String, now: SystemTime) {
        let mut list = self.0.lock();
        if let Some(known) = list.get_mut(export) {
            (known.why, known.last, known.attempts) = (why, now, known.attempts.saturating_add(1));
            return;
        }
        if list.len() >= MOST
            && let Some(oldest) = list.values().min_by_key(|known| known.last).map(|known| known.export.clone())
        {
            list.remove(&oldest);
        }
        let export = export.to_owned();
        list.insert(export.clone(), Unopened { export, why, since: now, last: now, attempts: 1 });
    }

    pub(super) fn opened(&self, export: &str) {
        self.0.lock().remove(export);
    }

    /// Those that are `known`, by name; the others are forgotten.
    pub(super) fn known(&self, known: impl Fn(&str) -> bool) -> Vec<Unopened> {
        let mut list = self.0.lock();
        list.retain(|name, _| known(name));
        let mut all: Vec<Unopened> = list.values().cloned().collect();
        all.sort_by(|one, other| one.export.cmp(&other.export));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_export_is_listed_from_the_first_failure_until_it_was_opened_or_is_gone() {
        let list = List::default();
        list.failed("b", "refused".to_owned(), at(1));
        list.failed("a", "no such file".to_owned(), at(2));
        list.failed("b", "timed out".to_owned(), at(3));
        let of = |name: &str, why: &str, since, last, attempts| Unopened {
            export: name.to_owned(),
            why: why.to_owned(),
            since: at(since),
            last: at(last),
            attempts,
        };
        assert_eq!(list.known(|_| true), [of("a", "no such file", 2, 2, 1), of("b", "timed out", 1, 3, 2)]);
        list.opened("a");
        assert_eq!(list.known(|_| true), [of("b", "timed out", 1, 3, 2)]);
        assert_eq!(list.known(|name| name != "b"), []);
        assert_eq!(list.known(|_| true), []);
    }

    #[test]
    fn names_that_clients_make_up_push_out_the_oldest() {
        let list = List::default();
        for n in 0..5000 {
            list.failed(&format!("made-up/{n}"), String::new(), at(n));
            list.failed("vm", String::new(), at(n));
        }
        let all = list.known(|_| true);
        assert_eq!(all.len(), MOST);
        assert!(all.iter().any(|it| it.export == "vm" && it.attempts == 5000));
        assert!(all.iter().any(|it| it.export == "made-up/4999"));
    }
}
