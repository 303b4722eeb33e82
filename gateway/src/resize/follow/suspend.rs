//! For how long a backend that flooded is not subscribed to, suspended and resumed.

use super::Desk;
use crate::handover::state::Wait;

impl Desk {
    pub(crate) fn suspend(&self) -> Option<Wait> {
        self.deaf.lock().take().map(Wait::until)
    }

    pub(crate) fn resume(&self, deaf: Option<Wait>) {
        *self.deaf.lock() = deaf.map(Wait::over);
    }
}
