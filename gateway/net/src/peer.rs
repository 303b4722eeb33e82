//! Who a client is, as far as the kernel tells: one that closes its connection and connects again is the same.

use std::fmt;
use std::net::IpAddr;

/// A client's identity. Clients that the kernel can't tell apart (several behind one address, several connections of one
/// process) have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// By TCP, from this address, whatever its port.
    Tcp(IpAddr),
    /// By a Unix socket: the process, unless it is in another PID namespace, and its user (SO_PEERCRED).
    Unix {
        /// The process.
        pid: Option<i32>,
        /// Its user.
        uid: u32,
        /// Its primary group.
        gid: u32,
    },
    /// The kernel does not say: a connection that is gone already.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { pid: Some(pid), uid, .. } => write!(f, "process {pid} of user {uid}"),
            Self::Unix { pid: None, uid, .. } => write!(f, "a process of user {uid}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
