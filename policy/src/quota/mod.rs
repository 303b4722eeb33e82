//! The ledger's arithmetic: what each tenant uses, has reserved and has unsettled, in O(1) for any number of exports.
//!
//! Owns the sums and the rule that keeps them honest: a grow is counted from before the backend is asked until its
//! size has been read back. Quota is freed only by evidence (a size that somebody measured), never by time and never
//! by forgetting. It stores nothing durably and asks no backend: the gateway's ledger writes rows and probes, and
//! brings the rows back with [`Ledger::restore`].
//!
//! The promise: no growth that [`Ledger::reserve`] allows takes `used + reserved + unsettled` over the quota. What comes
//! from outside (another hand, a lowered quota, a backend that gives more) is counted at once and stops further growth.

mod account;

use std::collections::HashMap;

use self::account::{Account, Counts, Entry, Pending};
use crate::refusal::Reason;
use crate::types::{Bytes, ExportName, Size, TenantId};

pub use self::account::{TenantLimits, Usage};

/// What a tenant may still grow, for plans and refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// How many bytes are left; 0 when the tenant is at or over its quota.
    pub left: Bytes,
    /// The quota they are left of.
    pub quota: Bytes,
}

/// Quota held for one grow in flight. It must end in [`Ledger::commit`], [`Ledger::rollback`] or [`Ledger::unsettle`];
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

/// What a measurement found, against what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// What was counted.
    None,
    /// More by so many bytes.
    Grew(Bytes),
    /// Less by so many bytes.
    Shrank(Bytes),
}

impl Drift {
    fn between(counted: Size, measured: Size) -> Self {
        match (measured.above(counted), counted.above(measured)) {
            (Bytes(0), Bytes(0)) => Self::None,
            (grew, Bytes(0)) => Self::Grew(grew),
            (_, shrank) => Self::Shrank(shrank),
        }
    }
}

/// The sums of all tenants and the sizes of all exports.
#[derive(Debug, Default)]
pub struct Ledger {
    tenants: HashMap<TenantId, Account>,
    exports: HashMap<ExportName, Entry>,
    reservations: u64,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a tenant's limits. Lower ones than what it uses are legal: nothing shrinks, nothing grows, and the usage
    /// says so. A tenant that was never given limits has none.
    pub fn set_limits(&mut self, tenant: &TenantId, limits: TenantLimits) -> Usage {
        let account = self.tenants.entry(tenant.clone()).or_default();
        account.limits = limits;
        account.usage()
    }

    /// What a tenant uses; none if nothing was ever said of it.
    #[must_use]
    pub fn usage(&self, tenant: &TenantId) -> Option<Usage> {
        self.tenants.get(tenant).map(Account::usage)
    }

    /// The size that an export is counted at, without what is reserved or unsettled.
    #[must_use]
    pub fn size(&self, export: &ExportName) -> Option<Size> {
        self.exports.get(export).map(|entry| entry.size)
    }

    /// Whether an export is this tenant's, counts this much, and nothing of it is held or unknown.
    #[must_use]
    pub fn is_settled_at(&self, export: &ExportName, tenant: &TenantId, size: Size) -> bool {
        self.exports.get(export).is_some_and(|entry| {
            entry.tenant == *tenant && entry.size == size && matches!(entry.pending, Pending::None)
        })
    }

    /// What the tenant of this export may still grow; none: as much as it likes.
    #[must_use]
    pub fn headroom(&self, export: &ExportName) -> Option<Headroom> {
        self.tenants.get(&self.exports.get(export)?.tenant)?.headroom()
    }

    /// Adds an export whose size has just been measured. One that is there already is measured again, and stays with
    /// its tenant.
    ///
    /// # Errors
    /// [`Reason::TooManyExports`]; nothing has been added then.
    pub fn add(&mut self, export: &ExportName, tenant: &TenantId, measured: Size) -> Result<Option<Reason>, Reason> {
        if self.measure(export, measured).is_some() {
            return Ok(None);
        }
        let account = self.tenants.entry(tenant.clone()).or_default();
        let unenforced = account.enforce(account.one_more_export())?;
        let entry = Entry { tenant: tenant.clone(), size: measured, pending: Pending::None, measured: true };
        account.open(entry.counts());
        self.exports.insert(export.clone(), entry);
        Ok(unenforced)
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
        let pending = pending.map_or(Pending::None, |to| Pending::Unsettled { to });
        let entry = Entry { tenant: tenant.clone(), size: last, pending, measured: false };
        self.tenants.entry(tenant.clone()).or_default().open(entry.counts());
        self.exports.insert(export.clone(), entry);
    }

    /// Takes an export out that is no longer this gateway's to count: it has left the config, or it has been deleted.
    ///
    /// # Errors
    /// [`Reason::Busy`] or [`Reason::Unsettled`] while a grow of it is not over; nothing has changed then.
    pub fn remove(&mut self, export: &ExportName) -> Result<(), Reason> {
        match self.exports.get(export).map(|entry| &entry.pending) {
            None | Some(Pending::None) => {
                self.forget(export);
                Ok(())
            }
            Some(Pending::Reserved { .. }) => Err(Reason::Busy),
            Some(Pending::Unsettled { .. }) => Err(Reason::Unsettled),
        }
    }

    /// Gives an export, and all that is counted for it, to another tenant. False if there is no such export.
    pub fn give(&mut self, export: &ExportName, tenant: &TenantId) -> bool {
        let Some(entry) = self.exports.get_mut(export) else { return false };
        if let Some(account) = self.tenants.get_mut(&entry.tenant) {
            account.close(entry.counts());
        }
        entry.tenant = tenant.clone();
        self.tenants.entry(tenant.clone()).or_default().open(entry.counts());
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
        let Some(account) = self.tenants.get_mut(&entry.tenant) else { return Err(Reason::Unmeasured) };
        match (&entry.pending, entry.measured) {
            (Pending::Reserved { .. }, _) => return Err(Reason::Busy),
            (Pending::Unsettled { .. }, _) => return Err(Reason::Unsettled),
            (Pending::None, false) => return Err(Reason::Unmeasured),
            (Pending::None, true) => {}
        }
        let bytes = to.above(entry.size);
        let unenforced = account.enforce(account.may_grow(entry.size, to))?;
        let was_over_soft_quota = account.usage().over_soft_quota;
        self.reservations = self.reservations.wrapping_add(1);
        let before = entry.counts();
        entry.pending = Pending::Reserved { to, number: self.reservations };
        account.change(before, entry.counts());
        Ok(Grant {
            reservation: Reservation { number: self.reservations, export: export.clone(), to, bytes },
            unenforced,
            crosses_soft_quota: account.usage().over_soft_quota && !was_over_soft_quota,
        })
    }

    /// Ends a reservation with the size that the backend reports: that is what is counted from now on, be it more or
    /// less than was reserved. None if this ledger did not grant it.
    pub fn commit(&mut self, reservation: Reservation, actual: Size) -> Option<Drift> {
        let drift = Drift::between(reservation.to, actual);
        self.end(reservation, |entry| {
            entry.size = actual;
            entry.pending = Pending::None;
        })
        .then_some(drift)
    }

    /// Ends a reservation whose backend was not asked, or said no and was read back unchanged. Says whether this
    /// ledger granted it.
    pub fn rollback(&mut self, reservation: Reservation) -> bool {
        self.end(reservation, |entry| entry.pending = Pending::None)
    }

    /// Keeps counting a reservation whose outcome nobody knows, until [`Ledger::settle`]. Says whether this ledger
    /// granted it.
    pub fn unsettle(&mut self, reservation: Reservation) -> bool {
        self.end(reservation, |entry| {
            if let Pending::Reserved { to, .. } = entry.pending {
                entry.pending = Pending::Unsettled { to };
            }
        })
    }

    /// Ends what was unsettled by a size that a probe has measured after the request in doubt can no longer land. A
    /// reservation in flight stays. None if there is no such export.
    pub fn settle(&mut self, export: &ExportName, measured: Size) -> Option<Drift> {
        self.update(export, |entry| {
            if matches!(entry.pending, Pending::Unsettled { .. }) {
                entry.pending = Pending::None;
            }
        })?;
        self.measure(export, measured)
    }

    /// Counts a measured size, at once and whatever it is: growth by another hand, a shrink that was read back, the first
    /// dial. What is reserved or unsettled stays counted on top, up to the size it was held for. None if there is no
    /// such export.
    pub fn measure(&mut self, export: &ExportName, measured: Size) -> Option<Drift> {
        let counted = self.size(export)?;
        self.update(export, |entry| {
            entry.size = measured;
            entry.measured = true;
        })?;
        Some(Drift::between(counted, measured))
    }

    fn end(&mut self, reservation: Reservation, change: impl FnOnce(&mut Entry)) -> bool {
        let granted = self.exports.get(&reservation.export).is_some_and(
            |entry| matches!(entry.pending, Pending::Reserved { number, .. } if number == reservation.number),
        );
        granted && self.update(&reservation.export, change).is_some()
    }

    fn update(&mut self, export: &ExportName, change: impl FnOnce(&mut Entry)) -> Option<()> {
        let entry = self.exports.get_mut(export)?;
        let before: Counts = entry.counts();
        change(entry);
        self.tenants.get_mut(&entry.tenant)?.change(before, entry.counts());
        Some(())
    }

    fn forget(&mut self, export: &ExportName) {
        let Some(entry) = self.exports.remove(export) else { return };
        if let Some(account) = self.tenants.get_mut(&entry.tenant) {
            account.close(entry.counts());
        }
    }
}

#[cfg(test)]
mod tests;
