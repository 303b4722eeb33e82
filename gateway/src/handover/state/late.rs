//! Late writes: what a server may still carry out of lost connections.

use serde::{Deserialize, Serialize};

use super::Age;

/// The late writes of one export. The guard and the fence are the configuration's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LateState {
    pub last: u64,
    pub writes: Vec<LateWriteState>,
    /// When the last fence began that succeeded.
    pub fenced: Option<Age>,
    pub marks: bool,
    pub mark_wanted: bool,
    pub has_mark: bool,
    /// The next change of data needs the mark first.
    pub unmarked: bool,
    pub server: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LateWriteState {
    pub id: u64,
    pub from: u64,
    pub to: u64,
    pub lost: Age,
    pub link: LinkState,
    pub again: bool,
    pub failed: bool,
    pub over: bool,
    pub resize: bool,
}

/// Where a connection came from. The server is a process, as the ledger writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkState {
    pub made: Age,
    pub server: Option<String>,
}
