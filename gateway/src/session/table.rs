//! The sessions that are open now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use dashmap::DashMap;
use nbd_gateway_policy::access::Verbs;
use nbd_gateway_policy::style::ClientStyle;
use tokio::sync::Notify;

use super::Session;
use crate::net::Peer;
use crate::proto::Framing;

/// Every session in transmission, by its id. No guard of the map is held across an await.
#[derive(Debug, Default)]
pub(crate) struct SessionTable {
    next: AtomicU64,
    pub(super) open: DashMap<u64, Weak<Session>>,
    left: Notify,
}

/// One open session, as it is shown and chosen by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionInfo {
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
    /// What its client knows of resize.
    pub style: ClientStyle,
    /// Its client.
    pub peer: Peer,
    /// Where that comes from, for people: with its port.
    pub from: String,
    /// How its replies are framed.
    pub framing: Framing,
    /// The size that it was last told, in bytes.
    pub told: u64,
    /// The listener that it came to, as the configuration calls it.
    pub listener: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// When it entered transmission.
    pub since: SystemTime,
}

impl SessionTable {
    /// An id that no session of this process had before.
    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Adds a session; it leaves when the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, session: &Arc<Session>) -> Entered {
        self.open.insert(session.id(), Arc::downgrade(session));
        Entered { table: Arc::clone(self), id: session.id() }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Waits until none is open. Cancel-safe: yes.
    pub(crate) async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.open.iter().filter_map(|entry| entry.value().upgrade()).collect()
    }

    /// Cuts every connection.
    pub(crate) fn cut_all(&self) {
        self.open.iter().filter_map(|entry| entry.value().upgrade()).for_each(|session| session.cut());
    }

    /// Ends those that `which` says, each between two messages; gives them, to wait until they have
    /// [ended](Session::ended).
    pub(crate) fn close(&self, which: impl Fn(&SessionInfo) -> bool) -> Vec<Arc<Session>> {
        let open = self.open.iter().filter_map(|entry| entry.value().upgrade());
        let chosen: Vec<Arc<Session>> = open.filter(|session| which(&session.info())).collect();
        chosen.iter().for_each(|session| session.close());
        chosen
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        let mut all: Vec<SessionInfo> =
            self.open.iter().filter_map(|entry| entry.value().upgrade()).map(|s| s.info()).collect();
        all.sort_by_key(|s| s.id);
        all
    }
}

impl Session {
    /// What the table tells about it.
    pub(crate) fn info(&self) -> SessionInfo {
        SessionInfo {
            id: self.id,
            export: self.export.name().to_owned(),
            tenant: self.export.tenant().to_owned(),
            verbs: self.verbs(),
            rule: self.agreement.decision.rule.to_string(),
            style: self.agreement.style,
            peer: self.peer,
            from: self.from.clone(),
            framing: self.agreement.framing,
            told: self.told(),
            listener: self.listener.as_ref().to_owned(),
            tls: self.tls,
            since: self.since,
        }
    }
}

/// A place in the table.
#[derive(Debug)]
pub(crate) struct Entered {
    table: Arc<SessionTable>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.open.remove(&self.id);
        self.table.left.notify_waiters();
    }
}
