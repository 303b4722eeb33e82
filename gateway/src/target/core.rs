//! What an export and its coordinator share: the target, the view, and the requests on their way between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_gateway_config::Resolved;
use nbd_gateway_policy::types::{ByteRange, ExportName, TenantId};
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie};
use parking_lot::RwLockReadGuard;
use tokio::sync::watch;

use super::gate::Gate;
use super::held::HeldRequests;
use super::orphans::Orphans;
use super::ranges::Ranges;
use super::view::View;
use super::{Facts, Held, Lanes, Purpose, Target, bridge, lost};
use crate::driver::BackendSnapshot;
use crate::embedded::DiskError;
use crate::fault::Fault;
use crate::request::{Finished, Heard, Job, Origin, Outcome, Request, SessionId};

/// The inside of one open export.
#[derive(Debug)]
pub(crate) struct Core {
    export: ExportName,
    pub(crate) template: Option<String>,
    tenant: TenantId,
    /// A copy of the target's, because each request is checked against them.
    facts: Facts,
    target: Arc<dyn Target>,
    view: Arc<View>,
    pub(super) gate: Gate,
    pub(super) orphans: Orphans,
    pub(super) held: HeldRequests,
    /// Ranges under read-modify-write, where the backend's minimum block is larger than a client may use.
    pub(super) ranges: Ranges,
    /// The backend's size as last read, in bytes.
    known: AtomicU64,
}

impl Core {
    pub(crate) fn new(config: &Resolved, target: Arc<dyn Target>, view: Arc<View>) -> Arc<Self> {
        let facts = target.facts().clone();
        Arc::new(Self {
            export: config.name.clone(),
            template: config.template.clone(),
            tenant: config.tenant.clone(),
            known: AtomicU64::new(facts.size),
            facts,
            target,
            view,
            gate: Gate::default(),
            orphans: Orphans::default(),
            held: HeldRequests::default(),
            ranges: Ranges::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.export.as_str()
    }

    pub(crate) fn export(&self) -> &ExportName {
        &self.export
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The backend's properties, as of the opening.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The export's size and end.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The backend's size as last read, in bytes.
    pub(crate) fn disk(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// Held while requests are judged against the view's end and handed over: a shrink waits for that. Never across an
    /// await.
    pub(crate) fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.pass()
    }

    /// Hands a batch of one origin's requests to the target, as they are.
    pub(crate) fn submit(&self, origin: Origin, jobs: &mut Vec<Job>, finished: &mut Finished) {
        if !jobs.is_empty() {
            self.target.submit(origin, jobs, finished);
        }
    }

    /// Whether the target can't take this request as it is, or it must wait its turn for a range.
    pub(crate) fn needs_bridge(&self, request: &Request) -> bool {
        let block = self.facts.minimum_block();
        match request.command {
            Cmd::FLUSH => false,
            Cmd::READ | Cmd::WRITE if request.length > self.facts.largest_payload() => true,
            _ if request.length > self.facts.longest_range() => true,
            // Where some writes are read-modify-write, none may slip between the reading and the writing.
            _ => {
                block > 1
                    && (request.changes_data()
                        || !request.offset.is_multiple_of(block)
                        || !request.length.is_multiple_of(block))
            }
        }
    }

    /// Carries a request out in a separate task: in pieces that the target takes, and after overlapping orphans.
    pub(crate) fn bridge(self: &Arc<Self>, session: SessionId, job: Job) {
        bridge::spawn(Arc::clone(self), session, job);
    }

    /// A task of the gateway's own has this request: the target does not see it yet, or only parts of it.
    pub(crate) fn hold(self: &Arc<Self>, session: SessionId, job: Job) -> Held {
        Held::new(self, session, job)
    }

    /// A request is over: a drain may continue.
    pub(crate) fn answered(&self) {
        self.view.drain.tell();
    }

    /// Whether requests of sessions that are gone may still change data.
    pub(crate) fn has_orphans(&self) -> bool {
        self.orphans.any()
    }

    /// A session has ended: its requests that may still change data become orphans.
    pub(crate) fn adopt_orphans(&self, session: SessionId) {
        self.orphans.adopt(Origin::Session(session), || {
            let mut ranges = self.target.ranges_of(session);
            ranges.extend(self.held.ranges_of(session));
            ranges
        });
    }

    /// A request of a session that is gone has been answered.
    pub(crate) fn settle_orphan(&self, session: SessionId, cookie: Cookie) {
        self.orphans.settle(Origin::Session(session), cookie);
    }

    /// Carries out a request of the gateway's. Cancel-safe: dropped, a request that was sent is still carried out; a request
    /// that changes data and was not sent is not sent.
    pub(crate) async fn call(&self, request: Request) -> Outcome {
        let (job, outcome) = Job::for_task(request);
        self.target.submit(Origin::Gateway, &mut vec![job], &mut Finished::default());
        outcome.await.unwrap_or_else(|_| lost())
    }

    /// Opens a NOTIFY at the backend; ends with it.
    pub(crate) async fn subscribe(&self, request: Request, hears: watch::Sender<Heard>) -> Outcome {
        let (job, outcome) = Job::for_listener(request, hears);
        self.target.submit(Origin::Gateway, &mut vec![job], &mut Finished::default());
        outcome.await.unwrap_or_else(|_| lost())
    }

    /// Ends the standing NOTIFY: one of length 1 takes its place, and is answered at once.
    pub(crate) async fn unsubscribe(&self) {
        let request = Request::new(Cmd::RESIZE, CmdFlags::NOTIFY, 0, 1);
        self.call(request).await;
    }

    /// The backend's size now, read from the backend. Whole blocks: of a disk that ends inside one of its server's the rest
    /// can't be had. Cancel-safe: yes.
    pub(crate) async fn read_size(&self, purpose: Purpose) -> Result<u64, Fault> {
        let read = self.target.read_size(purpose).await.map(|size| size - size % self.facts.minimum_block());
        if let Ok(size) = read {
            self.known.store(size, Ordering::Release);
        }
        read
    }

    /// Sets an embedded disk's size; the size that is now in force.
    pub(crate) async fn set_size(&self, size: u64) -> Result<u64, DiskError> {
        self.target.set_size(size).await
    }

    /// Its connections to the backend; none: it is embedded.
    pub(crate) fn lanes(&self) -> Option<&Lanes> {
        self.target.lanes()
    }

    /// As a driver needs it to put the backend's export back.
    pub(crate) fn snapshot(&self) -> BackendSnapshot {
        self.facts.snapshot(self.target.lanes().map_or("", Lanes::export))
    }

    /// Waits until no late write can still change `range`. Cancel-safe: yes.
    pub(crate) async fn clear_of_late_writes(&self, range: ByteRange) {
        if let Some(lanes) = self.target.lanes() {
            lanes.late.clear_of(range).await;
        }
    }

    /// No request past `end` is admitted from now on.
    pub(crate) fn lower_end(&self, end: u64) {
        self.gate.shut(|| self.view.lower_end(end));
        self.target.lower_end(end);
    }

    /// Waits until no request past `end` is in flight. Cancel-safe: yes.
    pub(crate) async fn drained_beyond(&self, end: u64) {
        let drain = &self.view.drain;
        loop {
            // A late write past the new end would make the disk longer again.
            self.clear_of_late_writes(ByteRange::beyond(end)).await;
            let answered = drain.answered();
            tokio::pin!(answered);
            answered.as_mut().enable();
            if !self.target.is_busy_beyond(end) && !self.gate.holds_beyond(end) {
                return drain.is_over();
            }
            answered.await;
        }
    }

    /// Whether nothing is inside a target that can't be suspended.
    #[cfg(test)]
    pub(crate) fn is_suspendable(&self) -> bool {
        self.target.lanes().is_some() || self.target.is_idle()
    }

    /// See [`Target::rest`].
    #[cfg(test)]
    pub(crate) fn rest(&self) {
        self.target.rest();
    }

    /// See [`Target::go_on`].
    #[cfg(test)]
    pub(crate) fn go_on(&self) {
        self.target.go_on();
    }

    /// Finishes requests in flight and closes the backend.
    pub(crate) async fn close(&self) {
        self.target.close(&self.export).await;
    }
}
