//! The NBD protocol, sans-IO: bytes in, events and bytes out.
//!
//! No tokio, no sockets, no clock in here, so that everything can be fuzzed, cut at every byte, and run in a simulation.
//! Source: NBD `doc/proto.md`; the RESIZE extension is this project's own document, in [`resize`].

pub mod flags;
pub mod handshake;
mod inbox;
mod numbers;
mod payload;
pub mod reply;
pub mod request;
pub mod resize;

pub use inbox::{BUFFER, Buffers, Heap, Inbox};
pub use numbers::*;
pub use payload::Payload;
