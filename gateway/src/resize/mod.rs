//! Changing an export's size: whoever wishes for it, and whatever the backend is.
//!
//! A wish goes through [`Resizer::wish`] to the export's [`coordinator`], which plans by `policy` and acts through its
//! [`effects`]; [`live_effects`] are the real ones. [`follow`] tells the coordinator what the backend does by itself. Nothing here
//! is on the way of an ordinary request.

pub(crate) mod coordinator;
pub(crate) mod counters;
mod counting;
pub(crate) mod effects;
pub(crate) mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod grow;
pub(crate) mod jobs;
pub(crate) mod live_effects;
pub(crate) mod openers;
#[cfg(test)]
mod rest;
pub(crate) mod rules;
mod settle;
mod shrink;
pub(crate) mod status;
pub(crate) mod window;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nbd_gateway_metrics::ResizeMetrics;
use nbd_gateway_policy::access::Verb;
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::types::{ExportName, Size, TenantId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::accounting::tenants::TenantAccounts;
use crate::fault::Fault;
#[cfg(test)]
use crate::handover::state::CoordinatorState;
use crate::target::ObserveSize;
use coordinator::{Act, Answer};
use jobs::Jobs;
use openers::Openers;
use rules::Rules;
use status::ResizeStatus;

/// How many wishes may wait for one export; more are refused.
const WAITING: usize = 1024;
/// The least time between two events about wishes that do not even come into the queue.
const TURNED_AWAY: Duration = Duration::from_secs(1);

/// The way to an export's coordinator; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Resizer {
    acts: mpsc::Sender<Act>,
    pub desk: Arc<Desk>,
}

/// What the coordinator and everyone who has a way to it share.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Who has the export open.
    pub openers: Arc<Openers>,
    /// Its resizes.
    pub jobs: Jobs,
    /// What else there is to see; nothing before the coordinator runs.
    status: Mutex<Option<ResizeStatus>>,
    /// What the coordinator is to go by from now on, and has not seen yet.
    rules: Mutex<Option<Rules>>,
    /// Until when the backend, which flooded, is not subscribed to.
    deaf: Mutex<Option<Instant>>,
    export: ExportName,
    tenant: TenantId,
    accounts: Arc<TenantAccounts>,
    /// Who counts what is turned away, once the export is open.
    metrics: OnceLock<ResizeMetrics>,
    /// When one was turned away last and its event was asked for.
    away: Mutex<Option<Instant>>,
}

impl Deref for Resizer {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Resizer {
    /// The handle, and what the coordinator is to read from.
    pub(crate) fn new(
        export: ExportName,
        tenant: TenantId,
        openers: Arc<Openers>,
        accounts: Arc<TenantAccounts>,
    ) -> (Self, mpsc::Receiver<Act>) {
        let (acts, rx) = mpsc::channel(WAITING);
        let desk = Desk {
            openers,
            jobs: Jobs::default(),
            status: Mutex::default(),
            rules: Mutex::default(),
            deaf: Mutex::default(),
            export,
            tenant,
            accounts,
            metrics: OnceLock::new(),
            away: Mutex::default(),
        };
        (Self { acts, desk: Arc::new(desk) }, rx)
    }

    /// What was seen last.
    pub(crate) fn status(&self) -> Option<ResizeStatus> {
        *self.status.lock()
    }

    /// The export is open: what is turned away is counted there. Not before, for a name that does not open has no series.
    pub(crate) fn counted_by(&self, metrics: ResizeMetrics) {
        // It is opened once.
        let _ = self.metrics.set(metrics);
    }

    /// Carries a wish out. Cancel-safe: yes; dropped, the wish is still carried out or refused, never half.
    pub(crate) async fn wish(&self, wish: Wish) -> Answer {
        self.sent(wish, false).await.0
    }

    /// The same for a client's explicit wish, which the tenant's rate may have paid for already.
    pub(crate) async fn wish_of_client(&self, wish: Wish, charged: bool) -> Answer {
        self.sent(wish, charged).await.0
    }

    /// Has the coordinator rest after what it is doing: what it knows, and where it gets that back. Wishes that come meanwhile
    /// wait; those that have no one waiting for them then are not carried out. None: it has ended.
    #[cfg(test)]
    pub(crate) async fn rest(&self) -> Option<(CoordinatorState, oneshot::Sender<CoordinatorState>)> {
        let ((resting, rests), (goes_on, over)) = (oneshot::channel(), oneshot::channel());
        self.acts.send(Act::Rest { resting, over }).await.ok()?;
        Some((rests.await.ok()?, goes_on))
    }

    /// The same for an operator, who is also told what the backend or its driver said: that may name paths and programs.
    pub(crate) async fn order(&self, wish: Wish) -> Result<Size, (Refusal, String)> {
        let (answer, job) = self.sent(wish, false).await;
        answer.map_err(|refusal| {
            let said = self.jobs.list().into_iter().find(|known| Some(known.id) == job).and_then(|job| job.error);
            let said = said.unwrap_or_else(|| refusal.to_string());
            (refusal, said)
        })
    }

    /// The answer, and the job that it was.
    async fn sent(&self, wish: Wish, charged: bool) -> (Answer, Option<u64>) {
        let asking = match wish {
            Wish::Explicit { client, .. } => Some(client),
            Wish::Automatic { .. }
            | Wish::Operator { .. }
            | Wish::Publish
            | Wish::Adopt { .. }
            | Wish::Backend { .. } => None,
        };
        if asking.is_some()
            && !charged
            && let Err(reason) = self.accounts.take_resize(&self.tenant)
        {
            return (Err(self.turn_away(&wish, reason)), None);
        }
        let job = self.jobs.begin(wish.to_string());
        let (reply, answer) = oneshot::channel();
        let asking = asking.map(|style| self.openers.asking(style));
        let act = Act::Wish { wish, asking, job, span: tracing::Span::current(), reply };
        if self.acts.try_send(act).is_err() {
            self.jobs.end(
                job,
                jobs::JobState::Refused,
                0,
                Some("too many resizes wait, or the export is closing".to_owned()),
            );
            return (Err(self.turn_away(&wish, Reason::Busy)), Some(job));
        }
        (answer.await.unwrap_or_else(|_| Err(self.refusal(Reason::Draining))), Some(job))
    }

    /// Refuses a wish that its coordinator never hears of. All are counted; few become events, for the way to the history is the
    /// queue in which wishes wait.
    fn turn_away(&self, wish: &Wish, reason: Reason) -> Refusal {
        let refusal = self.refusal(reason);
        if let Some(metrics) = self.metrics.get() {
            counters::turned_away(metrics, wish, &refusal);
        }
        tracing::info!(
            export = self.export.as_str(),
            tenant = self.tenant.as_str(),
            style = counters::style(wish).as_str(),
            why = %refusal,
            "resize refused"
        );
        let now = Instant::now();
        let mut last = self.away.lock();
        if last.is_none_or(|last| now.saturating_duration_since(last) >= TURNED_AWAY) {
            *last = Some(now);
            // Lost to the history only if a thousand wishes wait.
            let _ = self.acts.try_send(Act::TurnedAway { wish: *wish, refusal: refusal.clone() });
        }
        refusal
    }

    /// The refusal of a resize that a client has no verb for: `resize` or `shrink`.
    pub(crate) fn not_authorised(&self, verb: Verb) -> Refusal {
        self.refusal(Reason::NotAuthorised { verb: verb.as_str() })
    }

    /// The backend's size, as somebody has just seen it. Lost only if a thousand wishes wait: the next look finds it again.
    pub(crate) fn seen(&self, size: u64) {
        let _ = self.acts.try_send(Act::Seen(size));
    }

    /// Other rules, from the next thing on that the coordinator does. What it is doing it does by those that it has.
    pub(crate) fn adjust(&self, rules: Rules) {
        *self.rules.lock() = Some(rules);
        // Lost only if a thousand wishes wait: each of them comes after the rules.
        let _ = self.acts.try_send(Act::Adjusted);
    }

    /// What counts of the export now, read anew. With `apply` its books are made to agree with that.
    ///
    /// # Errors
    /// Why it can't be read, in a sentence.
    pub(crate) async fn audit(&self, apply: bool) -> Result<Size, Fault> {
        let (reply, audited) = oneshot::channel();
        let closing = || Fault::us("the export is closing");
        self.acts.send(Act::Audit { apply, reply }).await.map_err(|_| closing())?;
        audited.await.map_err(|_| closing())?
    }

    pub(crate) fn export_name(&self) -> &ExportName {
        &self.export
    }

    /// Ends the coordinator, after what it is doing.
    pub(crate) async fn end(&self) {
        let (done, over) = oneshot::channel();
        if self.acts.send(Act::End(done)).await.is_ok() {
            // An error means that it has ended by itself.
            let _ = over.await;
        }
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        Refusal { export: self.export.clone(), tenant: self.tenant.clone(), reason }
    }
}

impl ObserveSize for Resizer {
    fn observed(&self, size: u64) {
        self.seen(size);
    }
}
