#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! Bytes in, events and bytes out: no sockets, no clock, no async runtime, so that everything can be fuzzed, cut at every
//! byte, and run in a simulation. Source: NBD `doc/proto.md`; the RESIZE extension is this project's own document, in
//! [`resize`].

mod chunk;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod handshake;
mod inbox;
mod numbers;
mod payload;
pub mod reply;
pub mod request;
pub mod resize;
mod text;

pub use inbox::{BUFFER, Buffers, Heap, Inbox};
pub use numbers::*;
pub use payload::{Payload, Piece};
pub use text::printable;
