//! Series that end before the process does: those of exports and tenants that the configuration no longer has, and those of
//! names that fit a template, when they are closed.
//!
//! Counters that come back under the same name begin at 0 again, as after a restart. Who still holds handles of what was
//! forgotten counts into nothing.

use crate::labels::{Command, Direction, HookResult, HookWay, LossReason, Outcome, ResizeResult, ResizeStyle};
use crate::names::Metrics;

impl Metrics {
    /// Takes the series of an export or of a template away, and makes room for another name. An export that shares those of
    /// its template has none.
    pub fn forget_export(&self, name: &str, tenant: &str) {
        {
            let mut shown = self.exports.lock();
            if !shown.named.remove(name) && !shown.made_up.remove(name) {
                return;
            }
        }
        // What is not there need not go.
        for command in Command::ALL {
            for outcome in Outcome::ALL {
                let _ = self.all.requests.remove_label_values(&[name, command.as_str(), outcome.as_str()]);
            }
        }
        for direction in Direction::ALL {
            let _ = self.all.bytes.remove_label_values(&[name, direction.as_str()]);
        }
        for reason in LossReason::ALL {
            let _ = self.all.reconnects.remove_label_values(&[name, reason.as_str()]);
        }
        for result in HookResult::ALL {
            for way in HookWay::ALL {
                let _ = self.all.hook_attempts.remove_label_values(&[name, way.as_str(), result.as_str()]);
            }
        }
        for style in ResizeStyle::ALL {
            for result in ResizeResult::ALL {
                let _ = self.all.resizes.remove_label_values(&[name, tenant, style.as_str(), result.as_str()]);
            }
        }
        let _ = self.all.size.remove_label_values(&[name, tenant]);
        for counter in [
            &self.all.open_failures,
            &self.all.claims_lost,
            &self.all.notices_sent,
            &self.all.notices_merged,
            &self.all.backend_notices,
            &self.all.backend_notices_dropped,
        ] {
            let _ = counter.remove_label_values(&[name]);
        }
        for gauge in [
            &self.all.in_flight,
            &self.all.oldest,
            &self.all.lane_up,
            &self.all.late_writes,
            &self.all.opened,
            &self.all.generation,
            &self.all.looked_at,
            &self.all.drift,
            &self.all.unsettled,
            &self.all.quarantined,
            &self.all.hooks_behind,
        ] {
            let _ = gauge.remove_label_values(&[name]);
        }
    }

    /// Takes a tenant's series away; `reasons` as in [`tenant`](Self::tenant).
    pub fn forget_tenant(&self, name: &str, reasons: &[&'static str]) {
        for reason in reasons {
            let _ = self.all.denials.remove_label_values(&[name, reason]);
        }
        let all = &self.all;
        for gauge in
            [&all.tenant_quota, &all.tenant_used, &all.tenant_reserved, &all.tenant_unsettled, &all.tenant_unmeasured]
        {
            let _ = gauge.remove_label_values(&[name]);
        }
    }
}
