//! Who may do what: from what is known of a client, and a tenant's entries, to the verbs that it has on an export.
//!
//! Owns identities, the conditions that entries put to them, and the decision. An entry fits when all of its conditions
//! hold; of a tenant's entries the first that fits decides, alone, so an exception stands above the rule that it is an
//! exception to. As soon as any tenant has entries, whoever fits none of an export's tenant has no verb there; as long as
//! none has, everyone has all of them. Never looks at a socket or a certificate: it is told who somebody is.

mod condition;
mod dn;
mod glob;
mod network;
mod san;
mod verbs;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::types::TenantId;

pub use condition::Condition;
pub use dn::{Dn, DnFault, DnPattern};
pub use glob::Glob;
pub use network::{Network, NetworkFault};
pub use san::{San, SanFault, SanPattern};
pub use verbs::{NoVerb, Verb, Verbs};

/// What is known of a client. What is not known fulfils no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Of the certificate that it proved to own, if it did.
    pub certificate: Option<Certificate>,
    /// Its address, if it came over TCP. An IPv4 address inside an IPv6 one (`::ffff:a.b.c.d`) is the same host.
    pub address: Option<IpAddr>,
    /// The user that its process ran as when it connected, if it came over a Unix socket.
    pub uid: Option<u32>,
    /// That process's primary group; others that it is in are not known.
    pub gid: Option<u32>,
    /// The listener that it came by, as the configuration calls it.
    pub listener: String,
}

/// The names in a certificate that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject.
    pub subject: Dn,
    /// The subject's alternative names.
    pub sans: Vec<San>,
}

impl Certificate {
    /// From texts: the subject as RFC 4514 writes it, and alternative names with their kinds (`DNS:vm1.example`). A name of
    /// a kind that no rule can be about is left out.
    ///
    /// # Errors
    /// [`DnFault`] if the subject is no distinguished name; a client of whom that is not known fits no rule about it.
    pub fn read<S: AsRef<str>>(subject: &str, sans: impl IntoIterator<Item = S>) -> Result<Self, DnFault> {
        let sans = sans.into_iter().filter_map(|san| san.as_ref().parse().ok()).collect();
        Ok(Self { subject: subject.parse()?, sans })
    }
}

/// For logs: everything that is known, in one line.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener={}", self.listener)?;
        if let Some(address) = self.address {
            write!(f, " address={}", address.to_canonical())?;
        }
        if let Some(uid) = self.uid {
            write!(f, " uid={uid}")?;
        }
        if let Some(gid) = self.gid {
            write!(f, " gid={gid}")?;
        }
        if let Some(certificate) = &self.certificate {
            // Debug: whoever made the certificate must not be able to make lines of a log.
            write!(f, " dn={:?}", certificate.subject.to_string())?;
            certificate.sans.iter().try_for_each(|san| write!(f, " san={:?}", san.to_string()))?;
        }
        Ok(())
    }
}

/// One entry of a tenant's `clients`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key in the configuration: `tenant[0].clients[1]`.
    pub path: String,
    /// The line that it stands on, counted from 1, if it has one.
    pub line: Option<usize>,
    /// What has to be true of a client, all of it.
    pub conditions: Vec<Condition>,
    /// The exports that it is about, by their names; none: all of the tenant's.
    pub exports: Option<Vec<Glob>>,
    /// What it grants.
    pub verbs: Verbs,
}

impl Entry {
    /// Whether it is about this client.
    #[must_use]
    pub fn fits(&self, identity: &Identity) -> bool {
        self.conditions.iter().all(|condition| condition.holds(identity))
    }

    /// Whether it is about this export.
    #[must_use]
    pub fn covers(&self, export: &str) -> bool {
        self.exports.as_ref().is_none_or(|names| names.iter().any(|name| name.matches(export)))
    }
}

/// Where it stands: `tenant[0].clients[1] (line 12)`.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// Every tenant's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    tenants: HashMap<TenantId, Vec<Arc<Entry>>>,
}

impl Access {
    /// The entries of each tenant that has any, an empty list too: then nobody has a verb there.
    pub fn new(tenants: impl IntoIterator<Item = (TenantId, Vec<Entry>)>) -> Self {
        let shared = |(tenant, entries): (TenantId, Vec<Entry>)| (tenant, entries.into_iter().map(Arc::new).collect());
        Self { tenants: tenants.into_iter().map(shared).collect() }
    }

    /// Whether everyone may do everything: no tenant has entries.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tenants.is_empty()
    }

    /// A tenant's entries, in order; none: it has no `clients`.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> Option<&[Arc<Entry>]> {
        self.tenants.get(tenant).map(Vec::as_slice)
    }

    /// Everything that fits a client, looked up once. What is decided from it takes a time that depends on the entries
    /// that fit, not on those that do not: a client learns nothing of what it may not see from how long it waits.
    #[must_use]
    pub fn admit(&self, identity: &Identity) -> Admission {
        if self.is_open() {
            return Admission { entries: None };
        }
        let mut entries = HashMap::new();
        for (tenant, all) in &self.tenants {
            let fitting: Vec<Arc<Entry>> = all.iter().filter(|entry| entry.fits(identity)).cloned().collect();
            if !fitting.is_empty() {
                entries.insert(tenant.clone(), fitting);
            }
        }
        Admission { entries: Some(entries) }
    }

    /// What a client may do with one export.
    #[must_use]
    pub fn decide(&self, identity: &Identity, tenant: &TenantId, export: &str) -> Decision {
        self.admit(identity).decide(tenant, export)
    }
}

/// The entries that fit one client; none: everyone may do everything.
#[derive(Clone, Debug)]
pub struct Admission {
    entries: Option<HashMap<TenantId, Vec<Arc<Entry>>>>,
}

impl Admission {
    /// What the client may do with one export: what the first entry says that is about both.
    #[must_use]
    pub fn decide(&self, tenant: &TenantId, export: &str) -> Decision {
        let Some(entries) = &self.entries else {
            return Decision { verbs: Verbs::ALL, rule: Rule::Everyone };
        };
        let first = entries.get(tenant).and_then(|fitting| fitting.iter().find(|entry| entry.covers(export)));
        first.map_or(Decision::NOTHING, |entry| Decision { verbs: entry.verbs, rule: Rule::Entry(Arc::clone(entry)) })
    }
}

/// What a client may do with an export, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it may do.
    pub verbs: Verbs,
    /// What decided.
    pub rule: Rule,
}

impl Decision {
    /// Nothing, because nothing grants it.
    pub const NOTHING: Self = Self { verbs: Verbs::NONE, rule: Rule::Nothing };

    /// Whether it may do that.
    #[must_use]
    pub const fn may(&self, verb: Verb) -> bool {
        self.verbs.has(verb)
    }
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No tenant has entries, so everyone may do everything.
    Everyone,
    /// This entry, the first that fits.
    Entry(Arc<Entry>),
    /// No entry fits, and some tenant has entries.
    Nothing,
}

/// For logs and operators.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("no tenant has `clients`"),
            Self::Entry(entry) => write!(f, "{entry}"),
            Self::Nothing => f.write_str("no entry of `clients` fits"),
        }
    }
}
