//! What a session may hold in flight, and what a tenant's sessions may hold together.
//!
//! Taken by the session's own task before a payload is read, always session first, then tenant; given back when the reply
//! is with the kernel, by whoever wrote it. A session's first [`share`](Permits::new) bytes never come out of the tenant's
//! budget, so that nobody can keep another from its largest single request: a tenant's sessions together hold at most
//! `budget + sessions * share`.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use nbd_gateway_config::IoRates;
use parking_lot::Mutex;

use super::{Session, Speed, Throttle};
use crate::net::Released;

/// The payload bytes that the sessions of one tenant hold in flight beyond each one's own share.
#[derive(Debug)]
pub struct TenantBudget {
    speed: Arc<Speed>,
    throttle: Arc<Throttle>,
    state: Mutex<BudgetState>,
}

#[derive(Debug)]
struct BudgetState {
    limit: u64,
    used: u64,
    waiting: VecDeque<Weak<Session>>,
}

impl TenantBudget {
    /// At most `limit` bytes in flight, at this rate.
    pub fn new(limit: u64, io: IoRates) -> Arc<Self> {
        let speed = Speed::new(io);
        let state = BudgetState { limit, used: 0, waiting: VecDeque::new() };
        Arc::new(Self { throttle: Throttle::new(Arc::clone(&speed)), speed, state: Mutex::new(state) })
    }

    /// At most so many from now on, at that rate. What is in flight beyond a lower limit is finished first.
    pub fn adjust(&self, limit: u64, io: IoRates) {
        self.speed.set(io);
        self.state.lock().limit = limit;
        // Whoever waits may have room now.
        self.give(0);
    }

    /// How fast its sessions together may go.
    pub const fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// The most bytes in flight.
    pub fn limit(&self) -> u64 {
        self.state.lock().limit
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    fn take(&self, bytes: u64, session: &Arc<Session>) -> bool {
        let mut state = self.state.lock();
        if state.used.saturating_add(bytes) > state.limit {
            if !state.waiting.iter().any(|w| w.as_ptr() == Arc::as_ptr(session)) {
                state.waiting.push_back(Arc::downgrade(session));
            }
            return false;
        }
        state.used += bytes;
        true
    }

    fn give(&self, bytes: u64) {
        let woken = {
            let mut state = self.state.lock();
            state.used = state.used.saturating_sub(bytes);
            core::mem::take(&mut state.waiting)
        };
        for session in woken.iter().filter_map(Weak::upgrade) {
            session.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Held {
    requests: u32,
    bytes: u64,
    /// Of `bytes`, those taken out of the tenant's budget.
    of_tenant: u64,
    waiting: bool,
}

/// What one session holds.
#[derive(Debug)]
pub(super) struct Permits {
    requests: u32,
    bytes: u64,
    share: u64,
    tenant: Arc<TenantBudget>,
    held: Mutex<Held>,
}

impl Permits {
    /// At most `requests` and `bytes` in flight; the first `share` bytes are the session's own.
    pub(super) fn new(requests: u32, bytes: u64, share: u64, tenant: Arc<TenantBudget>) -> Self {
        Self { requests, bytes, share, tenant, held: Mutex::default() }
    }

    /// Takes one request and its bytes, or remembers to wake the session's task when there may be room.
    /// A request larger than all the session may hold is let through alone: admission has refused what is too large.
    pub(super) fn take(&self, bytes: u64, session: &Arc<Session>) -> bool {
        let mut held = self.held.lock();
        let total = held.bytes.saturating_add(bytes);
        if held.requests >= self.requests || (total > self.bytes && held.requests > 0) {
            held.waiting = true;
            return false;
        }
        let of_tenant = total.saturating_sub(self.share).saturating_sub(held.of_tenant);
        if of_tenant > 0 && !self.tenant.take(of_tenant, session) {
            held.waiting = true;
            return false;
        }
        held.requests += 1;
        held.bytes = total;
        held.of_tenant += of_tenant;
        true
    }

    /// Gives back; whether the session's task waits for that.
    pub(super) fn release(&self, released: Released) -> bool {
        let (give, waiting) = {
            let mut held = self.held.lock();
            held.requests = held.requests.saturating_sub(released.requests);
            held.bytes = held.bytes.saturating_sub(released.bytes);
            let keep = held.bytes.saturating_sub(self.share).min(held.of_tenant);
            let give = held.of_tenant - keep;
            held.of_tenant = keep;
            (give, core::mem::take(&mut held.waiting))
        };
        if give > 0 {
            self.tenant.give(give);
        }
        waiting
    }

    /// Whether nothing is in flight: every reply is with the kernel. If not, the session's task is woken at each release.
    pub(super) fn is_idle(&self) -> bool {
        let mut held = self.held.lock();
        held.waiting = held.requests > 0;
        held.requests == 0
    }
}

impl Drop for Permits {
    /// What a session still held when it ended (replies that were never written) goes back to its tenant.
    fn drop(&mut self) {
        let left = core::mem::take(&mut self.held.get_mut().of_tenant);
        if left > 0 {
            self.tenant.give(left);
        }
    }
}
