//! The steps of a plan in their order: the one place where the order of a grow and of a shrink is written down.

use super::{Ask, Grow, Lanes, Shrink};
use crate::types::{Bytes, Size};

/// One step. A step that fails ends the plan: what was reserved is rolled back if the backend was not asked, and unsettled
/// if it was and its size can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Hold quota and note what will have to be zeroed, durably and at once.
    Reserve(Bytes),
    /// Admit no request past this end any more.
    LowerEnd(Size),
    /// Wait until the backend has answered all that was admitted past the new end; if that takes too long, put it back.
    Drain,
    /// Close every connection to the backend.
    DropLanes,
    /// Read the backend's size; if it is not what the plan was made for, undo what was done and plan anew.
    Reread,
    /// Ask the backend.
    Ask(Ask),
    /// Read the backend's size, and settle the plan with it.
    ReadBack,
    /// Do what the connections need, so that each of them can use the new size.
    RenewLanes(Lanes),
    /// Zero what was exposed (as the settling says) and make it durable.
    Zero,
    /// Turn the reservation into use and clear the note of what to zero, durably and at once.
    Commit,
    /// Show the size. Notices, hooks and the reply come after this.
    Publish,
    /// Count the smaller size, durably.
    FreeQuota,
}

impl Grow {
    /// The steps: quota and note before the backend is asked, the backend before anyone sees it.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(10);
        steps.push(Step::Reserve(self.reserve));
        // Before the size is re-read: a backend that takes one connection can only then be looked at.
        steps.extend(dropping(self.lanes));
        steps.extend(self.reread.then_some(Step::Reread));
        steps.extend(asking(self.ask));
        steps.push(Step::ReadBack);
        steps.extend(renewing(self.lanes));
        steps.extend(self.zero.map(|_| Step::Zero));
        steps.push(Step::Commit);
        steps.extend(self.show.then_some(Step::Publish));
        steps
    }
}

impl Shrink {
    /// The steps: nobody past the new end before the backend is asked, quota free only when all is done.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::LowerEnd(self.to), Step::Drain];
        steps.extend(dropping(self.lanes));
        steps.extend(self.reread.then_some(Step::Reread));
        steps.extend(asking(self.ask));
        steps.push(Step::ReadBack);
        steps.extend(renewing(self.lanes));
        steps.extend([Step::Publish, Step::FreeQuota]);
        steps
    }
}

fn asking(ask: Ask) -> Option<Step> {
    (ask != Ask::Nothing).then_some(Step::Ask(ask))
}

fn dropping(lanes: Lanes) -> Option<Step> {
    (lanes == Lanes::DropBefore).then_some(Step::DropLanes)
}

fn renewing(lanes: Lanes) -> Option<Step> {
    (lanes != Lanes::Keep).then_some(Step::RenewLanes(lanes))
}
