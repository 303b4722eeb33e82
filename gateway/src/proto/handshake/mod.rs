//! The handshake: fixed newstyle negotiation, sans-IO.
//!
//! [`client`] is the side that connects (lanes, size probes, the command-line client); [`info`] holds what both sides
//! write and read: option replies and the items inside them. Source: proto.md, "Newstyle negotiation".

pub mod client;
pub mod info;
