//! A coordinator, suspended at rest and resumed.

use std::time::Duration;

use nbd_gateway_policy::plan::Standing;
use nbd_gateway_policy::types::Bytes;

use super::Coordinator;
use crate::handover::state::{Age, CoordinatorState, DisprovedState, ExposedState, StreamState, Wait, nanos};
use crate::resize::effects::Effects;
use crate::resize::settle::Exposed;

impl<H: Effects> Coordinator<H> {
    /// Takes what it knows: it is left as one that has nothing to do.
    pub(in crate::resize) fn suspend(&mut self) -> CoordinatorState {
        let exposed = core::mem::take(&mut self.exposed);
        let exposed = exposed.into_iter().map(|Exposed { range, noted, asked }| ExposedState {
            range: range.into(),
            noted,
            asked,
        });
        CoordinatorState {
            disk: self.state.disk,
            backend: self.state.backend,
            standing: core::mem::replace(&mut self.standing, Standing::Ready),
            exposed: exposed.collect(),
            zeroed_by_backend: self.state.zeroed_by_backend,
            older: self.state.older,
            disproved: self
                .disproved
                .take()
                .map(|(claimed, again)| DisprovedState { claimed, again: Wait::until(again) }),
            disbelief: nanos(core::mem::take(&mut self.disbelief)),
            stream: self.stream.take().map(|(Bytes(added), done)| StreamState { added, done: Age::of(done) }),
            account: self.account.suspend(),
        }
    }

    /// Goes on with that. What is shown it knows from the view.
    pub(in crate::resize) fn resume(&mut self, state: CoordinatorState) {
        let CoordinatorState { exposed, disproved, stream, .. } = state;
        self.state.disk = state.disk;
        self.state.backend = state.backend;
        self.standing = state.standing;
        self.exposed = exposed
            .into_iter()
            .map(|ExposedState { range, noted, asked }| Exposed { range: range.into(), noted, asked })
            .collect();
        self.state.zeroed_by_backend = state.zeroed_by_backend;
        self.state.older = state.older;
        self.disproved = disproved.map(|DisprovedState { claimed, again }| (claimed, again.over()));
        self.disbelief = Duration::from_nanos(state.disbelief);
        self.stream = stream.map(|StreamState { added, done }| (Bytes(added), done.ago()));
        self.account.resume(state.account);
        self.show();
    }
}
