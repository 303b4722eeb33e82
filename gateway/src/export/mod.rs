//! What a client opens: an export, what it looks like now, and what serves it.
//!
//! An [`Export`] is opened by the first client that asks for it and let go when idle (`registry`). It sends requests to
//! its backend as they are where it can, and over the `bridge` where the backend's limits differ from the client's.
//! Writes past the end wait in `grow` for the coordinator, which changes the [`View`](crate::target::View) that everyone
//! reads. What lies between that end and a ceiling is `ceiling`'s.
//! `tenant_slots` bounds how many a tenant has open, `unpublished` keeps sizes that an operator has yet to publish,
//! `unmeasured` the exports that count nothing until they are measured. `aliases` finds exports with one disk behind them,
//! `tight` quotas that are too small from the start; `unopened` lists exports that could not be opened.
//! Keeps: several lanes only if a FLUSH covers them (9), no overtaking of requests whose session is gone (14).

mod active;
mod adjust;
pub(crate) mod aliases;
mod closed;
mod entry;
mod evict;
mod files;
mod flags;
mod index;
mod known_openers;
mod lease;
mod older;
mod open_error;
mod provision;
pub(crate) mod reconcile;
mod reconfigure;
mod reconnects;
mod registry;
mod settings;
mod start;
#[cfg(test)]
mod suspend;
mod teardown;
mod tenant_slots;
pub(crate) mod tight;
mod unmeasured;
mod unopened;
mod unpublished;

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::{self as metrics, ExportMetrics, Gauge, Open, ResizeMetrics};
use nbd_gateway_policy::access::{Verb, Verbs};
use nbd_gateway_policy::export::ExportPolicy;
use nbd_gateway_policy::offer::{Negotiated, Now, Offer, offer};
use nbd_gateway_policy::style::Grows;
use nbd_gateway_policy::types::Size;
use nbd_gateway_proto::handshake::BlockSizes;
use nbd_gateway_proto::{Cmd, CmdFlags, Errno, ExportFlags, Framing};
use parking_lot::RwLock;
use tokio::sync::watch;

pub(crate) use lease::Lease;
pub(crate) use older::SettleError;
pub(crate) use open_error::OpenError;
pub(crate) use reconfigure::Opened;
pub(crate) use registry::{Opener, Registry};
pub(crate) use settings::{AdjustError, Settings};
pub(crate) use teardown::Teardown;
pub(crate) use unopened::Unopened;

use crate::accounting::tenants::TenantAccounts;
use crate::hooks::Hooks;
use crate::limits::{IoLimits, NoticeLimiter, RetryAfter, SharedLimiter, TenantBudget};
use crate::request::{Failure, Outcome, Request};
use crate::resize::Resizer;
use crate::resize::follow::Patience;
use crate::target::{Core, Lanes};
use flags::{Basis, for_client};
use reconnects::Reconnects;

#[derive(Debug)]
pub(crate) struct Export {
    /// Swapped whole; nothing on the way of an ordinary request reads them.
    settings: RwLock<Arc<Settings>>,
    /// Its target, and the requests on their way there.
    pub(crate) core: Arc<Core>,
    /// The way to change its size.
    pub(crate) resizer: Resizer,
    accounts: Arc<TenantAccounts>,
    /// What its tenant's sessions share.
    pub(crate) budget: Arc<TenantBudget>,
    /// How fast its sessions together are sent notices.
    notices: NoticeLimiter,
    /// How fast each of its sessions may go.
    session_io: Arc<IoLimits>,
    /// How fast its sessions together may go.
    io: Arc<IoLimits>,
    limiter: Arc<SharedLimiter>,
    hooks: Hooks,
    /// What is borne of its backend's notices, and how often it is asked.
    patience: watch::Sender<Patience>,
    metrics: ExportMetrics,
    /// Where resizes and notices are counted.
    pub(crate) resize_metrics: ResizeMetrics,
    /// Clients that were cut for a grow.
    pub(crate) reconnects: Reconnects,
    /// Ends what runs beside: the follower of the backend's size.
    end: watch::Sender<bool>,
    /// How its sessions are to end.
    leaving: watch::Sender<Teardown>,
    /// Counted as open.
    _open: Open<Arc<Gauge>>,
}

impl Export {
    /// Its name, as clients say it.
    pub(crate) fn name(&self) -> &str {
        self.core.name()
    }

    pub(crate) fn tenant(&self) -> &str {
        self.core.tenant().as_str()
    }

    /// What it goes by now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// What its operator decided about its size, and its backend's own bounds.
    pub(crate) fn policy(&self) -> ExportPolicy {
        self.settings.read().policy.clone()
    }

    /// For people: the configuration's, else the backend's.
    pub(crate) fn description(&self) -> Option<String> {
        self.settings.read().config.description.clone().or_else(|| self.core.facts().description.clone())
    }

    /// The size that is shown, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.core.view().size()
    }

    /// The size that a client is told in its handshake, in bytes: the ceiling where it is offered that, else where requests
    /// must end now.
    pub(crate) fn size_for(&self, offer: &Offer) -> u64 {
        if offer.ceiling {
            let ceiling = self.settings().ceiling();
            return self.size().max(ceiling.bytes());
        }
        self.size().min(self.core.view().end())
    }

    /// How fast a new session is sent notices.
    pub(crate) fn session_notices(&self) -> NoticeLimiter {
        self.accounts.notice_limiter(self.settings.read().config.limits.session_notices)
    }

    /// Takes one notice out of a session's rate, the export's and the tenant's; an error says how long to wait.
    pub(crate) fn take_notice(&self, session: &NoticeLimiter) -> Result<(), RetryAfter> {
        self.accounts.adjust_notices(session, self.settings.read().config.limits.session_notices);
        self.accounts.take_notice(self.core.tenant(), session, &self.notices)
    }

    /// What a client with these verbs is offered about its size.
    pub(crate) fn offer(&self, verbs: Verbs, client: &Negotiated) -> Offer {
        let size = Size::new(self.size()).unwrap_or(Size::MAX);
        // Of others, what is not shown is not theirs to have.
        let disk = match self.core.facts().style.grows {
            Grows::Window => Size::new(self.core.disk()).unwrap_or(size),
            _ => size,
        };
        let now = Now { size, disk, headroom: self.accounts.books(|books| books.headroom(self.resizer.export_name())) };
        let facts = self.core.facts();
        let mut offer = offer(facts.style, &self.policy().for_verbs(verbs), &now, client);
        // What the server said of itself when it was opened bounds what clients can get of it.
        if let (Grows::Explicit { .. } | Grows::Automatic { .. }, Some(info)) = (facts.style.grows, facts.resize)
            && let Ok(most) = Size::new(info.maximum)
        {
            offer.max = offer.max.min(most).max(size);
        }
        offer
    }

    /// The metadata contexts that the backend has, in a fixed order.
    pub(crate) fn contexts(&self) -> &[String] {
        &self.core.facts().contexts
    }

    /// How its sessions are to end, and when: a session looks at it as long as it lasts.
    pub(crate) fn leaving(&self) -> watch::Receiver<Teardown> {
        self.leaving.subscribe()
    }

    /// The bounds that a new session's requests pass: its own, the export's, the tenant's.
    pub(crate) fn limiters(&self) -> impl Iterator<Item = Arc<SharedLimiter>> {
        let own = SharedLimiter::new(Arc::clone(&self.session_io));
        [own, Arc::clone(&self.limiter), Arc::clone(&self.budget.limiter)].into_iter()
    }

    /// The transmission flags for a client with these verbs and this framing.
    pub(crate) fn flags_for(&self, verbs: Verbs, client: Framing, resize: bool) -> ExportFlags {
        let basis = Basis {
            backend: self.core.facts().flags,
            lanes: self.core.facts().framing,
            client,
            read_only: self.settings.read().config.read_only
                || self.core.facts().flags.has(ExportFlags::READ_ONLY)
                || !verbs.has(Verb::Write),
            trim: verbs.has(Verb::Trim),
            flush_covers_all: self.core.lanes().is_none_or(Lanes::flush_covers_all),
            resize,
        };
        for_client(basis, !self.core.facts().contexts.is_empty())
    }

    /// What clients are told about block sizes: the backend's, with the largest payload that the gateway takes. Nothing if
    /// the backend says nothing and the gateway takes what every client assumes (32 MiB).
    pub(crate) fn block_sizes(&self) -> Option<BlockSizes> {
        const ASSUMED: u32 = 32 << 20;
        let largest = self.settings.read().config.limits.largest_payload;
        match self.core.facts().block_sizes {
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

    /// Shows in the metrics how long its oldest request has waited for an answer.
    pub(crate) fn tell_wait(&self) {
        let lanes = self.core.lanes().map(Lanes::status).unwrap_or_default();
        let oldest = lanes.iter().filter_map(|lane| lane.oldest).min();
        let waited = oldest.map_or(0, |since| since.elapsed().as_secs());
        self.metrics.oldest.set(i64::try_from(waited).unwrap_or(i64::MAX));
    }

    /// Counts a request in flight; [`count`](Self::count) takes it off again.
    pub(crate) fn admit(&self, requests: usize) {
        self.metrics.in_flight.add(i64::try_from(requests).unwrap_or(0));
    }

    /// Counts a request that was answered after so long.
    pub(crate) fn count(&self, request: &Request, outcome: &Outcome, took: Duration) {
        let length = || Some(request.length);
        let bytes = match (request.command, outcome) {
            (Cmd::READ, Outcome::Found(_)) => length().map(|n| (metrics::Direction::Read, n)),
            (Cmd::WRITE, Outcome::Done) => length().map(|n| (metrics::Direction::Write, n)),
            _ => None,
        };
        self.metrics.in_flight.dec();
        self.core.answered();
        self.metrics.answered(command(request.command), result(outcome), took.as_secs_f64(), bytes);
    }

    /// A request will not be answered.
    pub(crate) fn forget(&self) {
        self.metrics.in_flight.dec();
        self.core.answered();
    }

    /// Makes what was answered durable, with a FLUSH of the gateway's own.
    pub(crate) async fn make_durable(&self) -> Result<(), Failure> {
        if !self.core.facts().flags.has(ExportFlags::SEND_FLUSH) {
            return Ok(());
        }
        match self.core.call(Request::new(Cmd::FLUSH, CmdFlags::NONE, 0, 0)).await {
            Outcome::Failed(failure) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Lets the backend go: DISC to its lanes, or fsync and unlock. Requests in flight are finished first.
    pub(crate) async fn close(&self) {
        self.end.send_replace(true);
        self.hooks.end();
        self.resizer.end().await;
        self.core.close().await;
        self.metrics.lane_up.set(0);
        self.metrics.late_writes.set(0);
        self.metrics.oldest.set(0);
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
