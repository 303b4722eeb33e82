//! An account, suspended and resumed while nothing is held for a resize.

use std::sync::Arc;

use nbd_gateway_ledger::ReservationId;

use super::{Account, Shows};
use crate::handover::state::AccountState;

impl Account {
    /// One for the same export that knows nothing, not even how far its window goes.
    pub(crate) fn anew(&self) -> Self {
        let Self { tenants, cache, export, tenant, .. } = self;
        let shows = if self.is_window() { Shows::Window { recorded: false } } else { self.shows };
        Self::new(Arc::clone(tenants), Arc::clone(cache), export.clone(), tenant.clone(), shows)
    }

    /// Takes what the ledger does not have.
    pub(crate) fn suspend(&mut self) -> AccountState {
        let Self { behind, over, unsettled, .. } = self;
        AccountState {
            behind: core::mem::take(behind),
            over: core::mem::take(over).into_iter().map(ReservationId::number).collect(),
            unsettled: core::mem::take(unsettled),
            unrecorded: self.is_unrecorded(),
        }
    }

    /// What is shown of the export was set by its configuration.
    pub(crate) fn resume(&mut self, state: AccountState) {
        let AccountState { behind, over, unsettled, unrecorded } = state;
        self.behind = behind;
        self.over = over.into_iter().map(ReservationId::numbered).collect();
        self.unsettled = unsettled;
        if let Shows::Window { recorded } = &mut self.shows {
            *recorded = !unrecorded;
        }
    }
}
