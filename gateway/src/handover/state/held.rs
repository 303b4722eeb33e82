//! A request that a task has: over the bridge, waiting for a grow, a RESIZE.

use serde::{Deserialize, Serialize};

use super::{FailureState, RequestState, TicketState};

/// A request that is submitted again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldState {
    /// Its place among those of its export.
    pub order: u64,
    /// What it has for itself: offset and length.
    pub alone: Option<(u64, u64)>,
    /// What of it is answered. Other parts that were asked for are with the lanes.
    pub answered: Vec<AnsweredPartState>,
    pub request: RequestState,
    pub ticket: TicketState,
}

/// A part of a request that is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnsweredPartState {
    pub offset: u64,
    pub length: u64,
    pub failure: Option<FailureState>,
}
