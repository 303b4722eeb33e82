//! The handshake: fixed newstyle, sans-IO. proto.md, "Newstyle negotiation".
//!
//! [`server`] is the side that clients connect to, [`client`] the side that connects to a backend (lanes, size probes, the
//! command-line client); [`info`] holds option replies and the items inside them.

pub mod client;
pub mod info;
pub mod server;

pub use server::{Ask, Offer, Progress, Server, Tls};

/// Block size constraints, in bytes. proto.md, "Size constraints".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it; a power of two, at most 64 KiB.
    pub minimum: u32,
    /// What performs best; a power of two.
    pub preferred: u32,
    /// The largest payload; 2^32-1 is no limit.
    pub maximum: u32,
}
