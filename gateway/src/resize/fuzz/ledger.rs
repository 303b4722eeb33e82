//! The ledger's rows of one export, as they would be found after a crash, and the ways in which writing them fails.

use crate::accounting::account::Entry;

/// How far a row of quota that is held has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    InFlight,
    /// Over, and the ledger did not take that.
    Over,
    Unsettled,
}

/// The rows.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// What counts, and of a window what it shows.
    pub(super) size: u64,
    held: Vec<(u64, Held)>,
}

impl Rows {
    pub(super) const fn new(size: u64) -> Self {
        Self { size, held: Vec::new() }
    }

    /// The largest size that something is held for.
    pub(super) fn pending(&self) -> Option<u64> {
        self.held.iter().map(|(to, _)| *to).filter(|to| *to > self.size).max()
    }

    /// It was opened and measured.
    pub(super) fn open(&mut self, size: u64) {
        *self = Self::new(size);
    }

    /// An entry is written.
    pub(super) fn write(&mut self, entry: Entry) {
        match entry {
            Entry::Hold { to, .. } => {
                self.held.retain(|(_, held)| *held != Held::Over);
                self.held.push((to.bytes(), Held::InFlight));
            }
            Entry::Commit { count } => {
                self.size = count.bytes();
                self.held.retain(|(_, held)| *held != Held::InFlight);
            }
            Entry::RollBack => self.held.retain(|(_, held)| *held != Held::InFlight),
            Entry::Unsettle => self.mark(Held::Unsettled),
            Entry::Settle { count } => self.open(count.bytes()),
            // Of what is shown the rows know nothing.
            Entry::Show { .. } => {}
            Entry::Measure { count } => {
                self.size = count.bytes();
                self.held.retain(|(_, held)| *held != Held::Over);
            }
        }
    }

    /// It was not.
    pub(super) fn fail(&mut self, entry: Entry) {
        match entry {
            Entry::Commit { .. } | Entry::RollBack => self.mark(Held::Over),
            Entry::Unsettle => self.mark(Held::Unsettled),
            Entry::Hold { .. } | Entry::Settle { .. } | Entry::Measure { .. } | Entry::Show { .. } => {}
        }
    }

    fn mark(&mut self, what: Held) {
        self.held.iter_mut().filter(|(_, held)| *held == Held::InFlight).for_each(|(_, held)| *held = what);
    }
}
