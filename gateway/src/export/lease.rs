//! A place among those who use an export; the last one that is given up starts the export's idle time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::Entry;
use super::tenant_slots::Slot;
use super::{Export, OpenError, Registry};

/// The right to use an open export; the last one dropped starts its idle time.
#[derive(Debug)]
pub(crate) struct Lease {
    registry: Arc<Registry>,
    pub(super) entry: Arc<Entry>,
    export: Arc<Export>,
    /// Its place among the sessions of its tenant's, if it is one.
    slot: Option<Slot>,
}

impl Lease {
    /// Called with the entry's lock held: nothing closes it meanwhile.
    pub(super) fn new(registry: &Arc<Registry>, entry: &Arc<Entry>, export: &Arc<Export>) -> Self {
        entry.users.fetch_add(1, Ordering::AcqRel);
        entry.leased.fetch_add(1, Ordering::AcqRel);
        Self { registry: Arc::clone(registry), entry: Arc::clone(entry), export: Arc::clone(export), slot: None }
    }

    /// For a session: refused where its tenant has as many as it may have.
    pub(crate) fn for_session(mut self) -> Result<Self, OpenError> {
        let settings = self.export.settings();
        if let Some(slots) = self.registry.active().slots(&settings.config.tenant) {
            self.slot = Some(slots.enter(&settings.config.name).map_err(OpenError::Crowded)?);
        }
        Ok(self)
    }

    /// Whether the export is being closed, whoever uses it.
    pub(crate) fn is_leaving(&self) -> bool {
        self.entry.is_leaving()
    }

    pub(crate) fn export(&self) -> &Arc<Export> {
        &self.export
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.entry.users.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.entry.empty.notify_waiters();
        if self.entry.is_leaving() {
            return;
        }
        let leased = self.entry.leased.load(Ordering::Acquire);
        let (registry, entry) = (Arc::clone(&self.registry), Arc::clone(&self.entry));
        let idle = self.export.settings().config.idle_timeout;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(idle).await;
            registry.close_idle(&entry, leased).await;
        });
    }
}
