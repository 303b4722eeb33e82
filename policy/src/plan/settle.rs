//! What to make of the size that is read back after a backend was asked. Answers are not believed; sizes that were read are.

use super::{Ask, Grow, Quarantine, Shrink, Situation};
use crate::refusal::Reason;
use crate::types::{ByteRange, Size};

/// The outcome of a grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grown {
    /// It is larger. Zero, then show it; `short` is why the wish is refused all the same.
    Larger {
        /// The size to show: the one that was shown, if this one is not to be.
        publish: Size,
        /// The size to commit to the ledger.
        count: Size,
        /// What to make read as zeroes first. Where it is more than the plan had noted, note it durably before.
        zero: Option<ByteRange>,
        /// The wish is not met; the size is shown because it is a fact.
        short: Option<Reason>,
    },
    /// Nothing to show. Commit `count`, refuse with the reason.
    Same {
        /// The size to commit to the ledger.
        count: Size,
        /// Why the wish is refused.
        reason: Reason,
    },
    /// The backend has lost bytes.
    Quarantine(Quarantine),
}

/// The outcome of a shrink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shrunk {
    /// It is smaller. Show it, then free the quota.
    Smaller {
        /// The size to show.
        publish: Size,
        /// The size to count.
        count: Size,
    },
    /// It is not. Put the end back, refuse with the reason.
    Same {
        /// The size to count.
        count: Size,
        /// Why the wish is refused.
        reason: Reason,
    },
    /// The backend went further down than it was asked to.
    Quarantine(Quarantine),
}

impl Grow {
    /// What to make of the size read back; `situation` is the one that the plan was made in.
    #[must_use]
    pub fn settle(&self, situation: &Situation<'_>, read: u64) -> Grown {
        let Ok(disk) = Size::new(read) else { return Grown::Quarantine(Quarantine::Impossible { bytes: read }) };
        if disk < self.from {
            return Grown::Quarantine(Quarantine::Smaller { was: self.from, now: disk });
        }
        let gave_less = Reason::BackendGaveLess { needed: self.need, size: disk };
        match self.ask {
            // Only the view moves, as far as there is something behind it.
            Ask::Nothing if disk >= self.to => Grown::Larger {
                publish: self.to,
                count: if situation.is_window() { self.to } else { disk },
                zero: self.zero,
                short: None,
            },
            Ask::Nothing => {
                Grown::Same { count: if situation.is_window() { self.from } else { disk }, reason: gave_less }
            }
            Ask::ExplicitResize(_) | Ask::ZeroWriteLastGranule { .. } | Ask::ResizeEmbedded(_) | Ask::Driver(_) => {
                if disk <= situation.disk {
                    return Grown::Same { count: disk, reason: Reason::BackendUnchanged { size: disk } };
                }
                Grown::Larger {
                    publish: if self.show { disk } else { self.from },
                    count: disk,
                    zero: self.exposed(situation, disk),
                    short: (disk < self.need).then_some(gave_less),
                }
            }
        }
    }

    /// What there is to zero: up to where the gateway asked, and further only where nobody else can have grown it.
    fn exposed(&self, situation: &Situation<'_>, disk: Size) -> Option<ByteRange> {
        let end = if situation.policy.exclusive { disk } else { disk.min(self.to) };
        ByteRange::new(self.zero?.start(), end)
    }
}

impl Shrink {
    /// What to make of the size read back; `situation` is the one that the plan was made in.
    #[must_use]
    pub fn settle(&self, situation: &Situation<'_>, read: u64) -> Shrunk {
        let Ok(disk) = Size::new(read) else { return Shrunk::Quarantine(Quarantine::Impossible { bytes: read }) };
        if disk < self.to {
            return Shrunk::Quarantine(Quarantine::Smaller { was: self.to, now: disk });
        }
        if situation.is_window() {
            return Shrunk::Smaller { publish: self.to, count: self.to };
        }
        if disk < self.from {
            Shrunk::Smaller { publish: disk, count: disk }
        } else {
            Shrunk::Same { count: disk, reason: Reason::BackendUnchanged { size: disk } }
        }
    }
}
