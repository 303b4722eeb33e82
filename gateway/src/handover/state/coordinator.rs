//! A coordinator at rest, and its account. What it has put on record is in the ledger.

use nbd_gateway_policy::plan::Standing;
use nbd_gateway_policy::style::BackendStyle;
use nbd_gateway_policy::types::Size;
use serde::{Deserialize, Serialize};

use super::style::BackendState;
use super::{Age, RangeState, Wait, size};

/// What a coordinator knows beside the size that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CoordinatorState {
    /// The backend's size as last read and believed.
    #[serde(with = "size")]
    pub disk: Size,
    /// How the backend grows, and what that is believed for by now.
    #[serde(with = "BackendState")]
    pub backend: BackendStyle,
    #[serde(with = "StandingState")]
    pub standing: Standing,
    pub exposed: Vec<ExposedState>,
    pub zeroed_by_backend: bool,
    /// The ledger is an older copy, and no operator has said yet what the export has.
    pub older: bool,
    pub disproved: Option<DisprovedState>,
    /// For how long the last claim that was disproved was not believed, in nanoseconds.
    pub disbelief: u64,
    pub stream: Option<StreamState>,
    pub account: AccountState,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Standing", rename_all = "kebab-case")]
enum StandingState {
    Ready,
    Unmeasured,
    Unsettled {
        #[serde(with = "size")]
        asked: Size,
    },
    Quarantined {
        found: u64,
    },
    Draining,
}

/// A range that a grow has exposed, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExposedState {
    pub range: RangeState,
    /// The ledger has it.
    pub noted: bool,
    /// The backend has been asked.
    pub asked: bool,
}

/// What the backend claimed to do and did not, and when that is believed once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DisprovedState {
    #[serde(with = "BackendState")]
    pub claimed: BackendStyle,
    pub again: Wait,
}

/// What the last grow for a write added, and when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamState {
    pub added: u64,
    pub done: Age,
}

/// What the ledger has not taken yet, and what it has of unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountState {
    pub behind: bool,
    /// The numbers of reservations that are over.
    pub over: Vec<i64>,
    pub unsettled: bool,
    /// A window whose size is not on record.
    pub unrecorded: bool,
}
