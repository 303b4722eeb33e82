//! NBD URIs: where a server is and which of its exports is meant (uri.md of the NBD protocol, RFC 3986).
//!
//! Owns what counts as one, for backends and for the command line alike, and prints the same back. Stricter than some
//! clients: a parameter that is not known is a fault, never skipped. Never resolves a host name, never reads a certificate.

mod escape;
mod split;
mod tls;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nbd_gateway_policy::types::{ExportName, NameError};

pub(crate) use escape::{decode, decode_path, encode};
pub(crate) use split::{Parts, Place};
pub use tls::UriTls;
pub(crate) use tls::{directory, hostname};

/// The port that IANA assigned to NBD; an URI without a port means it.
pub(crate) const DEFAULT_PORT: u16 = 10809;

/// The longest path of a Unix socket, in bytes (`sun_path` of unix(7), less its closing NUL).
pub(crate) const LONGEST_SOCKET_PATH: usize = 107;

/// A server's export: `nbd://host[:port]/export` or `nbd+unix:///export?socket=PATH`; with TLS, `nbds://` and
/// `nbds+unix://`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NbdUri {
    endpoint: Endpoint,
    export: ExportName,
    tls: Option<UriTls>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// A name to resolve, or an address.
        host: Host,
        /// 1 to 65535.
        port: u16,
    },
    /// A Unix socket: 1 to 107 bytes without NUL, relative to the working directory if it does not start with `/`.
    Unix(PathBuf),
}

/// The host of an URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name of letters, digits, `-`, `_` and `.`, not yet resolved.
    Name(String),
    /// An address; IPv6 stands in brackets in an URI.
    Address(IpAddr),
    /// A link-local IPv6 address, and its zone: the name or the number of one of this host's network interfaces, after `%25`
    /// in an URI (RFC 6874).
    Zoned(Ipv6Addr, String),
}

/// Why a text is not an NBD URI that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No `scheme://`.
    #[error("`{0}` is not an NBD URI: it starts with nbd://, nbds://, nbd+unix:// or nbds+unix://")]
    NoScheme(String),
    /// A scheme that is not NBD's, or one of NBD's that is not spoken here.
    #[error("the scheme `{0}` is not known: use nbd://, nbds://, nbd+unix:// or nbds+unix://")]
    Scheme(String),
    /// A parameter of TLS in an URI that does not ask for TLS.
    #[error("the parameter `{0}` is about TLS, which this URI does not ask for: use nbds:// or nbds+unix://")]
    TlsParameter(String),
    /// `tls-type=psk`, `tls-type=anon`.
    #[error("`tls-type={0}` is not spoken here: servers are known by certificates, which is tls-type=x509")]
    TlsType(String),
    /// `tls-verify-peer=maybe`.
    #[error("`tls-verify-peer={0}` is neither 1 nor 0")]
    TlsVerifyPeer(String),
    /// A name that no certificate can have.
    #[error("`{0}` is no host name and no address that a certificate could have")]
    TlsHostname(String),
    /// `tls-certificates=`.
    #[error("`tls-certificates` has to be a directory: not empty, and without NUL")]
    TlsCertificates,
    /// `nbd:///export`.
    #[error("the host is missing: write nbd://HOST/EXPORT, or nbd+unix:///EXPORT?socket=PATH for a Unix socket")]
    NoHost,
    /// A host with characters that a host name does not have, or a malformed address.
    #[error("`{0}` is not a host: use a name, an IPv4 address or an IPv6 address in brackets, like [::1]")]
    Host(String),
    /// `[fe80::1%eth0]`, `[::1%25lo]`.
    #[error(
        "`{0}` has no zone as one is written: it stands after %25 and a link-local address, and is the name or number of a network interface, like [fe80::1%25eth0]"
    )]
    Zone(String),
    /// A port that is not a number from 1 to 65535.
    #[error("`{0}` is not a port: use 1 to 65535")]
    Port(String),
    /// `nbd://user@host`.
    #[error("a user name (`{0}@`) is for TLS with pre-shared keys, which are not spoken here: leave it out")]
    User(String),
    /// `nbd+unix://host/…`.
    #[error("`{0}` stands where a host would, but a Unix socket has none: write nbd+unix:///EXPORT?socket=PATH")]
    HostOfUnix(String),
    /// `nbd+unix:///export` without `socket`.
    #[error("the parameter `socket` is missing: write nbd+unix:///EXPORT?socket=PATH")]
    NoSocket,
    /// `nbd://host/export?socket=…`.
    #[error("the parameter `socket` belongs to nbd+unix://, not to nbd://")]
    SocketOfTcp,
    /// A parameter that this gateway does not know.
    #[error("the parameter `{0}` is not known: nbd+unix:// has `socket`, TLS has {keys}", keys = tls::KEYS)]
    Parameter(String),
    /// The same parameter twice.
    #[error("the parameter `{0}` stands twice")]
    Twice(String),
    /// `#…`.
    #[error("an NBD URI has no fragment: write `#` in an export name as %23")]
    Fragment,
    /// `%` without two hexadecimal digits.
    #[error("`{0}` is not an escape: `%` is followed by two hexadecimal digits, and a literal `%` is written %25")]
    Escape(String),
    /// A character that RFC 3986 does not allow as it is.
    #[error("the character `{}` has to be percent-encoded: write {encoded}", .character.escape_debug())]
    Character {
        /// The character.
        character: char,
        /// How it is written.
        encoded: String,
    },
    /// The escapes of a part that is text do not decode to UTF-8.
    #[error("its escapes do not decode to UTF-8")]
    NotUtf8,
    /// The export's name cannot be one.
    #[error("its path is no export name: {0}")]
    Export(#[from] NameError),
    /// `socket=`
    #[error("the path of the Unix socket is empty")]
    EmptySocket,
    /// A socket of the abstract namespace, which starts with NUL.
    #[error("the path of the Unix socket has a NUL byte: abstract sockets are not supported, use a path")]
    NulInSocket,
    /// `socket=@name`, as some programs write the abstract namespace.
    #[error(
        "`{0}` looks like an abstract socket, which is not supported: use a path; a file whose name begins with `@` is `./{0}`"
    )]
    AbstractSocket(String),
    /// `socket=~/path`.
    #[error("`{0}` would be taken literally, for only a shell knows what `~` is: write the whole path")]
    Tilde(String),
    /// A socket path that does not fit in `sun_path`.
    #[error("the path of a Unix socket has at most 107 bytes, this one has {0}")]
    LongSocket(usize),
}

impl NbdUri {
    /// Puts an URI together from what was checked elsewhere.
    pub(crate) fn new(endpoint: Endpoint, export: ExportName, tls: Option<UriTls>) -> Self {
        Self { endpoint, export, tls }
    }

    /// An export of a TCP server at an address.
    pub fn tcp(address: SocketAddr, export: ExportName) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Host::Zoned(*v6.ip(), v6.scope_id().to_string()),
            _ => Host::Address(address.ip()),
        };
        Self::new(Endpoint::Tcp { host, port: address.port() }, export, None)
    }

    /// An export of a server at a Unix socket, or why the path is none.
    pub fn unix(socket: PathBuf, export: ExportName) -> Result<Self, UriError> {
        Ok(Self::new(Endpoint::Unix(check_socket(socket)?), export, None))
    }

    /// Where the server listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The export's name as the server is asked for it, escapes decoded.
    pub fn export(&self) -> &ExportName {
        &self.export
    }

    /// What is said about TLS; None: everything goes in the clear.
    pub fn tls(&self) -> Option<&UriTls> {
        self.tls.as_ref()
    }

    /// The same, to fill in what is said elsewhere.
    pub fn tls_mut(&mut self) -> Option<&mut UriTls> {
        self.tls.as_mut()
    }
}

/// Whether an address can have a zone, and a network interface could be called so (dev_valid_name of Linux).
pub(crate) fn can_be_zoned(address: Ipv6Addr, zone: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%' | b'[' | b']');
    address.is_unicast_link_local() && (1..=15).contains(&zone.len()) && zone.bytes().all(legal)
}

/// Whether a path begins with what a shell would replace by a home directory. It would be a directory called `~`.
pub(crate) fn has_tilde(path: &Path) -> bool {
    path.starts_with("~")
}

/// A path that fits in `sun_path`.
pub(crate) fn check_socket(path: PathBuf) -> Result<PathBuf, UriError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    match bytes.len() {
        0 => Err(UriError::EmptySocket),
        _ if bytes.contains(&0) => Err(UriError::NulInSocket),
        _ if bytes.starts_with(b"@") => Err(UriError::AbstractSocket(path.to_string_lossy().into_owned())),
        _ if has_tilde(&path) => Err(UriError::Tilde(path.to_string_lossy().into_owned())),
        length if length > LONGEST_SOCKET_PATH => Err(UriError::LongSocket(length)),
        _ => Ok(path),
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let parts = Parts::split(text)?;
        let export = ExportName::new(&decode(parts.export)?)?;
        let endpoint = match parts.place {
            Place::Tcp { host, port } => Endpoint::Tcp { host, port },
            Place::Unix { socket } => Endpoint::Unix(check_socket(decode_path(socket)?)?),
        };
        Ok(Self { endpoint, export, tls: parts.tls })
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = encode(self.export.as_str().as_bytes());
        let scheme = if self.tls.is_some() { "nbds" } else { "nbd" };
        let mut before = '?';
        match &self.endpoint {
            Endpoint::Tcp { .. } => write!(f, "{scheme}://{}/{export}", self.endpoint)?,
            Endpoint::Unix(path) => {
                let socket = encode(path.as_os_str().as_encoded_bytes());
                write!(f, "{scheme}+unix:///{export}?socket={socket}")?;
                before = '&';
            }
        }
        for parameter in self.tls.iter().flat_map(UriTls::parameters) {
            write!(f, "{before}{parameter}")?;
            before = '&';
        }
        Ok(())
    }
}

/// As people read it: `host`, `host:port` where the port is not the default, or `unix:PATH`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port: DEFAULT_PORT } => write!(f, "{host}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// As it stands in an URI: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Zoned(address, zone) => write!(f, "[{address}%25{}]", encode(zone.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests;
