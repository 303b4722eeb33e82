//! What each sector of an export may hold, from what its clients know alone: when each write began, when and how it ended,
//! and which writes are safe. A write is safe once it was answered and a FLUSH that began later succeeded (or, where the
//! server keeps what it answered, once it was answered).
//!
//! The rule: after write N is safe, a sector never again holds the bytes of a write that had ended before N began. Writes
//! that overlap in time may land in either order. A write has ended when its client has the answer, good or bad, or has
//! seen the gateway close the connection. A write whose client left without waiting has no end until the gateway that may
//! still read it from the socket is gone.

use std::ops::Range;

use parking_lot::Mutex;

use super::sector::{Content, SECTOR, decode};

/// How a client learned that a write was over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Answered,
    /// Answered with an error: it may have been carried out.
    Failed,
    /// The gateway's end of the connection was closed: likewise.
    Lost,
    /// The client closed the connection itself.
    Abandoned,
}

/// A write, as it was for one sector.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// When it began; also its name.
    sequence: u64,
    ended: Option<(u64, Fate)>,
    zeroes: bool,
    writer: usize,
}

struct Sector {
    /// When the newest safe write began.
    floor: u64,
    /// Writes whose bytes may still show, and some older ones.
    writes: Vec<Write>,
}

struct State {
    /// Orders beginnings and ends.
    clock: u64,
    sectors: Vec<Sector>,
}

impl State {
    const fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

pub(super) struct Model(Mutex<State>);

impl Model {
    /// Of an export that holds zeroes.
    pub(super) fn new(sectors: usize) -> Self {
        let first = Write { sequence: 0, ended: Some((0, Fate::Answered)), zeroes: true, writer: 0 };
        let sectors = (0..sectors).map(|_| Sector { floor: 0, writes: vec![first] }).collect();
        Self(Mutex::new(State { clock: 0, sectors }))
    }

    /// A write is about to be sent; its number.
    pub(super) fn begin(&self, range: Range<usize>, zeroes: bool, writer: usize) -> u64 {
        let mut state = self.0.lock();
        let sequence = state.tick();
        for sector in &mut state.sectors[range] {
            sector.writes.push(Write { sequence, ended: None, zeroes, writer });
        }
        sequence
    }

    /// A write is over, as far as its client can know.
    pub(super) fn end(&self, sequence: u64, range: Range<usize>, fate: Fate) {
        let mut state = self.0.lock();
        let ended = (if fate == Fate::Abandoned { u64::MAX } else { state.tick() }, fate);
        for sector in &mut state.sectors[range] {
            let write = sector.writes.iter_mut().rev().find(|write| write.sequence == sequence);
            write.expect("it began").ended = Some(ended);
        }
    }

    /// An answered write is safe from now on.
    pub(super) fn safe(&self, sequence: u64, range: Range<usize>) {
        for sector in &mut self.0.lock().sectors[range] {
            sector.floor = sector.floor.max(sequence);
        }
    }

    /// The gateway's process has ended: nobody is left to read what was abandoned.
    pub(super) fn gateway_ended(&self) {
        let mut state = self.0.lock();
        let now = state.tick();
        let writes = state.sectors.iter_mut().flat_map(|sector| &mut sector.writes);
        for (end, _) in writes.filter_map(|write| write.ended.as_mut()) {
            if *end == u64::MAX {
                *end = now;
            }
        }
    }

    /// What is safe now, for a READ that begins now.
    pub(super) fn floors(&self, range: Range<usize>) -> Vec<u64> {
        self.0.lock().sectors[range].iter().map(|sector| sector.floor).collect()
    }

    /// Judges what a READ found that began when the safe writes were `floors`. A sector that is being written may be found
    /// torn, unless `still`: nothing is being written. An error is what is wrong.
    pub(super) fn judge(&self, start: usize, floors: &[u64], bytes: &[u8], still: bool) -> Result<(), String> {
        let state = self.0.lock();
        for ((index, floor), bytes) in (start..).zip(floors).zip(bytes.chunks(SECTOR)) {
            let content = decode(index as u64, bytes);
            let sector = &state.sectors[index];
            let may = |write: &Write| write.ended.is_none_or(|(end, _)| end >= *floor);
            let fine = match content {
                Content::Zeroes => sector.writes.iter().any(|write| write.zeroes && may(write)),
                Content::Written(found) => {
                    sector.writes.iter().any(|write| write.sequence == found && !write.zeroes && may(write))
                }
                Content::Damaged => !still,
            };
            if !fine {
                let last: Vec<_> = sector.writes.iter().rev().take(24).map(told).collect();
                return Err(format!(
                    "sector {index} holds {content:?}, although write {floor} is safe; its writes, newest first:\n{}",
                    last.join("\n")
                ));
            }
        }
        Ok(())
    }

    /// While no request is under way: forgets writes whose bytes may not show any more.
    pub(super) fn forget_the_old(&self) {
        for sector in &mut self.0.lock().sectors {
            let floor = sector.floor;
            sector.writes.retain(|write| write.ended.is_none_or(|(end, _)| end >= floor));
        }
    }
}

fn told(write: &Write) -> String {
    let Write { sequence, ended, zeroes, writer } = write;
    let end = match ended {
        None => "is under way".to_owned(),
        Some((u64::MAX, fate)) => format!("{fate:?}"),
        Some((end, fate)) => format!("{fate:?} at {end}"),
    };
    format!("  write {sequence} of client {writer}{}: {end}", if *zeroes { ", zeroes" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durability::sector::encode;

    #[test]
    fn what_ended_before_a_safe_write_began_may_not_show_and_what_overlapped_it_may() {
        let model = Model::new(1);
        let shows = |sequence: u64| model.judge(0, &model.floors(0..1), &encode(0, sequence), true).is_ok();
        let old = model.begin(0..1, false, 1);
        model.end(old, 0..1, Fate::Lost);
        let overlapping = model.begin(0..1, false, 2);
        let new = model.begin(0..1, false, 1);
        model.end(new, 0..1, Fate::Answered);
        assert!(shows(old) && shows(overlapping) && shows(new), "nothing is safe yet");
        model.safe(new, 0..1);
        assert!(!shows(old) && shows(overlapping) && shows(new));
        assert!(model.judge(0, &model.floors(0..1), &[0; SECTOR], true).is_err(), "the first content");
        model.end(overlapping, 0..1, Fate::Abandoned);
        let last = model.begin(0..1, false, 1);
        model.end(last, 0..1, Fate::Answered);
        model.safe(last, 0..1);
        assert!(shows(overlapping) && !shows(new), "the gateway may still read what was abandoned");
        model.gateway_ended();
        let after = model.begin(0..1, true, 1);
        model.end(after, 0..1, Fate::Answered);
        model.safe(after, 0..1);
        model.forget_the_old();
        assert!(!shows(overlapping) && !shows(last));
        assert!(model.judge(0, &model.floors(0..1), &[0; SECTOR], true).is_ok());
    }
}
