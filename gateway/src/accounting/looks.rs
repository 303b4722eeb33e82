//! Growth of a tenant waits for a look at its exports that are closed: what the ledger has of them may be out of date.
//!
//! A disk may have been changed or removed by another hand since its export was closed, and the ledger may be an older
//! copy. So nothing is granted, and nobody is refused, by a size that was only remembered. Whoever looks takes the
//! requests; where nobody does, nothing waits.

use std::sync::OnceLock;
use std::time::Duration;

use nbd_gateway_policy::types::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long growth waits at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many wait to be taken. Those beyond wait for a place.
const WAITING: usize = 64;

/// A request to look at a tenant's closed exports; dropped when that was done.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub tenant: TenantId,
    _done: oneshot::Sender<()>,
}

/// The way to whoever looks.
#[derive(Debug, Default)]
pub(crate) struct Looks(OnceLock<mpsc::Sender<Wanted>>);

impl Looks {
    /// Takes the requests from now on; `None`: somebody does already.
    pub(crate) fn take(&self) -> Option<mpsc::Receiver<Wanted>> {
        let (wants, wanted) = mpsc::channel(WAITING);
        self.0.set(wants).is_ok().then_some(wanted)
    }

    /// Waits until a tenant's closed exports were looked at, but not for long. Cancel-safe: yes.
    pub(crate) async fn over(&self, tenant: &TenantId) {
        let Some(looker) = self.0.get() else { return };
        let (done, looked) = oneshot::channel();
        let wanted = Wanted { tenant: tenant.clone(), _done: done };
        // An error means that nobody looks any more.
        let ask = async {
            if looker.send(wanted).await.is_ok() {
                drop(looked.await)
            }
        };
        let _ = timeout(PATIENCE, ask).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn growth_waits_until_it_was_looked_and_no_longer_than_a_moment() {
        let (looks, tenant) = (Looks::default(), TenantId::new("t").unwrap());
        let begun = Instant::now();
        looks.over(&tenant).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody looks");
        let mut wanted = looks.take().unwrap();
        assert!(looks.take().is_none());
        let look = async {
            let wanted = wanted.recv().await.unwrap();
            assert_eq!(wanted.tenant, tenant);
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        tokio::join!(looks.over(&tenant), look);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        looks.over(&tenant).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1) + PATIENCE, "nobody answers");
    }
}
