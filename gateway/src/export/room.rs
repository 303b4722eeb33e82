//! A place for one more export among those that its tenant may have open at once.
//!
//! An export that nobody uses any more is still open for its idle time. It keeps nobody out: it is closed for one that a
//! client asks for.

use std::sync::Arc;

use nbd_gateway_config::Resolved;
use nbd_gateway_policy::refusal::Refusal;
use nbd_gateway_policy::types::TenantId;

use super::Registry;
use super::crowd::Room;
use super::entry::Entry;

impl Registry {
    /// A place for an export that is about to be opened. Cancel-safe: yes; what is being closed is closed.
    pub(super) async fn room_for(self: &Arc<Self>, config: &Resolved) -> Result<Option<Room>, Refusal> {
        let in_force = self.in_force();
        let Some(crowd) = in_force.crowd(&config.tenant) else { return Ok(None) };
        while crowd.is_full() && self.close_one(&config.tenant).await {}
        crowd.open(&config.name).map(Some)
    }

    /// Closes an export of this tenant's that nobody uses. Whether there was one.
    async fn close_one(self: &Arc<Self>, tenant: &TenantId) -> bool {
        let own: Vec<Arc<Entry>> = self
            .entries
            .iter()
            .filter(|entry| entry.config().tenant == *tenant)
            .map(|entry| Arc::clone(&entry))
            .collect();
        for entry in own {
            let registry = Arc::clone(self);
            // In a task of its own: what is begun is done whole, also if the client that asks is gone.
            let closed = tokio::spawn(async move { registry.close_unused(&entry).await });
            if closed.await.unwrap_or_default() {
                return true;
            }
        }
        false
    }
}
