//! Limits the rate of notices of a new size: a session's own rate, its export's, its tenant's. A notice passes all three or
//! takes nothing of any; one that comes too soon gets a [`RetryAfter`], and changes are merged until then.

use std::time::Duration;

use nbd_gateway_policy::rate::{Full, Limiter, Rate, adjust, take_all};
use nbd_gateway_policy::types::Moment;
use parking_lot::Mutex;

/// One rate of notices, or none; several sessions may share it.
#[derive(Debug, Default)]
pub(crate) struct NoticeLimiter(Mutex<Option<Limiter>>);

/// A notice that is too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryAfter {
    /// The rate that has room last.
    pub limit: &'static str,
    /// The time until it has.
    pub wait: Duration,
}

impl NoticeLimiter {
    /// With its whole burst at `now`.
    pub(crate) fn new(rate: Option<Rate>, now: Moment) -> Self {
        Self(Mutex::new(rate.map(|rate| Limiter::new(rate, now))))
    }

    /// At this rate from now on; what was taken stays taken.
    pub(crate) fn keep_to(&self, rate: Option<Rate>, now: Moment) {
        let mut limiter = self.0.lock();
        if limiter.as_ref().map(Limiter::rate) != rate {
            adjust(&mut limiter, rate, now);
        }
    }
}

/// Lets one notice pass the session's, the export's and the tenant's rate, or none of them.
pub(crate) fn pass(
    session: &NoticeLimiter,
    export: &NoticeLimiter,
    tenant: Option<&mut Limiter>,
    now: Moment,
) -> Result<(), RetryAfter> {
    // A session's before an export's, always: nobody waits for each other.
    let (mut session, mut export) = (session.0.lock(), export.0.lock());
    let named = [
        ("its session-notice-rate", session.as_mut()),
        ("its export's notice-rate", export.as_mut()),
        ("its tenant's notice-rate", tenant),
    ];
    let mut late: Option<RetryAfter> = None;
    let mut limiters = Vec::with_capacity(named.len());
    for (limit, limiter) in named.into_iter().filter_map(|(limit, limiter)| Some((limit, limiter?))) {
        let wait = match limiter.check(now, 1) {
            Ok(()) => None,
            Err(Full::Until(moment)) => Some(moment.since(now)),
            Err(Full::Never) => Some(Duration::MAX),
        };
        if let Some(wait) = wait.filter(|wait| late.is_none_or(|late| late.wait < *wait)) {
            late = Some(RetryAfter { limit, wait });
        }
        limiters.push(limiter);
    }
    match late {
        Some(late) => Err(late),
        // Each of them has just been asked.
        None => take_all(&mut limiters, now, 1).map_err(|_| RetryAfter { limit: "a notice-rate", wait: Duration::MAX }),
    }
}

#[cfg(test)]
mod suspend;

#[cfg(test)]
mod tests {
    use nbd_gateway_policy::rate::Oversize;

    use super::*;
    use crate::handover::state::carried;

    fn rate(amount: u64, seconds: u64) -> Rate {
        Rate::new(amount, Duration::from_secs(seconds), amount, Oversize::Refuse).unwrap()
    }

    fn at(millis: u64) -> Moment {
        Moment::from_elapsed(Duration::from_millis(millis))
    }

    #[test]
    fn the_slowest_of_the_three_decides_and_the_others_lose_nothing_by_that() {
        let (session, other, unbounded) = (
            NoticeLimiter::new(Some(rate(1, 1)), at(0)),
            NoticeLimiter::new(Some(rate(1, 1)), at(0)),
            NoticeLimiter::default(),
        );
        let export = NoticeLimiter::new(Some(rate(2, 4)), at(0));
        let mut tenant = Limiter::new(rate(4, 100), at(0));
        let mut go = |session: &NoticeLimiter, now| pass(session, &export, Some(&mut tenant), at(now));
        let early = |limit, millis| Err(RetryAfter { limit, wait: Duration::from_millis(millis) });
        assert_eq!(go(&session, 0), Ok(()));
        assert_eq!(go(&session, 0), early("its session-notice-rate", 1000));
        assert_eq!(go(&other, 0), Ok(()), "another session has a rate of its own");
        assert_eq!(go(&other, 999), early("its export's notice-rate", 1001));
        assert_eq!(go(&unbounded, 2000), Ok(()));
        assert_eq!(go(&session, 4000), Ok(()), "what was refused has cost its session nothing");
        assert_eq!(go(&unbounded, 8000), early("its tenant's notice-rate", 17_000));
        assert_eq!(go(&unbounded, 25_000), Ok(()));
    }

    #[test]
    fn what_was_taken_of_a_rate_stays_taken_elsewhere_where_that_may_have_another_rate() {
        let other = rate(1, 10);
        for (before, there, wait) in [
            (Some(rate(1, 4)), Some(rate(1, 4)), 3000),
            (Some(rate(1, 4)), Some(other), 7500),
            (None, Some(other), 0),
            (Some(rate(1, 4)), None, 0),
        ] {
            let (session, tenant) = (NoticeLimiter::default(), None::<&mut Limiter>);
            let [here, elsewhere] = [before, there].map(|rate| NoticeLimiter::new(rate, at(0)));
            assert_eq!(pass(&session, &here, tenant, at(1000)), Ok(()));
            elsewhere.resume(carried(&here.suspend(at(2000))), at(50_000));
            let waits = pass(&session, &elsewhere, None, at(50_000)).err().map_or(0, |late| late.wait.as_millis());
            assert_eq!(waits, wait, "{before:?} and {there:?}");
        }
    }

    #[test]
    fn without_rates_everything_passes() {
        let (session, export) = (NoticeLimiter::default(), NoticeLimiter::default());
        assert!((0..1000).all(|_| pass(&session, &export, None, at(0)).is_ok()));
    }
}
