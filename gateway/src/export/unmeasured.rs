//! Exports that count as nothing because no gateway has ever opened them, and those whose last grow nobody knows the outcome
//! of: they are looked at from the start on, without a client.
//!
//! The first are those that the configuration names, of a tenant with a quota that has others which could grow into their
//! room. A name that only fits a template is nobody's before a client makes it up. One whose server can't be reached is told
//! once, asked again and again, and shown with its tenant; meanwhile it counts nothing. Counting its `max-size` instead was
//! weighed: most quotas are smaller than the sum of those, so that one dead server could keep its tenant from growing for
//! ever, for bytes that may not be there. What it has is counted when it is back, and stops further growth then.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_policy::types::{ExportName, TenantId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::registry::Opener;
use super::{OpenError, Registry};

/// How many exports are looked at at a time.
const AT_A_TIME: usize = 8;
/// How long to wait before those that failed are looked at again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Registry {
    /// The exports that count nothing and should.
    fn unmeasured(&self) -> Vec<(ExportName, TenantId)> {
        let config = self.config();
        let mut owned: HashMap<&TenantId, u32> = HashMap::new();
        for owner in config.listable().chain(config.templates()).filter_map(|name| config.owner_of(name)) {
            let count = owned.entry(owner).or_default();
            *count = count.saturating_add(1);
        }
        let bounded = |tenant: &TenantId| {
            owned.get(tenant).is_some_and(|count| *count > 1)
                && self.allowances.allowed(tenant).is_some_and(|allowed| allowed.effective().quota.is_some())
        };
        let named = config.listable().filter_map(|name| Some((ExportName::new(name).ok()?, config.owner_of(name)?)));
        named
            .filter(|(export, tenant)| {
                bounded(tenant) && self.shared.accounts.books(|books| books.size(export)).is_none()
            })
            .map(|(export, tenant)| (export, tenant.clone()))
            .collect()
    }

    /// How many of each tenant's count nothing because they could not be measured yet; tenants that have none are left out.
    pub(crate) fn unmeasured_exports(&self) -> HashMap<TenantId, u32> {
        let mut counts: HashMap<TenantId, u32> = HashMap::new();
        for (_, tenant) in self.unmeasured() {
            let count = counts.entry(tenant).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Before anybody can grow: whose growth is to wait for the first look.
    pub(crate) fn expect_looks(&self) {
        let (unmeasured, initial_measurement) = (self.unmeasured(), &self.shared.accounts.initial_measurement);
        initial_measurement.only(&unmeasured);
        unmeasured.iter().for_each(|(export, tenant)| initial_measurement.expect(export, tenant));
    }

    /// Looks again at once: a tenant's exports, or its quota, are others now.
    pub(crate) fn look_anew(&self) {
        self.expect_looks();
        self.to_look_at.notify_one();
    }

    /// Measures `remembered` and every export that counts nothing, until each has been measured once; then waits for those
    /// that another configuration brings, for ever. Cancel-safe: yes.
    pub(crate) async fn measure_all(self: Arc<Self>, remembered: Vec<String>) {
        let patience = || Backoff::new(AGAIN.0, AGAIN.1, RandomState::new().hash_one(0));
        let mut backoff = patience();
        let mut told = HashSet::new();
        let mut left: HashSet<String> = remembered.into_iter().collect();
        loop {
            let new = self.unmeasured();
            let due = new.iter().map(|(export, _)| export.as_str().to_owned());
            // Of those that are remembered something may have to be settled: they stay open until they are idle.
            let due: Vec<(String, bool)> =
                left.iter().cloned().map(|name| (name, true)).chain(due.map(|name| (name, false))).collect();
            if due.is_empty() {
                self.to_look_at.notified().await;
                backoff = patience();
                continue;
            }
            let turns = Arc::new(Semaphore::new(AT_A_TIME));
            let mut looking = JoinSet::new();
            for (name, stays) in due {
                let (registry, turns) = (Arc::clone(&self), Arc::clone(&turns));
                looking.spawn(async move {
                    let _turn = turns.acquire_owned().await;
                    let looked = if registry.forget_unmade(&name).await {
                        tracing::info!(export = name, "the file of an export is gone; the export is counted no more");
                        Ok(())
                    } else {
                        match registry.open_for(&name, Opener::Look).await {
                            Ok(lease) if !stays => {
                                registry.looked(lease).await;
                                Ok(())
                            }
                            looked => looked.map(drop),
                        }
                    };
                    if let (Ok(export), Some(tenant)) = (ExportName::new(&name), registry.config().owner_of(&name)) {
                        registry.shared.accounts.initial_measurement.done(&export, tenant);
                    }
                    (name, looked)
                });
            }
            while let Some(looked) = looking.join_next().await {
                match looked {
                    Ok((name, Ok(()))) => {
                        if told.remove(&name) {
                            tracing::info!(export = name, "an export has been measured at last");
                        }
                        left.remove(&name);
                    }
                    // It has left the configuration, and counts at its last size for good.
                    Ok((name, Err(OpenError::Unknown { .. }))) => drop(left.remove(&name)),
                    Ok((name, Err(error))) => {
                        if told.insert(name.clone()) {
                            let counts = if left.contains(&name) { "at its last size" } else { "nothing" };
                            tracing::warn!(export = name, %error, counts, "an export can't be measured; it is asked again until it can");
                        }
                    }
                    Err(_) => {}
                }
            }
            let next = backoff.next_delay();
            tokio::select! {
                // Both look again; the order first, because it also shortens the pauses.
                biased;
                () = self.to_look_at.notified() => backoff = patience(),
                () = tokio::time::sleep(next) => {}
            }
        }
    }
}
