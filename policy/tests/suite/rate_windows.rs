//! What a limiter admits in any window, to the last unit.

use std::time::Duration;

use nbd_gateway_policy::rate::{Full, Limiter, Oversize, Rate};
use nbd_gateway_policy::types::Moment;
use proptest::prelude::*;

fn any_rate(oversize: Oversize) -> impl Strategy<Value = Rate> {
    (1..50_u64, 1..50_u64, 1..20_u64)
        .prop_map(move |(amount, per, burst)| Rate::new(amount, Duration::from_nanos(per), burst, oversize).unwrap())
}

/// Rates by their numbers, for sums that must be exact.
fn numbers() -> impl Strategy<Value = (u64, u64, u64)> {
    (1..50_u64, 1..50_u64, 1..20_u64)
}

fn limiter((amount, per, burst): (u64, u64, u64), oversize: Oversize) -> Limiter {
    Limiter::new(Rate::new(amount, Duration::from_nanos(per), burst, oversize).unwrap(), Moment::START)
}

/// How many single units pass at this very moment; looks at no more than 1000.
fn room(limiter: &Limiter, now: Moment) -> usize {
    let mut limiter = limiter.clone();
    (0..1000).take_while(|_| limiter.take(now, 1).is_ok()).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_window_has_more_than_the_burst_and_the_rate(
        rate in numbers(), borrow: bool, history in prop::collection::vec((0..60_u64, 0..40_u64), 0..60),
    ) {
        let (amount, per, burst) = rate;
        let mut limiter = limiter(rate, if borrow { Oversize::Borrow } else { Oversize::Refuse });
        let (mut now, mut admitted) = (0, Vec::new());
        for (pass, cost) in history {
            now += pass;
            match limiter.take(Moment::from_nanos(now), cost) {
                Ok(()) => admitted.push((now, cost)),
                Err(Full::Never) => prop_assert!(cost > burst && !borrow),
                Err(Full::Until(moment)) => prop_assert!(moment.nanos() > now),
            }
        }
        let most = admitted.iter().map(|(_, cost)| *cost).max().unwrap_or(0).max(burst);
        prop_assert!(borrow || most == burst);
        for (first, (begin, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (at, cost) in &admitted[first..] {
                sum += cost;
                prop_assert!(sum * per <= most * per + (at - begin) * amount, "{sum} within {} ns", at - begin);
            }
        }
    }

    #[test]
    fn the_moment_named_is_the_first_at_which_there_is_room(
        rate in any_rate(Oversize::Borrow), spent in prop::collection::vec(1..30_u64, 1..6), cost in 1..60_u64,
    ) {
        let mut limiter = Limiter::new(rate, Moment::START);
        for cost in spent {
            let _ = limiter.take(Moment::START, cost);
        }
        if let Err(Full::Until(moment)) = limiter.check(Moment::START, cost) {
            prop_assert!(limiter.check(moment, cost).is_ok());
            prop_assert!(limiter.check(Moment::from_nanos(moment.nanos() - 1), cost).is_err());
        }
    }

    #[test]
    fn one_who_comes_when_told_is_served_at_the_full_rate(
        (one, other, burst) in numbers(), count in 1..50_u64,
    ) {
        // At most one unit a nanosecond, as that is how finely anyone can come; and a burst that bridges what is rounded.
        let (amount, per, burst) = (one.min(other), one.max(other), burst + 1);
        let mut limiter = limiter((amount, per, burst), Oversize::Refuse);
        let mut now = Moment::START;
        for _ in 0..burst + count {
            if let Err(Full::Until(moment)) = limiter.take(now, 1) {
                now = moment;
                prop_assert_eq!(limiter.take(now, 1), Ok(()));
            }
        }
        prop_assert_eq!(now.nanos(), (count * per).div_ceil(amount), "all beyond the burst take their time, no more");
    }

    #[test]
    fn tuning_gives_no_burst(
        before in any_rate(Oversize::Borrow), after in any_rate(Oversize::Refuse),
        spent in prop::collection::vec((0..40_u64, 1..30_u64), 0..10),
    ) {
        let mut limiter = Limiter::new(before, Moment::START);
        let mut now = 0;
        for (pass, cost) in spent {
            now += pass;
            let _ = limiter.take(Moment::from_nanos(now), cost);
        }
        let now = Moment::from_nanos(now);
        let had = room(&limiter, now);
        let mut same = limiter.clone();
        same.tune(before, now);
        prop_assert_eq!(room(&same, now), had, "the same rate changes nothing");
        limiter.tune(after, now);
        prop_assert!(room(&limiter, now) <= had, "a reload gave {} where there were {had}", room(&limiter, now));
        let enough = Moment::from_nanos(now.nanos() + 1_000_000);
        prop_assert_eq!(u64::try_from(room(&limiter, enough)).unwrap(), after.burst(), "and the new burst is earned");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing(rate in numbers(), back in 1..1000_u64) {
        let mut limiter = limiter(rate, Oversize::Refuse);
        let now = Moment::from_nanos(1000);
        let burst = room(&limiter, now);
        prop_assert_eq!((0..burst).filter(|_| limiter.take(now, 1).is_ok()).count(), burst);
        prop_assert!(limiter.take(Moment::from_nanos(1000 - back), 1).is_err());
        prop_assert_eq!(room(&limiter, now), 0);
    }
}
