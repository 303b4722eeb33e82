//! One client connection, from its greeting to its end.
//!
//! A session owns its framing, its selection of contexts, the end up to which it is admitted, its permits and its
//! outgoing queue. Its own task reads and admits (`transmission`); whoever finishes a job appends the reply and writes it.
//! Others may end it between two messages (`close`).
//! Keeps: memory (1), exactly one reply (8), nobody is stalled by another's reading.

mod admit;
mod close;
mod departure;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod grow;
mod handshake;
mod notify;
mod reply;
mod resize;
mod serve;
mod shutdown;
mod status;
mod submit;
#[cfg(test)]
mod suspend;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod transmission;
mod visitor;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::SystemTime;

use nbd_gateway_config::Limits;
use nbd_gateway_net::tls::PeerCertificate;
use nbd_gateway_net::{Outbox, Peer, Released};
use nbd_gateway_policy::access::{Decision, Verbs};
use nbd_gateway_policy::offer::{Offer, PastEnd};
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::Size;
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{Cmd, ExportFlags, Framing};
use parking_lot::Mutex;
use tokio::sync::Notify;

#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{fuzz_requests, fuzz_seeds};
pub(crate) use serve::{ListenerConfig, serve};
pub(crate) use table::SessionTable;

use crate::export::Export;
use crate::limits::{NoticeLimiter, Permits, Share};
use crate::request::SessionId;
use status::{Progress, SessionStatus};

/// What was agreed on with one client when it entered transmission.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    /// How its requests and replies are framed.
    pub framing: Framing,
    /// The transmission flags it was told.
    pub flags: ExportFlags,
    /// Indexes of the contexts it selected, into the export's.
    pub contexts: Vec<usize>,
    /// The size it was told.
    pub size: u64,
    /// What it knows of resize.
    pub style: ClientStyle,
    /// What it was offered about the export's size.
    pub offer: Offer,
    /// The `x-resize:` contexts that it selected.
    pub sizes: Vec<Context>,
    /// What it may do, and by which rule.
    pub decision: Decision,
}

/// What does not change about a session while it lasts.
#[derive(Debug)]
pub(crate) struct SessionFacts {
    /// Unique in this process; also chooses the lane.
    id: SessionId,
    peer: Peer,
    /// Where the client comes from, for people: with its port.
    pub(crate) from: String,
    /// The listener that the client came by, as the configuration calls it.
    pub(crate) listener: Arc<str>,
    pub(crate) tls: bool,
    /// When it entered transmission.
    pub(crate) since: SystemTime,
    /// The span of the session's log lines. Never entered for a request that goes its ordinary way.
    span: tracing::Span,
    pub(crate) export: Arc<Export>,
    pub(crate) agreement: Agreement,
    /// The client's certificate, if it has shown one.
    certificate: Option<PeerCertificate>,
}

/// What a session begins with, or goes on with.
#[derive(Debug)]
pub(super) struct Known {
    /// The size that the client was last told.
    told: u64,
    repeats: bool,
    losses: u64,
    notices: NoticeLimiter,
}

/// One client connection in transmission. Its [facts](SessionFacts) are read as if they were its own fields.
#[derive(Debug)]
pub(crate) struct Session {
    facts: SessionFacts,
    /// The size that this client was last told: by its handshake, a RESIZE chunk, its own successful resize.
    told: AtomicU64,
    /// Its standing NOTIFY, if there is one.
    notify: Mutex<Option<Arc<notify::Standing>>>,
    /// How fast it is sent notices.
    notices: NoticeLimiter,
    /// Set while a notice of its lies unwritten in the outgoing queue: the next one waits, and is merged.
    unread: AtomicBool,
    read: Notify,
    /// RESIZE requests whose reply is not written; they hold no permit.
    resizes: AtomicU32,
    /// The size that a long poll waits to change: at most one does.
    watching: Mutex<Option<u64>>,
    status: Progress,
    repeats: AtomicBool,
    out: Outbox,
    permits: Permits,
    share: Share,
    /// The session's own task, to be woken when the socket is full or permits are back.
    task: Mutex<Option<Waker>>,
    #[cfg(test)]
    suspension: suspend::Suspension,
    /// How many losses of answered writes this session's client knows of (promise 7).
    losses: AtomicU64,
}

impl Deref for Session {
    type Target = SessionFacts;

    fn deref(&self) -> &SessionFacts {
        &self.facts
    }
}

impl Session {
    /// A session that reads from its client, once its queue has the socket.
    fn new(facts: SessionFacts, known: Known) -> Arc<Self> {
        let Known { told, repeats, losses, notices } = known;
        let Limits { session_requests: requests, session_bytes: bytes, largest_payload: largest, .. } =
            facts.export.settings().config.limits;
        let budget = Arc::clone(&facts.export.budget);
        Arc::new(Self {
            told: AtomicU64::new(told),
            notify: Mutex::new(None),
            notices,
            unread: AtomicBool::new(false),
            read: Notify::new(),
            resizes: AtomicU32::new(0),
            watching: Mutex::new(None),
            status: Progress::default(),
            repeats: AtomicBool::new(repeats),
            permits: Permits::new(facts.id, requests, bytes, largest.into(), budget),
            share: Share::new(facts.id, facts.export.core.lanes().and_then(|lanes| lanes.turns(facts.id))),
            out: Outbox::to_client(),
            task: Mutex::new(None),
            #[cfg(test)]
            suspension: suspend::Suspension::default(),
            losses: AtomicU64::new(losses),
            facts,
        })
    }

    /// Unique in this process; also chooses the lane.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// The end up to which its requests are admitted now (promise 10): a client that knows nothing of resize stays within
    /// what it was told. Who is shown the ceiling is admitted to all of that; what is not there yet is the export's to
    /// answer.
    pub(crate) fn end(&self) -> u64 {
        if self.sees_ceiling() { self.told() } else { self.reach() }
    }

    /// The end up to which its requests go to the backend as they are.
    pub(crate) fn reach(&self) -> u64 {
        let [end, told] =
            [self.export.core.view().end(), self.told()].map(|bytes| Size::new(bytes).unwrap_or(Size::MAX));
        self.agreement.style.admitted_end(end, told).bytes()
    }

    /// What its client may do.
    pub(crate) fn verbs(&self) -> Verbs {
        self.agreement.decision.verbs
    }

    /// Logs what its client asked for and may not do.
    fn denied(&self, command: Cmd, why: &str) {
        let rule = &self.agreement.decision.rule;
        self.span.in_scope(|| tracing::info!(%command, why, %rule, "request denied"));
    }

    /// What becomes of its writes past the end.
    pub(crate) fn past_end(&self) -> PastEnd {
        self.agreement.offer.past_end
    }

    /// Whether its client was cut for a grow and has not yet sent again what it lost.
    pub(crate) fn repeats(&self) -> bool {
        self.repeats.load(Ordering::Acquire)
    }

    /// Whether it was told the ceiling, not the size.
    pub(crate) fn sees_ceiling(&self) -> bool {
        self.agreement.offer.ceiling
    }

    /// The size it was last told, in bytes.
    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Its own write has grown the export: it may read back what it wrote, even if it knows nothing of resize.
    pub(crate) fn wrote_up_to(&self, end: u64) {
        self.told.fetch_max(end, Ordering::AcqRel);
    }

    /// Its client gets this size.
    fn tell(&self, size: u64) {
        self.told.store(size, Ordering::Release);
    }

    fn release(&self, released: Released) {
        if released.notices > 0 {
            self.unread.store(false, Ordering::Release);
            self.read.notify_waiters();
        }
        self.resizes.fetch_sub(released.resizes, Ordering::AcqRel);
        // A resize's end may let it begin another one, or end.
        if released != Released::default() && (self.permits.release(released) || released.resizes > 0) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }

    /// What wakes its own task, to be left where it has to wait.
    fn waker(&self) -> Option<Waker> {
        self.task.lock().clone()
    }

    /// Cuts the connection: its task ends, requests in flight finish towards nobody.
    pub(crate) fn cut(&self) {
        self.out.cut();
    }

    /// Whether its client is owed a failed FLUSH: answered writes may have been lost `losses` times so far.
    pub(crate) fn owes(&self, losses: u64) -> bool {
        self.losses.load(Ordering::Acquire) < losses
    }

    /// Whether replies have nowhere to go.
    fn is_gone(&self) -> bool {
        self.status.now() == SessionStatus::Gone
    }

    /// Whether its client has said its last, and may be back on another connection.
    pub(crate) fn is_left(&self) -> bool {
        self.status.now() >= SessionStatus::Left
    }
}
