//! A shrink, step by step: nobody past the new end before the backend is asked, quota free only when all is done.

use nbd_gateway_policy::plan::{Lanes, Others, Shrink, Shrunk, Standing, Step};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::types::Size;

use super::coordinator::{Answer, Coordinator};
use super::effects::{Answered, Effects};
use super::jobs::JobState;

impl<H: Effects> Coordinator<H> {
    /// Carries a shrink out. `None`: the size was another one than planned with; plan again.
    pub(super) async fn shrink(&mut self, shrink: Shrink, others: Others, job: u64) -> Option<Answer> {
        if !self.is_window() && !self.account.lower(self.state.size, shrink.to).await {
            return Some(Err(self.refusal(Reason::LedgerUnavailable)));
        }
        let answer = self.carry_shrink(shrink, others, job).await;
        if !self.is_window() {
            self.account.lowered(matches!(self.standing, Standing::Unsettled { .. })).await;
        }
        answer
    }

    async fn carry_shrink(&mut self, shrink: Shrink, others: Others, job: u64) -> Option<Answer> {
        let mut answered = Answered::Yes;
        let mut dropped = false;
        for step in shrink.steps() {
            match step {
                Step::LowerEnd(end) => self.effects.lower_end(end),
                Step::Drain => {
                    self.desk.jobs.enter(job, JobState::Draining);
                    if !self.effects.drain(shrink.to, self.state.timeout).await {
                        self.restore();
                        return Some(Err(self.refusal(Reason::BackendTimedOut)));
                    }
                }
                Step::DropLanes => {
                    if !self.effects.drop_lanes().await {
                        self.restore();
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
                        self.restore();
                        return self.misread(read).await;
                    }
                }
                Step::Ask(ask) => {
                    self.desk.jobs.enter(job, JobState::AskingBackend);
                    answered = self.effects.ask(ask).await;
                }
                Step::ReadBack => {
                    let answer = self.read_back_shrink(&shrink, others, answered).await;
                    if dropped {
                        // Whatever came of it.
                        self.effects.renew(Lanes::DropBefore).await;
                    }
                    return Some(answer);
                }
                // After the size has been read back.
                Step::RenewLanes(_) | Step::Publish | Step::FreeQuota => {}
                // A grow's.
                Step::Reserve(_) | Step::Zero | Step::Commit => {}
            }
        }
        None
    }

    async fn read_back_shrink(&mut self, shrink: &Shrink, others: Others, answered: Answered) -> Answer {
        // Until it is known the end stays lowered: landing late, a shrink cuts off what was written past it.
        let read = self.outcome(shrink.to, &answered).await?;
        match shrink.settle(&self.situation(others), read) {
            Shrunk::Smaller { publish, count } => {
                self.state.disk = Size::new(read).unwrap_or(count);
                if self.is_window() && !self.account.give_up(count, self.shown_next(publish)).await {
                    // It may be there after a crash all the same: what was to be let go is not used before it is settled.
                    self.leave_unsettled(shrink.to, "the ledger does not take the smaller size").await;
                    return Err(self.refusal(Reason::LedgerUnavailable));
                }
                self.effects.renew(shrink.lanes).await;
                self.publish(publish);
                self.measure(count).await;
                Ok(self.state.size)
            }
            Shrunk::Same { count, reason } => {
                self.state.disk = Size::new(read).unwrap_or(count);
                self.measure(count).await;
                self.restore();
                let reason = self.blame(&answered, reason);
                Err(self.refusal(reason))
            }
            Shrunk::Quarantine(why) => {
                self.quarantine(why);
                Err(self.refusal(Reason::Quarantined))
            }
        }
    }
}
