//! The fuzz targets of the protocol alone, and what all targets share. Only with the feature `fuzzing`.
//!
//! A body takes any bytes and panics only if an invariant is broken: nothing panics, nothing is awaited beyond a bound, the
//! outcome does not depend on how the input is cut, and what was decoded encodes to what was read. `tests/fuzz/run` feeds
//! them with coverage; unit tests of the gateway feed them the seeds, whole and damaged.

use crate::handshake::{client, server};
use crate::{BUFFER, Framing, Heap, Inbox};

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its binary.
    pub name: &'static str,
    /// Its body.
    pub body: fn(&[u8]),
    /// Inputs to start from, written by the crate's own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Both sides of the handshake.
pub const TARGETS: [Target; 2] = [
    Target { name: "server_handshake", body: server::fuzz_server, seeds: server::fuzz_seeds },
    Target { name: "client_handshake", body: client::fuzz_client, seeds: client::fuzz_seeds },
];

/// The framings, by the low bits of a byte.
pub fn framing(choice: u8) -> Framing {
    match choice & 3 {
        0 => Framing::Simple,
        1 => Framing::Structured,
        _ => Framing::Extended,
    }
}

/// Moves bytes from the front of `bytes` into the inbox as one read of a socket does: at most `piece` of them, and at
/// most as many as there is room for.
pub fn receive(inbox: &mut Inbox, bytes: &mut &[u8], piece: usize) {
    let room = inbox.room(&Heap);
    assert!(room.capacity() <= BUFFER, "{} bytes reserved to receive into", room.capacity());
    let free = room.capacity().saturating_sub(room.len());
    assert!(free > 0, "no room to receive into");
    let (now, later) = bytes.split_at(bytes.len().min(piece).min(free));
    room.extend_from_slice(now);
    *bytes = later;
}
