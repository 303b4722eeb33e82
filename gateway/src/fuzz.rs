//! The fuzz targets of the gateway: for each way in which bytes of a stranger reach it beyond the handshake, and one for
//! what becomes of sizes. Those of the handshakes are in [`nbd_gateway_proto`], with what all of them share. Only with the
//! feature `fuzzing`.

pub use nbd_gateway_proto::fuzz::Target;

use crate::{lane, resize, session};

/// All of them.
pub const TARGETS: [Target; 3] = [
    Target { name: "requests", body: session::fuzz_requests, seeds: session::fuzz_seeds },
    Target { name: "replies", body: lane::fuzz_replies, seeds: lane::fuzz_seeds },
    Target { name: "resizes", body: resize::fuzz::fuzz_resizes, seeds: resize::fuzz::fuzz_seeds },
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Those of the protocol too.
    fn all() -> Vec<Target> {
        nbd_gateway_proto::fuzz::TARGETS.into_iter().chain(TARGETS).collect()
    }

    #[test]
    fn every_seed_holds_whole_and_cut_off_anywhere() {
        for target in all() {
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
            let targets = all();
            let target = targets[which.0.index(targets.len())];
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
            all().iter().for_each(|target| (target.body)(&data));
        }
    }
}
