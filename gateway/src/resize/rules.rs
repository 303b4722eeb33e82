//! What an operator changed about an open export's resizing, on its way to the coordinator.
//!
//! Whoever puts it on the desk wakes the coordinator, which takes it before it does anything else: what counts for a wish is the
//! policy at the time when it is carried out, not when it was queued. Only the latest matters, so nothing queues up there.

use std::time::Duration;

use nbd_gateway_policy::export::ExportPolicy;

/// What a coordinator goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// What is allowed, with the backend's own bounds.
    pub policy: ExportPolicy,
    /// How long the backend has to answer.
    pub timeout: Duration,
}
