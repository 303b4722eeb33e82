//! An export that leaves: its sessions end, then its backend is let go, then another may be opened under its name.
//!
//! Owns the order in which that goes. While it lasts, the export's entry is locked: whoever wants to open that name waits, so
//! that no two coordinators ever have one backend.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Export;
use super::Registry;
use super::entry::Entry;

/// How long sessions that are cut have to be gone.
const LET_GO: Duration = Duration::from_secs(1);

/// How an export's sessions are to end; each order overrules those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Teardown {
    /// Not at all.
    #[default]
    Not,
    /// What was admitted is answered, what comes later is refused with ESHUTDOWN, as when the gateway drains: the export
    /// will not be there any more.
    Drained,
    /// Between two messages, without a word: whoever connects again sends again what was not answered.
    Parted,
    Cut,
}

impl Export {
    /// Orders how its sessions are to end; those that begin later obey too.
    pub(super) fn end_sessions(&self, how: Teardown) {
        self.leaving.send_if_modified(|now| core::mem::replace(now, how.max(*now)) < how);
    }
}

impl Registry {
    /// Ends an export's sessions and lets its backend go. They have until `over`; then they are cut.
    /// Cancel-safe: no; in a task of its own.
    pub(super) async fn see_off(self: Arc<Self>, entry: Arc<Entry>, how: Teardown, over: Instant) {
        // An opening that is under way is over then.
        let mut state = entry.state.lock().await;
        let name = entry.name();
        if let Some(export) = &state.export {
            export.end_sessions(how);
            if timeout_at(over, entry.unused()).await.is_err() {
                tracing::warn!(
                    export = name,
                    users = entry.users(),
                    "drain-timeout is over; the sessions left of an export that leaves are cut"
                );
                export.end_sessions(Teardown::Cut);
                // Whatever else holds it, an operator's order for one, ends with its coordinator.
                let _ = timeout_at(Instant::now() + LET_GO, entry.unused()).await;
            }
        }
        self.retire(&entry, &mut state).await;
        drop(state);
        self.forget_series(&entry);
        let (was, now) = (entry.config(), self.config());
        if let Some(owner) = now.owner_of(&name).filter(|owner| **owner != was.tenant) {
            // Its coordinator may have written the other one's name meanwhile.
            Arc::clone(&self.shared.ledger_cache).give_all(vec![(was.name.clone(), owner.clone())]).await;
        }
        tracing::info!(export = name, "an export is closed, for its configuration has changed");
    }
}
