//! A place for one more export among those that its tenant may have open at once.
//!
//! An export that nobody uses any more is still open for its idle time. It keeps nobody out: it is closed for one that a
//! client asks for.

use std::sync::Arc;

use nbd_gateway_config::Resolved;
use nbd_gateway_policy::refusal::Refusal;
use nbd_gateway_policy::types::TenantId;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::entry::Entry;
use super::tenant_slots::{OPENINGS, Slot};
use super::{OpenError, Registry};
use crate::descriptors::{self, Use};

impl Registry {
    /// A place for an export that is about to be opened. Cancel-safe: yes; what is being closed is closed.
    pub(super) async fn slot_for(self: &Arc<Self>, config: &Resolved) -> Result<Option<Slot>, Refusal> {
        let active = self.active();
        let Some(slots) = active.slots(&config.tenant) else { return Ok(None) };
        while slots.is_full() && self.close_one(Some(&config.tenant)).await {}
        slots.open(&config.name).map(Some)
    }

    /// Descriptors for an export that a client wants to be opened: exports that nobody uses are closed for it, its tenant's
    /// first. Cancel-safe: yes.
    pub(super) async fn descriptors_for(self: &Arc<Self>, config: &Resolved) -> Result<(), OpenError> {
        while descriptors::are_short(Use::Export) {
            if !self.close_one(Some(&config.tenant)).await && !self.close_one(None).await {
                let limit = descriptors::limit();
                let why = format!("the gateway has too few of its {limit} descriptors left; try again later");
                return Err(OpenError::Busy { export: config.name.as_str().to_owned(), why });
            }
        }
        Ok(())
    }

    /// A turn to open an export of this tenant's, so that one whose server does not answer leaves descriptors, and turns, to
    /// others. None: it is not in force any more. Cancel-safe: yes.
    pub(super) async fn turn_to_open(&self, config: &Resolved) -> Result<Option<OwnedSemaphorePermit>, OpenError> {
        let Some(openings) = self.active().slots(&config.tenant).map(|slots| Arc::clone(&slots.openings)) else {
            return Ok(None);
        };
        match timeout(config.dial_timeout, openings.acquire_owned()).await {
            // It is never closed.
            Ok(turn) => Ok(turn.ok()),
            Err(_) => {
                let why = format!("{OPENINGS} other exports of its tenant are being opened; try again later");
                Err(OpenError::Busy { export: config.name.as_str().to_owned(), why })
            }
        }
    }

    /// Closes an export that nobody uses, of this tenant's or of anybody's. Whether there was one.
    async fn close_one(self: &Arc<Self>, tenant: Option<&TenantId>) -> bool {
        let is_own = |entry: &Arc<Entry>| tenant.is_none_or(|tenant| entry.config().tenant == *tenant);
        for entry in self.index.all().into_iter().filter(is_own) {
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
