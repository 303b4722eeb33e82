//! Listening sockets: bound with a backlog, and accepted from.
//!
//! Owns the options of a socket that listens. Decides nothing about who may connect.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};

use super::{Stream, zone};

/// What the kernel cuts every backlog to.
const MOST: &str = "/proc/sys/net/core/somaxconn";

/// A socket that listens.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Listening {
    /// Binds a TCP address; the kernel keeps up to `backlog` connections until they are accepted. With `only_v6`, `[::]`
    /// takes no IPv4 connections, so that another socket can. Within a runtime.
    pub fn tcp(address: SocketAddr, only_v6: bool, backlog: u32) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for connections of the last run to time out.
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            // Said in both cases: the default is the system's (net.ipv6.bindv6only).
            rustix::net::sockopt::set_ipv6_v6only(&socket, only_v6)?;
        }
        socket.bind(address)?;
        Ok(Self::Tcp(socket.listen(backlog)?))
    }

    /// The same for a link-local address on the network interface of that name.
    pub fn zoned(address: Ipv6Addr, zone: &str, port: u16, backlog: u32) -> io::Result<Self> {
        let address = zone::on(zone, address, port, &TcpSocket::new_v6()?)?;
        Self::tcp(address, true, backlog)
    }

    /// Binds a Unix socket's path. Within a runtime.
    pub fn unix(path: &Path, backlog: u32) -> io::Result<Self> {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        Ok(Self::Unix(socket.listen(backlog)?))
    }

    /// The same, for the runtime that calls this.
    pub fn rehome(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener.into_std()?)?),
            Self::Unix(listener) => Self::Unix(UnixListener::from_std(listener.into_std()?)?),
        })
    }

    /// The next connection. Cancel-safe: yes.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listening::Tcp(l) => {
                let (stream, _) = l.accept().await?;
                // Fails only on a connection that is already gone; reading will say so.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Listening::Unix(l) => Ok(Stream::Unix(l.accept().await?.0)),
        }
    }

    /// The TCP address bound to, with the port that the kernel chose.
    pub fn local_tcp(&self) -> Option<SocketAddr> {
        match self {
            Listening::Tcp(l) => l.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }

    /// The path bound to; none for an abstract address, or one without a name.
    pub fn local_path(&self) -> Option<PathBuf> {
        match self {
            Listening::Tcp(_) => None,
            Listening::Unix(l) => l.local_addr().ok()?.as_pathname().map(Into::into),
        }
    }
}

/// Logs a warning if the kernel cuts `backlog`: clients that connect at once beyond that see their connection hang or fail.
pub fn check_backlog(backlog: u32) {
    let most = std::fs::read_to_string(MOST).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(most) = most.filter(|most| *most < backlog) {
        tracing::warn!(
            backlog,
            most,
            "the kernel cuts limits.listen-backlog to net.core.somaxconn; raise that, or lower listen-backlog"
        );
    }
}
