#![expect(clippy::as_conversions, reason = "a test's disk is small")]

use proptest::prelude::*;

use super::*;

const CELL: u64 = 16 << 10;
const CELLS: u64 = 128;
const END: u64 = CELLS * CELL;
const BOUNDS: Bounds = Bounds { limit: 1 << 20, largest: 32 << 20, block: CELL };

fn range(cell: u64, cells: u64) -> ByteRange {
    ByteRange::at(cell * CELL, cells * CELL).unwrap()
}

fn cells(range: ByteRange) -> std::ops::Range<usize> {
    (range.start().bytes() / CELL) as usize..(range.end().bytes() / CELL) as usize
}

/// Each cell's bytes are its version.
fn content(versions: &[u8]) -> Found {
    let bytes: Vec<u8> = versions.iter().flat_map(|version| [*version; CELL as usize]).collect();
    Found::Whole(bytes.into())
}

fn versions(found: Found) -> Vec<u8> {
    let Found::Whole(payload) = found else { panic!("{found:?}") };
    payload.to_contiguous().chunks(CELL as usize).map(|cell| cell[0]).collect()
}

fn ready(known: Known) -> Vec<u8> {
    match known {
        Known::Ready(found) => versions(found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_second_of_two_requests_in_sequence_is_read_ahead_of() {
    let mut cache: Cache<()> = Cache::new(BOUNDS);
    assert_eq!(cache.follow(0, range(0, 4), END), []);
    let ahead = cache.follow(0, range(4, 4), END);
    assert_eq!(ahead.iter().map(|fetch| fetch.range).collect::<Vec<_>>(), [range(8, 4), range(12, 4)]);
    for fetch in &ahead {
        let zeroes = vec![0; cells(fetch.range).len()];
        assert_eq!(cache.arrived(fetch.id, Some(&content(&zeroes))).len(), 0);
    }
    assert_eq!(ready(cache.find(0, range(8, 4))), [0; 4]);
    assert_eq!(ready(cache.find(0, range(10, 4))), [0; 4], "of two blocks");
    assert!(matches!(cache.find(1, range(8, 4)), Known::Unknown), "another lane's");
    assert!(matches!(cache.find(0, range(14, 4)), Known::Unknown), "not all of it");
}

#[test]
fn a_window_doubles_with_each_request_up_to_half_of_the_limit_and_the_end() {
    let mut cache: Cache<()> = Cache::new(BOUNDS);
    let mut ahead = Vec::new();
    for request in 0..30 {
        let fetches = cache.follow(0, range(request * 4, 4), END);
        for Fetch { id, range } in fetches {
            assert!(range.end().bytes() <= END && range.len().0 <= BOUNDS.limit / 8, "{range:?}");
            cache.arrived(id, Some(&content(&vec![0; cells(range).len()])));
            ahead.push(range);
        }
        let reach = ahead.last().map_or(0, |range: &ByteRange| range.end().bytes());
        assert!(reach <= (request + 1) * 4 * CELL + BOUNDS.limit / 2, "{reach} after {request}");
    }
    let gaps = ahead.windows(2).any(|two| two[0].end() != two[1].start());
    assert!(!gaps && ahead.last().unwrap().end().bytes() == END, "{ahead:?}");
}

#[test]
fn a_reader_of_here_and_there_is_not_read_ahead_of() {
    let mut cache: Cache<()> = Cache::new(BOUNDS);
    for at in 0..1000 {
        assert_eq!(cache.follow(0, range(at * 37 % 61 * 2, 1), END), []);
    }
}

#[test]
fn many_readers_of_one_image_are_served_by_one_reading_of_it() {
    let mut cache: Cache<()> = Cache::new(BOUNDS);
    let (mut fetched, mut missed) = (0, 0);
    for request in 0..CELLS / 4 {
        for _reader in 0..5 {
            missed += u32::from(matches!(cache.find(0, range(request * 4, 4)), Known::Unknown));
            for Fetch { id, range } in cache.follow(0, range(request * 4, 4), END) {
                fetched += range.len().0;
                cache.arrived(id, Some(&content(&vec![0; cells(range).len()])));
            }
        }
    }
    assert_eq!((fetched, missed), (END - 8 * CELL, 10), "but for the first two requests");
}

#[test]
fn what_is_left_of_a_block_after_a_change_is_served() {
    let mut cache: Cache<()> = Cache::new(BOUNDS);
    cache.follow(0, range(0, 4), END);
    let Fetch { id, range: block } = cache.follow(0, range(4, 4), END)[0];
    cache.arrived(id, Some(&content(&[1, 2, 3, 4])));
    assert_eq!(block, range(8, 4));
    let change = cache.change(range(9, 1));
    assert_eq!((ready(cache.find(0, range(8, 1))), ready(cache.find(0, range(10, 2)))), (vec![1], vec![3, 4]));
    assert!(matches!(cache.find(0, range(9, 1)), Known::Unknown));
    cache.changed(change);
    assert!(matches!(cache.find(0, range(9, 1)), Known::Unknown), "the change is not what was read");
}

#[derive(Clone, Debug)]
enum Step {
    /// The next request of a sequential reader.
    Next {
        reader: usize,
        cells: u64,
    },
    Read {
        cell: u64,
        cells: u64,
    },
    Begin {
        cell: u64,
        cells: u64,
    },
    /// The backend carries a change out.
    CarryOut {
        which: usize,
    },
    End {
        which: usize,
    },
    /// The backend carries a READ ahead out.
    Sample {
        which: usize,
    },
    Arrive {
        which: usize,
        fails: bool,
    },
    /// The end is lowered, and raised again if nothing is in flight past it: there are zeroes then.
    Resize {
        cell: u64,
    },
    /// The connection is lost, and with it what was written lately.
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..CELLS - 8, 1..8u64);
    let step = prop_oneof![
        8 => (0..3usize, 1..8u64).prop_map(|(reader, cells)| Step::Next { reader, cells }),
        2 => place().prop_map(|(cell, cells)| Step::Read { cell, cells }),
        2 => place().prop_map(|(cell, cells)| Step::Begin { cell, cells }),
        2 => any::<usize>().prop_map(|which| Step::CarryOut { which }),
        2 => any::<usize>().prop_map(|which| Step::End { which }),
        4 => any::<usize>().prop_map(|which| Step::Sample { which }),
        6 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(which, fails)| Step::Arrive { which, fails }),
        1 => (0..CELLS).prop_map(|cell| Step::Resize { cell }),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 1..200)
}

/// A backend, those who read and change it, and a cache in front of it. Two changes of one cell are never in flight
/// together, so a cell's versions have an order.
struct Model {
    cache: Cache<Vec<u8>>,
    backend: Vec<u8>,
    /// The last version that has begun to be written, and the last that was answered.
    begun: Vec<u8>,
    ended: Vec<u8>,
    version: u8,
    end: u64,
    readers: [u64; 3],
    /// Changes in flight: id, range, version, whether the backend has carried it out.
    changes: Vec<(u64, ByteRange, u8, bool)>,
    /// READs ahead in flight, and the versions that the backend found.
    fetches: Vec<(Fetch, Option<Vec<u8>>)>,
}

impl Model {
    fn new() -> Self {
        let zeroes = || vec![0; CELLS as usize];
        Self {
            cache: Cache::new(BOUNDS),
            backend: zeroes(),
            begun: zeroes(),
            ended: zeroes(),
            version: 0,
            end: END,
            readers: [0, 40, 80],
            changes: Vec::new(),
            fetches: Vec::new(),
        }
    }

    /// Nothing is older than what had been answered when the READ came, or newer than what has begun.
    fn check(&self, wanted: ByteRange, answered: &[u8], found: Found) {
        let found = versions(found);
        let at = cells(wanted);
        assert_eq!(found.len(), at.len());
        for ((cell, version), oldest) in at.zip(found).zip(answered) {
            let newest = self.begun[cell];
            assert!((*oldest..=newest).contains(&version), "cell {cell}: {version} is not from {oldest} to {newest}");
        }
    }

    fn read(&mut self, wanted: ByteRange) {
        if wanted.end().bytes() > self.end {
            return;
        }
        let answered = self.ended[cells(wanted)].to_vec();
        match self.cache.find(0, wanted) {
            Known::Ready(found) => self.check(wanted, &answered, found),
            Known::Pending(id) => self.cache.wait(id, wanted, answered),
            Known::Unknown => {}
        }
        for fetch in self.cache.follow(0, wanted, self.end) {
            assert!(fetch.range.end().bytes() <= self.end);
            self.fetches.push((fetch, None));
        }
        assert!(self.cache.blocks.iter().map(|block| block.range.len().0).sum::<u64>() <= BOUNDS.limit);
    }

    fn sample(&mut self, which: usize) {
        if let Some((fetch, sampled)) = self.fetches.get_mut(which) {
            sampled.get_or_insert_with(|| self.backend[cells(fetch.range)].to_vec());
        }
    }

    fn carry_out(&mut self, which: usize) {
        if let Some((_, range, version, done)) = self.changes.get_mut(which)
            && !core::mem::replace(done, true)
        {
            self.backend[cells(*range)].fill(*version);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Next { reader, cells } => {
                let at = self.readers[reader];
                self.readers[reader] = if at + cells + 8 > CELLS { 0 } else { at + cells };
                self.read(range(at, cells));
            }
            Step::Read { cell, cells } => self.read(range(cell, cells)),
            Step::Begin { cell, cells: count } => {
                let range = range(cell, count);
                if self.version < u8::MAX && !self.changes.iter().any(|(_, other, ..)| other.overlaps(range)) {
                    self.version += 1;
                    self.begun[cells(range)].fill(self.version);
                    let id = self.cache.change(range);
                    self.changes.push((id, range, self.version, false));
                }
            }
            Step::CarryOut { which } if !self.changes.is_empty() => self.carry_out(which % self.changes.len()),
            Step::End { which } if !self.changes.is_empty() => {
                let which = which % self.changes.len();
                self.carry_out(which);
                let (id, range, version, _) = self.changes.swap_remove(which);
                self.cache.changed(id);
                self.ended[cells(range)].fill(version);
            }
            Step::Sample { which } if !self.fetches.is_empty() => self.sample(which % self.fetches.len()),
            Step::Arrive { which, fails } if !self.fetches.is_empty() => {
                let which = which % self.fetches.len();
                self.sample(which);
                let (fetch, sampled) = self.fetches.swap_remove(which);
                let found = content(&sampled.unwrap());
                for (wanted, answered, found) in self.cache.arrived(fetch.id, Some(&found).filter(|_| !fails)) {
                    if let Some(found) = found {
                        self.check(wanted, &answered, found);
                        continue;
                    }
                    match self.cache.find(0, wanted) {
                        Known::Ready(found) => self.check(wanted, &answered, found),
                        Known::Pending(id) => self.cache.wait(id, wanted, answered),
                        Known::Unknown => {}
                    }
                }
            }
            Step::Resize { cell } => {
                self.end = self.end.min(cell * CELL);
                let gone = ByteRange::beyond(self.end);
                self.cache.drop_all_in(gone);
                let busy = self.cache.is_fetching_beyond(self.end);
                assert_eq!(busy, self.fetches.iter().any(|(fetch, _)| fetch.range.overlaps(gone)));
                if !busy && !self.changes.iter().any(|(_, range, ..)| range.overlaps(gone)) && self.version < u8::MAX {
                    self.version += 1;
                    let at = (self.end / CELL) as usize..;
                    for versions in [&mut self.backend, &mut self.begun, &mut self.ended] {
                        versions[at.clone()].fill(self.version);
                    }
                    self.end = END;
                }
            }
            Step::Lose if self.version < u8::MAX && self.changes.is_empty() => {
                self.version += 1;
                for versions in [&mut self.backend, &mut self.begun, &mut self.ended] {
                    versions.fill(self.version);
                }
                self.cache.drop_all();
                // It is read again, over the next connection.
                self.fetches.iter_mut().for_each(|(_, sampled)| *sampled = None);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_that_is_served_is_older_than_what_was_answered_before(steps in steps()) {
        let mut model = Model::new();
        steps.into_iter().for_each(|step| model.take(step));
        prop_assert!(model.cache.blocks.iter().map(|block| block.takes).sum::<u64>() <= BOUNDS.limit
            || model.cache.blocks.iter().any(|block| block.takes > block.range.len().0));
    }
}
