//! How fast: one limiter (GCRA, a leaky bucket kept as one number) in exact integers, handed the time.
//!
//! Owns the arithmetic of `rate` and `burst`; never reads a clock, never waits: it says when there is room. In any window
//! of length `t` it admits at most `burst + rate * t`, with no rounding in anybody's favour.
//!
//! A cost larger than the burst can never fit. What happens then is said by [`Oversize`]: it is refused for good, or it
//! is let in alone, when nothing is owed, and paid off afterwards. A new limiter has its burst and nothing more; a
//! limiter that is tuned anew keeps what it owes and gains no burst by that.

use std::time::Duration;

use crate::types::Moment;

/// A rate: so many units in so much time, and how many may come at once. Units are requests, resizes or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: u64,
    nanos: u64,
    burst: u64,
    oversize: Oversize,
}

/// What happens to a cost larger than the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Oversize {
    /// It never passes.
    Refuse,
    /// It passes when nothing is owed; nothing passes after it until the rate has paid off all of it but the burst. In a
    /// window of length `t` there is then at most `max(burst, largest cost) + rate * t`.
    Borrow,
}

/// Why a rate can't be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate needs an amount, a time and a burst of at least one, and at most 2^62 units in 2^62 nanoseconds; write for \
     example 20/s"
)]
pub struct RateError;

impl Rate {
    /// The largest amount, and the longest time in nanoseconds (146 years): keeps all products within 128 bits.
    const MOST: u64 = 1 << 62;

    /// `amount` units per `per`, and at most `burst` units at once.
    ///
    /// # Errors
    /// [`RateError`] if one of them is zero, or the amount or the time is out of bounds.
    pub fn new(amount: u64, per: Duration, burst: u64, oversize: Oversize) -> Result<Self, RateError> {
        let nanos = u64::try_from(per.as_nanos()).map_err(|_| RateError)?;
        if amount == 0 || nanos == 0 || burst == 0 || amount > Self::MOST || nanos > Self::MOST {
            return Err(RateError);
        }
        Ok(Self { amount, nanos, burst, oversize })
    }

    /// How many units pass in [`per`](Self::per).
    #[must_use]
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// The time that the amount is counted over.
    #[must_use]
    pub const fn per(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// How many units may come at once.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// What happens to a cost larger than the burst.
    #[must_use]
    pub const fn oversize(&self) -> Oversize {
        self.oversize
    }

    /// What so many units owe. One unit owes `nanos`, and one nanosecond pays off `amount`: so nothing is ever divided.
    fn owed(&self, units: u64) -> u128 {
        u128::from(units) * u128::from(self.nanos)
    }

    fn paid(&self, passed: Duration) -> u128 {
        passed.as_nanos().saturating_mul(u128::from(self.amount))
    }

    /// How long it takes to pay so much off, rounded up to a nanosecond.
    fn time_to_pay(&self, owed: u128) -> Duration {
        let nanos = owed.div_ceil(u128::from(self.amount));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Why something may not pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There is room for it from then on, if nothing else passes before.
    Until(Moment),
    /// It is larger than the burst and the rate refuses such.
    Never,
}

/// A limiter: a rate, and what is owed to it.
#[derive(Clone, Debug)]
pub struct Limiter {
    rate: Rate,
    owed: u128,
    at: Moment,
}

impl Limiter {
    /// A limiter that has its whole burst at `now`.
    #[must_use]
    pub const fn new(rate: Rate, now: Moment) -> Self {
        Self { rate, owed: 0, at: now }
    }

    /// What is owed `now`, in parts of which one unit has as many as the rate's time has nanoseconds: with the rate, all that
    /// another limiter needs to go on as this one.
    #[must_use]
    pub fn owed_now(&self, now: Moment) -> u128 {
        self.owed.saturating_sub(self.rate.paid(now.since(self.at)))
    }

    /// A limiter that owes so much `now`, as [`owed_now`](Self::owed_now) said of one with this rate.
    #[must_use]
    pub const fn owing(rate: Rate, owed: u128, now: Moment) -> Self {
        Self { rate, owed, at: now }
    }

    /// The rate it keeps.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether `cost` units may pass now, without letting them.
    ///
    /// # Errors
    /// [`Full`]: when there is room, or that there never is. A cost of 0 always passes.
    pub fn check(&self, now: Moment, cost: u64) -> Result<(), Full> {
        let owed = self.owed_now(now);
        // The most that may be owed before this passes.
        let most = match (cost, self.rate.oversize) {
            (0, Oversize::Refuse | Oversize::Borrow) => return Ok(()),
            (cost, Oversize::Refuse | Oversize::Borrow) if cost <= self.rate.burst => {
                self.rate.owed(self.rate.burst - cost)
            }
            (_, Oversize::Borrow) => 0,
            (_, Oversize::Refuse) => return Err(Full::Never),
        };
        if owed <= most {
            return Ok(());
        }
        // A clock that went back has nothing paid off until it is past where it was.
        Err(Full::Until(self.at.max(now).after(self.rate.time_to_pay(owed - most))))
    }

    /// Lets `cost` units pass now, or says when.
    ///
    /// # Errors
    /// As [`Limiter::check`]; nothing has been taken then.
    pub fn take(&mut self, now: Moment, cost: u64) -> Result<(), Full> {
        self.check(now, cost)?;
        self.charge(now, cost);
        Ok(())
    }

    /// Takes `cost` units now, whatever is owed, and says from when on they may pass. Who asks first passes first; whoever
    /// has asked waits until then and asks for nothing more meanwhile, so what is owed ahead stays within one cost each.
    pub fn reserve(&mut self, now: Moment, cost: u64) -> Moment {
        let owed = self.owed_now(now);
        let room = self.rate.owed(self.rate.burst.saturating_sub(cost));
        let wait = if cost == 0 { Duration::ZERO } else { self.rate.time_to_pay(owed.saturating_sub(room)) };
        let from = self.at.max(now);
        self.charge(now, cost);
        if wait.is_zero() { now } else { from.after(wait) }
    }

    /// Changes the rate and keeps what is left of the burst, in units: more burst has to be earned at the new rate, and
    /// a debt stays a debt. The same rate changes nothing.
    pub fn tune(&mut self, rate: Rate, now: Moment) {
        let owed = self.owed_now(now);
        let (whole, old) = (self.rate.owed(self.rate.burst), u128::from(self.rate.nanos));
        self.owed = if owed <= whole {
            // So many units are left; what is left of a unit is rounded down.
            let (units, rest) = ((whole - owed) / old, (whole - owed) % old);
            let left = units * u128::from(rate.nanos) + rest * u128::from(rate.nanos) / old;
            rate.owed(rate.burst).saturating_sub(left)
        } else {
            let (units, rest) = ((owed - whole) / old, (owed - whole) % old);
            let over = units * u128::from(rate.nanos) + (rest * u128::from(rate.nanos)).div_ceil(old);
            rate.owed(rate.burst) + over
        };
        self.rate = rate;
        self.at = self.at.max(now);
    }

    /// From when on all that was taken is paid off but the burst: whatever [`Limiter::reserve`] has let wait may pass by
    /// then, at the rate that it has now.
    #[must_use]
    pub fn clear_at(&self, now: Moment) -> Moment {
        let over = self.owed_now(now).saturating_sub(self.rate.owed(self.rate.burst));
        if over == 0 { now } else { self.at.max(now).after(self.rate.time_to_pay(over)) }
    }

    fn charge(&mut self, now: Moment, cost: u64) {
        self.owed = self.owed_now(now) + self.rate.owed(cost);
        self.at = self.at.max(now);
    }
}

/// Gives a limiter another rate, or none. One that had a rate is [tuned](Limiter::tune), so that a change gives nobody a
/// fresh burst; one that had none let everything pass before, and has its burst.
pub fn adjust(limiter: &mut Option<Limiter>, rate: Option<Rate>, now: Moment) {
    *limiter = match (limiter.take(), rate) {
        (Some(mut limiter), Some(rate)) => {
            limiter.tune(rate, now);
            Some(limiter)
        }
        (None, Some(rate)) => Some(Limiter::new(rate, now)),
        (Some(_) | None, None) => None,
    };
}

/// Lets `cost` units pass several limiters (session, export, tenant), or none of them.
///
/// # Errors
/// [`Full::Never`] if one never has room, else the latest moment that one of them names; nothing has been taken then.
pub fn take_all(limiters: &mut [&mut Limiter], now: Moment, cost: u64) -> Result<(), Full> {
    let mut latest: Option<Moment> = None;
    for limiter in limiters.iter() {
        match limiter.check(now, cost) {
            Ok(()) => {}
            Err(Full::Until(moment)) => latest = latest.max(Some(moment)),
            Err(Full::Never) => return Err(Full::Never),
        }
    }
    if let Some(moment) = latest {
        return Err(Full::Until(moment));
    }
    for limiter in limiters.iter_mut() {
        limiter.charge(now, cost);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(amount: u64, per: u64, burst: u64, oversize: Oversize) -> Rate {
        Rate::new(amount, Duration::from_nanos(per), burst, oversize).unwrap()
    }

    fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    #[test]
    fn the_burst_passes_at_once_and_then_one_for_each_interval() {
        let mut limiter = Limiter::new(rate(1, 10, 3, Oversize::Refuse), at(1_000_000));
        for _ in 0..3 {
            assert_eq!(limiter.take(at(1_000_000), 1), Ok(()));
        }
        assert_eq!(limiter.take(at(1_000_000), 1), Err(Full::Until(at(1_000_010))));
        assert_eq!(limiter.take(at(1_000_009), 1), Err(Full::Until(at(1_000_010))));
        assert_eq!(limiter.take(at(1_000_010), 1), Ok(()));
        assert_eq!(limiter.take(at(1_000_010), 3), Err(Full::Until(at(1_000_040))));
    }

    #[test]
    fn thirds_of_a_nanosecond_are_not_lost() {
        // Three per ten nanoseconds: after the first, the moments are rounded up, the debt is not.
        let mut limiter = Limiter::new(rate(3, 10, 1, Oversize::Refuse), at(0));
        let passed: Vec<u64> = (0..100).filter(|now| limiter.take(at(*now), 1).is_ok()).collect();
        assert_eq!(
            passed.get(..5),
            Some([0, 4, 8, 12, 16].as_slice()),
            "one a nanosecond is as fine as this clock asks"
        );
        let mut fine = Limiter::new(rate(3, 10, 2, Oversize::Refuse), at(0));
        assert_eq!((0..100).filter(|now| fine.take(at(*now), 1).is_ok()).count(), 2 + 29);
    }

    #[test]
    fn a_cost_over_the_burst_is_refused_for_good_or_borrowed() {
        let mut strict = Limiter::new(rate(1, 10, 3, Oversize::Refuse), at(0));
        assert_eq!(strict.take(at(1_000_000), 4), Err(Full::Never));
        let mut lender = Limiter::new(rate(1, 10, 3, Oversize::Borrow), at(0));
        assert_eq!(lender.take(at(0), 100), Ok(()));
        assert_eq!(lender.take(at(0), 1), Err(Full::Until(at(980))), "98 of the 100 are to be paid first");
        assert_eq!(lender.take(at(979), 100), Err(Full::Until(at(1000))), "the next large one waits for all");
        assert_eq!(lender.take(at(980), 1), Ok(()));
        assert_eq!(lender.take(at(1010), 4), Ok(()));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let most = 1 << 62;
        let mut slow = Limiter::new(rate(1, most, u64::MAX, Oversize::Borrow), at(0));
        assert_eq!(slow.take(at(0), u64::MAX), Ok(()));
        assert_eq!(slow.take(at(u64::MAX), u64::MAX), Err(Full::Until(at(u64::MAX))));
        let mut fast = Limiter::new(rate(most, 1, 1, Oversize::Borrow), at(0));
        assert_eq!(fast.take(at(0), u64::MAX), Ok(()));
        assert_eq!(fast.take(at(4), u64::MAX), Ok(()));
        fast.tune(rate(1, most, u64::MAX, Oversize::Refuse), at(4));
        assert!(matches!(fast.check(at(u64::MAX), u64::MAX), Err(Full::Until(_))));
    }

    #[test]
    fn a_rate_of_nothing_cannot_be_built() {
        let second = Duration::from_secs(1);
        for (amount, per, burst) in
            [(0, second, 1), (1, Duration::ZERO, 1), (1, second, 0), (1, Duration::MAX, 1), ((1 << 62) + 1, second, 1)]
        {
            assert_eq!(Rate::new(amount, per, burst, Oversize::Refuse), Err(RateError));
        }
        assert!(RateError.to_string().contains("20/s"));
    }

    #[test]
    fn time_that_was_paid_for_once_is_not_paid_for_again_by_a_clock_that_went_back() {
        let mut limiter = Limiter::new(rate(1, 10, 3, Oversize::Refuse), at(1000));
        assert_eq!(limiter.take(at(1000), 2), Ok(()));
        assert_eq!(limiter.take(at(500), 1), Ok(()));
        assert_eq!(limiter.take(at(1000), 1), Err(Full::Until(at(1010))));
    }

    #[test]
    fn several_limiters_take_all_or_nothing() {
        let mut session = Limiter::new(rate(1, 10, 1, Oversize::Refuse), at(0));
        let mut tenant = Limiter::new(rate(1, 100, 1, Oversize::Refuse), at(0));
        assert_eq!(take_all(&mut [&mut session, &mut tenant], at(0), 1), Ok(()));
        assert_eq!(take_all(&mut [&mut session, &mut tenant], at(5), 1), Err(Full::Until(at(100))));
        assert_eq!(session.take(at(10), 1), Ok(()), "the refused one took nothing from the session");
        assert_eq!(take_all(&mut [&mut session, &mut tenant], at(5), 2), Err(Full::Never));
        assert_eq!(take_all(&mut [&mut session, &mut tenant], at(100), 1), Ok(()));
    }

    #[test]
    fn a_larger_burst_is_earned_and_a_debt_is_kept_when_tuned() {
        let mut limiter = Limiter::new(rate(1, 10, 1, Oversize::Refuse), at(0));
        assert_eq!(limiter.take(at(0), 1), Ok(()));
        limiter.tune(rate(1, 10, 100, Oversize::Refuse), at(0));
        assert_eq!(limiter.take(at(0), 1), Err(Full::Until(at(10))), "a new burst of 100 is not a gift of 100");
        assert_eq!(limiter.take(at(1000), 100), Ok(()), "it is earned by waiting");

        let mut debtor = Limiter::new(rate(1, 10, 1, Oversize::Borrow), at(0));
        assert_eq!(debtor.take(at(0), 11), Ok(()));
        debtor.tune(rate(1, 20, 5, Oversize::Refuse), at(0));
        assert_eq!(debtor.check(at(0), 1), Err(Full::Until(at(220))), "ten units over, and the one that is asked for");
    }

    #[test]
    fn what_waits_is_let_go_sooner_by_a_faster_rate_and_never_before_it_is_paid_for() {
        let mut limiter = Limiter::new(rate(1, 100, 1, Oversize::Borrow), at(0));
        assert_eq!(limiter.reserve(at(0), 1), at(0));
        let turns = [limiter.reserve(at(0), 1), limiter.reserve(at(0), 1)];
        assert_eq!((turns, limiter.clear_at(at(0))), ([at(100), at(200)], at(200)));
        limiter.tune(rate(1, 10, 1, Oversize::Borrow), at(50));
        assert_eq!(limiter.clear_at(at(50)), at(65), "one and a half units are owed over the burst");
        assert_eq!(limiter.clear_at(at(70)), at(70));
    }

    #[test]
    fn a_limiter_that_is_given_its_own_rate_again_is_as_it_was() {
        let mut limiter = Some(Limiter::new(rate(1, 100, 2, Oversize::Refuse), at(0)));
        for _ in 0..2 {
            limiter.as_mut().unwrap().take(at(0), 1).unwrap();
        }
        for now in 0..99 {
            adjust(&mut limiter, Some(rate(1, 100, 2, Oversize::Refuse)), at(now));
            assert_eq!(limiter.as_mut().unwrap().take(at(now), 1), Err(Full::Until(at(100))));
        }
        adjust(&mut limiter, None, at(99));
        assert!(limiter.is_none());
        adjust(&mut limiter, Some(rate(1, 100, 2, Oversize::Refuse)), at(99));
        assert_eq!(limiter.unwrap().take(at(99), 2), Ok(()), "without a rate everything could pass");
    }

    proptest! {
        /// The clock of the other one began at another time.
        #[test]
        fn a_limiter_that_owes_as_much_as_another_goes_on_as_that_one(
            steps in prop::collection::vec((0..200_u64, 0..30_u64, any::<bool>(), any::<bool>()), 1..80), begun in 0..1000_u64,
        ) {
            let rate = rate(7, 100, 20, Oversize::Borrow);
            let (mut here, mut there) = (Limiter::new(rate, at(0)), Limiter::new(rate, at(begun)));
            let mut now = 0;
            for (wait, cost, waits, moves) in steps {
                now += wait;
                let later = |moment: Moment| moment.after(Duration::from_nanos(begun));
                if moves {
                    there = Limiter::owing(there.rate(), there.owed_now(at(now + begun)), at(now + begun));
                }
                if waits {
                    prop_assert_eq!(later(here.reserve(at(now), cost)), there.reserve(at(now + begun), cost));
                } else {
                    let passed = here.take(at(now), cost).map_err(|full| match full {
                        Full::Until(moment) => Full::Until(later(moment)),
                        Full::Never => Full::Never,
                    });
                    prop_assert_eq!(passed, there.take(at(now + begun), cost));
                }
            }
        }

        /// Whatever a rate is changed to and how often: in any window no more passes than the largest of its bursts, what the
        /// fastest of its rates allows in that time, and one.
        #[test]
        fn changing_a_rate_never_lets_more_through_than_the_larger_of_both_allows_and_one(
            rates in prop::collection::vec((1..50_u64, prop_oneof![Just(100_u64), Just(1000), 1..2000_u64], 1..20_u64), 1..6),
            steps in prop::collection::vec((0..200_u64, 1..20_u64, any::<Option<prop::sample::Index>>()), 1..120),
        ) {
            let rates: Vec<Rate> = rates.iter().map(|(amount, per, burst)| rate(*amount, *per, *burst, Oversize::Refuse)).collect();
            let mut limiter = Some(Limiter::new(rates[0], at(0)));
            let (mut now, mut used, mut passed) = (0, vec![rates[0]], Vec::new());
            for (wait, cost, change) in steps {
                now += wait;
                if let Some(to) = change {
                    let to = *to.get(&rates);
                    adjust(&mut limiter, Some(to), at(now));
                    used.push(to);
                }
                if limiter.as_mut().unwrap().take(at(now), cost).is_ok() {
                    passed.push((now, u128::from(cost)));
                }
            }
            let burst = used.iter().map(|rate| u128::from(rate.burst)).max().unwrap();
            for from in 0..passed.len() {
                let mut sum = 0;
                for (until, cost) in &passed[from..] {
                    sum += cost;
                    let time = until - passed[from].0;
                    // Rounded up, for each rate.
                    let earned = used.iter().map(|rate| rate.paid(Duration::from_nanos(time)).div_ceil(u128::from(rate.nanos))).max().unwrap();
                    prop_assert!(sum <= burst + earned + 1, "{sum} in {time} ns, burst {burst}, earned {earned}");
                }
            }
        }
    }
}
