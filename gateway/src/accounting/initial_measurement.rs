//! Exports that nobody has measured yet, and that are about to be looked at: what grows of their tenants waits for that.
//!
//! For a moment only: a server that does not answer must not keep its tenant from growing for as long as it is away. What
//! could not be measured by then counts nothing until it can.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nbd_gateway_policy::types::{ExportName, TenantId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long growth waits at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is still to be looked at for the first time.
#[derive(Debug, Default)]
pub(crate) struct InitialMeasurement {
    due: Mutex<HashMap<TenantId, Due>>,
    looked: Notify,
}

#[derive(Debug)]
struct Due {
    exports: HashSet<ExportName>,
    until: Instant,
}

impl InitialMeasurement {
    /// An export will be looked at soon.
    pub(crate) fn expect(&self, export: &ExportName, tenant: &TenantId) {
        let until = Instant::now() + PATIENCE;
        let mut due = self.due.lock();
        let due = due.entry(tenant.clone()).or_insert_with(|| Due { exports: HashSet::new(), until });
        if due.exports.insert(export.clone()) {
            due.until = until;
        }
    }

    /// No others than these are looked at any more: they are nobody's, or another tenant's, now.
    pub(crate) fn only(&self, still: &[(ExportName, TenantId)]) {
        let still: HashSet<_> = still.iter().map(|(export, tenant)| (export, tenant)).collect();
        self.due.lock().retain(|tenant, due| {
            due.exports.retain(|export| still.contains(&(export, tenant)));
            !due.exports.is_empty()
        });
        self.looked.notify_waiters();
    }

    /// It was, whatever came of it.
    pub(crate) fn done(&self, export: &ExportName, tenant: &TenantId) {
        let mut due = self.due.lock();
        let Some(of) = due.get_mut(tenant) else { return };
        of.exports.remove(export);
        if of.exports.is_empty() {
            due.remove(tenant);
            self.looked.notify_waiters();
        }
    }

    /// Waits until all of a tenant's were looked at, but not for long. Cancel-safe: yes.
    pub(crate) async fn over(&self, tenant: &TenantId) {
        loop {
            // Before the look at what is due: nothing is missed in between.
            let looked = self.looked.notified();
            let Some(until) = self.due.lock().get(tenant).map(|due| due.until) else { return };
            if timeout_at(until, looked).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn growth_waits_for_the_first_look_at_all_of_its_tenants_exports_and_no_longer_than_a_moment() {
        let (looks, start) = (InitialMeasurement::default(), Instant::now());
        let export = |name| ExportName::new(name).unwrap();
        let (blue, red) = (TenantId::new("blue").unwrap(), TenantId::new("red").unwrap());
        looks.expect(&export("a"), &blue);
        looks.expect(&export("b"), &blue);
        looks.expect(&export("c"), &red);
        looks.done(&export("a"), &blue);
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            looks.done(&export("b"), &blue);
        };
        tokio::join!(looks.over(&blue), second);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        looks.over(&red).await;
        assert_eq!(start.elapsed(), PATIENCE);
        looks.over(&red).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }

    /// Those that a reload took away were waited for whenever others came.
    #[tokio::test(start_paused = true)]
    async fn what_is_not_looked_at_any_more_is_not_waited_for() {
        let (looks, start) = (InitialMeasurement::default(), Instant::now());
        let export = |name| ExportName::new(name).unwrap();
        let (blue, red) = (TenantId::new("blue").unwrap(), TenantId::new("red").unwrap());
        looks.expect(&export("gone"), &blue);
        looks.expect(&export("moved"), &blue);
        let still = [(export("moved"), red.clone())];
        looks.only(&still);
        looks.expect(&export("moved"), &red);
        looks.over(&blue).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        looks.over(&red).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }
}
