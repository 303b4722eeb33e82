//! The one task of an export that changes its size: wishes in, plans from `policy`, steps out.
//!
//! Wishes are taken one at a time in the order of arrival; one that asks for what is already there changes nothing, so
//! equal wishes join. The coordinator decides nothing: [`plan`] does, and says the steps. It keeps the order of promise 3
//! (grow: backend, then publish; shrink: lower the end, drain, backend, publish), reserves before it asks (4), has a range
//! zeroed before anyone can see it (5), reads back what counts, and never lets a size go back by itself (13).

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_policy::export::ExportPolicy;
use nbd_gateway_policy::plan::{
    Adopt, Ask, Grow, Grown, Others, Plan, Quarantine, Shrink, Shrunk, Situation, Standing, Step, Wish, plan,
};
use nbd_gateway_policy::quota::Reservation;
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::style::{BackendStyle, Trial};
use nbd_gateway_policy::types::{ByteRange, ExportName, Size, TenantId};
use tokio::sync::{mpsc, oneshot};

use super::book::Book;
use super::hands::{Answered, Hands};
use super::jobs::{JobState, Jobs};
use super::watchers::Told;

/// How often a size of unknown outcome is asked for until somebody knows.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// How often a plan may find that the size changed under it before it gives up.
const REPLANS: usize = 4;

/// How a wish ended: the size in force, or why not.
pub type Answer = Result<Size, Refusal>;

/// What a coordinator is told.
#[derive(Debug)]
pub enum Act {
    /// Somebody wishes for another size.
    Wish {
        /// What.
        wish: Wish,
        /// How many other sessions stand in the way of a shrink.
        others: Others,
        /// Its job.
        job: u64,
        /// Who waits; gone means that the wish is still carried out.
        reply: oneshot::Sender<Answer>,
    },
    /// The backend's size as somebody has just seen it.
    Seen(u64),
    /// No more growth: the export closes. Answered when what was running is over.
    End(oneshot::Sender<()>),
}

/// What a coordinator starts from.
#[derive(Debug)]
pub struct Start {
    /// The export.
    pub export: ExportName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its policy.
    pub policy: ExportPolicy,
    /// The size shown.
    pub size: Size,
    /// The backend's size as read when it was opened.
    pub disk: Size,
    /// How the backend grows and tells.
    pub backend: BackendStyle,
    /// Whether what a grow exposes reads as zeroes by the backend's own doing.
    pub zeroed_by_backend: bool,
    /// Ranges of an earlier life that must be zeroed before anyone sees them.
    pub unzeroed: Vec<ByteRange>,
    /// How long a drain before a shrink may take.
    pub timeout: Duration,
}

/// The task.
pub struct Coordinator<H> {
    at: Start,
    standing: Standing,
    generation: u64,
    hands: H,
    book: Arc<Book>,
    jobs: Arc<Jobs>,
    told: Told,
}

impl<H: Hands> Coordinator<H> {
    /// Ready to run.
    pub fn new(at: Start, hands: H, book: Arc<Book>, jobs: Arc<Jobs>, told: Told) -> Self {
        Self { at, standing: Standing::Ready, generation: 0, hands, book, jobs, told }
    }

    /// Runs until told to end, or until nobody is left to tell it anything.
    /// Cancel-safe: no; a grow in flight would stay reserved.
    pub async fn run(mut self, mut acts: mpsc::Receiver<Act>) {
        loop {
            let unsettled = matches!(self.standing, Standing::Unsettled { .. }) || !self.at.unzeroed.is_empty();
            let act = tokio::select! {
                act = acts.recv() => act,
                () = tokio::time::sleep(SETTLE_EVERY), if unsettled => {
                    self.settle().await;
                    continue;
                }
            };
            match act {
                Some(Act::Wish { wish, others, job, reply }) => {
                    let answer = self.wish(&wish, others, job).await;
                    self.told.ended(&wish, &answer, self.at.size);
                    // Whoever asked may be gone; what was done stays done.
                    let _ = reply.send(answer);
                }
                Some(Act::Seen(size)) => self.heard(size).await,
                Some(Act::End(done)) => {
                    self.standing = Standing::Draining;
                    // Nobody waits any more.
                    let _ = done.send(());
                    return;
                }
                None => return,
            }
        }
    }

    fn situation(&self, others: Others) -> Situation<'_> {
        Situation {
            export: &self.at.export,
            tenant: &self.at.tenant,
            policy: &self.at.policy,
            size: self.at.size,
            disk: self.at.disk,
            backend: self.at.backend,
            zeroed_by_backend: self.at.zeroed_by_backend,
            headroom: self.book.headroom(&self.at.export),
            others,
            standing: self.standing,
        }
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        Refusal { export: self.at.export.clone(), tenant: self.at.tenant.clone(), reason }
    }

    async fn wish(&mut self, wish: &Wish, others: Others, job: u64) -> Answer {
        let answer = self.carry(wish, others, job).await;
        let size = self.at.size.bytes();
        match &answer {
            Ok(size) => self.jobs.end(job, JobState::Done, size.bytes(), None),
            Err(refusal) if matches!(self.standing, Standing::Unsettled { .. }) => {
                self.jobs.end(job, JobState::Unsettled, size, Some(refusal.to_string()));
            }
            Err(refusal) => self.jobs.end(job, JobState::Refused, size, Some(refusal.to_string())),
        }
        answer
    }

    async fn carry(&mut self, wish: &Wish, others: Others, job: u64) -> Answer {
        if self.jobs.was_cancelled(job) {
            return Err(self.refusal(Reason::Cancelled));
        }
        if !self.at.unzeroed.is_empty() && !self.zero_leftovers().await {
            return Err(self.refusal(Reason::BackendFailed));
        }
        for _ in 0..REPLANS {
            let done = match plan(&self.situation(others), wish) {
                Plan::Nothing { size } => Some(Ok(size)),
                Plan::Refuse(refusal) => Some(Err(refusal)),
                Plan::Grow(grow) => self.grow(grow, others, job).await,
                Plan::Shrink(shrink) => self.shrink(shrink, others, job).await,
                Plan::Adopt(adopt) => {
                    self.adopt(adopt).await;
                    Some(Ok(self.at.size))
                }
                Plan::Quarantine(why) => {
                    self.quarantine(why);
                    Some(Err(self.refusal(Reason::Quarantined)))
                }
            };
            if let Some(answer) = done {
                return answer;
            }
        }
        Err(self.refusal(Reason::Busy))
    }

    /// `None`: the size was another one than planned with; plan again.
    async fn grow(&mut self, grow: Grow, others: Others, job: u64) -> Option<Answer> {
        let mut reservation: Option<Reservation> = None;
        let mut noted: Option<ByteRange> = None;
        let mut answered = Answered::Yes;
        let mut short = None;
        for step in grow.steps() {
            match step {
                Step::Reserve(bytes) => {
                    self.jobs.enter(job, JobState::Reserving);
                    match self.book.reserve(&self.at.export, &self.at.tenant, grow.to, bytes).await {
                        Ok(granted) => reservation = Some(granted),
                        Err(reason) => return Some(Err(self.refusal(reason))),
                    }
                }
                Step::NoteZeroes(range) => {
                    if let Err(why) = self.hands.note_zeroes(range).await {
                        tracing::error!(export = self.at.export.as_str(), %why, "the ledger does not take the range to be zeroed; nothing grows");
                        self.roll_back(reservation.take()).await;
                        return Some(Err(self.refusal(Reason::LedgerUnavailable)));
                    }
                    noted = Some(range);
                }
                Step::Reread => match self.hands.read_size().await {
                    Ok(size) if size == self.at.disk.bytes() => {}
                    other => {
                        self.forget(noted.take()).await;
                        self.roll_back(reservation.take()).await;
                        let Ok(size) = other else { return Some(Err(self.refusal(Reason::BackendFailed))) };
                        self.seen(size).await;
                        return None;
                    }
                },
                Step::Ask(ask) => {
                    self.jobs.enter(job, JobState::AskingBackend);
                    answered = self.hands.ask(ask).await;
                }
                Step::ReadBack => {
                    let read = self.hands.read_size().await;
                    let Ok(read) = read else {
                        return Some(Err(self.leave_unsettled(reservation.take(), grow.to, &read).await));
                    };
                    match grow.settle(&self.situation(others), read) {
                        Grown::Larger { publish, count, zero, short: less } => {
                            self.at.backend = self.at.backend.after(Trial::Grew);
                            self.at.disk = Size::new(read).unwrap_or(publish);
                            short = less;
                            // What is to be zeroed may be more or less than was noted.
                            if zero != noted
                                && let Some(range) = zero
                                && let Err(why) = self.hands.note_zeroes(range).await
                            {
                                tracing::error!(export = self.at.export.as_str(), %why, "the ledger does not take the range to be zeroed");
                            }
                            self.at.unzeroed.extend(zero);
                            self.book.commit(reservation.take(), &self.at.export, count).await;
                            return Some(self.finish_grow(&grow, publish, short, job).await);
                        }
                        Grown::Same { count, reason } => {
                            self.forget(noted.take()).await;
                            self.roll_back(reservation.take()).await;
                            self.book.measure(&self.at.export, count).await;
                            self.at.disk = count;
                            let reason = self.judge(&answered, reason);
                            return Some(Err(self.refusal(reason)));
                        }
                        Grown::Quarantine(why) => {
                            self.unsettle(reservation.take(), grow.to).await;
                            self.quarantine(why);
                            return Some(Err(self.refusal(Reason::Quarantined)));
                        }
                    }
                }
                Step::RenewLanes(_) | Step::Zero | Step::ClearZeroes | Step::Commit | Step::Publish => {}
                Step::LowerEnd(_) | Step::Drain | Step::DropLanes | Step::FreeQuota => {}
            }
        }
        let _ = short;
        Some(Ok(self.at.size))
    }

    /// After the backend has grown: lanes, zeroes, and only then the view.
    async fn finish_grow(&mut self, grow: &Grow, publish: Size, short: Option<Reason>, job: u64) -> Answer {
        self.jobs.enter(job, JobState::Settling);
        for step in grow.steps() {
            if let Step::RenewLanes(lanes) = step {
                self.hands.renew(lanes).await;
            }
        }
        if !self.at.unzeroed.is_empty() && !self.zero_leftovers().await {
            return Err(self.refusal(Reason::BackendFailed));
        }
        self.publish(publish).await;
        match short {
            Some(reason) => Err(self.refusal(reason)),
            None => Ok(self.at.size),
        }
    }

    /// What a failed ask means: the backend's own refusal tells more than an unchanged size.
    fn judge(&mut self, answered: &Answered, unchanged: Reason) -> Reason {
        match answered {
            Answered::Yes => {
                self.at.backend = self.at.backend.after(Trial::Broke);
                unchanged
            }
            Answered::No { errno, message } => {
                tracing::info!(export = self.at.export.as_str(), errno, message, "the backend refused a resize");
                match errno {
                    28 => Reason::BackendFull,
                    22 => {
                        // The first EINVAL says that it never meant to: a hint that was none.
                        self.at.backend = self.at.backend.after(Trial::Broke);
                        if self.at.backend.can_grow() {
                            Reason::BackendFailed
                        } else {
                            tracing::warn!(
                                export = self.at.export.as_str(),
                                "the backend sets NBD_FLAG_SEND_RESIZE and does not resize; it is taken as fixed from now on"
                            );
                            Reason::FixedSize { size: self.at.size }
                        }
                    }
                    _ => Reason::BackendFailed,
                }
            }
            Answered::Unknown(why) => {
                tracing::warn!(
                    export = self.at.export.as_str(),
                    why,
                    "the backend did not answer a resize as it should; it is not asked again until it has been read back"
                );
                self.at.backend = self.at.backend.after(Trial::Broke);
                Reason::BackendTimedOut
            }
        }
    }

    /// `None`: the size was another one than planned with; plan again.
    async fn shrink(&mut self, shrink: Shrink, others: Others, job: u64) -> Option<Answer> {
        let mut answered = Answered::Yes;
        for step in shrink.steps() {
            match step {
                Step::LowerEnd(end) => self.hands.lower_end(end),
                Step::Drain => {
                    self.jobs.enter(job, JobState::Draining);
                    if !self.hands.drain(shrink.to, self.at.timeout).await {
                        self.restore();
                        return Some(Err(self.refusal(Reason::BackendTimedOut)));
                    }
                }
                Step::Reread => match self.hands.read_size().await {
                    Ok(size) if size == self.at.disk.bytes() => {}
                    Ok(size) => {
                        self.restore();
                        self.seen(size).await;
                        return None;
                    }
                    Err(_) => {
                        self.restore();
                        return Some(Err(self.refusal(Reason::BackendFailed)));
                    }
                },
                Step::Ask(ask) => {
                    self.jobs.enter(job, JobState::AskingBackend);
                    answered = self.hands.ask(ask).await;
                }
                Step::ReadBack => {
                    let read = self.hands.read_size().await;
                    let Ok(read) = read else {
                        // The end stays lowered until a probe knows.
                        return Some(Err(self.leave_unsettled(None, shrink.to, &read).await));
                    };
                    match shrink.settle(&self.situation(others), read) {
                        Shrunk::Smaller { publish, count } => {
                            self.at.disk = count;
                            for step in shrink.steps() {
                                if let Step::RenewLanes(lanes) = step {
                                    self.hands.renew(lanes).await;
                                }
                            }
                            self.publish(publish).await;
                            self.book.measure(&self.at.export, count).await;
                            return Some(Ok(self.at.size));
                        }
                        Shrunk::Same { count, reason } => {
                            self.at.disk = count;
                            self.restore();
                            let reason = self.judge(&answered, reason);
                            return Some(Err(self.refusal(reason)));
                        }
                        Shrunk::Quarantine(why) => {
                            self.quarantine(why);
                            return Some(Err(self.refusal(Reason::Quarantined)));
                        }
                    }
                }
                Step::Reserve(_) | Step::NoteZeroes(_) | Step::DropLanes | Step::RenewLanes(_) | Step::Zero => {}
                Step::ClearZeroes | Step::Commit | Step::Publish | Step::FreeQuota => {}
            }
        }
        Some(Ok(self.at.size))
    }

    /// A size that somebody saw a moment ago, perhaps before this task changed it: where it is news, it is read again here,
    /// between resizes. Else a look from before a grow would pass for lost bytes, and one from before a shrink for a grow.
    async fn heard(&mut self, size: u64) {
        if self.standing == Standing::Ready && size == self.at.disk.bytes() {
            return;
        }
        match self.hands.read_size().await {
            Ok(size) => self.seen(size).await,
            Err(why) => {
                tracing::debug!(export = self.at.export.as_str(), size, %why, "a size that the backend told can't be read again now");
            }
        }
    }

    /// The backend's size, read just now.
    async fn seen(&mut self, size: u64) {
        match plan(&self.situation(Others::default()), &Wish::Backend { size }) {
            Plan::Adopt(adopt) => self.adopt(adopt).await,
            Plan::Quarantine(why) => self.quarantine(why),
            Plan::Nothing { .. } | Plan::Grow(_) | Plan::Shrink(_) | Plan::Refuse(_) => {}
        }
    }

    async fn adopt(&mut self, adopt: Adopt) {
        let unsettled = matches!(self.standing, Standing::Unsettled { .. });
        self.at.disk = adopt.disk;
        match adopt.count {
            Some(count) if unsettled => self.book.settle(&self.at.export, count).await,
            Some(count) => self.book.measure(&self.at.export, count).await,
            None => {}
        }
        if self.standing != Standing::Draining {
            self.standing = Standing::Ready;
        }
        self.at.unzeroed.extend(adopt.zero);
        self.hands.renew(adopt.lanes).await;
        if !self.at.unzeroed.is_empty() && !self.zero_leftovers().await {
            return;
        }
        match adopt.publish {
            Some(size) => self.publish(size).await,
            // A lowered end goes back up to what is shown.
            None => self.restore(),
        }
    }

    async fn publish(&mut self, size: Size) {
        if size != self.at.size {
            self.generation = self.generation.wrapping_add(1);
            tracing::info!(
                export = self.at.export.as_str(),
                tenant = self.at.tenant.as_str(),
                from = self.at.size.bytes(),
                to = size.bytes(),
                generation = self.generation,
                "size changed"
            );
        }
        self.at.size = size;
        self.hands.publish(size, self.generation);
        self.told.size(size, self.generation);
        self.hands.record(size, self.generation).await;
    }

    fn restore(&mut self) {
        self.hands.publish(self.at.size, self.generation);
    }

    fn quarantine(&mut self, why: Quarantine) {
        tracing::error!(export = self.at.export.as_str(), %why, "export quarantined: its size can't be what the backend says");
        self.standing = Standing::Quarantined;
        self.told.quarantined();
    }

    async fn roll_back(&self, reservation: Option<Reservation>) {
        self.book.roll_back(reservation).await;
    }

    async fn unsettle(&self, reservation: Option<Reservation>, _asked: Size) {
        self.book.unsettle(reservation).await;
    }

    async fn leave_unsettled(
        &mut self,
        reservation: Option<Reservation>,
        asked: Size,
        read: &Result<u64, String>,
    ) -> Refusal {
        let why = read.as_ref().err().map_or("", String::as_str);
        tracing::warn!(
            export = self.at.export.as_str(),
            asked = asked.bytes(),
            why,
            "nobody knows whether the backend was resized; it counts until the size can be read"
        );
        self.unsettle(reservation, asked).await;
        self.standing = Standing::Unsettled { asked };
        self.refusal(Reason::BackendTimedOut)
    }

    async fn settle(&mut self) {
        if matches!(self.standing, Standing::Unsettled { .. }) {
            if let Ok(size) = self.hands.read_size().await {
                self.seen(size).await;
            }
        } else if !self.at.unzeroed.is_empty() && self.zero_leftovers().await {
            self.seen(self.at.disk.bytes()).await;
        }
    }

    /// Zeroes what a grow has exposed and nobody has seen. Whether all of it is zero now.
    async fn zero_leftovers(&mut self) -> bool {
        while let Some(range) = self.at.unzeroed.last().copied() {
            if let Err(why) = self.hands.zero(range).await {
                tracing::error!(export = self.at.export.as_str(), from = range.start().bytes(), to = range.end().bytes(), %why, "a range that a grow exposed could not be zeroed; it is not shown");
                return false;
            }
            if let Err(why) = self.hands.clear_zeroes(range).await {
                tracing::error!(export = self.at.export.as_str(), %why, "the ledger does not take that a range is zero; it is not shown");
                return false;
            }
            self.at.unzeroed.pop();
        }
        true
    }

    async fn forget(&mut self, noted: Option<ByteRange>) {
        if let Some(range) = noted
            && let Err(why) = self.hands.clear_zeroes(range).await
        {
            tracing::warn!(export = self.at.export.as_str(), %why, "a range noted for zeroing stays noted");
        }
    }
}

/// What an ask is, for logs and errors.
pub fn describe(ask: Ask) -> String {
    match ask {
        Ask::Nothing => "nothing".to_owned(),
        Ask::ExplicitResize(size) => format!("NBD_CMD_RESIZE to {size}"),
        Ask::ZeroWriteLastGranule { offset, len } => format!("zeroes over {len} bytes at {}", offset.bytes()),
        Ask::OriginSetLen(size) | Ask::Driver(size) => format!("a size of {size}"),
    }
}
