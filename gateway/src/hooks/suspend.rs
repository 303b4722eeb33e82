//! Hooks, suspended and resumed: each hears what it has not heard yet.

use std::sync::atomic::Ordering;

use nbd_gateway_config::Hook;

use super::Hooks;

impl Hooks {
    /// Ends them; what each has heard, in the order of the configuration. An attempt under way is ended: it may have been
    /// heard, and is made again.
    pub(crate) fn suspend(&self) -> Vec<u64> {
        core::mem::take(&mut *self.running.lock()).iter().map(|running| running.told.load(Ordering::Acquire)).collect()
    }

    /// Goes on with those of the same configuration.
    pub(crate) fn resume(&self, wanted: &[Hook], told: Vec<u64>) {
        let told = told.into_iter().map(Some).chain(core::iter::repeat(None));
        let resumed = wanted.iter().enumerate().zip(told).map(|((index, hook), told)| self.begin(hook, index, told));
        *self.running.lock() = resumed.collect();
    }
}
