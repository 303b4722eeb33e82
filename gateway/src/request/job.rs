//! A request on its way, and who waits for its outcome: a client, by a [`Ticket`], or a task of the gateway's own.

use std::fmt::Debug;

use nbd_gateway_proto::reply::MAX_EXTENTS;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::{Failure, Finished, Outcome, Request, Ticket};
#[cfg(test)]
use nbd_gateway_proto::{Cmd, CmdFlags};

/// Who waits for the outcome.
#[derive(Debug)]
enum Waiter {
    /// A client's request: the reply goes to that client.
    Client(Ticket),
    /// A task of the gateway's own (splitting, bridging, probing), since then.
    Task(oneshot::Sender<Outcome>, Instant),
    /// Its watcher alone, since then.
    Watcher(Instant),
    /// Already told.
    Nobody,
}

/// Hears of a request's end, once, before its client or its task does.
pub(crate) trait Watcher: Debug + Send + Sync {
    /// `outcome` is None if nobody is told any. Called in the thread that finishes the request.
    fn ended(self: Box<Self>, outcome: Option<&Outcome>, finished: &mut Finished);
}

/// A request on its way, and who waits for its outcome.
#[derive(Debug)]
pub(crate) struct Job {
    pub request: Request,
    waiter: Waiter,
    watcher: Option<Box<dyn Watcher>>,
    /// The most extents of one context that its answer may have.
    extents: usize,
    /// Who hears of sizes before the last, for a RESIZE with NOTIFY.
    hears: Option<watch::Sender<Heard>>,
}

/// The sizes that a standing NOTIFY has brought: the latest, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// In bytes.
    pub size: u64,
    /// Chunks so far.
    pub count: u64,
}

impl Job {
    pub(crate) fn for_client(request: Request, ticket: Ticket) -> Self {
        let extents = ticket.extents();
        Self { request, waiter: Waiter::Client(ticket), watcher: None, extents, hears: None }
    }

    /// A request of the gateway's own; the receiver gets its outcome.
    pub(crate) fn for_task(request: Request) -> (Self, oneshot::Receiver<Outcome>) {
        let (tx, rx) = oneshot::channel();
        let waiter = Waiter::Task(tx, Instant::now());
        (Self { request, waiter, watcher: None, extents: MAX_EXTENTS, hears: None }, rx)
    }

    /// A request of the gateway's own, with an outcome for `watcher` alone.
    pub(crate) fn for_watcher(request: Request, watcher: Box<dyn Watcher>) -> Self {
        let waiter = Waiter::Watcher(Instant::now());
        Self { request, waiter, watcher: Some(watcher), extents: MAX_EXTENTS, hears: None }
    }

    /// Has `watcher` hear of its end.
    pub(crate) fn watched_by(&mut self, watcher: Box<dyn Watcher>) {
        self.watcher = Some(watcher);
    }

    /// As [`for_task`](Self::for_task), for a RESIZE with NOTIFY: `hears` gets each size but the last.
    pub(crate) fn for_listener(request: Request, hears: watch::Sender<Heard>) -> (Self, oneshot::Receiver<Outcome>) {
        let (mut job, outcome) = Self::for_task(request);
        job.hears = Some(hears);
        (job, outcome)
    }

    /// What is asked, for an answer that is read and thrown away.
    #[cfg(test)]
    pub(crate) fn for_nobody(request: Request) -> Self {
        let notify = request.command == Cmd::RESIZE && request.flags.has(CmdFlags::NOTIFY);
        // A NOTIFY stands and hears, or its second size would be one too many.
        let hears = notify.then(|| watch::Sender::new(Heard::default()));
        Self { request, waiter: Waiter::Nobody, watcher: None, extents: MAX_EXTENTS, hears }
    }

    /// The client that waits for the answer, which this job does not give any more; none for a task of the gateway's own.
    #[cfg(test)]
    pub(crate) fn take_ticket(&mut self) -> Option<Ticket> {
        match core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            Waiter::Client(ticket) => Some(ticket),
            Waiter::Task(..) | Waiter::Watcher(_) | Waiter::Nobody => None,
        }
    }

    /// Bounds the extents of one context that its answer may have.
    pub(crate) fn with_extents(mut self, extents: usize) -> Self {
        self.extents = extents;
        self
    }

    /// The most extents of one context that its answer may have: whoever waits for it has room for so many.
    pub(crate) fn extents(&self) -> usize {
        self.extents
    }

    /// Whether it stands open until it is replaced: it holds up no end and no renewal.
    pub(crate) fn stands(&self) -> bool {
        self.hears.is_some()
    }

    /// Whether nobody waits for its outcome any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match &self.waiter {
            Waiter::Client(_) | Waiter::Watcher(_) => false,
            Waiter::Task(tx, _) => tx.is_closed(),
            Waiter::Nobody => true,
        }
    }

    /// A size before the last; the latest wins. Whether anybody hears it.
    pub(crate) fn hear(&self, size: u64) -> bool {
        let Some(hears) = &self.hears else { return false };
        hears.send_modify(|heard| *heard = Heard { size, count: heard.count.saturating_add(1) });
        true
    }

    /// When it came; none for one that is to stand.
    pub(crate) fn since(&self) -> Option<Instant> {
        match &self.waiter {
            Waiter::Client(ticket) => Some(ticket.since()),
            Waiter::Task(_, since) | Waiter::Watcher(since) => Some(*since).filter(|_| !self.stands()),
            Waiter::Nobody => None,
        }
    }

    /// The client's side of it, if it is a client's.
    pub(crate) fn ticket(&self) -> Option<&Ticket> {
        match &self.waiter {
            Waiter::Client(ticket) => Some(ticket),
            Waiter::Task(..) | Waiter::Watcher(_) | Waiter::Nobody => None,
        }
    }

    /// Tells the outcome to whoever waits for it. A client is not flushed: see [`Finished`].
    pub(crate) fn finish(mut self, outcome: Outcome, finished: &mut Finished) {
        self.tell_watcher(Some(&outcome), finished);
        match core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            Waiter::Client(ticket) => ticket.reply(&self.request, outcome, finished),
            Waiter::Task(tx, _) => drop(tx.send(outcome)),
            Waiter::Watcher(_) | Waiter::Nobody => {}
        }
    }

    /// Gives it up without telling anybody: its client will not be answered, and its connection ends.
    pub(crate) fn forget(mut self) {
        self.tell_watcher(None, &mut Finished::default());
        if let Waiter::Client(ticket) = core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            ticket.forget(&self.request);
        }
    }

    fn tell_watcher(&mut self, outcome: Option<&Outcome>, finished: &mut Finished) {
        if let Some(watcher) = self.watcher.take() {
            watcher.ended(outcome, finished);
        }
    }

    pub(crate) fn fail(self, failure: Failure, finished: &mut Finished) {
        self.finish(Outcome::Failed(failure), finished);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.watcher.is_some() {
            self.tell_watcher(None, &mut Finished::default());
        }
        if let Waiter::Client(ticket) = core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            let mut finished = Finished::default();
            ticket.reply(&self.request, Outcome::Failed(Failure::lost()), &mut finished);
        }
    }
}
