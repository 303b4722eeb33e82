//! Connections to one backend server, each shared by many sessions.
//!
//! A [`Lane`] outlives its connection: requests in flight stay in its table when the connection is lost, and are sent again
//! or failed by one set of rules (`lost`). Whoever appends requests writes them; the lane's own task ([`mod@run`]) reads the
//! replies and finishes the jobs. Keeps: exactly one reply (8), replay (7), several lanes only with CAN_MULTI_CONN (9).

mod decode;
mod dial;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod gather;
mod late;
mod lost;
mod run;
mod server;
mod status;
#[cfg(test)]
mod suspend;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use nbd_gateway_net::{Outbox, Written};
use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::{Cookie, Errno};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use dial::{DialError, Dialer};
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{fuzz_replies, fuzz_seeds};
pub(crate) use late::{LateWrites, Link, reach};
pub(crate) use lost::OnLoss;
pub(crate) use run::{Connected, Life, Owner, run};
pub(crate) use server::Server;
pub(crate) use status::LaneStatus;
#[cfg(test)]
pub(crate) use suspend::SuspendedLane;
#[cfg(test)]
pub(crate) use table::Clients;

use crate::request::{Failure, Finished, Job, SessionId};

pub(crate) use crate::request::Heard;
use table::Table;

/// The server is known to be over so many late writes.
pub(crate) fn tell_over(export: &str, count: usize, proof: &str) {
    if count > 0 {
        tracing::info!(export, count, proof, "the server is over the writes of lost connections");
    }
}

/// What the lanes of one export share: a clock of events, and what is answered but not yet known durable.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    /// Orders sendings and answers across lanes.
    clock: AtomicU64,
    /// Number of writes answered.
    written: AtomicU64,
    /// `written` as it was when the last FLUSH that has been answered was sent.
    flushed: AtomicU64,
    /// `written` at the last loss: the sessions of that time owe their clients a failed FLUSH for those.
    known: AtomicU64,
    /// Whether a session has begun since the last loss.
    newcomers: AtomicBool,
    /// The clock after the last counted loss; 0 before the first.
    lost_at: AtomicU64,
    /// Rises by one with each loss of answered, unflushed writes: sessions owe their clients one failed FLUSH.
    losses: AtomicU64,
}

impl Durability {
    /// `undurable`: an earlier opening left answered writes that no FLUSH has covered.
    pub(crate) fn new(undurable: bool) -> Self {
        Self { written: AtomicU64::new(u64::from(undurable)), ..Self::default() }
    }

    /// Whether no FLUSH has covered some of the answered writes.
    pub(crate) fn is_undurable(&self) -> bool {
        self.written.load(Ordering::Acquire) > self.flushed.load(Ordering::Acquire)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::AcqRel)
    }

    /// How many times answered writes may have been lost.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    fn wrote(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    fn flushed(&self, covers: u64) {
        self.flushed.fetch_max(covers, Ordering::AcqRel);
    }

    /// A session begins. Returns the number of losses before it, which its client is not told of.
    pub(crate) fn newcomer(&self) -> u64 {
        self.newcomers.store(true, Ordering::Release);
        self.losses()
    }

    /// Called when a connection is lost unplanned: remembers if answered writes may be gone. Whether they may.
    ///
    /// The same writes can be lost twice: a connection can end without its server, which may lose them later. That counts if
    /// a session has begun in between, for its client takes the next FLUSH to cover them.
    fn lost(&self) -> bool {
        let written = self.written.load(Ordering::Acquire);
        let unheard = written > self.known.swap(written, Ordering::AcqRel);
        let newcomers = self.newcomers.swap(false, Ordering::AcqRel);
        let lost = self.is_undurable() && (unheard || newcomers);
        if lost {
            self.lost_at.store(self.tick() + 1, Ordering::Release);
            self.losses.fetch_add(1, Ordering::AcqRel);
        }
        lost
    }

    /// Whether a loss was counted after `at`, by the clock. A FLUSH that was sent at `at` must not be sent again then.
    fn lost_since(&self, at: u64) -> bool {
        self.lost_at.load(Ordering::Acquire) > at
    }
}

/// One backend connection, past, present or to come.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    table: Mutex<Table>,
    out: Outbox,
    durability: Arc<Durability>,
    /// What lost connections of the export may still bring about.
    late: Arc<LateWrites>,
    /// The present connection, or the last one.
    link: Mutex<Option<Link>>,
    task: Mutex<Option<Waker>>,
    history: Mutex<status::ConnectionHistory>,
    /// Set to have the connection replaced by a new one.
    renew: AtomicBool,
    /// How many connections there have been.
    ups: watch::Sender<u64>,
    /// Set to have the lane stay without a connection.
    aside: watch::Sender<bool>,
    /// Whether it is without one because of that.
    resting: watch::Sender<bool>,
    #[cfg(test)]
    suspension: suspend::Suspension,
}

impl Lane {
    /// A lane that is not yet connected: requests wait.
    pub(crate) fn new(durability: Arc<Durability>, late: Arc<LateWrites>) -> Arc<Self> {
        let lane = Arc::new(Self { durability, late, ..Self::default() });
        lane.late.join(&lane);
        lane
    }

    /// Takes a batch: sends it, keeps it until the connection is back, or fails it if the backend is given up.
    /// One vectored write for all of it, unless another task is writing: then that one takes it along.
    pub(crate) fn submit(&self, jobs: &mut Vec<Job>, finished: &mut Finished) {
        let down = {
            let mut table = self.table.lock();
            match table.down() {
                Some(why) => Some(why),
                None => {
                    let at = self.durability.tick();
                    let covers = self.durability.written.load(Ordering::Acquire);
                    self.out.append(|batch| {
                        jobs.drain(..).for_each(|job| table.insert(job, at, covers, &self.late, batch))
                    });
                    None
                }
            }
        };
        match down {
            Some(why) => jobs.drain(..).for_each(|job| job.fail(Failure::new(Errno::EIO, why.clone()), finished)),
            None => self.flush(),
        }
    }

    /// Sends what late writes held back and do not any more.
    fn send_what_may_be(&self) {
        {
            let mut table = self.table.lock();
            let now = self.durability.tick();
            self.out.append(|batch| table.send_what_may_be(now, &self.late, batch));
        }
        self.flush();
    }

    fn touched(&self, at: u64, range: ByteRange) -> bool {
        self.table.lock().touched(at, range)
    }

    fn flush(&self) {
        let (written, blocked) = self.out.flush();
        // A broken connection is the reader's to see: it gets the end of the stream.
        if let Written::Broken(error, _) = &written {
            tracing::debug!(%error, "backend connection broke while writing");
            self.out.cut();
        }
        if blocked {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn in_flight(&self) -> usize {
        self.table.lock().len()
    }

    /// A task of the gateway's own has given up waiting: what it has with the backend in `range` holds back whatever
    /// overlaps it until it is answered.
    pub(crate) fn left_behind(&self, range: ByteRange) {
        let link = self.link.lock().clone();
        let mut table = self.table.lock();
        for slot in table.abandoned(range) {
            if let Some(link) = &link {
                slot.late = self.late.left_behind(&slot.job.request, link);
            }
        }
    }

    /// Whether a request that may change something is in flight.
    pub(crate) fn has_changes(&self) -> bool {
        self.table.lock().has_changes()
    }

    /// Whether a request past `end` is in flight.
    pub(crate) fn beyond(&self, end: u64) -> bool {
        self.table.lock().beyond(end)
    }

    /// Replaces the connection by a new one: what was sent is answered, a FLUSH makes it durable, what comes meanwhile
    /// waits. Cancel-safe: yes, it is still replaced.
    pub(crate) async fn renew(&self) {
        let mut ups = self.ups.subscribe();
        ups.mark_unchanged();
        self.renew.store(true, Ordering::Release);
        self.wake();
        // An error means that the lane is gone, and with it the need.
        let _ = ups.changed().await;
    }

    /// Takes the lane aside: what was sent is answered, a FLUSH makes it durable, the connection is closed and no other one
    /// made until [`reconnect`](Self::reconnect); requests wait. Cancel-safe: yes, it still goes aside.
    pub(crate) async fn step_aside(&self) {
        self.aside.send_replace(true);
        self.renew.store(true, Ordering::Release);
        self.wake();
        let mut resting = self.resting.subscribe();
        // An error means that the lane is gone, and its connection with it.
        let _ = resting.wait_for(|resting| *resting).await;
    }

    /// Lets the lane connect again; returns once it has. Cancel-safe: yes, it still connects.
    pub(crate) async fn reconnect(&self) {
        let mut ups = self.ups.subscribe();
        ups.mark_unchanged();
        if self.aside.send_replace(false) {
            // An error means that the lane is gone, and with it the need.
            let _ = ups.changed().await;
        }
    }

    /// The ranges of requests in flight that may change data and belong to this session.
    pub(crate) fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        self.table.lock().ranges_of(session)
    }
}
