//! How fast requests may go: each waits its turn before it takes any permit, and none is refused for coming too soon.
//!
//! Three bounds in a row, the session's own, the export's, the tenant's. A session has one request at a time that waits, and
//! whoever asks first goes first: so sessions that share a bound take turns, however deep one's queue is. In any time `t` a
//! bound lets through at most its burst, its rate times `t`, and one request for each session.
//!
//! Whose time it is is known without a lock where there is no bound, which is the ordinary case.

use std::sync::Arc;

use nbd_gateway_config::IoRates;
use nbd_gateway_policy::rate::{Limiter, Rate};
use nbd_gateway_policy::types::Moment;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::proto::Cmd;

/// One bound on reading and writing.
#[derive(Debug)]
pub struct Throttle {
    start: Instant,
    limiters: Mutex<Limiters>,
}

#[derive(Debug)]
struct Limiters {
    requests: Option<Limiter>,
    reads: Option<Limiter>,
    writes: Option<Limiter>,
    bytes: Option<Limiter>,
    bytes_read: Option<Limiter>,
    bytes_written: Option<Limiter>,
}

impl Throttle {
    /// The bound, if there is one.
    pub fn new(rates: IoRates) -> Option<Arc<Self>> {
        let limiter = |rate: Option<Rate>| rate.map(|rate| Limiter::new(rate, Moment::default()));
        let limiters = Limiters {
            requests: limiter(rates.requests),
            reads: limiter(rates.reads),
            writes: limiter(rates.writes),
            bytes: limiter(rates.bytes),
            bytes_read: limiter(rates.bytes_read),
            bytes_written: limiter(rates.bytes_written),
        };
        rates.any().then(|| Arc::new(Self { start: Instant::now(), limiters: Mutex::new(limiters) }))
    }

    /// Takes a turn for a request with so many payload bytes; `None`: it may go at once, else from then on.
    fn turn(&self, command: Cmd, bytes: u64) -> Option<Instant> {
        let now = Moment::from_elapsed(self.start.elapsed());
        let mut limiters = self.limiters.lock();
        let Limiters { requests, reads, writes, bytes: both, bytes_read, bytes_written } = &mut *limiters;
        let (kind, direction) = match command {
            Cmd::READ => (Some(reads), Some(bytes_read)),
            Cmd::WRITE => (Some(writes), Some(bytes_written)),
            Cmd::WRITE_ZEROES | Cmd::TRIM => (Some(writes), None),
            _ => (None, None),
        };
        let of = |limiter: Option<&mut Option<Limiter>>, cost| {
            limiter.and_then(Option::as_mut).map(|limiter| limiter.reserve(now, cost))
        };
        let turns = [of(Some(requests), 1), of(kind, 1), of(Some(both), bytes), of(direction, bytes)];
        let last = turns.into_iter().flatten().max().filter(|turn| *turn > now)?;
        Some(Instant::now() + last.since(now))
    }
}

/// The bounds of one session, and how far its request at the door has come through them.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    bounds: Vec<Arc<Throttle>>,
    passed: usize,
    until: Option<Instant>,
}

impl Turnstile {
    /// Through these, in this order.
    pub(super) fn new(bounds: impl IntoIterator<Item = Arc<Throttle>>) -> Self {
        Self { bounds: bounds.into_iter().collect(), ..Self::default() }
    }

    /// Lets the request at the door pass, or says when to ask again for the same one.
    pub(super) fn pass(&mut self, command: Cmd, bytes: u64) -> Result<(), Instant> {
        loop {
            if let Some(until) = self.until {
                if Instant::now() < until {
                    return Err(until);
                }
                self.until = None;
            }
            let Some(bound) = self.bounds.get(self.passed) else {
                self.passed = 0;
                return Ok(());
            };
            self.passed += 1;
            self.until = bound.turn(command, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nbd_gateway_policy::rate::Oversize;
    use proptest::prelude::*;

    use super::*;

    fn per_second(amount: u64, burst: u64) -> Option<Rate> {
        Some(Rate::new(amount, Duration::from_secs(1), burst, Oversize::Borrow).unwrap())
    }

    /// Passes as often as it can for so long; how often that was.
    async fn pass_for(gate: &mut Turnstile, command: Cmd, bytes: u64, time: Duration) -> u64 {
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
        let bound = Throttle::new(IoRates { requests: per_second(7, 1), ..IoRates::NONE });
        let mut gate = Turnstile::new(bound);
        let passed = pass_for(&mut gate, Cmd::FLUSH, 0, Duration::from_secs(100)).await;
        assert!((700..=702).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_and_writes_are_counted_apart_and_together() {
        let rates = IoRates { writes: per_second(10, 1), bytes: per_second(1 << 20, 1), ..IoRates::NONE };
        let bound = Throttle::new(rates);
        let mut gate = Turnstile::new(bound);
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
        let bound = Throttle::new(IoRates { bytes: per_second(1000, 1), ..IoRates::NONE });
        let mut gate = Turnstile::new(bound);
        assert_eq!(gate.pass(Cmd::WRITE, 5000), Ok(()));
        let until = gate.pass(Cmd::WRITE, 1).unwrap_err();
        let wait = until - Instant::now();
        assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&wait), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_one_tenant_take_turns() {
        let tenant = Throttle::new(IoRates { requests: per_second(100, 10), ..IoRates::NONE }).unwrap();
        let sessions = (0..4).map(|_| {
            let mut gate = Turnstile::new([Arc::clone(&tenant)]);
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
        let tenant = Throttle::new(IoRates { requests: per_second(100, 1), ..IoRates::NONE }).unwrap();
        let own = Throttle::new(IoRates { requests: per_second(1, 1), ..IoRates::NONE }).unwrap();
        let minute = Duration::from_secs(60);
        let mut slow = Turnstile::new([own, Arc::clone(&tenant)]);
        let mut fast = Turnstile::new([tenant]);
        let slow = tokio::spawn(async move { pass_for(&mut slow, Cmd::READ, 0, minute).await });
        let fast = pass_for(&mut fast, Cmd::READ, 0, minute).await;
        assert!((59..=62).contains(&slow.await.unwrap()));
        assert!((5930..=5945).contains(&fast), "{fast}");
    }

    #[tokio::test]
    async fn without_a_bound_nothing_waits() {
        assert!(Throttle::new(IoRates::NONE).is_none());
        let mut gate = Turnstile::default();
        assert_eq!(gate.pass(Cmd::WRITE, u64::MAX), Ok(()));
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
