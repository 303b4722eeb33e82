//! Who a client is.

use nbd_gateway_net::Peer;
use serde::{Deserialize, Serialize};

/// Who the kernel says the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PeerState {
    Tcp(std::net::IpAddr),
    Unix { pid: Option<i32>, uid: u32, gid: u32 },
    Unknown,
}

impl From<Peer> for PeerState {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Tcp(address) => Self::Tcp(address),
            Peer::Unix { pid, uid, gid } => Self::Unix { pid, uid, gid },
            Peer::Unknown => Self::Unknown,
        }
    }
}

impl From<PeerState> for Peer {
    fn from(peer: PeerState) -> Self {
        match peer {
            PeerState::Tcp(address) => Self::Tcp(address),
            PeerState::Unix { pid, uid, gid } => Self::Unix { pid, uid, gid },
            PeerState::Unknown => Self::Unknown,
        }
    }
}
