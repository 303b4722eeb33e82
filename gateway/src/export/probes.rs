//! Connections that are made only to look at a backend's size now and then: one at a time to each server, however many
//! exports it has.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::Address;

/// Whose turn it is at each server.
#[derive(Debug, Default)]
pub(super) struct Probes {
    turns: DashMap<String, Weak<Semaphore>>,
}

impl Probes {
    /// Waits for the turn at a server; given up when it is dropped. Cancel-safe: yes.
    pub(super) async fn turn(&self, server: &Address) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut entry = self.turns.entry(server.to_string()).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(Semaphore::new(1));
                *entry = Arc::downgrade(&fresh);
                fresh
            })
        };
        // A template's names can make up any number of sockets: who is not waited for is not remembered.
        if self.turns.len() > MANY {
            self.turns.retain(|_, turns| turns.strong_count() > 0);
        }
        // The semaphore is never closed.
        turns.acquire_owned().await.ok()
    }
}

/// Servers that are remembered before those that nobody looks at are forgotten.
const MANY: usize = 256;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_looks_at_a_server_at_a_time_and_others_look_at_others() {
        let probes = Probes::default();
        let (one, two) = (Address::Unix(PathBuf::from("/one")), Address::Unix(PathBuf::from("/two")));
        let first = probes.turn(&one).await;
        assert!(first.is_some() && probes.turn(&two).await.is_some());
        let second = tokio::time::timeout(Duration::from_secs(60), probes.turn(&one));
        assert!(second.await.is_err(), "two look at the same server");
        drop(first);
        assert!(probes.turn(&one).await.is_some());
    }

    #[tokio::test]
    async fn servers_that_nobody_looks_at_are_forgotten() {
        let probes = Probes::default();
        for n in 0..4 * MANY {
            drop(probes.turn(&Address::Unix(PathBuf::from(format!("/{n}")))).await);
        }
        assert!(probes.turns.len() <= MANY + 1, "{}", probes.turns.len());
    }
}
