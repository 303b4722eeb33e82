//! The sessions that are open now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use nbd_gateway_policy::access::Verbs;
use tokio::sync::Notify;

use super::Session;

/// Every session in transmission, by its id. No guard of the map is held across an await.
#[derive(Debug, Default)]
pub struct SessionTable {
    next: AtomicU64,
    open: DashMap<u64, Weak<Session>>,
    left: Notify,
}

/// One open session, for the admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: u64,
    /// The export it uses.
    pub export: String,
    /// Whose that is.
    pub tenant: String,
    /// What its client may do.
    pub verbs: Verbs,
    /// By what.
    pub rule: String,
}

impl SessionTable {
    /// An id that no session of this process had before.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Adds a session; it leaves when the guard is dropped.
    pub fn enter(self: &Arc<Self>, session: &Arc<Session>) -> Entered {
        self.open.insert(session.id(), Arc::downgrade(session));
        Entered { table: Arc::clone(self), id: session.id() }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Waits until none is open. Cancel-safe: yes.
    pub async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Cuts every connection.
    pub fn cut_all(&self) {
        self.open.iter().filter_map(|entry| entry.value().upgrade()).for_each(|session| session.cut());
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<SessionInfo> {
        let mut all: Vec<SessionInfo> = self
            .open
            .iter()
            .filter_map(|entry| entry.value().upgrade())
            .map(|s| SessionInfo {
                id: s.id(),
                export: s.export().name().to_owned(),
                tenant: s.export().tenant().to_owned(),
                verbs: s.verbs(),
                rule: s.agreement.decision.rule.to_string(),
            })
            .collect();
        all.sort_by_key(|s| s.id);
        all
    }
}

/// A place in the table.
#[derive(Debug)]
pub struct Entered {
    table: Arc<SessionTable>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.open.remove(&self.id);
        self.table.left.notify_waiters();
    }
}
