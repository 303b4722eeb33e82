//! The tenants' accounts, shared by all coordinators: what is used, reserved and unsettled.
//!
//! The arithmetic is `policy`'s; this adds the lock. It is filled from the ledger at the start, and each coordinator writes its
//! changes there. A check is O(1) however many exports a tenant has.

use std::collections::HashMap;
use std::time::Duration;

use nbd_gateway_config::Rates;
use nbd_gateway_policy::quota::{Accounts, Reservation};
use nbd_gateway_policy::rate::{Full, Limiter, Rate, adjust};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::types::{Bytes, ExportName, Moment, Size, TenantId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::initial_measurement::InitialMeasurement;
use super::looks::Looks;
use crate::limits::{NoticeLimiter, RetryAfter, pass};

/// How fast one tenant may go.
#[derive(Debug, Default)]
struct Limiters {
    resize: Option<Limiter>,
    growth: Option<Limiter>,
    notice: Option<Limiter>,
}

#[derive(Debug)]
pub(crate) struct TenantAccounts {
    quota: Mutex<Accounts>,
    limiters: Mutex<HashMap<TenantId, Limiters>>,
    /// What counts nothing before it was looked at.
    pub(crate) initial_measurement: InitialMeasurement,
    /// What is closed may be another size by now.
    pub(crate) looks: Looks,
    /// The beginning that limiters count from.
    start: Instant,
}

impl Default for TenantAccounts {
    fn default() -> Self {
        Self {
            quota: Mutex::default(),
            limiters: Mutex::default(),
            initial_measurement: InitialMeasurement::default(),
            looks: Looks::default(),
            start: Instant::now(),
        }
    }
}

impl TenantAccounts {
    /// One question about what counts, or one change of it. It is locked meanwhile: `ask` locks nothing else.
    pub(crate) fn books<T>(&self, ask: impl FnOnce(&mut Accounts) -> T) -> T {
        ask(&mut self.quota.lock())
    }

    /// How fast a tenant may go from now on. What it has taken of a rate stays taken.
    pub(crate) fn pace_tenant(&self, tenant: &TenantId, rates: Rates) {
        let now = self.now();
        let mut limiters = self.limiters.lock();
        let limiters = limiters.entry(tenant.clone()).or_default();
        adjust(&mut limiters.resize, rates.resize, now);
        adjust(&mut limiters.growth, rates.growth, now);
        adjust(&mut limiters.notice, rates.notice, now);
    }

    /// The time by the clock of all these rates.
    pub(crate) fn now(&self) -> Moment {
        Moment::from_elapsed(self.start.elapsed())
    }

    /// Takes `cost` out of one of a tenant's rates. An error says after how long there is room; `None`: never.
    fn take(
        &self,
        tenant: &TenantId,
        which: impl FnOnce(&mut Limiters) -> &mut Option<Limiter>,
        cost: u64,
    ) -> Result<(), Option<Duration>> {
        let now = self.now();
        let mut limiters = self.limiters.lock();
        let Some(limiter) = limiters.get_mut(tenant).and_then(|l| which(l).as_mut()) else { return Ok(()) };
        limiter.take(now, cost).map_err(|full| match full {
            Full::Until(moment) => Some(moment.since(now)),
            Full::Never => None,
        })
    }

    /// One resize of this tenant's; refused beyond `resize-rate`.
    pub(crate) fn take_resize(&self, tenant: &TenantId) -> Result<(), Reason> {
        let limited = |again_after| Reason::RateLimited { limit: "resize-rate", again_after };
        self.take(tenant, |l| &mut l.resize, 1).map_err(limited)
    }

    /// A rate of notices that is not a tenant's.
    pub(crate) fn notice_limiter(&self, rate: Option<Rate>) -> NoticeLimiter {
        NoticeLimiter::new(rate, self.now())
    }

    /// Changes a rate of notices that is not a tenant's.
    pub(crate) fn adjust_notices(&self, limiter: &NoticeLimiter, rate: Option<Rate>) {
        limiter.keep_to(rate, self.now());
    }

    /// One notice to a client of this tenant's, within its session's and its export's rate too.
    pub(crate) fn take_notice(
        &self,
        tenant: &TenantId,
        session: &NoticeLimiter,
        export: &NoticeLimiter,
    ) -> Result<(), RetryAfter> {
        let mut limiters = self.limiters.lock();
        let tenant = limiters.get_mut(tenant).and_then(|limiters| limiters.notice.as_mut());
        pass(session, export, tenant, self.now())
    }

    /// Counts an export that has been opened, at its measured size. A resize of unknown outcome is settled by that, unless
    /// it is `in_doubt`: the server may still carry it out. Whether that is news to the ledger.
    pub(crate) fn open(&self, export: &ExportName, tenant: &TenantId, measured: Size, in_doubt: bool) -> bool {
        self.initial_measurement.done(export, tenant);
        let mut quota = self.quota.lock();
        let known = quota.is_settled_at(export, tenant, measured);
        if quota.size(export).is_some() {
            quota.give(export, tenant);
            if in_doubt {
                quota.measure(export, measured);
            } else {
                quota.settle(export, measured);
            }
        } else {
            quota.add(export, tenant, measured);
        }
        !known
    }

    /// Counts an export that is about to be made, so that no two are made for the same room.
    ///
    /// # Errors
    /// Its tenant has no room for it; no more is counted than was before.
    pub(crate) fn create(&self, export: &ExportName, tenant: &TenantId, size: Size) -> Result<(), Reason> {
        let mut quota = self.quota.lock();
        let known = quota.give(export, tenant);
        if !known {
            quota.add(export, tenant, Size::ZERO);
        }
        match quota.reserve(export, size) {
            Ok(grant) => {
                quota.commit(grant.reservation, size);
                Ok(())
            }
            Err(reason) => {
                if !known {
                    // Nothing of it is held.
                    let _ = quota.remove(export);
                }
                Err(reason)
            }
        }
    }

    /// Waits until what counts of a tenant with a quota is what there is, as far as that can be found out in a moment.
    /// Cancel-safe: yes.
    pub(crate) async fn measured(&self, tenant: &TenantId) {
        self.initial_measurement.over(tenant).await;
        if self.quota.lock().usage(tenant).is_some_and(|usage| usage.quota.is_some()) {
            self.looks.over(tenant).await;
        }
    }

    /// Holds quota for a grow to `to`, once its tenant's exports count what they have. Whether that takes the tenant over its
    /// soft quota. Cancel-safe: yes.
    pub(crate) async fn reserve(
        &self,
        export: &ExportName,
        tenant: &TenantId,
        to: Size,
        bytes: Bytes,
    ) -> Result<(Reservation, bool), Reason> {
        self.measured(tenant).await;
        let grant = self.quota.lock().reserve(export, to)?;
        // Only what the quota allows costs anything of the rate.
        if let Err(again_after) = self.take(tenant, |l| &mut l.growth, bytes.0) {
            self.quota.lock().rollback(grant.reservation);
            return Err(Reason::RateLimited { limit: "growth-rate", again_after });
        }
        if grant.crosses_soft_quota {
            tracing::warn!(
                export = export.as_str(),
                tenant = tenant.as_str(),
                to = to.bytes(),
                "the tenant is over its soft-quota now"
            );
        }
        if let Some(reason) = &grant.unenforced {
            tracing::info!(
                export = export.as_str(),
                why = reason.label(),
                "a limit that is not enforced would have refused this"
            );
        }
        Ok((grant.reservation, grant.crosses_soft_quota))
    }

    /// The grow is done; the size that counts was read back.
    pub(crate) fn commit(&self, reservation: Option<Reservation>, export: &ExportName, count: Size) {
        let mut quota = self.quota.lock();
        match reservation {
            Some(reservation) => drop(quota.commit(reservation, count)),
            None => drop(quota.measure(export, count)),
        }
    }

    /// The grow was not done; that is known.
    pub(crate) fn roll_back(&self, reservation: Option<Reservation>) {
        if let Some(reservation) = reservation {
            self.quota.lock().rollback(reservation);
        }
    }

    /// Nobody knows whether it was done: it stays counted.
    pub(crate) fn unsettle(&self, reservation: Option<Reservation>) {
        if let Some(reservation) = reservation {
            self.quota.lock().unsettle(reservation);
        }
    }
}
