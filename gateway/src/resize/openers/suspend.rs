//! Those who left an export without a goodbye, suspended and resumed. Who is here is counted where its session goes on.

use super::Openers;
use crate::handover::state::Age;

impl Openers {
    /// Takes the times at which they left.
    pub(crate) fn suspend(&self) -> Vec<Age> {
        core::mem::take(&mut self.state.lock().lost).into_iter().map(Age::of).collect()
    }

    pub(crate) fn resume(&self, lost: Vec<Age>) {
        self.state.lock().lost = lost.into_iter().map(Age::ago).collect();
    }
}
