//! A grow, step by step: quota and note before the backend is asked, the backend before anyone sees it.

use nbd_gateway_policy::plan::{Grow, Grown, Lanes, Others, Step};
use nbd_gateway_policy::quota::Reservation;
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::style::Trial;
use nbd_gateway_policy::types::Size;

use super::coordinator::{Answer, Coordinator};
use super::effects::{Answered, Effects};
use super::jobs::JobState;
use super::settle::Exposed;

impl<H: Effects> Coordinator<H> {
    /// Carries a grow out. `None`: the size was another one than planned with; plan again.
    pub(super) async fn grow(&mut self, grow: Grow, others: Others, job: u64) -> Option<Answer> {
        let mut held: Option<Reservation> = None;
        let mut answered = Answered::Yes;
        let mut dropped = false;
        for step in grow.steps() {
            match step {
                Step::Reserve(bytes) => {
                    self.jobs.enter(job, JobState::Reserving);
                    match self.hold(grow.to, bytes).await {
                        Ok(granted) => held = Some(granted),
                        Err(reason) => return Some(Err(self.refusal(reason))),
                    }
                }
                Step::NoteZeroes(range) => {
                    // Kept even if that fails: the note may be there all the same.
                    let noted = self.note(range).await;
                    self.exposed.push(Exposed::planned(range));
                    if !noted {
                        self.forget_planned().await;
                        self.roll_back(held.take()).await;
                        return Some(Err(self.refusal(Reason::LedgerUnavailable)));
                    }
                }
                Step::DropLanes => {
                    if !self.effects.drop_lanes().await {
                        self.forget_planned().await;
                        self.roll_back(held.take()).await;
                        return Some(Err(self.refusal(Reason::BackendTimedOut)));
                    }
                    dropped = true;
                }
                Step::Reread => match self.effects.read_size().await {
                    Ok(size) if size == self.at.disk.bytes() => {}
                    other => {
                        if dropped {
                            self.effects.renew(Lanes::DropBefore).await;
                        }
                        self.forget_planned().await;
                        self.roll_back(held.take()).await;
                        match other {
                            Ok(size) => self.judge(size).await,
                            Err(_) if self.can_look_alone() => {}
                            Err(why) => return Some(Err(self.unread(why.message()))),
                        }
                        return None;
                    }
                },
                Step::Ask(ask) => {
                    self.jobs.enter(job, JobState::AskingBackend);
                    self.exposed.iter_mut().for_each(Exposed::asked);
                    answered = self.effects.ask(ask).await;
                }
                Step::ReadBack => {
                    let answer = self.read_back_grow(&grow, others, job, held, answered).await;
                    if dropped {
                        // Whatever came of it.
                        self.effects.renew(Lanes::DropBefore).await;
                    }
                    return Some(answer);
                }
                // After the size has been read back.
                Step::RenewLanes(_) | Step::Zero | Step::ClearZeroes | Step::Commit | Step::Publish => {}
                // A shrink's.
                Step::LowerEnd(_) | Step::Drain | Step::FreeQuota => {}
            }
        }
        None
    }

    async fn read_back_grow(
        &mut self,
        grow: &Grow,
        others: Others,
        job: u64,
        held: Option<Reservation>,
        answered: Answered,
    ) -> Answer {
        let (read, held) = self.outcome(grow.to, held, &answered).await?;
        match grow.settle(&self.situation(others), read) {
            Grown::Larger { publish, count, zero, short } => {
                self.at.backend = self.at.backend.after(Trial::Grew);
                self.at.disk = Size::new(read).unwrap_or(publish);
                if let Some(range) = zero {
                    self.expose(range);
                }
                // What a window counts is there when it is shown; what a backend has, at once.
                let held = if self.is_window() {
                    held
                } else {
                    self.commit(held, count).await;
                    None
                };
                self.finish_grow(grow, (publish, count), held, short, job).await
            }
            Grown::Same { count, reason } => {
                // A window counts what it shows, whatever its disk has.
                self.at.disk = Size::new(read).unwrap_or(count);
                self.forget_planned().await;
                if self.there(count).await > count {
                    // The file has grown, and its server shows what it was.
                    self.commit(held, count).await;
                } else {
                    self.roll_back(held).await;
                    self.measure(count).await;
                }
                let reason = self.blame(&answered, reason);
                Err(self.refusal(reason))
            }
            Grown::Quarantine(why) => {
                self.unsettle(held).await;
                self.quarantine(why);
                Err(self.refusal(Reason::Quarantined))
            }
        }
    }

    /// After the backend has grown: lanes, zeroes, and only then the view.
    async fn finish_grow(
        &mut self,
        grow: &Grow,
        (publish, count): (Size, Size),
        held: Option<Reservation>,
        short: Option<Reason>,
        job: u64,
    ) -> Answer {
        self.jobs.enter(job, JobState::Settling);
        self.effects.renew(grow.lanes).await;
        if !self.zero_exposed().await {
            self.roll_back(held).await;
            return Err(self.refusal(Reason::BackendFailed));
        }
        if self.is_window() {
            if !self.commit(held, count).await {
                return Err(self.refusal(Reason::LedgerUnavailable));
            }
            self.at.unrecorded = false;
        }
        if !self.will_show(publish).await {
            return Err(self.refusal(Reason::LedgerUnavailable));
        }
        self.publish(publish);
        match short {
            Some(reason) => Err(self.refusal(reason)),
            None => Ok(self.at.size),
        }
    }
}
