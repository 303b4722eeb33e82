//! TLS: of a listener, and of a backend.
//!
//! Owns which keys belong together. Never opens a certificate: what is in the directories is seen at the start.

use std::fmt;
use std::path::PathBuf;

use crate::raw::{RawListener, RawTls};
use crate::uri::{directory, hostname};

use super::address::ListenAddress;
use super::backend::Target;
use super::section::Section;

/// A place where clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Listener {
    /// Where.
    pub address: ListenAddress,
    /// Whether and how TLS is spoken there.
    pub tls: ListenerTls,
}

/// Whether and how a listener speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenerTls {
    /// Not at all: NBD_OPT_STARTTLS is refused.
    Off,
    /// If the client asks for it.
    On {
        /// Whether a client that does not ask gets nothing (proto.md, FORCEDTLS).
        require: bool,
        /// The directory of `server-cert.pem` and `server-key.pem`; relative to the working directory.
        certificates: PathBuf,
        /// Whether clients have to show a certificate of a CA in `ca-cert.pem`.
        verify_peer: bool,
    },
}

impl Listener {
    /// A listener that speaks no TLS.
    pub(super) fn plain(address: ListenAddress) -> Self {
        Self { address, tls: ListenerTls::Off }
    }
}

/// Its address.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// TLS of a listener. None only if something was noted.
pub(super) fn listener(raw: &RawListener, section: &mut Section<'_>) -> Option<ListenerTls> {
    let certificates = match &raw.tls_certificates {
        // What is wrong with it is wrong with TLS off too: one may be on its way to switch it on.
        Some(path) => Some(section.accept("tls-certificates", directory(path.into()))?),
        None => None,
    };
    let require = match raw.tls {
        None | Some(RawTls::Off) => return Some(ListenerTls::Off),
        Some(RawTls::Allow) => false,
        Some(RawTls::Require) => true,
    };
    let Some(certificates) = certificates else {
        let word = if require { "require" } else { "allow" };
        section.missing(
            "tls-certificates",
            format_args!("`tls = {word:?}` needs the directory of server-cert.pem and server-key.pem"),
        );
        return None;
    };
    Some(ListenerTls::On { require, certificates, verify_peer: raw.tls_verify_peer.unwrap_or(true) })
}

/// Puts an export's own keys about TLS into its backend, and sees that nothing is missing. False: something was noted.
pub(super) fn backend(
    certificates: Option<String>,
    name: Option<String>,
    target: &mut Target,
    section: &mut Section<'_>,
) -> bool {
    let certificates = certificates.map(|path| section.accept("tls-certificates", directory(path.into())));
    let hostname = name.map(|name| section.accept("tls-hostname", hostname(&name)));
    let unix = target.is_unix();
    let Some(tls) = target.tls_mut() else {
        let stated = [("tls-certificates", certificates.is_some()), ("tls-hostname", hostname.is_some())];
        for (key, _) in stated.iter().filter(|(_, stated)| *stated) {
            section.note(key, "this does nothing unless the backend is nbds:// or nbds+unix://");
        }
        return !stated.iter().any(|(_, stated)| *stated);
    };
    let mut good = true;
    let mut twice = |key: &str, twice: bool, section: &mut Section<'_>| {
        if twice {
            section.note(key, format_args!("`{key}` stands in the backend's URI too: leave one of them out"));
            good = false;
        }
    };
    twice("tls-certificates", certificates.is_some() && tls.certificates.is_some(), section);
    twice("tls-hostname", hostname.is_some() && tls.hostname.is_some(), section);
    good &= certificates != Some(None) && hostname != Some(None);
    tls.certificates = certificates.flatten().or(tls.certificates.take());
    tls.hostname = hostname.flatten().or(tls.hostname.take());
    if !good || !tls.verify_peer {
        return good;
    }
    if tls.certificates.is_none() {
        section.missing(
            "tls-certificates",
            "a backend with TLS needs the directory of ca-cert.pem, to know its server by",
        );
        good = false;
    }
    if unix && tls.hostname.is_none() {
        let what = "a Unix socket has no host name: say which one the server's certificate has";
        section.missing("tls-hostname", what);
        good = false;
    }
    good
}
