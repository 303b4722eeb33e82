//! One thing that an entry of `clients` can ask of a client.

use std::fmt;

use super::{DnPattern, Identity, Network, SanPattern};

/// Something that has to be true of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its certificate's subject fits.
    Dn(DnPattern),
    /// One of its certificate's alternative names fits.
    San(SanPattern),
    /// Its address is in there.
    Address(Network),
    /// Its process runs as this user.
    Uid(u32),
    /// Its process's primary group is this.
    Gid(u32),
    /// It came by this listener.
    Listener(String),
}

impl Condition {
    /// Whether it holds. What is not known of a client fulfils nothing.
    #[must_use]
    pub fn holds(&self, identity: &Identity) -> bool {
        let certificate = identity.certificate.as_ref();
        match self {
            Self::Dn(pattern) => certificate.is_some_and(|c| pattern.matches(&c.subject)),
            Self::San(pattern) => certificate.is_some_and(|c| c.sans.iter().any(|san| pattern.matches(san))),
            Self::Address(network) => identity.address.is_some_and(|address| network.holds(address)),
            Self::Uid(uid) => identity.uid == Some(*uid),
            Self::Gid(gid) => identity.gid == Some(*gid),
            Self::Listener(listener) => identity.listener == *listener,
        }
    }
}

/// As it stands in the configuration: `dn = "CN=blue-*"`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dn(pattern) => write!(f, "dn = {:?}", pattern.to_string()),
            Self::San(pattern) => write!(f, "san = {:?}", pattern.to_string()),
            Self::Address(network) => write!(f, "address = \"{network}\""),
            Self::Uid(uid) => write!(f, "uid = {uid}"),
            Self::Gid(gid) => write!(f, "gid = {gid}"),
            Self::Listener(listener) => write!(f, "listener = {listener:?}"),
        }
    }
}
