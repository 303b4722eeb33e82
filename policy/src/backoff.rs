//! How long to wait before the next attempt to reach a backend: doubling, bounded, with jitter from a seed.
//!
//! It sleeps nowhere and knows no randomness of its own, so a test can say each delay; the caller seeds each backoff
//! differently, so that many lanes of a lost backend do not come back at the same moment.

use std::time::Duration;

/// The delays of one row of failed attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    step: Duration,
    state: u64,
}

impl Backoff {
    /// Delays that begin at about `first`, double, and stay at about `most`; `seed` decides the jitter. A `most` under
    /// `first` is taken as `first`, and a `first` of zero as one millisecond: no attempt follows another at once for ever.
    #[must_use]
    pub fn new(first: Duration, most: Duration, seed: u64) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { first, most: most.max(first), step: first, state: seed }
    }

    /// The same, where a name decides the jitter.
    #[must_use]
    pub fn named(first: Duration, most: Duration, name: &str) -> Self {
        let seed = name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Self::new(first, most, seed)
    }

    /// The next delay: between half of the step and the whole, evenly; then the step doubles.
    pub fn next_delay(&mut self) -> Duration {
        let half = self.step / 2;
        let nanos = u64::try_from((self.step - half).as_nanos()).unwrap_or(u64::MAX);
        // Scales a 64-bit number down to 0..=nanos without the bias of a remainder.
        let share = (u128::from(self.draw()) * (u128::from(nanos) + 1)) >> 64;
        self.step = self.step.saturating_mul(2).min(self.most);
        half + Duration::from_nanos(u64::try_from(share).unwrap_or(nanos))
    }

    /// The longest that the next delay may be.
    #[must_use]
    pub const fn step(&self) -> Duration {
        self.step
    }

    /// Goes on where another one of the same bounds was.
    #[must_use]
    pub fn from_step(self, step: Duration) -> Self {
        Self { step: step.clamp(self.first, self.most), ..self }
    }

    /// Begins anew after a success. The jitter goes on, so that rows differ.
    pub const fn reset(&mut self) {
        self.step = self.first;
    }

    /// The next number of the seed's row (SplitMix64, Steele, Lea and Flood 2014).
    const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_delay_is_between_half_its_step_and_the_whole(
            first in 1..10_000_u64, times in 1..1000_u64, seed: u64, attempts in 1..70_u32,
        ) {
            let (first, most) = (Duration::from_millis(first), Duration::from_millis(first * times));
            let mut backoff = Backoff::new(first, most, seed);
            let mut step = first;
            for _ in 0..attempts {
                let delay = backoff.next_delay();
                prop_assert!(delay >= step / 2 && delay <= step, "{delay:?} of {step:?}");
                step = (step * 2).min(most);
            }
            let mut next = Backoff::new(first, most, seed).from_step(backoff.step());
            prop_assert_eq!(next.step(), step);
            prop_assert!(next.next_delay() >= step / 2);
            backoff.reset();
            prop_assert!(backoff.next_delay() <= first);
        }

        #[test]
        fn the_same_seed_gives_the_same_delays(seed: u64) {
            let row = |seed| {
                let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30), seed);
                (0..20).map(|_| backoff.next_delay()).collect::<Vec<_>>()
            };
            prop_assert_eq!(row(seed), row(seed));
            prop_assert_ne!(row(seed), row(seed.wrapping_add(1)));
        }
    }

    #[test]
    fn odd_bounds_still_wait() {
        let mut zero = Backoff::new(Duration::ZERO, Duration::ZERO, 1);
        assert!((0..100).all(|_| zero.next_delay() >= Duration::from_micros(500)));
        let mut longest = Backoff::new(Duration::MAX, Duration::ZERO, 1);
        assert!(longest.next_delay() >= Duration::MAX / 2);
    }

    #[test]
    fn delays_are_spread_over_their_range() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second, 7);
        let late = (0..1000).filter(|_| backoff.next_delay() > second * 3 / 4).count();
        assert!((400..600).contains(&late), "{late} of 1000 in the upper half");
    }
}
