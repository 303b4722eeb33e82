//! Limits the rate of requests: each request waits before it takes any permit, and none is refused because it came too soon.
//!
//! A request passes three limiters in a row: its session's, its export's, its tenant's. Only one request of a session waits at
//! a time, and the first to ask is the first to go: so sessions that share a limiter take turns, however many requests one of
//! them has queued. In any time `t` a limiter lets through at most its burst, its rate times `t`, and one request for each
//! session.
//!
//! Without a limit, which is the usual case, no lock is taken.
//!
//! A limit can be changed while sessions pass it ([`IoLimits::set`]): what they owe they still owe, and a request that waits
//! goes as soon as what was asked for before the change is paid off at the new rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nbd_gateway_config::IoRates;
use nbd_gateway_policy::rate::{Limiter, adjust};
use nbd_gateway_policy::types::Moment;
use nbd_gateway_proto::Cmd;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The longest that a request waits before it asks again: a change of the rate may have made its turn come sooner.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The rates of all limiters that share them.
#[derive(Debug)]
pub(crate) struct IoLimits {
    /// Even: no limit. Another number after each change.
    version: AtomicU64,
    rates: Mutex<IoRates>,
}

impl IoLimits {
    pub(crate) fn new(rates: IoRates) -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(u64::from(rates.any())), rates: Mutex::new(rates) })
    }

    /// Other rates from now on.
    pub(crate) fn set(&self, rates: IoRates) {
        let mut held = self.rates.lock();
        if *held != rates {
            *held = rates;
            let next = (self.version.load(Ordering::Relaxed) | 1).wrapping_add(1);
            self.version.store(next | u64::from(rates.any()), Ordering::Release);
        }
    }

    /// The version; None: no limit.
    fn bounded(&self) -> Option<u64> {
        Some(self.version.load(Ordering::Acquire)).filter(|version| version & 1 == 1)
    }
}

/// Limits reading and writing for all who share it.
#[derive(Debug)]
pub(crate) struct SharedLimiter {
    start: Instant,
    limits: Arc<IoLimits>,
    limiters: Mutex<Limiters>,
}

#[derive(Debug, Default)]
struct Limiters {
    /// Of the limits that they keep to.
    version: u64,
    requests: Option<Limiter>,
    reads: Option<Limiter>,
    writes: Option<Limiter>,
    bytes: Option<Limiter>,
    bytes_read: Option<Limiter>,
    bytes_written: Option<Limiter>,
}

impl Limiters {
    fn keep_to(&mut self, limits: &IoLimits, version: u64, now: Moment) {
        if self.version == version {
            return;
        }
        let rates = *limits.rates.lock();
        self.version = version;
        adjust(&mut self.requests, rates.requests, now);
        adjust(&mut self.reads, rates.reads, now);
        adjust(&mut self.writes, rates.writes, now);
        adjust(&mut self.bytes, rates.bytes, now);
        adjust(&mut self.bytes_read, rates.bytes_read, now);
        adjust(&mut self.bytes_written, rates.bytes_written, now);
    }

    /// Those that a request passes, with what it costs each.
    fn of(&mut self, command: Cmd, bytes: u64) -> impl Iterator<Item = (&mut Limiter, u64)> {
        let Self { requests, reads, writes, bytes: both, bytes_read, bytes_written, .. } = self;
        let (kind, direction) = match command {
            Cmd::READ => (Some(reads), Some(bytes_read)),
            Cmd::WRITE => (Some(writes), Some(bytes_written)),
            Cmd::WRITE_ZEROES | Cmd::TRIM => (Some(writes), None),
            _ => (None, None),
        };
        let all = [(Some(requests), 1), (kind, 1), (Some(both), bytes), (direction, bytes)];
        all.into_iter().filter_map(|(limiter, cost)| Some((limiter?.as_mut()?, cost)))
    }
}

impl SharedLimiter {
    pub(crate) fn new(limits: Arc<IoLimits>) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), limits, limiters: Mutex::default() })
    }

    /// Takes a turn for a request with so many payload bytes; `None`: it may go at once, else from then on.
    fn turn(&self, command: Cmd, bytes: u64) -> Option<Instant> {
        let version = self.limits.bounded()?;
        self.last(version, command, bytes, |limiter, now, cost| limiter.reserve(now, cost))
    }

    /// When a request that has taken its turn may go, if that is sooner than it was told. `None`: at once.
    fn sooner(&self, told: Instant, command: Cmd, bytes: u64) -> Option<Instant> {
        let version = self.limits.bounded()?;
        self.last(version, command, bytes, |limiter, now, _| limiter.clear_at(now)).map(|clear| clear.min(told))
    }

    fn last(
        &self,
        version: u64,
        command: Cmd,
        bytes: u64,
        turn: impl Fn(&mut Limiter, Moment, u64) -> Moment,
    ) -> Option<Instant> {
        let now = Moment::from_elapsed(self.start.elapsed());
        let mut limiters = self.limiters.lock();
        limiters.keep_to(&self.limits, version, now);
        let last = limiters.of(command, bytes).map(|(limiter, cost)| turn(limiter, now, cost)).max()?;
        (last > now).then(|| Instant::now() + last.since(now))
    }
}

/// The limiters of one session, and how many of them its next request has passed.
#[derive(Debug, Default)]
pub(crate) struct RateGate {
    limiters: Vec<Arc<SharedLimiter>>,
    passed: usize,
    until: Option<Instant>,
}

impl RateGate {
    /// Through these, in this order.
    pub(crate) fn new(limiters: impl IntoIterator<Item = Arc<SharedLimiter>>) -> Self {
        Self { limiters: limiters.into_iter().collect(), ..Self::default() }
    }

    /// The first, which is a session's own.
    #[cfg(test)]
    pub(crate) fn own(&self) -> Option<&SharedLimiter> {
        self.limiters.first().map(|limiter| &**limiter)
    }

    /// How many limiters the next request has passed, and until when it waits for the last of them.
    #[cfg(test)]
    pub(crate) fn suspend(&self) -> (usize, Option<Instant>) {
        (self.passed, self.until)
    }

    /// The next request has passed so many, all if there are fewer.
    #[cfg(test)]
    pub(crate) fn resume(&mut self, passed: usize, until: Option<Instant>) {
        (self.passed, self.until) = (passed.min(self.limiters.len()), until);
    }

    /// Lets the next request pass, or says when to ask again for the same one.
    pub(crate) fn pass(&mut self, command: Cmd, bytes: u64) -> Result<(), Instant> {
        loop {
            if let Some(told) = self.until {
                let before = self.passed.checked_sub(1).and_then(|before| self.limiters.get(before));
                let now = Instant::now();
                let until =
                    if told > now { before.and_then(|limiter| limiter.sooner(told, command, bytes)) } else { None };
                self.until = until.filter(|until| *until > now);
                if let Some(until) = self.until {
                    return Err(until.min(now + ASK_AGAIN));
                }
            }
            let Some(limiter) = self.limiters.get(self.passed) else {
                self.passed = 0;
                return Ok(());
            };
            self.passed += 1;
            self.until = limiter.turn(command, bytes);
        }
    }
}

#[cfg(test)]
mod suspend;

#[cfg(test)]
mod tests {
    use nbd_gateway_policy::rate::{Oversize, Rate};
    use proptest::prelude::*;

    use super::*;
    use crate::handover::state::carried;

    fn per_second(amount: u64, burst: u64) -> Option<Rate> {
        Some(Rate::new(amount, Duration::from_secs(1), burst, Oversize::Borrow).unwrap())
    }

    fn bound(rates: IoRates) -> Arc<SharedLimiter> {
        SharedLimiter::new(IoLimits::new(rates))
    }

    /// Passes as often as it can for so long; how often that was.
    async fn pass_for(gate: &mut RateGate, command: Cmd, bytes: u64, time: Duration) -> u64 {
        let end = Instant::now() + time;
        let mut passed = 0;
        loop {
            match gate.pass(command, bytes) {
                Ok(()) => passed += 1,
                Err(until) if until >= end => return passed,
                Err(until) => tokio::time::sleep_until(until).await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_goes_at_its_rate_and_no_faster() {
        let mut gate = RateGate::new([bound(IoRates { requests: per_second(7, 1), ..IoRates::NONE })]);
        let passed = pass_for(&mut gate, Cmd::FLUSH, 0, Duration::from_secs(100)).await;
        assert!((700..=702).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_and_writes_are_counted_apart_and_together() {
        let rates = IoRates { writes: per_second(10, 1), bytes: per_second(1 << 20, 1), ..IoRates::NONE };
        let mut gate = RateGate::new([bound(rates)]);
        let minute = Duration::from_secs(60);
        let trims = pass_for(&mut gate, Cmd::TRIM, 0, minute).await;
        assert!((600..=602).contains(&trims), "{trims}");
        // 64 KiB each: 16 a second by the bytes; writes are slower by their number.
        let reads = pass_for(&mut gate, Cmd::READ, 64 << 10, minute).await;
        assert!((959..=962).contains(&reads), "{reads}");
        let writes = pass_for(&mut gate, Cmd::WRITE, 64 << 10, minute).await;
        assert!((599..=602).contains(&writes), "{writes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_burst_passes_and_is_paid_off() {
        let mut gate = RateGate::new([bound(IoRates { bytes: per_second(1000, 1), ..IoRates::NONE })]);
        assert_eq!(gate.pass(Cmd::WRITE, 5000), Ok(()));
        let since = Instant::now();
        while let Err(until) = gate.pass(Cmd::WRITE, 1) {
            tokio::time::sleep_until(until).await;
        }
        let wait = since.elapsed();
        assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&wait), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_one_tenant_take_turns() {
        let tenant = bound(IoRates { requests: per_second(100, 10), ..IoRates::NONE });
        let sessions = (0..4).map(|_| {
            let mut gate = RateGate::new([Arc::clone(&tenant)]);
            tokio::spawn(async move { pass_for(&mut gate, Cmd::READ, 0, Duration::from_secs(60)).await })
        });
        let mut all = Vec::new();
        for session in sessions.collect::<Vec<_>>() {
            all.push(session.await.unwrap());
        }
        assert!(all.iter().all(|passed| (1490..=1515).contains(passed)), "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_session_leaves_the_rest_to_the_others() {
        let tenant = bound(IoRates { requests: per_second(100, 1), ..IoRates::NONE });
        let own = bound(IoRates { requests: per_second(1, 1), ..IoRates::NONE });
        let minute = Duration::from_secs(60);
        let mut slow = RateGate::new([own, Arc::clone(&tenant)]);
        let mut fast = RateGate::new([tenant]);
        let slow = tokio::spawn(async move { pass_for(&mut slow, Cmd::READ, 0, minute).await });
        let fast = pass_for(&mut fast, Cmd::READ, 0, minute).await;
        assert!((59..=62).contains(&slow.await.unwrap()));
        assert!((5930..=5945).contains(&fast), "{fast}");
    }

    #[tokio::test]
    async fn without_a_bound_nothing_waits() {
        let mut gate = RateGate::new([bound(IoRates::NONE)]);
        assert_eq!(gate.pass(Cmd::WRITE, u64::MAX), Ok(()));
        assert_eq!(RateGate::default().pass(Cmd::WRITE, u64::MAX), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_is_changed_under_those_who_pass_it_and_gives_them_no_burst() {
        let limits = IoLimits::new(IoRates::NONE);
        let mut gate = RateGate::new([SharedLimiter::new(Arc::clone(&limits))]);
        let minute = Duration::from_secs(60);
        assert_eq!(gate.pass(Cmd::READ, 1 << 40), Ok(()));
        let set = |amount, burst| limits.set(IoRates { requests: per_second(amount, burst), ..IoRates::NONE });
        set(10, 5);
        let passed = pass_for(&mut gate, Cmd::READ, 0, minute).await;
        assert!((604..=606).contains(&passed), "{passed}");
        for _ in 0..50 {
            set(20, 1000);
            set(10, 5);
        }
        let passed = pass_for(&mut gate, Cmd::READ, 0, minute).await;
        assert!((599..=601).contains(&passed), "{passed}");
        set(100, 100);
        let passed = pass_for(&mut gate, Cmd::READ, 0, minute).await;
        assert!((5999..=6001).contains(&passed), "{passed}");
        limits.set(IoRates::NONE);
        assert_eq!((0..10_000).filter(|_| gate.pass(Cmd::READ, 0).is_ok()).count(), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_to_a_rate_is_owed_elsewhere() {
        let rate = per_second(10, 1);
        let none = IoRates::NONE;
        for (command, rates) in [
            (Cmd::FLUSH, IoRates { requests: rate, ..none }),
            (Cmd::READ, IoRates { reads: rate, ..none }),
            (Cmd::WRITE, IoRates { writes: rate, ..none }),
            (Cmd::READ, IoRates { bytes: rate, ..none }),
            (Cmd::READ, IoRates { bytes_read: rate, ..none }),
            (Cmd::WRITE, IoRates { bytes_written: rate, ..none }),
        ] {
            let here = bound(rates);
            for _ in 0..100 {
                here.turn(command, 1);
            }
            tokio::time::advance(Duration::from_secs(2)).await;
            let elsewhere = bound(rates);
            elsewhere.resume(carried(&here.suspend()));
            let wait = elsewhere.turn(command, 1).unwrap() - Instant::now();
            assert_eq!(wait, Duration::from_secs(8), "{rates:?}");
            assert_eq!(here.turn(command, 1), None, "taken, {rates:?}");
            let faster = bound(IoRates { requests: per_second(20, 1), ..none });
            faster.resume(carried(&elsewhere.suspend()));
            let wait = faster.turn(Cmd::FLUSH, 1).map(|until| until - Instant::now());
            assert_eq!(wait, rates.requests.map(|_| Duration::from_millis(4050)), "at another rate, or a new one");
        }
    }

    /// It had slept until the moment that it was first told.
    #[tokio::test(start_paused = true)]
    async fn whoever_waits_at_a_slow_rate_goes_soon_after_it_is_raised() {
        let limits = IoLimits::new(IoRates { bytes: per_second(1, 1), ..IoRates::NONE });
        let mut gate = RateGate::new([SharedLimiter::new(Arc::clone(&limits))]);
        assert_eq!(gate.pass(Cmd::WRITE, 3600), Ok(()));
        let mut waits = |seconds: u64| {
            let until = gate.pass(Cmd::WRITE, 1);
            assert!(until.is_ok() == (seconds == 0), "{until:?}");
        };
        waits(3600);
        limits.set(IoRates { bytes: per_second(1000, 1), ..IoRates::NONE });
        waits(4);
        tokio::time::advance(Duration::from_secs(3)).await;
        waits(1);
        tokio::time::advance(Duration::from_secs(1)).await;
        waits(0);
    }

    proptest! {
        #[test]
        fn whoever_waits_goes_in_the_order_of_asking(costs in prop::collection::vec(0..5000_u64, 1..50), burst in 1..100_u64) {
            let mut limiter = Limiter::new(per_second(100, burst).unwrap(), Moment::default());
            let turns: Vec<_> = costs.iter().map(|cost| limiter.reserve(Moment::default(), *cost)).collect();
            let waiting: Vec<_> = turns.iter().zip(&costs).filter(|(_, cost)| **cost > 0).map(|(turn, _)| *turn).collect();
            // Equal costs keep their order; a small one may fit into what is left of the burst at the same moment.
            let total: u64 = costs.iter().sum();
            let last = waiting.iter().max().copied().unwrap_or_default();
            let least = Duration::from_millis(total.saturating_sub(*costs.iter().max().unwrap_or(&0)).saturating_sub(burst) * 10);
            prop_assert!(last.since(Moment::default()) >= least, "{last:?} {least:?}");
        }
    }
}
