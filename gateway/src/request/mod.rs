//! The seam between a session and whatever serves its export: a request as data, and its outcome as data.
//!
//! A backend (lanes to an NBD server, or an embedded disk) takes a [`Job`] and finishes it exactly once with an
//! [`Outcome`]. Neither side knows how the other frames its bytes. A job that is dropped unfinished ends with EIO, so a
//! reply can never be forgotten.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::proto::reply::MAX_EXTENTS;
use crate::proto::{Cmd, CmdFlags, Errno, Payload};
use crate::session::Ticket;
use crate::stamp::Stamp;

/// One admitted request. `offset` and `length` are inside the export; lengths are 64-bit whatever the client's framing.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do; never DISC.
    pub command: Cmd,
    /// Only flags that this command and this export allow; PAYLOAD_LEN never.
    pub flags: CmdFlags,
    /// First byte concerned.
    pub offset: u64,
    /// Number of bytes concerned.
    pub length: u64,
    /// What a WRITE writes: exactly `length` bytes. Empty for all others.
    pub payload: Payload,
}

impl Request {
    /// The first byte after the range.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The bytes of its payload, or of its answer's.
    pub fn payload_bytes(&self) -> u64 {
        if matches!(self.command, Cmd::READ | Cmd::WRITE) { self.length } else { 0 }
    }

    /// Whether it may change data: WRITE, TRIM, WRITE_ZEROES.
    pub fn changes_data(&self) -> bool {
        matches!(self.command, Cmd::WRITE | Cmd::TRIM | Cmd::WRITE_ZEROES)
    }
}

/// One piece of what a READ found.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes at an absolute offset.
    Data {
        /// Offset in the export.
        offset: u64,
        /// The bytes.
        payload: Payload,
    },
    /// Zeroes at an absolute offset.
    Hole {
        /// Offset in the export.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// What a READ found: pieces that don't overlap and together are the range asked for.
#[derive(Clone, Debug)]
pub enum Found {
    /// All of it, as data. The usual case: costs no allocation.
    Whole(Payload),
    /// In the order in which the backend sent them.
    Pieces(Vec<Piece>),
}

/// An extent of a metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, never 0.
    pub length: u64,
    /// The context's own flags.
    pub flags: u64,
}

/// The extents of one metadata context, from the request's offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Index into the export's list of contexts.
    pub context: usize,
    /// At least one extent.
    pub extents: Vec<Extent>,
}

/// Why a request failed, as a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error number; one of the protocol's.
    pub errno: Errno,
    /// A sentence for people; empty if there is none. Told to clients with structured replies.
    pub message: Cow<'static, str>,
    /// Where in the range it failed, if known (absolute offset).
    pub offset: Option<u64>,
}

impl Failure {
    /// A failure without an offset.
    pub fn new(errno: Errno, message: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, message: message.into(), offset: None }
    }
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Success without data.
    Done,
    /// A READ's data.
    Found(Found),
    /// A BLOCK_STATUS' extents: one entry for each context of the export, in the export's order, unless the backend left one out.
    Status(Vec<Status>),
    /// A RESIZE's size now in force, in bytes.
    Resized(u64),
    /// Not done.
    Failed(Failure),
}

/// Who waits for the outcome.
#[derive(Debug)]
enum Waiter {
    /// A client's request: the reply goes to its session.
    Client(Ticket),
    /// A task of the gateway's own (splitting, bridging, probing), since then.
    Task(oneshot::Sender<Outcome>, Instant),
    /// Already told.
    Nobody,
}

/// A request on its way, and who waits for its outcome.
#[derive(Debug)]
pub struct Job {
    /// What to do.
    pub request: Request,
    waiter: Waiter,
    /// The most extents of one context that its answer may have.
    extents: usize,
    /// Who hears of sizes before the last, for a RESIZE with NOTIFY.
    hears: Option<watch::Sender<Heard>>,
}

/// The sizes that a standing NOTIFY has brought: the latest, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// In bytes.
    pub size: u64,
    /// Chunks so far.
    pub count: u64,
}

impl Job {
    /// A client's request.
    pub fn for_client(request: Request, ticket: Ticket) -> Self {
        let extents = ticket.extents();
        Self { request, waiter: Waiter::Client(ticket), extents, hears: None }
    }

    /// A request of the gateway's own; the receiver gets its outcome.
    pub fn for_task(request: Request) -> (Self, oneshot::Receiver<Outcome>) {
        let (tx, rx) = oneshot::channel();
        (Self { request, waiter: Waiter::Task(tx, Instant::now()), extents: MAX_EXTENTS, hears: None }, rx)
    }

    /// As [`for_task`](Self::for_task), for a RESIZE with NOTIFY: `hears` gets each size but the last.
    pub fn for_listener(request: Request, hears: watch::Sender<Heard>) -> (Self, oneshot::Receiver<Outcome>) {
        let (job, outcome) = Self::for_task(request);
        (job.with_listener(hears), outcome)
    }

    fn with_listener(mut self, hears: watch::Sender<Heard>) -> Self {
        self.hears = Some(hears);
        self
    }

    /// Bounds the extents of one context that its answer may have.
    pub fn with_extents(mut self, extents: usize) -> Self {
        self.extents = extents;
        self
    }

    /// The most extents of one context that its answer may have: whoever waits for it has room for so many.
    pub fn extents(&self) -> usize {
        self.extents
    }

    /// Whether it stands open until it is replaced: it holds up no end and no renewal.
    pub fn stands(&self) -> bool {
        self.hears.is_some()
    }

    /// Whether nobody waits for its outcome any more.
    pub fn is_abandoned(&self) -> bool {
        match &self.waiter {
            Waiter::Client(_) => false,
            Waiter::Task(tx, _) => tx.is_closed(),
            Waiter::Nobody => true,
        }
    }

    /// A size before the last; the latest wins. Whether anybody hears it.
    pub fn hear(&self, size: u64) -> bool {
        let Some(hears) = &self.hears else { return false };
        hears.send_modify(|heard| *heard = Heard { size, count: heard.count.saturating_add(1) });
        true
    }

    /// When it came; none for one that is to stand.
    pub fn since(&self) -> Option<Instant> {
        match &self.waiter {
            Waiter::Client(ticket) => Some(ticket.since),
            Waiter::Task(_, since) => Some(*since).filter(|_| !self.stands()),
            Waiter::Nobody => None,
        }
    }

    /// The client's side of it, if it is a client's.
    pub fn ticket(&self) -> Option<&Ticket> {
        match &self.waiter {
            Waiter::Client(ticket) => Some(ticket),
            Waiter::Task(..) | Waiter::Nobody => None,
        }
    }

    /// Tells the outcome to who waits for it. The session is not flushed: see [`Finished`].
    pub fn finish(mut self, outcome: Outcome, finished: &mut Finished) {
        match core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            Waiter::Client(ticket) => ticket.reply(&self.request, outcome, finished),
            Waiter::Task(tx, _) => drop(tx.send(outcome)),
            Waiter::Nobody => {}
        }
    }

    /// Gives it up without telling anybody: its client will not be answered, and its connection ends.
    pub fn forget(mut self) {
        if let Waiter::Client(ticket) = core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            ticket.forget(&self.request);
        }
    }

    /// Finishes with an error.
    pub fn fail(self, failure: Failure, finished: &mut Finished) {
        self.finish(Outcome::Failed(failure), finished);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Waiter::Client(ticket) = core::mem::replace(&mut self.waiter, Waiter::Nobody) {
            let mut finished = Finished::default();
            ticket.reply(
                &self.request,
                Outcome::Failed(Failure::new(Errno::EIO, "the request was lost in the gateway")),
                &mut finished,
            );
        }
    }
}

/// The sessions touched by a batch of outcomes; each is written to once, when this is flushed or dropped.
#[derive(Default, Debug)]
pub struct Finished {
    touched: Vec<Arc<crate::session::Session>>,
    stamp: Stamp,
}

impl Finished {
    /// Remembers that `session` has replies to send.
    pub fn touch(&mut self, session: Arc<crate::session::Session>) {
        if !self.touched.iter().any(|s| Arc::ptr_eq(s, &session)) {
            self.touched.push(session);
        }
    }

    /// When a request was finished, to within what [`Stamp`] says.
    pub fn now(&mut self, request: &Request) -> Instant {
        self.stamp.now(request.length)
    }

    /// What is done next may take long, within the same batch.
    pub fn takes_long(&mut self) {
        self.stamp.forget();
    }

    /// One vectored write per session touched. Keeps its allocation for the next batch.
    pub fn flush(&mut self) {
        self.stamp.forget();
        for session in self.touched.drain(..) {
            session.flush();
        }
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_finished_after_a_wait_is_not_said_to_be_from_before() {
        let request =
            Request { command: Cmd::FLUSH, flags: CmdFlags::NONE, offset: 0, length: 0, payload: Payload::empty() };
        let mut finished = Finished::default();
        let mut waits = async |after: fn(&mut Finished)| {
            let before = finished.now(&request);
            after(&mut finished);
            tokio::time::advance(Duration::from_secs(1)).await;
            finished.now(&request) - before
        };
        assert_eq!(waits(Finished::flush).await, Duration::from_secs(1));
        assert_eq!(waits(Finished::takes_long).await, Duration::from_secs(1));
    }
}
