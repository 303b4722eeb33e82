//! What a client opens: an export, what it looks like now, and what serves it.
//!
//! An [`Export`] is opened by the first client that asks for it and let go when idle (`registry`). It sends requests to
//! its backend as they are where it can, and over the `bridge` where the backend's limits differ from the client's.
//! Keeps: several lanes only if a FLUSH covers them (9), no overtaking of requests whose session is gone (14).

mod backend;
mod bridge;
mod orphans;
mod ranges;
mod registry;

use std::sync::Arc;

use nbd_gateway_config::Resolved;
use nbd_gateway_metrics::{self as metrics, ExportMetrics};
use tokio::time::Instant;

pub use backend::{Backend, Facts};
pub use registry::{Lease, OpenError, Registry};

use crate::proto::flags::{Basis, for_client};
use crate::proto::handshake::BlockSizes;
use crate::proto::{Cmd, Cookie, Errno, ExportFlags, Framing};
use crate::session::{Session, TenantBudget};
use crate::shards::Shard;
use crate::work::{Failure, Finished, Found, Job, Outcome, Piece, Request};
use orphans::Orphans;
use ranges::Ranges;

/// The bounds of one session of an export.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight.
    pub requests: u32,
    /// Payload bytes in flight.
    pub bytes: u64,
    /// The largest payload of one request, in bytes.
    pub largest: u64,
}

/// One export, open.
#[derive(Debug)]
pub struct Export {
    config: Resolved,
    facts: Facts,
    backend: Backend,
    limits: Limits,
    budget: Arc<TenantBudget>,
    metrics: ExportMetrics,
    orphans: Orphans,
    /// Ranges under read-modify-write, where the backend's minimum block is larger than a client may use.
    ranges: Ranges,
}

impl Export {
    fn new(
        config: Resolved,
        facts: Facts,
        backend: Backend,
        budget: Arc<TenantBudget>,
        metrics: ExportMetrics,
    ) -> Self {
        let limits = Limits {
            requests: config.limits.session_requests,
            bytes: config.limits.session_bytes,
            largest: u64::from(config.limits.largest_payload),
        };
        Self { config, facts, backend, limits, budget, metrics, orphans: Orphans::default(), ranges: Ranges::default() }
    }

    /// Its name, as clients say it.
    pub fn name(&self) -> &str {
        self.config.name.as_str()
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        self.config.tenant.as_str()
    }

    /// For people: the configuration's, else the backend's.
    pub fn description(&self) -> Option<&str> {
        self.config.description.as_deref().or(self.facts.description.as_deref())
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.facts.size
    }

    /// The metadata contexts that the backend has, in a fixed order.
    pub fn contexts(&self) -> &[String] {
        &self.facts.contexts
    }

    /// The bounds of one session.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What its tenant's sessions share.
    pub fn budget(&self) -> &Arc<TenantBudget> {
        &self.budget
    }

    /// The transmission flags for a client with this framing.
    pub fn flags_for(&self, client: Framing) -> ExportFlags {
        let basis = Basis {
            backend: self.facts.flags,
            lanes: self.facts.framing,
            client,
            read_only: self.config.read_only || self.facts.flags.has(ExportFlags::READ_ONLY),
            flush_covers_all: self.backend.flush_covers_all(self.facts.flags),
            resize: false,
        };
        for_client(basis, !self.facts.contexts.is_empty())
    }

    /// What clients are told about block sizes: the backend's, with the largest payload that the gateway takes. Nothing if
    /// the backend says nothing and the gateway takes what every client assumes (32 MiB).
    pub fn block_sizes(&self) -> Option<BlockSizes> {
        const ASSUMED: u32 = 32 << 20;
        let largest = u32::try_from(self.limits.largest).unwrap_or(u32::MAX);
        match self.facts.block_sizes {
            Some(sizes) => {
                let maximum = sizes.maximum.min(largest) / sizes.minimum.max(1) * sizes.minimum.max(1);
                Some(BlockSizes { maximum: maximum.max(sizes.minimum), preferred: sizes.preferred, ..sizes })
            }
            None if largest < ASSUMED => {
                Some(BlockSizes { minimum: 1, preferred: 4096.min(largest), maximum: largest })
            }
            None => None,
        }
    }

    /// How many times answered, unflushed writes may have been lost.
    pub fn losses(&self) -> u64 {
        self.backend.losses()
    }

    /// The shard on which a session is to live, if it matters.
    pub fn shard(&self, session: u64) -> Option<Shard> {
        self.backend.shard(session)
    }

    /// Counts a request in flight; [`count`](Self::count) takes it off again.
    pub fn admit(&self, requests: usize) {
        self.metrics.in_flight.add(i64::try_from(requests).unwrap_or(0));
    }

    /// Takes a batch of one session's requests. What fits the backend goes to it as one batch; the rest takes the bridge.
    pub fn submit(self: &Arc<Self>, session: &Arc<Session>, jobs: &mut Vec<Job>, finished: &mut Finished) {
        self.admit(jobs.len());
        let orphans = self.orphans.any();
        let losses = self.backend.losses();
        let special = |request: &Request| {
            orphans || self.needs_bridge(request) || (request.command == Cmd::FLUSH && session.owes(losses))
        };
        if jobs.iter().any(|job| special(&job.request)) {
            let (rare, plain): (Vec<Job>, Vec<Job>) = jobs.drain(..).partition(|job| special(&job.request));
            *jobs = plain;
            for job in rare {
                if job.request.command == Cmd::FLUSH && session.owes(losses) {
                    session.settle_losses(losses);
                    let why = "the backend's connection was lost with answered writes that may not be durable; write them again";
                    job.fail(Failure::new(Errno::EIO, why), finished);
                } else {
                    bridge::spawn(Arc::clone(self), session.id(), job);
                }
            }
        }
        self.backend.submit(session.id(), jobs, finished);
    }

    /// Counts an answered request.
    pub fn count(&self, request: &Request, outcome: &Outcome, since: Instant) {
        let length = || Some(request.length);
        let bytes = match (request.command, outcome) {
            (Cmd::READ, Outcome::Found(_)) => length().map(|n| (metrics::Direction::Read, n)),
            (Cmd::WRITE, Outcome::Done) => length().map(|n| (metrics::Direction::Write, n)),
            _ => None,
        };
        self.metrics.in_flight.dec();
        self.metrics.answered(command(request.command), result(outcome), since.elapsed().as_secs_f64(), bytes);
    }

    /// A session has ended: its requests that may still change data must not be overtaken by overlapping ones.
    pub fn leave(&self, session: &Session) {
        self.orphans.adopt(session.id(), || {
            let mut ranges = self.backend.ranges_of(session.id());
            ranges.extend(self.ranges.ranges_of(session.id()));
            ranges
        });
    }

    /// A request of a session that is gone has been answered.
    pub fn settle_orphan(&self, session: u64, cookie: Cookie) {
        self.orphans.settle(session, cookie);
    }

    /// A request of the gateway's own, to its outcome. Cancel-safe: dropped, the request is still carried out.
    async fn call(&self, lane: u64, request: Request) -> Outcome {
        let (job, outcome) = Job::for_task(request);
        self.backend.submit(lane, &mut vec![job], &mut Finished::default());
        let lost = |_| Outcome::Failed(Failure::new(Errno::EIO, "the request was lost in the gateway"));
        outcome.await.unwrap_or_else(lost)
    }

    /// Lets the backend go: DISC to its lanes, or fsync and unlock. Requests in flight are finished first.
    pub async fn close(&self) {
        self.backend.close(self.name()).await;
        self.metrics.lane_up.set(0);
    }
}

fn command(command: Cmd) -> metrics::Command {
    match command {
        Cmd::READ => metrics::Command::Read,
        Cmd::WRITE => metrics::Command::Write,
        Cmd::FLUSH => metrics::Command::Flush,
        Cmd::TRIM => metrics::Command::Trim,
        Cmd::CACHE => metrics::Command::Cache,
        Cmd::WRITE_ZEROES => metrics::Command::WriteZeroes,
        Cmd::BLOCK_STATUS => metrics::Command::BlockStatus,
        _ => metrics::Command::Other,
    }
}

fn result(outcome: &Outcome) -> metrics::Outcome {
    let Outcome::Failed(failure) = outcome else { return metrics::Outcome::Ok };
    match failure.errno {
        Errno::EPERM => metrics::Outcome::Eperm,
        Errno::ENOMEM => metrics::Outcome::Enomem,
        Errno::EINVAL => metrics::Outcome::Einval,
        Errno::ENOSPC => metrics::Outcome::Enospc,
        Errno::ESHUTDOWN => metrics::Outcome::Eshutdown,
        Errno::ENOTSUP | Errno::EOVERFLOW => metrics::Outcome::Unsupported,
        _ => metrics::Outcome::Eio,
    }
}

/// The part of what was found from `offset` on, `length` bytes long.
fn cut(found: Found, at: u64, offset: u64, length: u64) -> Found {
    let part = |start: u64, payload: &crate::proto::Payload| {
        let skip = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
        let end = offset.saturating_add(length);
        let room = usize::try_from(end.saturating_sub(start.max(offset))).unwrap_or(usize::MAX);
        payload.slice(skip, room)
    };
    match found {
        Found::Whole(payload) => Found::Whole(part(at, &payload)),
        Found::Pieces(pieces) => Found::Pieces(
            pieces
                .into_iter()
                .filter_map(|piece| match piece {
                    Piece::Data { offset: start, payload } => {
                        let payload = part(start, &payload);
                        (!payload.is_empty()).then(|| Piece::Data { offset: start.max(offset), payload })
                    }
                    Piece::Hole { offset: start, length: long } => {
                        let (from, to) = (start.max(offset), (start + long).min(offset + length));
                        (from < to).then(|| Piece::Hole { offset: from, length: to - from })
                    }
                })
                .collect(),
        ),
    }
}
