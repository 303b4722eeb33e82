//! A client at the door: who it is, and which exports there are for it.
//!
//! What a client may not list does not exist for it. A name that means nothing and a name that is not for it take the same
//! way here, before any export is looked for: the same reply, the same line in the log, no backend dialled, and no
//! comparison with an entry that does not fit it.

use std::sync::Arc;

use nbd_gateway_config::{Config, NoExport};
use nbd_gateway_net::Peer;
use nbd_gateway_net::tls::PeerCertificate;
use nbd_gateway_policy::access::{Admission, Certificate, Decision, Identity, Verb};
use tokio::sync::watch;

use super::Session;
use crate::export::{Lease, OpenError, Opener, Registry};
use crate::fault::Whose;

/// One client during its handshake.
#[derive(Debug)]
pub(crate) struct Visitor {
    registry: Arc<Registry>,
    identity: Identity,
    /// What was in force when it was judged last.
    config: Arc<Config>,
    admission: Admission,
}

/// What is known of a client that came by `listener`, as the configuration calls it.
pub(super) fn identity(listener: &str, peer: Peer, shown: Option<&PeerCertificate>) -> Identity {
    let listener = listener.to_owned();
    let certificate = shown.and_then(|shown| Certificate::read(&shown.subject, &shown.sans).ok());
    match peer {
        Peer::Tcp(address) => Identity { certificate, address: Some(address), listener, ..Identity::default() },
        Peer::Unix { uid, gid, .. } => {
            Identity { certificate, uid: Some(uid), gid: Some(gid), listener, ..Identity::default() }
        }
        Peer::Unknown => Identity { certificate, listener, ..Identity::default() },
    }
}

impl Session {
    /// What is known of its client.
    pub(crate) fn identity(&self) -> Identity {
        identity(&self.listener, self.peer, self.certificate.as_ref())
    }
}

impl Visitor {
    /// A client that has just come by `listener`, as the configuration calls it.
    pub(crate) fn new(registry: &Arc<Registry>, listener: &str, peer: Peer) -> Self {
        let identity = identity(listener, peer, None);
        let config = registry.config();
        let admission = config.access().admit(&identity);
        Self { registry: Arc::clone(registry), identity, config, admission }
    }

    /// It has proved that this certificate is its own.
    pub(crate) fn prove(&mut self, certificate: Certificate) {
        self.identity.certificate = Some(certificate);
        self.admission = self.config.access().admit(&self.identity);
    }

    /// It asks for something: that goes by what is in force now.
    pub(crate) fn asks(&mut self) {
        let now = self.registry.config();
        if !Arc::ptr_eq(&now, &self.config) {
            self.admission = now.access().admit(&self.identity);
            self.config = now;
        }
    }

    /// What it was judged by.
    pub(crate) fn judged_by(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// The exports that it may see, with the configuration's descriptions. No backend is asked.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let seen = |name| self.config.owner_of(name).is_some_and(|t| self.admission.decide(t, name).may(Verb::List));
        self.config.listing().filter(move |(name, _)| seen(name))
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
            // The drain first: what opens just then would have to close at once.
            biased;
            // An error means that nobody is left to say so.
            _ = drain.wait_for(|draining| *draining) => Err(OpenError::Draining),
            // An attempt that nobody waits for is dropped, so a backend that is silent holds no drain up.
            opened = self.open_if_allowed(name, verb) => opened,
        }
    }

    async fn open_if_allowed(&self, name: &str, verb: Verb) -> Result<(Lease, Decision), OpenError> {
        let export = || name.to_owned();
        let Some(tenant) = self.config.owner_of(name) else {
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
        Ok((self.registry.open_for(name, Opener::Client).await?, decision))
    }

    /// Logs that it was refused.
    pub(crate) fn refused(&self, export: &str, error: &OpenError) {
        // What a backend said is in the log already, once for all who waited for it.
        if error.whose() == Whose::Backend {
            return;
        }
        tracing::info!(client = %self.identity, export, why = %error, "export refused");
    }
}
