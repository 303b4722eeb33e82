//! Looks at the exports that a tenant has closed, before anything of that tenant's grows.
//!
//! Each is opened for that and closed again, as for its first measurement; a file is only measured, unless its length is
//! another one. What is gone is counted no more. Growth must not cost its tenant's servers more than a tenth of the time:
//! a look that took long stays good for longer. A server that can't be reached counts at its last size, and is asked again
//! with growing pauses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{Backend, Driver};
use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_policy::types::{ExportName, TenantId};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::registry::Opener;
use super::{OpenError, Registry};

/// How many exports of a tenant's are looked at at a time.
const AT_A_TIME: usize = 8;
/// How long a look is good for: at least so long, and this many times as long as it took.
const FRESH: (Duration, u32) = (Duration::from_secs(1), 10);
/// How long one that failed is left alone: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What is remembered of the looks at one tenant's.
#[derive(Debug, Default)]
struct Looked {
    /// It was looked at a moment ago.
    fresh: Option<Instant>,
    failed: HashMap<String, (Instant, Backoff)>,
}

impl Looked {
    fn is_fresh(&self) -> bool {
        self.fresh.is_some_and(|until| Instant::now() < until)
    }

    /// Those that are due; what is not among `closed` is not remembered.
    fn due(&mut self, closed: Vec<String>) -> Vec<String> {
        let now = Instant::now();
        self.failed.retain(|name, _| closed.contains(name));
        closed.into_iter().filter(|name| self.failed.get(name).is_none_or(|(again, _)| *again <= now)).collect()
    }

    fn failed(&mut self, name: String) {
        let patience = || Backoff::new(AGAIN.0, AGAIN.1, RandomState::new().hash_one(0));
        let (again, backoff) = self.failed.entry(name).or_insert_with(|| (Instant::now(), patience()));
        *again = Instant::now() + backoff.next_delay();
    }

    fn over(&mut self, begun: Instant) {
        self.fresh = Some(Instant::now() + begun.elapsed().saturating_mul(FRESH.1).max(FRESH.0));
    }
}

impl Registry {
    /// Looks whenever something is about to grow, for ever. Cancel-safe: yes.
    pub(crate) async fn look_before_growth(self: Arc<Self>) {
        let Some(mut wanted) = self.shared.accounts.looks.take() else { return };
        let mut tenants: HashMap<TenantId, Arc<Mutex<Looked>>> = HashMap::new();
        let mut looking = JoinSet::new();
        while let Some(wanted) = wanted.recv().await {
            while looking.try_join_next().is_some() {}
            let looked = Arc::clone(tenants.entry(wanted.tenant.clone()).or_default());
            let registry = Arc::clone(&self);
            looking.spawn(async move {
                // One look for all who wait.
                let mut looked = looked.lock().await;
                if !looked.is_fresh() {
                    registry.look_at_closed(&wanted.tenant, &mut looked).await;
                }
                // All of it, not its tenant alone: whoever waits goes on when it is dropped.
                drop(wanted);
            });
        }
    }

    async fn look_at_closed(self: &Arc<Self>, tenant: &TenantId, looked: &mut Looked) {
        let begun = Instant::now();
        let closed = self
            .shared
            .accounts
            .books(|books| books.exports_of(tenant))
            .into_iter()
            .map(|export| export.as_str().to_owned());
        // What is open is followed; what is being opened is measured by that.
        let closed = closed.filter(|name| !self.index.contains(name)).collect();
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        let mut looks = JoinSet::new();
        for name in looked.due(closed) {
            let (registry, turns) = (Arc::clone(self), Arc::clone(&turns));
            looks.spawn(async move {
                let _turn = turns.acquire_owned().await;
                let fine = registry.look_again(&name).await;
                (name, fine)
            });
        }
        while let Some(look) = looks.join_next().await {
            if let Ok((name, fine)) = look {
                match fine {
                    true => drop(looked.failed.remove(&name)),
                    false => looked.failed(name),
                }
            }
        }
        looked.over(begun);
    }

    /// Measures one that is closed. Whether it counts what it has now.
    async fn look_again(self: &Arc<Self>, name: &str) -> bool {
        let Ok(config) = self.config().export_for(name) else {
            // It has left the configuration, and counts at its last size.
            return true;
        };
        match (&config.backend, &config.resize.driver) {
            // What it shows is counted, and only the ledger has it.
            (_, Driver::Window { .. }) | (Backend::Memory { .. }, _) => return true,
            (Backend::File { path, .. }, _) => {
                if self.forget_unmade(name).await {
                    tracing::info!(export = name, "the file of an export is gone; the export is counted no more");
                    return true;
                }
                let counted = self.shared.accounts.books(|books| books.size(&config.name)).map(|size| size.bytes());
                if tokio::fs::metadata(path).await.is_ok_and(|found| found.is_file() && Some(found.len()) == counted) {
                    return true;
                }
            }
            (Backend::Nbd(_), _) => {}
        }
        match self.open_for(name, Opener::Look).await {
            Ok(lease) => {
                self.looked(lease).await;
                true
            }
            Err(OpenError::Missing { .. }) => self.forget_missing(&config.name, &config.tenant).await,
            Err(error) => {
                tracing::debug!(export = name, %error, "a closed export can't be measured; it counts at its last size");
                false
            }
        }
    }

    /// Counts one no more that a template's server does not have any more. Whether that is so now.
    async fn forget_missing(&self, export: &ExportName, tenant: &TenantId) -> bool {
        let last = self.shared.accounts.books(|books| books.size(export)).unwrap_or_default();
        let forgotten = self.shared.ledger_cache.forget(export, tenant, last).await.is_ok();
        if forgotten && self.shared.accounts.books(|books| books.remove(export)).is_ok() {
            let export = export.as_str();
            tracing::info!(export, "an export is gone from its template's server; it is counted no more");
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_is_good_for_ten_times_as_long_as_it_took_and_a_second_at_least() {
        for (took, good) in [(0, 1000), (50, 1000), (500, 5000)] {
            let mut looked = Looked::default();
            assert!(!looked.is_fresh());
            let begun = Instant::now();
            tokio::time::advance(Duration::from_millis(took)).await;
            looked.over(begun);
            tokio::time::advance(Duration::from_millis(good - 1)).await;
            assert!(looked.is_fresh());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!looked.is_fresh());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_can_t_be_reached_is_left_alone_for_a_while_and_forgotten_when_it_is_gone() {
        let mut looked = Looked::default();
        let closed = || vec!["a".to_owned(), "b".to_owned()];
        looked.failed("a".to_owned());
        assert_eq!(looked.due(closed()), ["b"]);
        tokio::time::advance(AGAIN.1).await;
        assert_eq!(looked.due(closed()), closed());
        looked.failed("a".to_owned());
        assert!(looked.due(Vec::new()).is_empty() && looked.failed.is_empty());
    }
}
