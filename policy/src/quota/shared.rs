//! The rule over two records: what a hold, a commit or a settle makes of a tenant and of one of its exports.
//!
//! Pure. The caller, who keeps the records (in this process, or where several share them), reads both, takes one step, and
//! writes both or neither. What an export counts before a step and after it moves its tenant's sums by the difference: so sums can't
//! drift from the exports, and no step looks at any other export. Sums are 128 bits wide inside: the sizes of many exports
//! together may exceed 64.
//!
//! A step that is refused changes neither record. Whose step it is (which gateway, which reservation) is not known here.

use super::Headroom;
use crate::refusal::Reason;
use crate::types::{Bytes, Size};

/// What a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// The most that its exports' sizes may sum to; none: no quota.
    pub quota: Option<Bytes>,
    /// A sum beyond which an event is raised; none: no such event.
    pub soft_quota: Option<Bytes>,
    /// The largest that one export may become.
    pub largest_export: Option<Size>,
    /// False: count and report, refuse nothing.
    pub enforce: bool,
}

impl TenantLimits {
    /// None at all.
    pub const NONE: Self = Self { quota: None, soft_quota: None, largest_export: None, enforce: true };
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self::NONE
    }
}

/// A tenant's sums, for metrics and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The sizes of its exports.
    pub used: Bytes,
    /// What grows in flight hold on top.
    pub reserved: Bytes,
    /// What grows of unknown outcome hold on top.
    pub unsettled: Bytes,
    /// How many exports it has.
    pub exports: u32,
    /// Its quota.
    pub quota: Option<Bytes>,
    /// Its soft quota.
    pub soft_quota: Option<Bytes>,
    /// All three together are more than the quota: something came from outside.
    pub over_quota: bool,
    /// All three together are more than the soft quota.
    pub over_soft_quota: bool,
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

/// The quota taken for a grow that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The size that it may grow to.
    pub to: Size,
    /// Its outcome is not known.
    pub unsettled: bool,
}

/// What counts of one export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportRecord {
    /// Its size as last measured.
    pub size: Size,
    /// The one grow of it that is not over.
    pub hold: Option<Hold>,
}

impl ExportRecord {
    fn counts(&self) -> Counts {
        let held = |unsettled| {
            let hold = self.hold.filter(|hold| hold.unsettled == unsettled);
            hold.map_or(0, |hold| u128::from(hold.to.above(self.size).0))
        };
        Counts { used: u128::from(self.size.bytes()), reserved: held(false), unsettled: held(true) }
    }

    /// Why the export can't be taken away, nor grow again, before its grow is over.
    pub(super) fn settled(&self) -> Result<(), Reason> {
        match self.hold {
            None => Ok(()),
            Some(Hold { unsettled: false, .. }) => Err(Reason::Busy),
            Some(Hold { unsettled: true, .. }) => Err(Reason::Unsettled),
        }
    }
}

/// What an export adds to its tenant's sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    used: u128,
    reserved: u128,
    unsettled: u128,
}

/// A hold that was granted, and what there is to tell about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// How many bytes it takes of the quota.
    pub bytes: Bytes,
    /// The reason for which it would have been refused, had the tenant `enforce = true`.
    pub unenforced: Option<Reason>,
    /// This growth takes the tenant over its soft quota, where it was not before.
    pub crosses_soft_quota: bool,
}

/// One tenant: what it may have, and the sums of its exports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantRecord {
    /// What it may have. Less than it has is legal: nothing shrinks, nothing grows, and the usage says so.
    pub limits: TenantLimits,
    sums: Counts,
    exports: u32,
}

impl TenantRecord {
    /// Counts an export whatever the limits say: it is there.
    pub fn add(&mut self, export: &ExportRecord) {
        self.exports = self.exports.saturating_add(1);
        self.change(Counts::default(), export.counts());
    }

    /// Counts one of its exports no more.
    pub fn remove(&mut self, export: &ExportRecord) {
        self.exports = self.exports.saturating_sub(1);
        self.change(export.counts(), Counts::default());
    }

    /// Holds quota for a grow to `to`, before the backend is asked. A size that is not larger holds nothing.
    ///
    /// # Errors
    /// [`Reason::Busy`] and [`Reason::Unsettled`] while another grow of it is not over, [`Reason::LargestExport`],
    /// [`Reason::OverQuota`].
    pub fn hold(&mut self, export: &mut ExportRecord, to: Size) -> Result<Held, Reason> {
        export.settled()?;
        let unenforced = self.enforce(self.may_grow(export.size, to))?;
        let was_over_soft_quota = self.usage().over_soft_quota;
        self.step(export, |export| export.hold = Some(Hold { to, unsettled: false }));
        let crosses_soft_quota = self.usage().over_soft_quota && !was_over_soft_quota;
        Ok(Held { bytes: to.above(export.size), unenforced, crosses_soft_quota })
    }

    /// The grow is over, and this size was read back: that is what counts, be it more or less than was held. Against what
    /// was held.
    pub fn commit(&mut self, export: &mut ExportRecord, actual: Size) -> Drift {
        let held = export.hold.map_or(export.size, |hold| hold.to);
        self.step(export, |export| *export = ExportRecord { size: actual, hold: None });
        Drift::between(held, actual)
    }

    /// The backend was not asked, or said no and was read back unchanged.
    pub fn roll_back(&mut self, export: &mut ExportRecord) {
        self.step(export, |export| export.hold = None);
    }

    /// Whether it grew is not known: the hold stays counted until [`TenantRecord::settle`].
    pub fn unsettle(&mut self, export: &mut ExportRecord) {
        self.step(export, |export| {
            if let Some(hold) = &mut export.hold {
                hold.unsettled = true;
            }
        });
    }

    /// A size was measured after the grow in doubt can no longer land: that ends it. A grow in flight stays.
    pub fn settle(&mut self, export: &mut ExportRecord, measured: Size) -> Drift {
        self.step(export, |export| export.hold = export.hold.filter(|hold| !hold.unsettled));
        self.measure(export, measured)
    }

    /// Counts a measured size, whatever it is. A hold stays counted on top, up to the size that it is for.
    pub fn measure(&mut self, export: &mut ExportRecord, measured: Size) -> Drift {
        let counted = export.size;
        self.step(export, |export| export.size = measured);
        Drift::between(counted, measured)
    }

    /// What it has.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let over = |limit: Option<Bytes>| limit.is_some_and(|limit| self.total() > u128::from(limit.0));
        Usage {
            used: Bytes::saturating(self.sums.used),
            reserved: Bytes::saturating(self.sums.reserved),
            unsettled: Bytes::saturating(self.sums.unsettled),
            exports: self.exports,
            quota: self.limits.quota,
            soft_quota: self.limits.soft_quota,
            over_quota: over(self.limits.quota),
            over_soft_quota: over(self.limits.soft_quota),
        }
    }

    /// What it may still grow; none: as much as it likes.
    #[must_use]
    pub fn headroom(&self) -> Option<Headroom> {
        if self.limits.enforce { self.left() } else { None }
    }

    fn step(&mut self, export: &mut ExportRecord, step: impl FnOnce(&mut ExportRecord)) {
        let before = export.counts();
        step(export);
        self.change(before, export.counts());
    }

    fn change(&mut self, before: Counts, after: Counts) {
        // `before` is part of each sum, so nothing goes below zero.
        self.sums.used = self.sums.used + after.used - before.used;
        self.sums.reserved = self.sums.reserved + after.reserved - before.reserved;
        self.sums.unsettled = self.sums.unsettled + after.unsettled - before.unsettled;
    }

    /// Why an export may not grow so; none if it may.
    fn may_grow(&self, size: Size, to: Size) -> Option<Reason> {
        let wanted = to.above(size);
        if wanted == Bytes(0) {
            return None;
        }
        if let Some(largest) = self.limits.largest_export
            && to > largest
        {
            return Some(Reason::LargestExport { asked: to, largest });
        }
        let Headroom { left, quota } = self.left()?;
        (wanted > left).then_some(Reason::OverQuota { size, wanted, left, quota })
    }

    /// Makes a reason binding, or, where nothing is enforced, a remark.
    fn enforce(&self, reason: Option<Reason>) -> Result<Option<Reason>, Reason> {
        match reason {
            Some(reason) if self.limits.enforce => Err(reason),
            remark => Ok(remark),
        }
    }

    fn left(&self) -> Option<Headroom> {
        let quota = self.limits.quota?;
        let left = Bytes::saturating(u128::from(quota.0).saturating_sub(self.total()));
        Some(Headroom { left, quota })
    }

    fn total(&self) -> u128 {
        self.sums.used + self.sums.reserved + self.sums.unsettled
    }
}
