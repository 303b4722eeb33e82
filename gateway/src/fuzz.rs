//! The fuzz targets: one for each way in which bytes of a stranger reach the gateway, and one for what becomes of sizes.
//!
//! Owns their names and what all of them share; each body stands beside what it holds to its bounds. A body takes any
//! bytes and panics only if an invariant is broken: nothing panics, nothing is awaited beyond a bound, the outcome does
//! not depend on how the input is cut, and what was decoded encodes to what was read. `tests/fuzz/run` feeds them with
//! coverage; the tests below feed them the seeds, whole and damaged.

use crate::proto::{BUFFER, Framing, Heap, Inbox};
use crate::{lane, proto, resize, session};

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

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "server_handshake",
        body: proto::handshake::server::fuzz_server,
        seeds: proto::handshake::server::fuzz_seeds,
    },
    Target {
        name: "client_handshake",
        body: proto::handshake::client::fuzz_client,
        seeds: proto::handshake::client::fuzz_seeds,
    },
    Target { name: "requests", body: session::fuzz_requests, seeds: session::fuzz_seeds },
    Target { name: "replies", body: lane::fuzz_replies, seeds: lane::fuzz_seeds },
    Target { name: "resizes", body: resize::fuzz::fuzz_resizes, seeds: resize::fuzz::fuzz_seeds },
];

/// The framings, by the low bits of a byte.
pub(crate) fn framing(choice: u8) -> Framing {
    match choice & 3 {
        0 => Framing::Simple,
        1 => Framing::Structured,
        _ => Framing::Extended,
    }
}

/// Moves bytes from the front of `bytes` into the inbox as one read of a socket does: at most `piece` of them, and at
/// most as many as there is room for.
pub(crate) fn receive(inbox: &mut Inbox, bytes: &mut &[u8], piece: usize) {
    let room = inbox.room(&Heap);
    assert!(room.capacity() <= BUFFER, "{} bytes reserved to receive into", room.capacity());
    let free = room.capacity().saturating_sub(room.len());
    assert!(free > 0, "no room to receive into");
    let (now, later) = bytes.split_at(bytes.len().min(piece).min(free));
    room.extend_from_slice(now);
    *bytes = later;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_seed_holds_whole_and_cut_off_anywhere() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(seeds.len() > 3, "{} has {} seeds", target.name, seeds.len());
            for seed in seeds {
                (0..=seed.len()).for_each(|end| (target.body)(&seed[..end]));
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_seed_breaks_no_invariant(
            which in any::<(prop::sample::Index, prop::sample::Index)>(),
            harm in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6),
            doubled in any::<Option<(prop::sample::Index, prop::sample::Index)>>(),
        ) {
            let target = TARGETS[which.0.index(TARGETS.len())];
            let seeds = (target.seeds)();
            let mut data = seeds[which.1.index(seeds.len())].clone();
            for (at, byte) in harm {
                let at = at.index(data.len());
                data[at] = byte;
            }
            if let Some((from, to)) = doubled {
                let (from, to) = (from.index(data.len()), to.index(data.len()));
                let part = data[from.min(to)..from.max(to)].to_vec();
                data.extend(part);
            }
            (target.body)(&data);
        }

        #[test]
        fn rubbish_breaks_no_invariant(data in prop::collection::vec(any::<u8>(), 0..300)) {
            TARGETS.iter().for_each(|target| (target.body)(&data));
        }
    }
}
