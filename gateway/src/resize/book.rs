//! The tenants' books, shared by all coordinators: what is used, reserved and unsettled.
//!
//! The arithmetic is `policy`'s; this adds the lock, and is where the durable ledger is written beside it. A check is O(1)
//! however many exports a tenant has.

use nbd_gateway_policy::quota::{Headroom, Ledger, Reservation, TenantLimits, Usage};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::types::{ExportName, Size, TenantId};
use parking_lot::Mutex;

/// All tenants' books.
#[derive(Debug, Default)]
pub struct Book {
    quota: Mutex<Ledger>,
}

impl Book {
    /// Sets what a tenant may have.
    pub fn set_limits(&self, tenant: &TenantId, limits: TenantLimits) {
        self.quota.lock().set_limits(tenant, limits);
    }

    /// What a tenant has.
    pub fn usage(&self, tenant: &TenantId) -> Option<Usage> {
        self.quota.lock().usage(tenant)
    }

    /// Counts an export that has been opened, at its measured size.
    pub fn open(&self, export: &ExportName, tenant: &TenantId, measured: Size) {
        let mut quota = self.quota.lock();
        if quota.size(export).is_some() {
            quota.measure(export, measured);
        } else if let Ok(Some(reason)) | Err(reason) = quota.add(export, tenant, measured) {
            tracing::warn!(
                export = export.as_str(),
                tenant = tenant.as_str(),
                why = reason.label(),
                "the export takes its tenant over a limit; it is counted, and nothing of the tenant's grows"
            );
        }
    }

    /// What the export's tenant may still grow.
    pub fn headroom(&self, export: &ExportName) -> Option<Headroom> {
        self.quota.lock().headroom(export)
    }

    /// Holds quota for a grow to `to`.
    pub async fn reserve(&self, export: &ExportName, to: Size) -> Result<Reservation, Reason> {
        let grant = self.quota.lock().reserve(export, to)?;
        if let Some(reason) = &grant.unenforced {
            tracing::info!(
                export = export.as_str(),
                why = reason.label(),
                "a limit that is not enforced would have refused this"
            );
        }
        Ok(grant.reservation)
    }

    /// The grow is done; the size that counts was read back.
    pub async fn commit(&self, reservation: Option<Reservation>, export: &ExportName, count: Size) {
        let mut quota = self.quota.lock();
        match reservation {
            Some(reservation) => drop(quota.commit(reservation, count)),
            None => drop(quota.measure(export, count)),
        }
    }

    /// The grow was not done; that is known.
    pub async fn roll_back(&self, reservation: Option<Reservation>) {
        if let Some(reservation) = reservation {
            self.quota.lock().rollback(reservation);
        }
    }

    /// Nobody knows whether it was done: it stays counted.
    pub async fn unsettle(&self, reservation: Option<Reservation>) {
        if let Some(reservation) = reservation {
            self.quota.lock().unsettle(reservation);
        }
    }

    /// Somebody knows now.
    pub async fn settle(&self, export: &ExportName, measured: Size) {
        self.quota.lock().settle(export, measured);
    }

    /// A size that was read.
    pub async fn measure(&self, export: &ExportName, measured: Size) {
        self.quota.lock().measure(export, measured);
    }
}
