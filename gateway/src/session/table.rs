//! The sessions that are open now.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use nbd_gateway_config::Config;
use nbd_gateway_policy::types::Bytes;
use tokio::sync::Notify;

use super::Session;
use crate::export::Teardown;
use crate::hooks::{ConnectedClient, Disconnect};
use crate::request::SessionId;

/// Every session in transmission, by its id. No guard of the map is held across an await.
#[derive(Debug, Default)]
pub(crate) struct SessionTable {
    next: AtomicU64,
    pub(super) open: DashMap<SessionId, Weak<Session>>,
    left: Notify,
    /// The most that were open since they were last [fewer by half](Self::halved).
    most: AtomicUsize,
    halved: Notify,
}

/// So many sessions at least are a crowd: some 3 MiB.
const CROWD: usize = 256;

impl SessionTable {
    /// An id that no session of this process had before.
    pub(crate) fn next_id(&self) -> SessionId {
        SessionId::after(self.next.fetch_add(1, Ordering::Relaxed))
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

    /// Waits until half of a crowd has left. Cancel-safe: yes.
    pub(crate) async fn halved(&self) {
        self.halved.notified().await;
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.open.iter().filter_map(|entry| entry.value().upgrade()).collect();
        all.sort_by_key(|session| session.id);
        all
    }

    /// Ends those that `which` says, each between two messages; gives them, to wait until they have
    /// [ended](Session::ended).
    pub(crate) fn close(&self, which: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut chosen = self.all();
        chosen.retain(|session| which(session));
        chosen.iter().for_each(|session| session.close());
        chosen
    }

    /// What must not be done to clients that are connected: a sentence for each export.
    pub(crate) fn objections(&self, config: &Config) -> Vec<String> {
        let mut told = BTreeMap::new();
        for session in self.staying().filter(|session| session.sees_ceiling()) {
            let name = session.export.name();
            let Ok(next) = config.export_for(name) else { continue };
            let policy = &next.resize.policy;
            let ceiling = if policy.ceiling { policy.granularity.round_down(policy.max_size).bytes() } else { 0 };
            if session.told() > ceiling.max(session.export.size()) {
                let most = told.entry(name.to_owned()).or_default();
                *most = session.told().max(*most);
            }
        }
        let sentence = |(name, told): (String, u64)| {
            format!(
                "export {name:?} can't be shown with less than {}: clients are connected that were told so, and rely on it; \
                 end them first",
                Bytes(told)
            )
        };
        told.into_iter().map(sentence).collect()
    }

    /// Ends the sessions whose clients may do other things by `config`: they come back under the new rules. How many.
    pub(crate) fn judge_again(&self, config: &Config) -> usize {
        let judged = self.staying().filter(|session| !session.is_admitted_by(config));
        let end = |session: Arc<Session>| {
            tracing::info!(
                session = session.id.get(),
                export = session.export.name(),
                "a session is ended, for its client may do other things now"
            );
            session.close();
        };
        judged.map(end).count()
    }

    /// Those whose exports stay open. Holds no guard of the map.
    fn staying(&self) -> impl Iterator<Item = Arc<Session>> {
        self.all().into_iter().filter(|session| *session.export.leaving().borrow() == Teardown::Not)
    }
}

impl Disconnect for SessionTable {
    fn clients_of(&self, export: &str) -> Vec<ConnectedClient> {
        let client = |session: Arc<Session>| ConnectedClient {
            session: session.id,
            peer: session.peer,
            style: session.agreement.style,
            told: session.told(),
        };
        self.all().into_iter().filter(|session| session.export.name() == export).map(client).collect()
    }

    fn disconnect<'a>(&'a self, sessions: &'a [SessionId]) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let chosen = self.close(|session| sessions.contains(&session.id));
        Box::pin(async move {
            for session in chosen {
                session.ended().await;
            }
        })
    }
}

impl Session {
    /// Whether its client may do by `config` what it may do.
    pub(super) fn is_admitted_by(&self, config: &Config) -> bool {
        let tenant = &self.export.settings().config.tenant;
        config.access().decide(&self.identity(), tenant, self.export.name()).verbs == self.verbs()
    }
}

/// A place in the table.
#[derive(Debug)]
pub(crate) struct Entered {
    table: Arc<SessionTable>,
    id: SessionId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.open.remove(&self.id);
        self.table.left.notify_waiters();
        let now = self.table.len();
        // There was one more until now, so who enters need not count.
        let most = self.table.most.fetch_max(now + 1, Ordering::AcqRel).max(now + 1);
        if most >= CROWD && now <= most / 2 {
            self.table.most.store(now, Ordering::Release);
            self.table.halved.notify_one();
        }
    }
}
