//! Runs of a file that were found to be data, so that a READ need not ask for holes where there was none a moment ago.
//!
//! To ask is expensive where a run is long: tmpfs looks at every page up to its end. What is remembered can only be data that
//! has become a hole since, and to read a hole as data is always right; so nothing here has to be exact. Forgotten where this
//! process makes holes, and altogether when the file has lost blocks.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Runs that are remembered: as many streams as a disk has at a time, or a few more.
const RUNS: usize = 8;
/// After so many READs it is looked at the file's blocks again.
const LOOK: u64 = 64;

/// What is known of one file.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// First byte, and first byte after. The one used last stands last.
    known: Mutex<Vec<(u64, u64)>>,
    asked: AtomicU64,
    blocks: AtomicU64,
}

impl Runs {
    /// Up to where there is data from `at` on, if that is known.
    pub(super) fn data(&self, at: u64) -> Option<u64> {
        let mut known = self.known.lock();
        let place = known.iter().position(|(from, to)| (*from..*to).contains(&at))?;
        let run = known.remove(place);
        known.push(run);
        Some(run.1)
    }

    /// There is data from `from` up to `to`.
    pub(super) fn found(&self, from: u64, to: u64) {
        let mut known = self.known.lock();
        let (mut first, mut last) = (from, to);
        known.retain(|(from, to)| {
            let apart = *to < first || *from > last;
            if !apart {
                (first, last) = (first.min(*from), last.max(*to));
            }
            apart
        });
        if known.len() >= RUNS {
            known.remove(0);
        }
        known.push((first, last));
    }

    /// There may be a hole between `from` and `to` now.
    pub(super) fn forget(&self, from: u64, to: u64) {
        self.known.lock().retain(|(first, last)| *last <= from || *first >= to);
    }

    /// Whether it is time to tell [`Runs::blocks`].
    pub(super) fn is_due(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK)
    }

    /// So many blocks the file has now. With fewer than before somebody else has made holes.
    pub(super) fn blocks(&self, blocks: u64) {
        if blocks < self.blocks.swap(blocks, Ordering::Relaxed) {
            self.known.lock().clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_is_known_until_holes_may_be_in_it() {
        let runs = Runs::default();
        assert_eq!(runs.data(0), None);
        runs.found(10, 20);
        runs.found(20, 30);
        assert_eq!((runs.data(9), runs.data(10), runs.data(29), runs.data(30)), (None, Some(30), Some(30), None));
        runs.found(50, 60);
        runs.forget(30, 50);
        assert_eq!((runs.data(10), runs.data(50)), (Some(30), Some(60)));
        runs.forget(29, 30);
        assert_eq!((runs.data(10), runs.data(50)), (None, Some(60)));
        runs.blocks(8);
        runs.blocks(9);
        assert_eq!(runs.data(50), Some(60));
        runs.blocks(8);
        assert_eq!(runs.data(50), None);
    }

    #[test]
    fn as_many_streams_as_are_remembered_are_and_the_one_unused_longest_is_forgotten() {
        let runs = Runs::default();
        let starts: Vec<u64> = (0..8).map(|n| n * 100).collect();
        starts.iter().for_each(|at| runs.found(*at, at + 10));
        assert!(starts.iter().all(|at| runs.data(*at).is_some()));
        assert!(runs.data(0).is_some());
        runs.found(900, 910);
        assert_eq!((runs.data(0), runs.data(100), runs.data(900)), (Some(10), None, Some(910)));
    }

    proptest! {
        #[test]
        fn what_is_known_was_found_and_not_forgotten_since(
            acts in proptest::collection::vec((any::<bool>(), 0u64..60, 1u64..20), 0..40)
        ) {
            let (runs, mut data) = (Runs::default(), [false; 100]);
            for (found, from, length) in acts {
                let to = from + length;
                if found { runs.found(from, to) } else { runs.forget(from, to) }
                data[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()].fill(found);
                for at in 0..100 {
                    if let Some(end) = runs.data(at) {
                        let range = usize::try_from(at).unwrap()..usize::try_from(end).unwrap();
                        prop_assert!(data[range].iter().all(|data| *data));
                    }
                }
            }
        }
    }
}
