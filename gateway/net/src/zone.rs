//! Zones of link-local IPv6 addresses: the network interface that one is reached by, known to people by its name (RFC 4007).

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

/// The address on the interface of this name or number, as it is now; asked by any socket.
pub(super) fn on(zone: &str, address: Ipv6Addr, port: u16, socket: impl AsFd) -> io::Result<SocketAddr> {
    let number = match zone.parse() {
        Ok(number) => number,
        Err(_) => rustix::net::netdevice::name_to_index(socket, zone).map_err(|error| match error {
            rustix::io::Errno::NODEV => {
                io::Error::new(io::ErrorKind::AddrNotAvailable, format!("this host has no network interface `{zone}`"))
            }
            other => other.into(),
        })?,
    };
    Ok(SocketAddrV6::new(address, port, 0, number).into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[test]
    fn a_zone_is_an_interface_by_name_or_number() {
        let socket = TcpSocket::new_v6().unwrap();
        let on = |zone| on(zone, "fe80::1".parse().unwrap(), 7, &socket).map(|address| address.to_string());
        // The first interface of every network namespace.
        assert_eq!((on("lo").unwrap(), on("12").unwrap()), ("[fe80::1%1]:7".to_owned(), "[fe80::1%12]:7".to_owned()));
        assert_eq!(on("nowhere").unwrap_err().to_string(), "this host has no network interface `nowhere`");
    }
}
