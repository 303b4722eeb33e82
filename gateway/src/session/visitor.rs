//! A client at the door: who it is, and which exports there are for it.
//!
//! What a client may not list does not exist for it. A name that means nothing and a name that is not for it take the same
//! way here, before any export is looked for: the same reply, the same line in the log, no backend dialled, and no
//! comparison with an entry that does not fit it.

use std::sync::Arc;

use nbd_gateway_config::NoExport;
use nbd_gateway_policy::access::{Admission, Certificate, Decision, Identity, Verb};
use tokio::sync::watch;

use super::refusals::Refusals;
use crate::export::{Lease, OpenError, Registry};
use crate::net::Peer;

/// One client during its handshake.
#[derive(Debug)]
pub(crate) struct Visitor {
    registry: Arc<Registry>,
    refusals: Arc<Refusals>,
    identity: Identity,
    admission: Admission,
}

impl Visitor {
    /// A client that has just come by `listener`, as the configuration calls it.
    pub(crate) fn new(registry: &Arc<Registry>, refusals: &Arc<Refusals>, listener: &str, peer: Peer) -> Self {
        let listener = listener.to_owned();
        let identity = match peer {
            Peer::Tcp(address) => Identity { address: Some(address), listener, ..Identity::default() },
            Peer::Unix { uid, gid, .. } => Identity { uid: Some(uid), gid: Some(gid), listener, ..Identity::default() },
            Peer::Unknown => Identity { listener, ..Identity::default() },
        };
        let admission = registry.access().admit(&identity);
        Self { registry: Arc::clone(registry), refusals: Arc::clone(refusals), identity, admission }
    }

    /// It has proved that this certificate is its own.
    pub(crate) fn prove(&mut self, certificate: Certificate) {
        self.identity.certificate = Some(certificate);
        self.admission = self.registry.access().admit(&self.identity);
    }

    /// The exports that it may see, with the configuration's descriptions. No backend is asked.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let seen = |name| self.registry.owner_of(name).is_some_and(|t| self.admission.decide(t, name).may(Verb::List));
        self.registry.list().filter(move |(name, _)| seen(name))
    }

    /// Opens an export, to look at it or to use it: `verb` is `list` or `read`.
    /// Cancel-safe: yes; an attempt that nobody waits for is dropped.
    pub(crate) async fn open(
        &self,
        name: &str,
        verb: Verb,
        drain: &watch::Receiver<bool>,
    ) -> Result<(Lease, Decision), OpenError> {
        let mut drain = drain.clone();
        tokio::select! {
            biased;
            // An error means that nobody is left to say so.
            _ = drain.wait_for(|draining| *draining) => Err(OpenError::Draining),
            // An attempt that nobody waits for is dropped, so a backend that is silent holds no drain up.
            opened = self.open_if_allowed(name, verb) => opened,
        }
    }

    async fn open_if_allowed(&self, name: &str, verb: Verb) -> Result<(Lease, Decision), OpenError> {
        let export = || name.to_owned();
        let Some(tenant) = self.registry.owner_of(name) else {
            return Err(OpenError::Unknown { export: export(), why: NoExport::Unknown });
        };
        let decision = self.admission.decide(tenant, name);
        if !decision.may(Verb::List) {
            // To this client it is as if there were none: refused here, before anything is waited for.
            return Err(OpenError::Hidden { export: export(), rule: decision.rule });
        }
        if !decision.may(verb) {
            return Err(OpenError::Forbidden { export: export(), verb, rule: decision.rule });
        }
        Ok((self.registry.open(name).await?, decision))
    }

    /// Tells the log that it was refused, unless that fills it.
    pub(crate) fn refused(&self, export: &str, error: &OpenError) {
        // What a backend said is in the log already, once for all who waited for it.
        if matches!(error, OpenError::Backend { .. }) {
            return;
        }
        if let Some(not_shown) = self.refusals.admit() {
            tracing::info!(client = %self.identity, export, why = %error, not_shown, "export refused");
        }
    }
}
