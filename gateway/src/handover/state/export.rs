//! An export: what it knows beside its lanes, its sessions and their requests.

use serde::{Deserialize, Serialize};

use super::{Age, IoState, LimiterState, PeerState, RangeState, Wait};

/// An export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportState {
    pub reconnects: Vec<ReconnectState>,
    /// When those left who said no goodbye, and may come back.
    pub lost: Vec<Age>,
    /// What its hooks have heard, in bytes, in the order of the configuration.
    pub hooks: Vec<u64>,
    /// How fast its sessions together are sent notices.
    pub notices: Option<LimiterState>,
    /// How fast they may read and write together.
    pub io: IoState,
    /// For how long its backend, which flooded, is not subscribed to.
    pub deaf: Option<Wait>,
}

/// A client that was cut for a grow, and has not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReconnectState {
    pub peer: PeerState,
    /// The writes that were not answered.
    pub lost: Vec<RangeState>,
    /// The size that it is to see, in bytes.
    pub size: u64,
    /// When it was cut.
    pub cut: Age,
    /// It had its chance, and did not take it.
    pub away: bool,
}
