//! A request that a task has: over the bridge, waiting for a grow, a RESIZE.

use serde::{Deserialize, Serialize};

use super::{RequestState, TicketState};

/// A request that is submitted again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldState {
    /// Its place among those of its export.
    pub order: u64,
    /// Overlapping ones wait for it: it goes first.
    pub begun: bool,
    /// What has been changed: offset and end.
    pub done: Vec<(u64, u64)>,
    pub request: RequestState,
    pub ticket: TicketState,
}
