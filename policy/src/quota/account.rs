//! One tenant's sums, and one export's part in them.
//!
//! Every change to an export is a step from what it counted before to what it counts after; the tenant's sums move by
//! the difference. So they can't drift from the exports, and no change looks at any other export. Sums are 128 bits
//! wide inside: the sizes of many exports together may exceed 64.

use super::Headroom;
use crate::refusal::Reason;
use crate::types::{Bytes, Size, TenantId};

/// What a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// The most that its exports' sizes may sum to; none: no quota.
    pub quota: Option<Bytes>,
    /// A sum beyond which an event is raised; none: no such event.
    pub soft_quota: Option<Bytes>,
    /// The most exports at once.
    pub max_exports: Option<u32>,
    /// The largest that one export may become.
    pub largest_export: Option<Size>,
    /// False: count and report, refuse nothing.
    pub enforce: bool,
}

impl TenantLimits {
    /// None at all.
    pub const NONE: Self =
        Self { quota: None, soft_quota: None, max_exports: None, largest_export: None, enforce: true };
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

/// One export as the ledger counts it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) tenant: TenantId,
    pub(super) size: Size,
    pub(super) pending: Pending,
    pub(super) measured: bool,
}

/// What is held for a grow that is not over.
#[derive(Debug)]
pub(super) enum Pending {
    None,
    Reserved { to: Size, number: u64 },
    Unsettled { to: Size },
}

/// What an export adds to its tenant's sums.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    used: u128,
    reserved: u128,
    unsettled: u128,
}

impl Entry {
    pub(super) fn counts(&self) -> Counts {
        let held = |to: Size| u128::from(to.above(self.size).0);
        let (reserved, unsettled) = match self.pending {
            Pending::None => (0, 0),
            Pending::Reserved { to, .. } => (held(to), 0),
            Pending::Unsettled { to } => (0, held(to)),
        };
        Counts { used: u128::from(self.size.bytes()), reserved, unsettled }
    }
}

/// One tenant.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) limits: TenantLimits,
    sums: Counts,
    exports: u32,
}

impl Account {
    pub(super) fn open(&mut self, counts: Counts) {
        self.exports = self.exports.saturating_add(1);
        self.change(Counts::default(), counts);
    }

    pub(super) fn close(&mut self, counts: Counts) {
        self.exports = self.exports.saturating_sub(1);
        self.change(counts, Counts::default());
    }

    pub(super) fn change(&mut self, before: Counts, after: Counts) {
        // `before` is part of each sum, so nothing goes below zero.
        self.sums.used = self.sums.used + after.used - before.used;
        self.sums.reserved = self.sums.reserved + after.reserved - before.reserved;
        self.sums.unsettled = self.sums.unsettled + after.unsettled - before.unsettled;
    }

    pub(super) fn usage(&self) -> Usage {
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

    pub(super) fn headroom(&self) -> Option<Headroom> {
        if self.limits.enforce { self.left() } else { None }
    }

    /// Why an export may not grow so; none if it may.
    pub(super) fn may_grow(&self, size: Size, to: Size) -> Option<Reason> {
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

    /// Why there may not be one more export; none if there may.
    pub(super) fn one_more_export(&self) -> Option<Reason> {
        let most = self.limits.max_exports?;
        (self.exports >= most).then_some(Reason::TooManyExports { most })
    }

    /// Makes a reason binding, or, where nothing is enforced, a remark.
    pub(super) fn enforce(&self, reason: Option<Reason>) -> Result<Option<Reason>, Reason> {
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
