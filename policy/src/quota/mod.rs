//! What each tenant uses, has reserved and has unsettled, for one process and in O(1) for any number of exports.
//!
//! Owns the records; what a step makes of two of them is [`shared`]'s. A grow is counted from before the backend is asked
//! until its size has been read back. Quota is freed only by evidence (a size that somebody measured), never by time and never
//! by forgetting. It stores nothing durably and asks no backend: the gateway's ledger writes rows and probes, and
//! brings the rows back with [`Accounts::restore`].
//!
//! The promise: no growth that [`Accounts::reserve`] allows takes `used + reserved + unsettled` over the quota. What comes
//! from outside (another hand, a lowered quota, a backend that gives more) is counted at once and stops further growth.

pub mod shared;

use std::collections::HashMap;

use self::shared::{ExportRecord, Held, Hold, TenantRecord};
use crate::refusal::Reason;
use crate::types::{Bytes, ExportName, Size, TenantId};

pub use self::shared::{Drift, TenantLimits, Usage};

/// What a tenant may still grow, for plans and refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// How many bytes are left; 0 when the tenant is at or over its quota.
    pub left: Bytes,
    /// The quota they are left of.
    pub quota: Bytes,
}

/// Quota held for one grow in flight. It must end in [`Accounts::commit`], [`Accounts::rollback`] or [`Accounts::unsettle`];
/// one that is dropped stays counted, until a restart makes it unsettled and a probe settles it.
#[must_use = "a reservation that is dropped stays counted"]
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    number: u64,
    export: ExportName,
    to: Size,
    bytes: Bytes,
}

impl Reservation {
    /// The export that may grow.
    #[must_use]
    pub const fn export(&self) -> &ExportName {
        &self.export
    }

    /// The size that it may grow to.
    #[must_use]
    pub const fn to(&self) -> Size {
        self.to
    }

    /// How many bytes are held.
    #[must_use]
    pub const fn bytes(&self) -> Bytes {
        self.bytes
    }
}

/// A reservation that was granted, and what there is to tell about it.
#[must_use = "a grant holds quota"]
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// The quota held.
    pub reservation: Reservation,
    /// The reason for which it would have been refused, had the tenant `enforce = true`.
    pub unenforced: Option<Reason>,
    /// This growth takes the tenant over its soft quota, where it was not before.
    pub crosses_soft_quota: bool,
}

/// One export, as this process counts it.
#[derive(Debug)]
struct Entry {
    tenant: TenantId,
    record: ExportRecord,
    measured: bool,
    /// Of the last reservation.
    number: u64,
}

/// The sums of all tenants and the sizes of all exports.
#[derive(Debug, Default)]
pub struct Accounts {
    tenants: HashMap<TenantId, TenantRecord>,
    exports: HashMap<ExportName, Entry>,
    reservations: u64,
}

impl Accounts {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a tenant's limits. Lower ones than what it uses are legal: nothing shrinks, nothing grows, and the usage
    /// says so. A tenant that was never given limits has none.
    pub fn set_limits(&mut self, tenant: &TenantId, limits: TenantLimits) -> Usage {
        let tenant = self.tenants.entry(tenant.clone()).or_default();
        tenant.limits = limits;
        tenant.usage()
    }

    /// What a tenant uses; none if nothing was ever said of it.
    #[must_use]
    pub fn usage(&self, tenant: &TenantId) -> Option<Usage> {
        self.tenants.get(tenant).map(TenantRecord::usage)
    }

    /// The size that an export is counted at, without what is reserved or unsettled.
    #[must_use]
    pub fn size(&self, export: &ExportName) -> Option<Size> {
        self.exports.get(export).map(|entry| entry.record.size)
    }

    /// The size up to which quota is held for a grow of unknown outcome; none: there is no such grow.
    #[must_use]
    pub fn unsettled(&self, export: &ExportName) -> Option<Size> {
        self.exports.get(export)?.record.hold.filter(|hold| hold.unsettled).map(|hold| hold.to)
    }

    /// Whether an export is this tenant's, counts this much, and nothing of it is held or unknown.
    #[must_use]
    pub fn is_settled_at(&self, export: &ExportName, tenant: &TenantId, size: Size) -> bool {
        let settled = ExportRecord { size, hold: None };
        self.exports.get(export).is_some_and(|entry| entry.tenant == *tenant && entry.record == settled)
    }

    /// What the tenant of this export may still grow; none: as much as it likes.
    #[must_use]
    pub fn headroom(&self, export: &ExportName) -> Option<Headroom> {
        self.tenants.get(&self.exports.get(export)?.tenant)?.headroom()
    }

    /// Adds an export whose size has just been measured. One that is there already is measured again, and stays with
    /// its tenant.
    pub fn add(&mut self, export: &ExportName, tenant: &TenantId, measured: Size) {
        if self.measure(export, measured).is_none() {
            self.insert(export, tenant, ExportRecord { size: measured, hold: None }, true);
        }
    }

    /// The exports that are counted for a tenant, in no order.
    #[must_use]
    pub fn exports_of(&self, tenant: &TenantId) -> Vec<ExportName> {
        self.exports.iter().filter(|(_, entry)| entry.tenant == *tenant).map(|(name, _)| name.clone()).collect()
    }

    /// Brings back an export as the durable ledger last knew it: counted at its last size, what was reserved then is
    /// unsettled now, and nothing may grow before it has been measured or settled. Replaces what was there.
    pub fn restore(&mut self, export: &ExportName, tenant: &TenantId, last: Size, pending: Option<Size>) {
        self.forget(export);
        let hold = pending.map(|to| Hold { to, unsettled: true });
        self.insert(export, tenant, ExportRecord { size: last, hold }, false);
    }

    /// Takes an export out that is no longer this gateway's to count: it has left the config, or it has been deleted.
    ///
    /// # Errors
    /// [`Reason::Busy`] or [`Reason::Unsettled`] while a grow of it is not over; nothing has changed then.
    pub fn remove(&mut self, export: &ExportName) -> Result<(), Reason> {
        self.exports.get(export).map_or(Ok(()), |entry| entry.record.settled())?;
        self.forget(export);
        Ok(())
    }

    /// Gives an export, and all that is counted for it, to another tenant. False if there is no such export.
    pub fn give(&mut self, export: &ExportName, tenant: &TenantId) -> bool {
        let Some(entry) = self.exports.get_mut(export) else { return false };
        if let Some(former) = self.tenants.get_mut(&entry.tenant) {
            former.remove(&entry.record);
        }
        entry.tenant = tenant.clone();
        self.tenants.entry(tenant.clone()).or_default().add(&entry.record);
        true
    }

    /// Gives every export to whom it belongs by `owner`; what belongs to nobody stays where it is. Answers those that were
    /// another's.
    pub fn give_all<'a>(&mut self, owner: impl Fn(&ExportName) -> Option<&'a TenantId>) -> Vec<(ExportName, TenantId)> {
        let others = self.exports.iter().filter_map(|(export, entry)| {
            let owner = owner(export).filter(|owner| **owner != entry.tenant)?;
            Some((export.clone(), owner.clone()))
        });
        let others: Vec<_> = others.collect();
        others.iter().for_each(|(export, owner)| _ = self.give(export, owner));
        others
    }

    /// Holds quota for growing an export to `to`, before its backend is asked. A size that is not larger holds nothing.
    ///
    /// # Errors
    /// [`Reason::Unmeasured`] before the first measurement (and for an export that is not in the ledger), [`Reason::Busy`]
    /// and [`Reason::Unsettled`] while another grow of it is not over, [`Reason::LargestExport`], [`Reason::OverQuota`].
    pub fn reserve(&mut self, export: &ExportName, to: Size) -> Result<Grant, Reason> {
        let Some(entry) = self.exports.get_mut(export) else { return Err(Reason::Unmeasured) };
        let Some(tenant) = self.tenants.get_mut(&entry.tenant) else { return Err(Reason::Unmeasured) };
        if entry.record.hold.is_none() && !entry.measured {
            return Err(Reason::Unmeasured);
        }
        let Held { bytes, unenforced, crosses_soft_quota } = tenant.hold(&mut entry.record, to)?;
        self.reservations = self.reservations.wrapping_add(1);
        entry.number = self.reservations;
        let reservation = Reservation { number: entry.number, export: export.clone(), to, bytes };
        Ok(Grant { reservation, unenforced, crosses_soft_quota })
    }

    /// Ends a reservation with the size that the backend reports: that is what is counted from now on, be it more or
    /// less than was reserved. None if this ledger did not grant it.
    pub fn commit(&mut self, reservation: Reservation, actual: Size) -> Option<Drift> {
        self.end(&reservation, |tenant, export| tenant.commit(export, actual))
    }

    /// Ends a reservation whose backend was not asked, or said no and was read back unchanged. Says whether this
    /// ledger granted it.
    pub fn rollback(&mut self, reservation: Reservation) -> bool {
        self.end(&reservation, TenantRecord::roll_back).is_some()
    }

    /// Keeps counting a reservation whose outcome nobody knows, until [`Accounts::settle`]. Says whether this ledger
    /// granted it.
    pub fn unsettle(&mut self, reservation: Reservation) -> bool {
        self.end(&reservation, TenantRecord::unsettle).is_some()
    }

    /// Ends what was unsettled by a size that a probe has measured after the request in doubt can no longer land. A
    /// reservation in flight stays. None if there is no such export.
    pub fn settle(&mut self, export: &ExportName, measured: Size) -> Option<Drift> {
        self.step(export, |tenant, entry| {
            entry.measured = true;
            tenant.settle(&mut entry.record, measured)
        })
    }

    /// Counts a measured size, at once and whatever it is: growth by another hand, a shrink that was read back, the first
    /// dial. What is reserved or unsettled stays counted on top, up to the size it was held for. None if there is no
    /// such export.
    pub fn measure(&mut self, export: &ExportName, measured: Size) -> Option<Drift> {
        self.step(export, |tenant, entry| {
            entry.measured = true;
            tenant.measure(&mut entry.record, measured)
        })
    }

    /// None: the reservation is none of this ledger's.
    fn end<T>(
        &mut self,
        reservation: &Reservation,
        end: impl FnOnce(&mut TenantRecord, &mut ExportRecord) -> T,
    ) -> Option<T> {
        let entry = self.exports.get(&reservation.export)?;
        let in_flight = entry.record.hold.is_some_and(|hold| !hold.unsettled);
        if !in_flight || entry.number != reservation.number {
            return None;
        }
        self.step(&reservation.export, |tenant, entry| end(tenant, &mut entry.record))
    }

    fn step<T>(&mut self, export: &ExportName, step: impl FnOnce(&mut TenantRecord, &mut Entry) -> T) -> Option<T> {
        let entry = self.exports.get_mut(export)?;
        Some(step(self.tenants.get_mut(&entry.tenant)?, entry))
    }

    fn insert(&mut self, export: &ExportName, tenant: &TenantId, record: ExportRecord, measured: bool) {
        self.tenants.entry(tenant.clone()).or_default().add(&record);
        let entry = Entry { tenant: tenant.clone(), record, measured, number: 0 };
        self.exports.insert(export.clone(), entry);
    }

    fn forget(&mut self, export: &ExportName) {
        let Some(entry) = self.exports.remove(export) else { return };
        if let Some(tenant) = self.tenants.get_mut(&entry.tenant) {
            tenant.remove(&entry.record);
        }
    }
}

#[cfg(test)]
mod tests;
