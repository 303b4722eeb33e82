//! The handshake, fixed newstyle. proto.md, "Newstyle negotiation".

pub mod server;

pub use server::{Ask, Offer, Progress, Server};

/// Block size constraints, in bytes. proto.md, "Block size constraints".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it; a power of two, at most 64 KiB.
    pub minimum: u32,
    /// What performs best.
    pub preferred: u32,
    /// The largest payload; 2^32-1 is no limit.
    pub maximum: u32,
}
