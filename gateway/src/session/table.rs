//! The sessions that are open now.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use dashmap::DashMap;
use nbd_gateway_config::Config;
use nbd_gateway_net::Peer;
use nbd_gateway_policy::access::Verbs;
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::Bytes;
use nbd_gateway_proto::Framing;
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
}

/// One open session, as it is shown and chosen by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionInfo {
    pub id: SessionId,
    /// The export it uses.
    pub export: String,
    pub tenant: String,
    /// What its client may do.
    pub verbs: Verbs,
    pub rule: String,
    /// What its client knows of resize.
    pub style: ClientStyle,
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

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
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

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        let mut all: Vec<SessionInfo> =
            self.open.iter().filter_map(|entry| entry.value().upgrade()).map(|s| s.info()).collect();
        all.sort_by_key(|s| s.id);
        all
    }
}

impl Disconnect for SessionTable {
    fn clients_of(&self, export: &str) -> Vec<ConnectedClient> {
        let of_export = self.list().into_iter().filter(|session| session.export == export);
        of_export
            .map(|SessionInfo { id, peer, style, told, .. }| ConnectedClient { session: id, peer, style, told })
            .collect()
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
    id: SessionId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.open.remove(&self.id);
        self.table.left.notify_waiters();
    }
}
