//! A rate of notices, suspended and resumed.

use nbd_gateway_policy::rate::{Limiter, adjust};
use nbd_gateway_policy::types::Moment;

use super::NoticeLimiter;
use crate::handover::state::LimiterState;

impl NoticeLimiter {
    /// Takes what is owed to it: it has its whole burst then.
    pub(crate) fn suspend(&self, now: Moment) -> Option<LimiterState> {
        let mut limiter = self.0.lock();
        let state = limiter.as_ref().map(|limiter| LimiterState::of(limiter, now));
        *limiter = limiter.take().map(|limiter| Limiter::new(limiter.rate(), now));
        state
    }

    /// Goes on with that, at the rate that is configured now.
    pub(crate) fn resume(&self, state: Option<LimiterState>, now: Moment) {
        let mut limiter = self.0.lock();
        let rate = limiter.as_ref().map(Limiter::rate);
        let mut before = state.map(|state| state.limiter(now));
        adjust(&mut before, rate, now);
        *limiter = before;
    }
}
