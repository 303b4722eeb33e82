//! Connections to one NBD server's export, and reading its size over them or beside them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_policy::plan;
use nbd_gateway_policy::types::{ByteRange, ExportName};
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, ExportFlags, Features, Framing};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::probes::{Server, enter};
use super::second::Second;
use super::{Facts, Pending, Presence, Purpose, Target, lost};
use crate::fault::Fault;
use crate::fence::Marks;
use crate::lane::{Dialer, Durability, Lane, LaneStatus, LateWrites};
use crate::limits::Turns;
use crate::ordered_watch::OrderedWatch;
use crate::request::{Finished, Job, Origin, Outcome, Request, SessionId};
use crate::shards::Shard;

/// Connections to one NBD server's export.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(super) facts: Facts,
    pub(super) lanes: Vec<(Arc<Lane>, Shard)>,
    /// In which order sessions come to each lane, where that matters.
    pub(super) turns: Vec<Arc<Turns>>,
    pub(crate) durability: Arc<Durability>,
    /// Where the export leaves its backend when it is closed, if no FLUSH has covered all answered writes.
    pub(super) undurable: Arc<Mutex<HashSet<String>>>,
    pub(crate) late: Arc<LateWrites>,
    /// When it was opened, the server could still carry out requests of an earlier opening or process.
    pub(crate) had_late_writes: bool,
    /// The task that ends the wait for late writes.
    pub(super) keeper: JoinHandle<()>,
    /// The marks of exports that changed data, and the backend's name there.
    pub(super) marks: Arc<Marks>,
    pub(super) identity: String,
    pub(super) end: OrderedWatch<bool>,
    pub(super) dialer: Dialer,
    pub(crate) presence: Arc<Presence>,
    /// Polls sizes.
    pub(super) server: Arc<Server>,
    /// Whether the server can have a connection that stays in its negotiation.
    pub(super) keeps: bool,
    /// The size from the last handshake since the backend was asked for another size.
    pub(super) told: Arc<Mutex<Option<u64>>>,
    /// Whether the server answers a second connection.
    pub(super) second: Second,
    /// No lane has a connection, on purpose.
    pub(super) aside: AtomicBool,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    /// The gateway's name for the export, for logs.
    pub(super) name: String,
}

impl Lanes {
    /// The export's name at the backend.
    pub(super) fn export(&self) -> &str {
        &self.dialer.export
    }

    /// The shard on which a session is to live: its lane's.
    pub(crate) fn shard(&self, session: SessionId) -> Option<Shard> {
        self.of(Origin::Session(session)).map(|(_, shard)| shard.clone())
    }

    /// In which order a session comes to its lane.
    pub(crate) fn turns(&self, session: SessionId) -> Option<Arc<Turns>> {
        self.turns.get(self.number_of(Origin::Session(session))).cloned()
    }

    /// Whether a FLUSH of one session covers the answered writes of all.
    pub(crate) fn flush_covers_all(&self) -> bool {
        self.lanes.len() == 1 || self.facts.flags.has(ExportFlags::CAN_MULTI_CONN)
    }

    /// Whether a request that may change something is in flight.
    pub(super) fn has_changes(&self) -> bool {
        self.lanes.iter().any(|(lane, _)| lane.has_changes())
    }

    /// The state of each connection.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.lanes.iter().map(|(lane, _)| lane.status()).collect()
    }

    /// A task of the gateway gave up waiting for a request in `range`: overlapping requests are held until it is answered.
    pub(crate) fn left_behind(&self, range: ByteRange) {
        self.lanes.iter().for_each(|(lane, _)| lane.left_behind(range));
    }

    /// Whether the backend takes one connection only, as far as is known.
    pub(crate) fn single_connection(&self) -> bool {
        self.second.is_refused()
    }

    /// The size from a lane's handshake since [`forget_handshake_size`](Self::forget_handshake_size), in bytes.
    pub(crate) fn size_from_handshake(&self) -> Option<u64> {
        *self.told.lock()
    }

    /// Discards the size from handshakes so far.
    pub(crate) fn forget_handshake_size(&self) {
        *self.told.lock() = None;
    }

    /// Replaces connections, all or all but the first, or reconnects lanes that were disconnected on purpose.
    pub(crate) async fn renew(&self, which: plan::Lanes) {
        self.aside.store(false, Ordering::Release);
        let lanes = |first| self.lanes.iter().skip(first).map(|(lane, _)| lane);
        match which {
            plan::Lanes::Keep => {}
            plan::Lanes::RehandshakeOthers => together(lanes(1), Lane::renew).await,
            plan::Lanes::ReplaceAfter => together(lanes(0), Lane::renew).await,
            plan::Lanes::DropBefore => together(lanes(0), Lane::reconnect).await,
        }
    }

    /// Closes all connections; requests wait until the lanes are [renewed](Self::renew).
    pub(crate) async fn step_aside(&self) {
        self.aside.store(true, Ordering::Release);
        together(self.lanes.iter().map(|(lane, _)| lane), Lane::step_aside).await;
    }

    /// In band if it can, else by a second handshake.
    async fn ask_size(&self, purpose: Purpose) -> Result<u64, Fault> {
        let in_band = self.facts.framing != Framing::Simple
            && self.facts.resize.is_some_and(|info| info.features.has(Features::QUERY));
        if in_band {
            return self.query_size().await;
        }
        if self.aside.load(Ordering::Acquire) {
            return self.ask_size_aside().await;
        }
        if !self.second.is_due() {
            return Err(Fault::backend("the backend takes one connection only"));
        }
        let asked = match purpose {
            Purpose::Look => self.server.size(&self.dialer, self.keeps).await,
            Purpose::Resize => enter(&self.dialer).await,
        };
        match asked {
            Ok(size) => {
                if self.second.answered() {
                    tracing::info!(export = self.name, "the backend answers a second connection again");
                }
                Ok(size)
            }
            Err(error) => {
                if error.is_late() && self.second.late() {
                    tracing::warn!(export = self.name, %error, "the backend does not answer a second connection; its size is looked at later again");
                }
                Err(error.into())
            }
        }
    }

    async fn query_size(&self) -> Result<u64, Fault> {
        let flags = CmdFlags::QUERY;
        let query = Request::new(Cmd::RESIZE, flags, 0, 0);
        let (job, outcome) = Job::for_task(query);
        self.submit(Origin::Gateway, &mut vec![job], &mut Finished::default());
        match outcome.await.unwrap_or_else(|_| lost()) {
            Outcome::Resized(size) => Ok(size),
            Outcome::Failed(failure) => Err(failure.into()),
            _ => Err(Fault::backend("the backend's answer belongs to another command")),
        }
    }

    /// Reads the size while no lane has a connection: a server that was just restarted may not listen yet.
    /// Cancel-safe: yes.
    async fn ask_size_aside(&self) -> Result<u64, Fault> {
        let mut backoff = Backoff::named(Duration::from_millis(20), Duration::from_secs(1), &self.name);
        loop {
            match enter(&self.dialer).await {
                Ok(size) => return Ok(size),
                Err(error) if !self.aside.load(Ordering::Acquire) => return Err(error.into()),
                Err(error) => tracing::debug!(export = self.name, %error, "the backend does not answer yet"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Called when all lanes have ended. Requests that the server may still carry out are left to the next opening.
    async fn settle_mark(&self, export: &ExportName) {
        if let Some((lost, server)) = self.late.outstanding() {
            self.marks.leave(export, &self.identity, server, lost);
        } else if self.late.has_mark() || self.marks.has(export) {
            self.marks.unmark(export).await;
        }
    }

    fn of(&self, origin: Origin) -> Option<&(Arc<Lane>, Shard)> {
        self.lanes.get(self.number_of(origin))
    }

    /// Which lane requests from there take.
    pub(super) fn number_of(&self, origin: Origin) -> usize {
        let Origin::Session(id) = origin else { return 0 };
        let count = u64::try_from(self.lanes.len()).unwrap_or(1).max(1);
        usize::try_from(id.get() % count).unwrap_or(0)
    }
}

impl Target for Lanes {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A session's requests all take the same lane.
    fn submit(&self, origin: Origin, jobs: &mut Vec<Job>, finished: &mut Finished) {
        if let Some((lane, _)) = self.of(origin) {
            lane.submit(jobs, finished);
        }
    }

    fn is_busy_beyond(&self, end: u64) -> bool {
        self.lanes.iter().any(|(lane, _)| lane.beyond(end))
    }

    fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        self.lanes.iter().flat_map(|(lane, _)| lane.ranges_of(session)).collect()
    }

    fn read_size(&self, purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(self.ask_size(purpose))
    }

    fn lanes(&self) -> Option<&Lanes> {
        Some(self)
    }

    fn close<'a>(&'a self, export: &'a ExportName) -> Pending<'a, ()> {
        Box::pin(async move {
            self.end.set(true);
            let tasks = core::mem::take(&mut *self.tasks.lock());
            for task in tasks {
                // A lane's task does not panic; if it did, its jobs have failed with EIO.
                let _ = task.await;
            }
            self.keeper.abort();
            if self.durability.is_undurable() {
                self.undurable.lock().insert(self.identity.clone());
            }
            self.settle_mark(export).await;
            tracing::info!(export = self.name, "backend let go");
        })
    }
}

/// An opening that is cancelled drops its lanes without closing them; they disconnect in the background.
impl Drop for Lanes {
    fn drop(&mut self) {
        self.end.set(true);
        self.keeper.abort();
    }
}

/// Does the same with several lanes concurrently. Cancel-safe: dropped, it is still done.
async fn together<'a, F>(lanes: impl Iterator<Item = &'a Arc<Lane>>, act: impl Fn(&'a Lane) -> F)
where
    F: Future<Output = ()>,
{
    let mut acts: Vec<_> = lanes.map(|lane| Box::pin(act(lane))).collect();
    // All are started first, whatever each waits for.
    std::future::poll_fn(|cx| {
        acts.retain_mut(|act| act.as_mut().poll(cx).is_pending());
        if acts.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
