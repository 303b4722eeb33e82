//! Where the gateway listens: for clients, and for the admin interface.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use crate::uri::{UriError, can_be_zoned, check_socket};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An address to bind; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A link-local IPv6 address to bind on the network interface of that name; port 0 lets the system choose.
    Zoned {
        /// The address.
        address: Ipv6Addr,
        /// The name of the interface, looked up when it is bound.
        zone: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket to bind, 1 to 107 bytes.
    Unix(PathBuf),
    /// The name of a listening socket that systemd passes (sd_listen_fds_with_names(3)).
    Systemd(String),
}

/// Where the admin interface is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AdminAddress {
    /// An address to bind; port 0 lets the system choose. Not a loopback address: only with a token file.
    Tcp(SocketAddr),
    /// The path of a Unix socket to bind, 1 to 107 bytes.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("`{0}` is not an address to listen at: use IP:PORT (IPv6 in brackets), unix:PATH or systemd:NAME")]
    Listen(String),
    #[error("`{0}` is not an address of the admin interface: use IP:PORT, unix:PATH or off")]
    Admin(String),
    #[error("`{0}` is not a name of a systemd socket: use 1 to 255 ASCII characters without `:`")]
    Name(String),
    #[error(transparent)]
    Path(#[from] UriError),
}

impl ListenAddress {
    /// Reads an address, or says what is wrong with it.
    pub(super) fn read(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(check_socket(path.into())?));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            // What systemd allows in FileDescriptorName=.
            let fits =
                (1..=255).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b':');
            return if fits { Ok(Self::Systemd(name.to_owned())) } else { Err(AddressError::Name(name.to_owned())) };
        }
        if let Some(zoned) = zoned(text) {
            return Ok(zoned);
        }
        text.parse().map(Self::Tcp).map_err(|_| AddressError::Listen(text.to_owned()))
    }

    /// Whether the two cannot be bound at the same time. Port 0 never clashes.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        let alike = self == other;
        let (Some(one), Some(other)) = (self.without_name(), other.without_name()) else { return alike };
        // `0.0.0.0` is every IPv4 address, `[::]` every IPv6 address.
        let any = one.ip().is_unspecified() || other.ip().is_unspecified();
        let same = one.is_ipv4() == other.is_ipv4() && (any || alike);
        same && one.port() == other.port() && one.port() != 0
    }

    /// The address of TCP, less the name of an interface.
    fn without_name(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Zoned { address, port, .. } => Some(SocketAddrV6::new(*address, *port, 0, 0).into()),
            Self::Unix(_) | Self::Systemd(_) => None,
        }
    }

    /// Whether it is an IPv4 address with this port.
    pub(super) fn is_ipv4_at(&self, port: u16) -> bool {
        matches!(self, Self::Tcp(address) if address.is_ipv4() && address.port() == port)
    }
}

impl AdminAddress {
    /// Reads an address, or says what is wrong with it; None is `off`.
    pub(super) fn read(text: &str) -> Result<Option<Self>, AddressError> {
        if text == "off" {
            return Ok(None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Some(Self::Unix(check_socket(path.into())?)));
        }
        text.parse().map(|address| Some(Self::Tcp(address))).map_err(|_| AddressError::Admin(text.to_owned()))
    }

    /// Whether other hosts can reach it.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().is_loopback(),
            Self::Unix(_) => false,
        }
    }

    /// The same place as a listener's address, to see whether the two clash.
    pub(super) fn as_listener(&self) -> ListenAddress {
        match self {
            Self::Tcp(address) => ListenAddress::Tcp(*address),
            Self::Unix(path) => ListenAddress::Unix(path.clone()),
        }
    }
}

/// `[ADDRESS%NAME]:PORT`. With a number for the name it is a socket address as it is.
fn zoned(text: &str) -> Option<ListenAddress> {
    let (host, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (address, zone) = host.split_once('%')?;
    let (address, port) = (address.parse().ok()?, port.parse().ok()?);
    let named = zone.parse::<u32>().is_err() && can_be_zoned(address, zone);
    named.then(|| ListenAddress::Zoned { address, zone: zone.to_owned(), port })
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Zoned { address, zone, port } => write!(f, "[{address}%{zone}]:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_listener().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_an_interfaces_name_or_number_and_every_address_covers_it() {
        let read = |text| ListenAddress::read(text).unwrap();
        let zoned = read("[fe80::1%eth0]:7");
        assert!(matches!(&zoned, ListenAddress::Zoned { zone, port: 7, .. } if zone == "eth0"), "{zoned:?}");
        assert_eq!(
            (zoned.to_string(), read("[fe80::1%2]:7").to_string()),
            ("[fe80::1%eth0]:7".into(), "[fe80::1%2]:7".into())
        );
        for (other, clashes) in [
            ("[::]:7", true),
            ("[fe80::1%eth0]:7", true),
            ("[fe80::1%eth1]:7", false),
            ("0.0.0.0:7", false),
            ("[::]:8", false),
        ] {
            assert_eq!((zoned.clashes(&read(other)), read(other).clashes(&zoned)), (clashes, clashes), "{other}");
        }
        for text in ["[::1%lo]:7", "[fe80::1%]:7", "[fe80::1%a/b]:7", "fe80::1%eth0:7", "[fe80::1%eth0]"] {
            assert!(ListenAddress::read(text).is_err(), "{text}");
        }
    }
}
