//! What a session may hold in flight, and what a tenant's sessions may hold together.
//!
//! A request takes what its payload and its answer need before its payload is read, always session first, then tenant; it
//! is given back when the reply is with the kernel, by whoever wrote it. No answer holds more than its request took: an
//! answer whose length only the backend knows (extents, an error's sentence) is cut to that. A session's first [`share`](Permits::new) bytes never come out of the tenant's
//! budget, so that nobody can keep another from its largest single request: a tenant's sessions together hold at most
//! `budget + sessions * share`. What a session leaves behind when its client has gone comes out of the budget, and while that
//! is overdrawn nobody of the tenant's takes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use nbd_gateway_config::IoRates;
use nbd_gateway_net::Released;
use parking_lot::Mutex;

use super::{IoLimits, SharedLimiter};
use crate::request::SessionId;

/// Bytes that every request takes beside its payload: the headers of its reply, the gateway's notes about it, and an
/// error's sentence.
pub(crate) const ANSWER: u64 = 512;
/// Bytes that a BLOCK_STATUS takes for each context that it asks about: the chunk's header and one extent.
pub(crate) const CONTEXT: u64 = 128;
/// The longest payload of all, in bytes, whatever the session may hold: what libnbd takes for the most too.
const LONGEST: u64 = 64 << 20;
/// Bytes of one extent.
pub(crate) const EXTENT: u64 = 16;

/// The payload bytes that the sessions of one tenant hold in flight beyond each one's own share.
#[derive(Debug)]
pub(crate) struct TenantBudget {
    io: Arc<IoLimits>,
    pub(crate) limiter: Arc<SharedLimiter>,
    /// Whether more is held than the limit: by sessions that are gone, with requests that their server has not answered.
    overfull: AtomicBool,
    state: Mutex<BudgetState>,
}

#[derive(Debug)]
struct BudgetState {
    limit: u64,
    used: u64,
    /// Sessions that wait for bytes, and their tasks.
    waiting: Vec<(SessionId, Waker)>,
}

impl TenantBudget {
    /// At most `limit` bytes in flight, at this rate.
    pub(crate) fn new(limit: u64, io: IoRates) -> Arc<Self> {
        let io = IoLimits::new(io);
        let state = BudgetState { limit, used: 0, waiting: Vec::new() };
        let limiter = SharedLimiter::new(Arc::clone(&io));
        Arc::new(Self { limiter, io, overfull: AtomicBool::new(false), state: Mutex::new(state) })
    }

    /// At most so many from now on, at that rate. What is in flight beyond a lower limit is finished first.
    pub(crate) fn adjust(&self, limit: u64, io: IoRates) {
        self.io.set(io);
        self.state.lock().limit = limit;
        // Whoever waits may have room now.
        self.give(0);
    }

    /// The most bytes in flight.
    pub(crate) fn limit(&self) -> u64 {
        self.state.lock().limit
    }

    fn take(&self, bytes: u64, session: SessionId, task: impl FnOnce() -> Option<Waker>) -> bool {
        let mut state = self.state.lock();
        let overfull = state.used > state.limit;
        if overfull || state.used.saturating_add(bytes) > state.limit {
            if !state.waiting.iter().any(|(waiting, _)| *waiting == session)
                && let Some(task) = task()
            {
                state.waiting.push((session, task));
            }
            return false;
        }
        state.used += bytes;
        true
    }

    /// As [`take`](Self::take), but of `bytes` only as many as half of what is left; how many. Nobody waits.
    fn take_some(&self, bytes: u64) -> u64 {
        let mut state = self.state.lock();
        let taken = bytes.min(state.limit.saturating_sub(state.used) / 2);
        state.used += taken;
        taken
    }

    /// Takes over what a session held of its own: it is gone, and what it has in flight is not.
    fn inherit(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.used = state.used.saturating_add(bytes);
        self.overfull.store(state.used > state.limit, Ordering::Relaxed);
    }

    /// A session waits no more: its task is not kept in memory for that.
    fn forget(&self, session: SessionId) {
        self.state.lock().waiting.retain(|(waiting, _)| *waiting != session);
    }

    fn give(&self, bytes: u64) {
        let woken = {
            let mut state = self.state.lock();
            state.used = state.used.saturating_sub(bytes);
            self.overfull.store(state.used > state.limit, Ordering::Relaxed);
            core::mem::take(&mut state.waiting)
        };
        woken.into_iter().for_each(|(_, task)| task.wake());
    }
}

#[derive(Debug, Default)]
struct Held {
    /// Of `bytes`, those that are the session's own.
    share: u64,
    requests: u32,
    bytes: u64,
    /// Of `bytes`, those taken out of the tenant's budget.
    of_tenant: u64,
    waiting: bool,
    /// How many requests there were that are answered.
    answered: u64,
}

/// What one session holds.
#[derive(Debug)]
pub(crate) struct Permits {
    session: SessionId,
    requests: u32,
    bytes: u64,
    /// The longest payload that always has room, when it is alone.
    largest: u64,
    /// The longest payload that may have room, if the tenant has some too.
    longest: u64,
    tenant: Arc<TenantBudget>,
    held: Mutex<Held>,
}

impl Permits {
    /// Of session `session`: at most `requests` and `bytes` in flight, and [`ANSWER`] for each request. The first `share` bytes are the session's
    /// own, and so is what the answers take.
    pub(crate) fn new(session: SessionId, requests: u32, bytes: u64, share: u64, tenant: Arc<TenantBudget>) -> Self {
        let answers = ANSWER * u64::from(requests);
        let (largest, longest) = (share, bytes.min(LONGEST).max(share));
        let (bytes, share) = (bytes.saturating_add(answers), share.saturating_add(answers));
        Self { session, requests, bytes, largest, longest, tenant, held: Mutex::new(Held { share, ..Held::default() }) }
    }

    /// The longest payload that can be let through, asked for one of `length`: the session's share and, where that is
    /// shorter, as much as the session and its tenant may ever hold. Whatever is longer would wait forever.
    pub(crate) fn longest(&self, length: u64) -> u64 {
        if length <= self.largest {
            return self.largest;
        }
        self.longest.min(self.largest.saturating_add(self.tenant.limit()))
    }

    /// Takes one request and its bytes, or remembers to wake the session's `task` when there may be room.
    /// A request larger than all the session may hold is let through alone: admission has refused what is too large.
    pub(crate) fn take(&self, bytes: u64, task: impl FnOnce() -> Option<Waker>) -> bool {
        let mut held = self.held.lock();
        let total = held.bytes.saturating_add(bytes);
        if held.requests >= self.requests || (total > self.bytes && held.requests > 0) {
            held.waiting = true;
            return false;
        }
        let of_tenant = total.saturating_sub(held.share).saturating_sub(held.of_tenant);
        if (of_tenant > 0 || self.tenant.overfull.load(Ordering::Relaxed))
            && !self.tenant.take(of_tenant, self.session, task)
        {
            held.waiting = true;
            return false;
        }
        held.requests += 1;
        held.bytes = total;
        held.of_tenant += of_tenant;
        true
    }

    /// Takes up to `wish` bytes more for a request that has just been let through; how many. At most half of what the
    /// session and its tenant have left, so that the requests after it find some too. Never waits.
    pub(crate) fn take_more(&self, wish: u64) -> u64 {
        let mut held = self.held.lock();
        let wish = wish.min(self.bytes.saturating_sub(held.bytes) / 2);
        let of_tenant = (held.bytes + wish).saturating_sub(held.share).saturating_sub(held.of_tenant);
        let taken = if of_tenant > 0 { self.tenant.take_some(of_tenant) } else { 0 };
        held.of_tenant += taken;
        let granted = wish - (of_tenant - taken);
        held.bytes += granted;
        granted
    }

    /// Holds what was held elsewhere before, whatever the bounds are now.
    #[cfg(test)]
    pub(crate) fn hold(&self, released: Released) {
        let mut held = self.held.lock();
        held.requests += released.requests;
        held.bytes += released.bytes;
        let of_tenant = held.bytes.saturating_sub(held.share).saturating_sub(held.of_tenant);
        held.of_tenant += of_tenant;
        drop(held);
        self.tenant.inherit(of_tenant);
    }

    /// Gives back; whether the session's task waits for that.
    pub(crate) fn release(&self, released: Released) -> bool {
        let (give, waiting) = {
            let mut held = self.held.lock();
            held.requests = held.requests.saturating_sub(released.requests);
            held.answered = held.answered.wrapping_add(u64::from(released.requests));
            held.bytes = held.bytes.saturating_sub(released.bytes);
            let keep = held.bytes.saturating_sub(held.share).min(held.of_tenant);
            let give = held.of_tenant - keep;
            held.of_tenant = keep;
            (give, core::mem::take(&mut held.waiting))
        };
        if give > 0 {
            self.tenant.give(give);
        }
        waiting
    }

    /// The session is gone: what it holds from now on, until its requests are answered, is its tenant's. So clients that
    /// come, leave requests behind and come again hold no more than the tenant may, and one share for each that is there.
    pub(crate) fn abandon(&self) {
        let own = {
            let mut held = self.held.lock();
            let own = held.bytes.saturating_sub(held.of_tenant);
            (held.share, held.of_tenant) = (0, held.bytes);
            own
        };
        self.tenant.forget(self.session);
        if own > 0 {
            self.tenant.inherit(own);
        }
    }

    /// How many requests have been answered: their replies are with the kernel.
    pub(crate) fn answered(&self) -> u64 {
        self.held.lock().answered
    }

    /// Whether nothing is in flight: every reply is with the kernel. If not, the session's task is woken at each release.
    pub(crate) fn is_idle(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_for_its_tenants_bytes_is_woken_once_and_who_leaves_is_not_kept() {
        let tenant = TenantBudget::new(100, IoRates::default());
        let [holds, waits, leaves] =
            [1, 2, 3].map(|session| Permits::new(SessionId::after(session), 1, 1000, 0, Arc::clone(&tenant)));
        let [woken, gone] = [(); 2].map(|()| Arc::<Task>::default());
        let take = |permits: &Permits, bytes, task: &Arc<Task>| {
            permits.take(ANSWER + bytes, || Some(Waker::from(Arc::clone(task))))
        };
        assert!(take(&holds, 100, &woken));
        assert!(!take(&waits, 1, &woken) && !take(&waits, 1, &woken) && !take(&leaves, 1, &gone));
        assert_eq!((Arc::strong_count(&woken), Arc::strong_count(&gone)), (2, 2), "each waits once");
        leaves.abandon();
        assert_eq!(Arc::strong_count(&gone), 1, "nothing holds the task of one that has left");
        holds.release(Released { requests: 1, bytes: ANSWER + 100, ..Released::default() });
        assert_eq!((woken.0.load(Ordering::Relaxed), gone.0.load(Ordering::Relaxed)), (1, 0));
        assert!(take(&waits, 1, &woken));
    }

    #[test]
    fn more_is_half_of_what_is_left_and_goes_back_like_the_rest() {
        let tenant = TenantBudget::new(100, IoRates::default());
        let permits = Permits::new(SessionId::after(1), 0, 1000, 50, Arc::clone(&tenant));
        assert_eq!(permits.take_more(20), 20, "of its own share");
        assert_eq!(
            (permits.take_more(500), tenant.state.lock().used),
            (80, 50),
            "half of what the tenant has left, and its share"
        );
        assert_eq!((permits.take_more(500), tenant.state.lock().used), (25, 75));
        permits.release(Released { bytes: 125, ..Released::default() });
        assert_eq!(tenant.state.lock().used, 0);
        let alone = Permits::new(SessionId::after(2), 0, 1000, 2000, Arc::clone(&tenant));
        assert_eq!((alone.take_more(800), alone.take_more(800)), (500, 250), "half of what the session has left");
    }

    #[test]
    fn a_payload_may_be_as_long_as_session_and_tenant_may_ever_hold() {
        let tenant = TenantBudget::new(100, IoRates::default());
        let permits = |bytes| Permits::new(SessionId::after(1), 4, bytes, 50, Arc::clone(&tenant));
        assert_eq!((permits(1000).longest(50), permits(1000).longest(51)), (50, 150), "the share, and the tenant's");
        assert_eq!((permits(120).longest(51), permits(50).longest(51)), (120, 50), "the session's");
        tenant.adjust(60, IoRates::default());
        assert_eq!(permits(1000).longest(150), 110, "as much as the tenant has now");
        tenant.adjust(u64::MAX, IoRates::default());
        assert_eq!(permits(u64::MAX).longest(u64::MAX), 64 << 20, "never more than that");
    }

    #[test]
    fn what_a_session_leaves_behind_is_its_tenants_until_it_is_answered() {
        let tenant = TenantBudget::new(100, IoRates::default());
        let permits = Permits::new(SessionId::after(1), 0, 1000, 80, Arc::clone(&tenant));
        assert_eq!((permits.take_more(80), tenant.state.lock().used), (80, 0));
        permits.abandon();
        assert_eq!((tenant.state.lock().used, tenant.overfull.load(Ordering::Relaxed)), (80, false));
        let next = Permits::new(SessionId::after(1), 0, 1000, 80, Arc::clone(&tenant));
        next.take_more(80);
        next.abandon();
        assert_eq!((tenant.state.lock().used, tenant.overfull.load(Ordering::Relaxed)), (160, true));
        permits.release(Released { bytes: 80, ..Released::default() });
        assert_eq!((tenant.state.lock().used, tenant.overfull.load(Ordering::Relaxed)), (80, false));
        drop(next);
        assert_eq!(tenant.state.lock().used, 0);
    }
}
