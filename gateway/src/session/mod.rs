//! One client connection, from its greeting to its end.
//!
//! A session owns its framing, its selection of contexts, the end up to which it is admitted, its permits and its
//! outgoing queue. Its own task reads and admits (`transmission`); whoever finishes a job appends the reply and writes it.
//! Keeps: memory (1), exactly one reply (8), nobody is stalled by another's reading.

mod admit;
mod handshake;
mod permits;
mod reply;
mod serve;
mod table;
mod transmission;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

pub use permits::TenantBudget;
pub use reply::Ticket;
pub use serve::{Front, serve};
pub use table::{SessionInfo, SessionTable};

use crate::export::Export;
use crate::net::{Outbox, Released, Written};
use crate::proto::{ExportFlags, Framing};
use permits::Permits;

/// What was agreed on with one client when it entered transmission.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// How its requests and replies are framed.
    pub framing: Framing,
    /// The transmission flags it was told.
    pub flags: ExportFlags,
    /// Indexes of the contexts it selected, into the export's.
    pub contexts: Vec<usize>,
    /// The size it was told.
    pub size: u64,
}

/// One client connection in transmission.
#[derive(Debug)]
pub struct Session {
    id: u64,
    export: Arc<Export>,
    agreement: Agreement,
    /// Requests may reach up to here (promise 10: what the handshake said, until the session learns of more).
    end: AtomicU64,
    out: Outbox,
    permits: Permits,
    /// The session's own task, to be woken when the socket is full or permits are back.
    task: Mutex<Option<Waker>>,
    broken: AtomicBool,
    gone: AtomicBool,
    /// How many losses of answered writes this session's client knows of (promise 7).
    losses: AtomicU64,
}

impl Session {
    /// Unique in this process; also chooses the lane.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The export it uses.
    pub fn export(&self) -> &Arc<Export> {
        &self.export
    }

    /// Writes the replies that are queued, if nobody is at it.
    pub fn flush(&self) {
        let (written, blocked) = self.out.flush();
        match written {
            Written::Progress(released) => self.release(released),
            Written::Broken(error, released) => {
                tracing::debug!(session = self.id, %error, "client connection broke while writing");
                self.broken.store(true, Ordering::Release);
                self.release(released);
                self.wake();
            }
        }
        if blocked {
            self.wake();
        }
    }

    fn release(&self, released: Released) {
        if released != Released::default() && self.permits.release(released) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }

    /// Cuts the connection: its task ends, requests in flight finish towards nobody.
    pub fn cut(&self) {
        self.out.cut();
    }

    /// Whether its client is owed a failed FLUSH: answered writes may have been lost `losses` times so far.
    pub fn owes(&self, losses: u64) -> bool {
        self.losses.load(Ordering::Acquire) < losses
    }

    /// Its client has been told, by a failed FLUSH.
    pub fn settle_losses(&self, losses: u64) {
        self.losses.fetch_max(losses, Ordering::AcqRel);
    }

    /// Whether its task has ended: replies have nowhere to go.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}
