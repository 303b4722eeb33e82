//! Clients that were cut, suspended and resumed.

use super::{Cut, Reconnects};
use crate::handover::state::{Age, ReconnectState};

impl Reconnects {
    /// Takes those that were cut, in their order.
    pub(in crate::export) fn suspend(&self) -> Vec<ReconnectState> {
        let cut = core::mem::take(&mut *self.cut.lock());
        let state = |Cut { peer, lost, size, at, away }| ReconnectState {
            peer: peer.into(),
            lost: Vec::into_iter(lost).map(Into::into).collect(),
            size,
            cut: Age::of(at),
            away,
        };
        cut.into_iter().map(state).collect()
    }

    pub(in crate::export) fn resume(&self, state: Vec<ReconnectState>) {
        let known = |ReconnectState { peer, lost, size, cut, away }| Cut {
            peer: peer.into(),
            lost: Vec::into_iter(lost).map(Into::into).collect(),
            size,
            at: Age::ago(cut),
            away,
        };
        *self.cut.lock() = state.into_iter().map(known).collect();
    }
}
