//! The one task of an export that changes its size: wishes in, plans from `policy`, steps out.
//!
//! Wishes are taken one at a time in the order of arrival; one that asks for what is already there changes nothing, so
//! equal wishes join. The coordinator decides nothing: [`plan`] does, and says the steps; `grow`,
//! `shrink` and `settle` carry them out. Together they keep the order of promise 3
//! (grow: backend, then publish; shrink: lower the end, drain, backend, publish), reserve before they ask (4), have a
//! range zeroed before anyone can see it (5), read back what counts, and never let a size go back by itself (13).

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::{ResizeMetrics, ResizeResult, ResizeStyle};
use nbd_gateway_policy::export::ExportPolicy;
use nbd_gateway_policy::plan::{Adopt, Others, Plan, Quarantine, Situation, Standing, Wish, plan};
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::style::{BackendStyle, Grows, Trial};
use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::Desk;
use super::counters::{self, is_unsettled};
use super::effects::{Answered, Effects};
use super::jobs::JobState;
use super::openers::Asking;
use super::settle::{Exposed, Read};
use super::status::ResizeStatus;
use crate::accounting::account::Account;
use crate::accounting::history::{Happened, Kind};
use crate::fault::Fault;
#[cfg(test)]
use crate::handover::state::CoordinatorState;
use crate::log::TRACES;

#[cfg(test)]
mod suspend;

/// How often a size of unknown outcome is asked for until somebody knows.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// How soon after a grow for a write another one is for the same stream of writes.
const STREAM: Duration = Duration::from_secs(1);
/// How often a plan may find that the size changed under it before it gives up.
const REPLANS: usize = 4;

/// How a wish ended: the size in force, or why not.
pub(crate) type Answer = Result<Size, Refusal>;

/// What a coordinator is told.
#[derive(Debug)]
pub(crate) enum Act {
    /// Somebody wishes for another size.
    Wish {
        wish: Wish,
        /// The session that wishes, if it is one: it does not stand in the way of its own shrink.
        asking: Option<Asking>,
        job: u64,
        /// What comes of it is told in here; none: as what the export does by itself.
        span: Span,
        /// Who waits; gone means that the wish is still carried out.
        reply: oneshot::Sender<Answer>,
    },
    /// A wish that was refused before it came here, for the history.
    TurnedAway { wish: Wish, refusal: Refusal },
    /// A size that the backend told somebody, who knows when. A hint: it is read again before anything is made of it.
    Seen(u64),
    /// There are other rules: what was not shown by the old ones may be now.
    Adjusted,
    /// Tells what counts, read anew.
    Audit {
        /// And makes the books agree with it.
        apply: bool,
        /// Why not, if it can't be read. Gone means that it is done all the same.
        reply: oneshot::Sender<Result<Size, Fault>>,
    },
    /// Nothing begins until `over` brings back what the coordinator knows.
    #[cfg(test)]
    Rest { resting: oneshot::Sender<CoordinatorState>, over: oneshot::Receiver<CoordinatorState> },
    /// No more growth: the export closes. Answered when what was running is over.
    End(oneshot::Sender<()>),
}

#[derive(Debug)]
pub(crate) struct ResizeState {
    pub export: ExportName,
    pub tenant: TenantId,
    pub policy: ExportPolicy,
    pub size: Size,
    /// How often it has changed.
    pub generation: u64,
    /// The backend's size as read when it was opened.
    pub disk: Size,
    /// How the backend grows and tells.
    pub backend: BackendStyle,
    /// Whether what a grow exposes reads as zeroes by the backend's own doing.
    pub zeroed_by_backend: bool,
    /// The size that an earlier opening asked for, where the server may still carry that out.
    pub unsettled: Option<Size>,
    /// Ranges of an earlier life that must be zeroed before anyone sees them.
    pub unzeroed: Vec<ByteRange>,
    /// How long a drain before a shrink may take.
    pub timeout: Duration,
    /// The ledger is an older copy, and nobody has said yet what the export has: it stays as it is.
    pub older: bool,
}

/// How long a backend that disproved what it claimed is not believed: at first, and at most.
const DISBELIEF: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

pub(crate) struct Coordinator<H> {
    pub(super) state: ResizeState,
    pub(super) standing: Standing,
    pub(super) exposed: Vec<Exposed>,
    pub(super) effects: H,
    pub(super) account: Account,
    pub(super) desk: Arc<Desk>,
    pub(super) metrics: ResizeMetrics,
    /// What the backend or its driver said to the wish at hand, for operators.
    pub(super) said: Option<String>,
    /// The backend could not be looked at beside its lanes, for the wish at hand.
    pub(super) alone: bool,
    /// What the backend claimed to do and did not, and when that is believed once more.
    disproved: Option<(BackendStyle, Instant)>,
    /// How long that took the last time.
    disbelief: Duration,
    /// What the last grow for a write added, and when it was done.
    stream: Option<(Bytes, Instant)>,
}

impl<H: Effects> Coordinator<H> {
    pub(crate) fn new(
        mut state: ResizeState,
        effects: H,
        account: Account,
        desk: Arc<Desk>,
        metrics: ResizeMetrics,
    ) -> Self {
        let exposed = state.unzeroed.drain(..).map(Exposed::earlier).collect();
        let standing = state.unsettled.map_or(Standing::Ready, |asked| Standing::Unsettled { asked });
        let coordinator = Self {
            state,
            standing,
            exposed,
            effects,
            account,
            desk,
            metrics,
            said: None,
            alone: false,
            disproved: None,
            disbelief: Duration::ZERO,
            stream: None,
        };
        coordinator.show();
        coordinator
    }

    fn apply_rules(&mut self) {
        let rules = self.desk.rules.lock().take();
        if let Some(rules) = rules {
            self.effects.apply_rules(&rules);
            self.account.published_by(rules.policy.publish);
            (self.state.policy, self.state.timeout) = (rules.policy, rules.timeout);
        }
    }

    fn show(&self) {
        let ResizeState { size, disk, backend, .. } = self.state;
        *self.desk.status.lock() = Some(ResizeStatus { disk, standing: self.standing, backend });
        counters::stands(&self.metrics, self.standing, size, disk, backend.grows == Grows::Window);
    }

    /// Runs until told to end, or until nobody is left to tell it anything.
    /// Cancel-safe: no; a grow in flight would stay reserved.
    pub(crate) async fn run(mut self, mut acts: mpsc::Receiver<Act>) {
        let mut due = None;
        loop {
            // However often it is told something meanwhile.
            due = self.has_loose_ends().then(|| due.unwrap_or_else(|| Instant::now() + SETTLE_EVERY));
            let believed = self.disproved.map(|(_, at)| at);
            let act = tokio::select! {
                // Acts may come for ever, so they come last; each timer fires once before acts are looked at again.
                biased;
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.apply_rules();
                    self.settle().await;
                    self.show();
                    continue;
                }
                () = tokio::time::sleep_until(believed.unwrap_or_else(Instant::now)), if believed.is_some() => {
                    self.believe_again();
                    continue;
                }
                act = acts.recv() => act,
            };
            let Some(act) = act else { return };
            #[cfg(test)]
            if let Act::Rest { resting, over } = act {
                if self.rest(resting, over, &mut acts).await {
                    continue;
                }
                return;
            }
            if !self.apply(act).await {
                return;
            }
        }
    }

    /// Carries one act out. False: that was the last.
    pub(super) async fn apply(&mut self, act: Act) -> bool {
        self.apply_rules();
        match act {
            Act::Wish { wish, asking, job, span, reply } => {
                let resize = span.in_scope(|| {
                    let (export, tenant) = (self.state.export.as_str(), self.state.tenant.as_str());
                    tracing::debug_span!(target: TRACES, "resize", export, tenant, %wish)
                });
                let answer = self.answer(&wish, asking, job).instrument(resize).instrument(span).await;
                // Whoever asked may be gone; what was done stays done.
                let _ = reply.send(answer);
                true
            }
            Act::TurnedAway { wish, refusal } => {
                let size = self.state.size;
                let happened = Happened::to_wish(&wish, size, size, Some(&refusal), false);
                happened.into_iter().for_each(|happened| self.effects.log_event(happened));
                true
            }
            Act::Seen(size) => {
                self.hint(size).await;
                self.show();
                true
            }
            Act::Adjusted => {
                if self.state.disk > self.state.size && !self.state.older {
                    // What can't be read now is looked at again.
                    let _ = self.look().await;
                    self.show();
                }
                true
            }
            Act::Audit { apply, reply } => {
                let audited = self.audit(apply).await;
                self.show();
                let _ = reply.send(audited);
                true
            }
            #[cfg(test)]
            Act::Rest { .. } => true,
            Act::End(done) => {
                self.standing = Standing::Draining;
                self.show();
                // Nobody waits any more.
                let _ = done.send(());
                false
            }
        }
    }

    /// Carries a wish out, and tells everybody but who wished.
    async fn answer(&mut self, wish: &Wish, asking: Option<Asking>, job: u64) -> Answer {
        let since = Instant::now();
        let from = self.state.size;
        let answer = self.wish(wish, asking, job).await;
        let unknown = matches!(self.standing, Standing::Unsettled { .. });
        let happened = Happened::to_wish(wish, from, self.state.size, answer.as_ref().err(), unknown);
        happened.into_iter().for_each(|happened| self.effects.log_event(happened));
        counters::ended(&self.metrics, wish, &answer, self.state.size, self.standing, since.elapsed());
        // Before the answer: who asks next finds what came of it.
        self.show();
        answer
    }

    pub(super) fn situation(&self, others: Others) -> Situation<'_> {
        Situation {
            export: &self.state.export,
            tenant: &self.state.tenant,
            policy: &self.state.policy,
            size: self.state.size,
            disk: self.state.disk,
            backend: self.backend(),
            zeroed_by_backend: self.state.zeroed_by_backend,
            headroom: self.account.headroom(),
            others,
            standing: self.standing,
            unrecorded: self.account.is_unrecorded(),
            stream: self.stream.filter(|(_, at)| at.elapsed() < STREAM).map_or(Bytes(0), |(added, _)| added),
        }
    }

    /// How the backend grows: one that takes a single connection can be looked at only while no lane has it.
    fn backend(&self) -> BackendStyle {
        match self.state.backend.grows {
            Grows::Driver { aside: false } if self.alone || self.effects.single_connection() => {
                BackendStyle { grows: Grows::Driver { aside: true }, ..self.state.backend }
            }
            _ => self.state.backend,
        }
    }

    pub(super) fn refusal(&self, reason: Reason) -> Refusal {
        Refusal { export: self.state.export.clone(), tenant: self.state.tenant.clone(), reason }
    }

    async fn wish(&mut self, wish: &Wish, asking: Option<Asking>, job: u64) -> Answer {
        (self.said, self.alone) = (None, false);
        let answer = self.carry(wish, asking, job).await;
        let size = self.state.size.bytes();
        let said = self.said.take();
        let told = |refusal: &Refusal| match &said {
            Some(said) => format!("{refusal}: {said}"),
            None => refusal.to_string(),
        };
        match &answer {
            Ok(size) => self.desk.jobs.end(job, JobState::Done, size.bytes(), None),
            Err(refusal) if is_unsettled(&refusal.reason, self.standing) => {
                self.desk.jobs.end(job, JobState::Unsettled, size, Some(told(refusal)));
            }
            Err(refusal) => self.desk.jobs.end(job, JobState::Refused, size, Some(told(refusal))),
        }
        answer
    }

    async fn carry(&mut self, wish: &Wish, asking: Option<Asking>, job: u64) -> Answer {
        if self.state.older {
            return Err(self.refusal(Reason::OlderLedger));
        }
        if self.desk.jobs.was_cancelled(job) {
            return Err(self.refusal(Reason::Cancelled));
        }
        // A person speaks of what the backend is, so that is looked at first.
        if matches!(wish, Wish::Publish | Wish::Adopt { .. }) {
            match self.look().await {
                Ok(Read { in_doubt: false, .. }) => {}
                Ok(Read { in_doubt: true, .. }) => return Err(self.refusal(Reason::Unsettled)),
                // What was read last can be shown all the same; what is lost must have been seen to be lost.
                Err(why) if matches!(wish, Wish::Adopt { .. }) => return Err(self.unread(why.message())),
                Err(_) => {}
            }
        }
        let mut measured = false;
        let mut owes_resize = matches!(wish, Wish::Automatic { .. });
        for _ in 0..REPLANS {
            // Who is there counts now, not when the wish was queued.
            let others = self.desk.openers.others(asking);
            let planned = plan(&self.situation(others), wish);
            // Nobody is refused for want of room by what was only remembered: some of it may be gone.
            if let Plan::Refuse(Refusal { reason: Reason::OverQuota { .. }, .. }) = &planned
                && !std::mem::replace(&mut measured, true)
            {
                self.account.tenants.measured(&self.state.tenant).await;
                continue;
            }
            // Many writes wait for one resize: only the one that makes it costs anything of the rate.
            if matches!(planned, Plan::Grow(_)) && owes_resize {
                self.account.tenants.take_resize(&self.state.tenant).map_err(|reason| self.refusal(reason))?;
                owes_resize = false;
            }
            if matches!(planned, Plan::Grow(_) | Plan::Shrink(_)) && !self.exposed.is_empty() {
                self.zero_exposed().await.map_err(|reason| self.refusal(reason))?;
                // An earlier grow is finished by that: it is shown first.
                self.judge(self.state.disk.bytes()).await;
                continue;
            }
            let done = match planned {
                Plan::Nothing { size } => Some(Ok(size)),
                Plan::Refuse(refusal) => Some(Err(refusal)),
                Plan::Grow(grow) => {
                    let answer = self.grow(grow, others, job).await;
                    if let (Some(Ok(size)), Wish::Automatic { .. }) = (&answer, wish) {
                        self.stream = Some((size.above(grow.from), Instant::now()));
                    }
                    answer
                }
                Plan::Shrink(shrink) => self.shrink(shrink, others, job).await,
                Plan::Adopt(adopt) => Some(self.take(adopt, job).await),
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

    /// Adopts, after nobody is past a lower end any more.
    async fn take(&mut self, adopt: Adopt, job: u64) -> Answer {
        if let Some(end) = adopt.drain {
            self.desk.jobs.enter(job, JobState::Draining);
            self.effects.lower_end(end);
            if !self.effects.drain(end, self.state.timeout).await {
                self.restore();
                return Err(self.refusal(Reason::DrainTimedOut));
            }
        }
        self.adopt(adopt).await;
        match adopt.publish {
            // Nor is what the ledger does not take.
            Some(size) if size != self.state.size && self.account.behind => {
                Err(self.refusal(Reason::LedgerUnavailable))
            }
            // What could not be zeroed is not shown yet.
            Some(size) if size != self.state.size => Err(self.refusal(Reason::BackendFailed)),
            Some(_) | None => Ok(self.state.size),
        }
    }

    /// What a failed ask means: the backend's own refusal tells more than an unchanged size.
    pub(super) fn blame(&mut self, answered: &Answered, unchanged: Reason) -> Reason {
        match answered {
            Answered::Yes => {
                self.broke("it answered success, and its size is what it was");
                if matches!(self.state.backend.grows, Grows::Driver { .. }) {
                    let why = "its server still shows the old size; one that never looks at its file again needs driver = \"restart\" or \"qmp\"";
                    self.said = Some(why.to_owned());
                }
                unchanged
            }
            Answered::No { errno, message } => {
                tracing::info!(export = self.state.export.as_str(), errno, message, "the backend refused a resize");
                self.said = Some(message.clone()).filter(|message| !message.is_empty());
                match errno {
                    28 => Reason::BackendFull,
                    22 => {
                        // The first EINVAL says that it never meant to: a hint that was none.
                        if self.broke("it sets NBD_FLAG_SEND_RESIZE and answered EINVAL") {
                            Reason::FixedSize { size: self.state.size }
                        } else {
                            Reason::BackendFailed
                        }
                    }
                    _ => Reason::BackendFailed,
                }
            }
            Answered::Unknown(why) => {
                tracing::warn!(
                    export = self.state.export.as_str(),
                    why,
                    "the backend did not answer a resize as it should; it is not asked again until it has been read back"
                );
                // Nothing was answered, so nothing is disproved.
                self.said = Some(why.clone());
                Reason::BackendTimedOut
            }
        }
    }

    /// A resize broke. Whether that has cost the backend its credit: a mere claim is not believed again (promise 12), but
    /// after a pause. A server can be another one by then, and its answer was perhaps an accident.
    fn broke(&mut self, why: &str) -> bool {
        let claimed = self.state.backend;
        self.state.backend = claimed.after(Trial::Broke);
        let lost = claimed.can_grow() && !self.state.backend.can_grow();
        if lost {
            self.disbelief = self.disbelief.saturating_mul(2).clamp(DISBELIEF.0, DISBELIEF.1);
            self.disproved = Some((claimed, Instant::now() + self.disbelief));
            self.metrics.claims_lost.inc();
            tracing::warn!(
                export = self.state.export.as_str(),
                why,
                again_in = ?self.disbelief,
                "the backend can't be resized after all; it is taken as fixed for a while"
            );
        }
        lost
    }

    fn believe_again(&mut self) {
        if let Some((claimed, _)) = self.disproved.take() {
            self.state.backend = claimed;
            self.show();
        }
    }

    /// Shows a size. A window's is on record by then.
    pub(super) fn publish(&mut self, size: Size) {
        let generation = self.shown_next(size).generation;
        if size != self.state.size {
            tracing::info!(from = self.state.size.bytes(), to = size.bytes(), generation, "size changed");
        }
        (self.state.size, self.state.generation) = (size, generation);
        self.effects.publish(self.shown());
        counters::size(&self.metrics, size, generation);
    }

    /// Lets requests in again up to what is shown.
    pub(super) fn restore(&mut self) {
        self.effects.publish(self.shown());
    }

    pub(super) fn quarantine(&mut self, why: Quarantine) {
        tracing::error!(export = self.state.export.as_str(), %why, "export quarantined: its size can't be what the backend says");
        self.standing = Standing::Quarantined { found: why.found() };
        let size = self.state.size;
        self.effects.log_event(Happened { kind: Kind::Quarantined, from: size, to: size, detail: why.to_string() });
        self.metrics.ended(ResizeStyle::Backend, ResizeResult::Quarantined);
    }
}
