//! A grow, step by step: quota and note before the backend is asked, the backend before anyone sees it.

use nbd_gateway_policy::plan::{Grow, Grown, Lanes, Others, Step};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::style::Trial;
use nbd_gateway_policy::types::{ByteRange, Size};

use super::coordinator::{Answer, Coordinator};
use super::effects::{Answered, Effects};
use super::jobs::JobState;
use super::settle::Exposed;

impl<H: Effects> Coordinator<H> {
    /// Carries a grow out. `None`: the size was another one than planned with; plan again.
    pub(super) async fn grow(&mut self, grow: Grow, others: Others, job: u64) -> Option<Answer> {
        let mut answered = Answered::Yes;
        let mut dropped = false;
        for step in grow.steps() {
            match step {
                Step::Reserve(bytes) => {
                    self.desk.jobs.enter(job, JobState::Reserving);
                    if let Err(reason) = self.hold(&grow, bytes).await {
                        return Some(Err(self.refusal(reason)));
                    }
                }
                Step::DropLanes => {
                    if !self.effects.drop_lanes().await {
                        self.call_off().await;
                        return Some(Err(self.refusal(Reason::BackendTimedOut)));
                    }
                    dropped = true;
                }
                Step::Reread => {
                    let read = self.effects.read_size().await;
                    if !matches!(read, Ok(size) if size == self.state.disk.bytes()) {
                        if dropped {
                            self.effects.renew(Lanes::DropBefore).await;
                        }
                        self.call_off().await;
                        return self.misread(read).await;
                    }
                }
                Step::Ask(ask) => {
                    self.desk.jobs.enter(job, JobState::AskingBackend);
                    self.exposed.iter_mut().for_each(|exposed| exposed.asked = true);
                    answered = self.effects.ask(ask).await;
                }
                Step::ReadBack => {
                    let answer = self.read_back_grow(&grow, others, job, answered).await;
                    if dropped {
                        // Whatever came of it.
                        self.effects.renew(Lanes::DropBefore).await;
                    }
                    return Some(answer);
                }
                // After the size has been read back.
                Step::RenewLanes(_) | Step::Zero | Step::Commit | Step::Publish => {}
                // A shrink's.
                Step::LowerEnd(_) | Step::Drain | Step::FreeQuota => {}
            }
        }
        None
    }

    async fn read_back_grow(&mut self, grow: &Grow, others: Others, job: u64, answered: Answered) -> Answer {
        let read = self.outcome(grow.to, &answered).await?;
        match grow.settle(&self.situation(others), read) {
            Grown::Larger { publish, count, zero, short } => {
                self.state.backend = self.state.backend.after(Trial::Grew);
                self.state.disk = Size::new(read).unwrap_or(publish);
                if let Some(range) = zero {
                    self.expose(range);
                }
                self.finish_grow(grow, publish, count, short, job).await
            }
            Grown::Same { count, reason } => {
                // A window counts what it shows, whatever its disk has.
                self.state.disk = Size::new(read).unwrap_or(count);
                let there = self.there(count).await;
                if there > count {
                    // The file has grown, and its server shows what it was.
                    self.commit(there, self.state.size).await;
                } else {
                    self.call_off().await;
                    self.measure(count).await;
                }
                let reason = self.blame(&answered, reason);
                Err(self.refusal(reason))
            }
            Grown::Quarantine(why) => {
                self.account.unsettle().await;
                if let Some(range) = grow.zero.filter(|_| self.state.policy.exclusive) {
                    // Whatever it will be found to have then is this gateway's doing.
                    self.expose(ByteRange::beyond(range.start().bytes()));
                }
                self.quarantine(why);
                Err(self.refusal(Reason::Quarantined))
            }
        }
    }

    /// After the backend has grown: lanes, zeroes, the ledger, and only then the view.
    async fn finish_grow(
        &mut self,
        grow: &Grow,
        publish: Size,
        count: Size,
        short: Option<Reason>,
        job: u64,
    ) -> Answer {
        self.desk.jobs.enter(job, JobState::Settling);
        let count = self.there(count).await;
        if !self.is_window() {
            // What a window counts is there when it is shown; what a backend has, at once.
            self.account.grew(count);
        }
        self.effects.renew(grow.lanes).await;
        if let Err(reason) = self.zero().await {
            if self.is_window() {
                self.account.roll_back(Vec::new()).await;
            } else {
                self.account.commit(count, self.shown(), Vec::new()).await;
            }
            return Err(self.refusal(reason));
        }
        if !self.commit(count, publish).await {
            return Err(self.refusal(Reason::LedgerUnavailable));
        }
        self.publish(publish);
        match short {
            Some(reason) => Err(self.refusal(reason)),
            None => Ok(self.state.size),
        }
    }

    /// The grow is done, and all that it exposed is zero, or is not there. Whether `publish` may be shown: what the ledger
    /// has noted to be zeroed may not, nor what only the ledger knows to be shown.
    async fn commit(&mut self, count: Size, publish: Size) -> bool {
        let zeroed: Vec<_> = self.exposed.iter().map(|exposed| exposed.range).collect();
        let needs_record = !zeroed.is_empty() || self.is_window() || self.account.is_held_back();
        let taken = self.account.commit(count, self.shown_next(publish), zeroed).await;
        if taken {
            self.exposed.clear();
        } else {
            self.exposed.iter_mut().for_each(Exposed::doubt_note);
        }
        taken || !needs_record
    }
}
