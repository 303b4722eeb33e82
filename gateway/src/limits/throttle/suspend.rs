//! Limiters of reading and writing, suspended and resumed.

use nbd_gateway_policy::types::Moment;

use super::{Limiters, SharedLimiter};
use crate::handover::state::{IoState, LimiterState};

impl SharedLimiter {
    /// Takes what is owed: all of them have their whole burst then.
    pub(crate) fn suspend(&self) -> IoState {
        let now = Moment::from_elapsed(self.start.elapsed());
        let Limiters { requests, reads, writes, bytes, bytes_read, bytes_written, .. } =
            core::mem::take(&mut *self.limiters.lock());
        let [requests, reads, writes, bytes, bytes_read, bytes_written] =
            [requests, reads, writes, bytes, bytes_read, bytes_written]
                .map(|limiter| Some(LimiterState::of(&limiter?, now)));
        IoState { requests, reads, writes, bytes, bytes_read, bytes_written }
    }

    /// Goes on with that, at the rates that are configured when it is used.
    pub(crate) fn resume(&self, state: IoState) {
        let now = Moment::from_elapsed(self.start.elapsed());
        let IoState { requests, reads, writes, bytes, bytes_read, bytes_written } = state;
        let [requests, reads, writes, bytes, bytes_read, bytes_written] =
            [requests, reads, writes, bytes, bytes_read, bytes_written].map(|state| Some(state?.limiter(now)));
        // Of no version: the rates are compared then.
        let version = 0;
        *self.limiters.lock() = Limiters { version, requests, reads, writes, bytes, bytes_read, bytes_written };
    }
}
