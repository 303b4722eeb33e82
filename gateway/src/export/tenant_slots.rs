//! How much of one tenant's is open at once: its exports, its sessions, and how fast sessions begin.
//!
//! Each that is admitted has a [`Slot`], and gives it up when that is dropped. What is refused has taken nothing. Where
//! the tenant's bounds are not enforced, all are admitted and what would have been refused is told to the log.

use std::sync::Arc;

use nbd_gateway_config as config;
use nbd_gateway_metrics::TenantMetrics;
use nbd_gateway_policy::quota::Usage;
use nbd_gateway_policy::rate::{Full, Limiter, adjust};
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::types::{ExportName, Moment, TenantId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The most exports of one tenant that are being opened at a time.
pub(super) const OPENINGS: usize = 64;

/// What is open of one tenant.
#[derive(Debug)]
pub(super) struct TenantSlots {
    pub(super) tenant: TenantId,
    metrics: TenantMetrics,
    /// The beginning that the limiter counts from.
    start: Instant,
    state: Mutex<State>,
    pub(super) openings: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    bounds: config::Crowd,
    exports: u32,
    sessions: u32,
    rate: Option<Limiter>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Export,
    Session,
}

/// The place of an open export or session.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<TenantSlots>,
    kind: Kind,
}

impl TenantSlots {
    /// Nothing is open yet.
    pub(super) fn new(tenant: &config::Tenant, metrics: TenantMetrics) -> Arc<Self> {
        let rate = tenant.crowd.session_rate.map(|rate| Limiter::new(rate, Moment::default()));
        let state = Mutex::new(State { bounds: tenant.crowd, exports: 0, sessions: 0, rate });
        let openings = Arc::new(Semaphore::new(OPENINGS));
        Arc::new(Self { tenant: tenant.id.clone(), metrics, start: Instant::now(), state, openings })
    }

    /// Other bounds from now on: who is there stays.
    pub(super) fn adjust(&self, bounds: config::Crowd) {
        let now = Moment::from_elapsed(self.start.elapsed());
        let mut state = self.state.lock();
        adjust(&mut state.rate, bounds.session_rate, now);
        state.bounds = bounds;
    }

    /// Shows in the metrics what the books say.
    pub(super) fn tell(&self, usage: &Usage, unmeasured: u32) {
        let Usage { quota, used, reserved, unsettled, .. } = usage;
        self.metrics.uses(quota.map(|quota| quota.0), used.0, reserved.0, unsettled.0);
        self.metrics.unmeasured(unmeasured);
    }

    /// Whether it may have no export more at once.
    pub(super) fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.bounds.enforce && state.bounds.exports.is_some_and(|most| state.exports >= most)
    }

    pub(super) fn open(self: &Arc<Self>, export: &ExportName) -> Result<Slot, Refusal> {
        let mut state = self.state.lock();
        let bounds = state.bounds;
        let most = bounds.exports.filter(|most| state.exports >= *most);
        self.judge(bounds, export, most.map(|most| Reason::TooManyExports { most }))?;
        state.exports = state.exports.saturating_add(1);
        Ok(Slot { slots: Arc::clone(self), kind: Kind::Export })
    }

    /// One more session on this export.
    pub(super) fn enter(self: &Arc<Self>, export: &ExportName) -> Result<Slot, Refusal> {
        let now = Moment::from_elapsed(self.start.elapsed());
        let mut state = self.state.lock();
        let bounds = state.bounds;
        let most = bounds.sessions.filter(|most| state.sessions >= *most);
        self.judge(bounds, export, most.map(|most| Reason::TooManySessions { most }))?;
        // Last: what is refused costs nothing of it.
        let full = state.rate.as_mut().and_then(|rate| rate.take(now, 1).err());
        self.judge(bounds, export, full.map(|full| too_soon(full, now)))?;
        state.sessions = state.sessions.saturating_add(1);
        Ok(Slot { slots: Arc::clone(self), kind: Kind::Session })
    }

    fn judge(&self, bounds: config::Crowd, export: &ExportName, reason: Option<Reason>) -> Result<(), Refusal> {
        let Some(reason) = reason else { return Ok(()) };
        if bounds.enforce {
            self.metrics.denied(reason.label());
            return Err(Refusal { export: export.clone(), tenant: self.tenant.clone(), reason });
        }
        tracing::info!(
            export = export.as_str(),
            tenant = self.tenant.as_str(),
            why = reason.label(),
            "a limit that is not enforced would have refused this"
        );
        Ok(())
    }
}

fn too_soon(full: Full, now: Moment) -> Reason {
    let again_after = match full {
        Full::Until(moment) => Some(moment.since(now)),
        Full::Never => None,
    };
    Reason::RateLimited { limit: "session-rate", again_after }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        let State { exports, sessions, .. } = &mut *state;
        let count = match self.kind {
            Kind::Export => exports,
            Kind::Session => sessions,
        };
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tenant(keys: &str) -> config::Tenant {
        let text = format!(
            "listener = [{{ address = \"127.0.0.1:0\" }}]\n[[tenant]]\nname = \"t\"\n{keys}\n\
             [[export]]\nname = \"e\"\ntenant = \"t\"\nbackend = \"memory:\"\nsize = \"1MiB\"\n"
        );
        let config = config::Config::parse(&text, std::path::Path::new("config.toml")).unwrap();
        config.tenant("t").unwrap().clone()
    }

    fn slots(keys: &str) -> Arc<TenantSlots> {
        let metrics = nbd_gateway_metrics::Metrics::new("0").unwrap();
        TenantSlots::new(&tenant(keys), metrics.tenant("t", Reason::LABELS))
    }

    fn export() -> ExportName {
        ExportName::new("e").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_up_is_anothers() {
        let slots = slots("max-exports = 2\nmax-sessions = 1");
        let rooms = [slots.open(&export()).unwrap(), slots.open(&export()).unwrap()];
        assert_eq!(slots.open(&export()).unwrap_err().reason, Reason::TooManyExports { most: 2 });
        drop(rooms);
        let _export = slots.open(&export()).unwrap();
        let session = slots.enter(&export()).unwrap();
        assert_eq!(slots.enter(&export()).unwrap_err().reason, Reason::TooManySessions { most: 1 });
        drop(session);
        slots.enter(&export()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_begin_no_faster_than_the_rate_and_a_refused_one_costs_nothing_of_it() {
        let slots = slots("session-rate = \"2/min\"\nmax-sessions = 2");
        let rooms = [slots.enter(&export()).unwrap(), slots.enter(&export()).unwrap()];
        for _ in 0..10 {
            assert_eq!(slots.enter(&export()).unwrap_err().reason, Reason::TooManySessions { most: 2 });
        }
        drop(rooms);
        for (passes, wait) in [(0, 30), (29, 1)] {
            tokio::time::advance(Duration::from_secs(passes)).await;
            let again_after = Some(Duration::from_secs(wait));
            let reason = slots.enter(&export()).unwrap_err().reason;
            assert_eq!(reason, Reason::RateLimited { limit: "session-rate", again_after });
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        slots.enter(&export()).unwrap();
        slots.enter(&export()).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_enforced_refuses_nothing() {
        let slots = slots("session-rate = \"1/d\"\nmax-sessions = 1\nmax-exports = 1\nenforce = false");
        let rooms: Vec<Slot> =
            (0..5).flat_map(|_| [slots.open(&export()).unwrap(), slots.enter(&export()).unwrap()]).collect();
        assert_eq!(slots.state.lock().sessions, 5);
        drop(rooms);
        let state = slots.state.lock();
        assert_eq!((state.exports, state.sessions), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn other_bounds_hold_for_whoever_comes_next() {
        let slots = slots("max-sessions = 3\nsession-rate = \"3/h\"");
        let rooms = [slots.enter(&export()).unwrap(), slots.enter(&export()).unwrap(), slots.enter(&export()).unwrap()];
        slots.adjust(tenant("max-sessions = 2\nsession-rate = \"4/h\"").crowd);
        assert_eq!(slots.state.lock().sessions, 3, "who is there stays");
        assert_eq!(slots.enter(&export()).unwrap_err().reason, Reason::TooManySessions { most: 2 });
        drop(rooms);
        // Of the rate that allowed three at once nothing was left, and nothing is of the one that allows four.
        let again_after = Some(Duration::from_secs(900));
        let reason = slots.enter(&export()).unwrap_err().reason;
        assert_eq!(reason, Reason::RateLimited { limit: "session-rate", again_after });
        slots.adjust(tenant("").crowd);
        assert!((0..10).all(|_| slots.enter(&export()).is_ok()));
    }
}
