//! What an operator changed about an open export's resizing, on its way to the coordinator.
//!
//! Whoever puts it here wakes the coordinator, which takes it before it does anything else: what counts for a wish is the
//! policy at the time when it is carried out, not when it was queued. Only the latest matters, so nothing queues up here.

use std::time::Duration;

use nbd_gateway_policy::export::ExportPolicy;
use parking_lot::Mutex;

/// What a coordinator goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// What is allowed, with the backend's own bounds.
    pub policy: ExportPolicy,
    /// How long the backend has to answer.
    pub timeout: Duration,
}

/// Rules that the coordinator has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Latest(Mutex<Option<Rules>>);

impl Latest {
    pub(super) fn put(&self, rules: Rules) {
        *self.0.lock() = Some(rules);
    }

    pub(super) fn take(&self) -> Option<Rules> {
        self.0.lock().take()
    }
}
