//! How large the window is that heavy sessions share while a light one is active (`turns`).
//!
//! It follows from what the light sessions of the shard measure. At [`FLOOR`] each learns its latency; then the window grows
//! while most of their requests take less than one and a half of that, and shrinks while most take more. So a server that
//! is far away, or serves many requests at a time, is kept busy.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::request::SessionId;

/// The least window, in requests.
pub(crate) const FLOOR: u32 = 4;

/// The largest window, in requests: far more than a session may have in flight.
const CEILING: u32 = 1 << 16;

/// The bytes of the window for each of its requests.
pub(crate) const BYTES: u64 = 16 << 10;

/// How long a light session counts as active after its last answer; also how often a session that waits for its turn asks
/// whether it still has to.
pub(crate) const ACTIVE: Duration = Duration::from_millis(100);

/// How long it counts as active while it waits for an answer: a server that hangs limits others no longer.
pub(crate) const WAITS: Duration = Duration::from_secs(5);

/// How many answers of light sessions it takes to learn their latency at the least window.
const LEARNED: u32 = 64;

/// Where they come seldom: how many it takes after [`ACTIVE`].
const LEARNED_SELDOM: u32 = 8;

/// The time after which it is learned again: the server may have become slower by itself.
const RELEARN: Duration = Duration::from_secs(5);

/// The same, while a session has learned nothing yet.
const LEARN_NEXT: Duration = Duration::from_secs(1);

/// The window of one shard.
#[derive(Debug)]
pub(crate) struct Pacer {
    begin: Instant,
    /// Requests of light sessions in flight.
    in_flight: AtomicU32,
    /// When the last one was sent, and answered, in milliseconds since `begin`.
    sent: AtomicU64,
    answered: AtomicU64,
    /// The session that had the last answer; 0 before the first.
    last: AtomicU64,
    /// Unset: that was too long ago to look at the clock.
    recent: AtomicBool,
    /// In requests.
    window: AtomicU32,
    learning: Mutex<Learning>,
}

/// How far the latency at the least window is learned.
#[derive(Debug)]
struct Learning {
    /// How many answers are left to learn from.
    left: u32,
    /// When the first of them was, and the last.
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            in_flight: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            last: AtomicU64::new(0),
            recent: AtomicBool::new(false),
            window: AtomicU32::new(FLOOR),
            learning: Mutex::new(Learning { left: LEARNED, first: None, last: None }),
        }
    }
}

impl Pacer {
    /// Requests and bytes.
    pub(crate) fn window(&self) -> (u32, u64) {
        let window = self.window.load(Ordering::Relaxed);
        (window, u64::from(window) * BYTES)
    }

    /// Whether a light session is active, other than this one, which was light until now.
    pub(crate) fn limits(&self, session: Option<SessionId>) -> bool {
        if !self.recent.load(Ordering::Relaxed) {
            return false;
        }
        let now = self.millis(Instant::now());
        // 0: never.
        let within = |time: &AtomicU64, limit: Duration| match time.load(Ordering::Relaxed) {
            0 => false,
            time => now.saturating_sub(time) < millis(limit),
        };
        let waits = self.in_flight.load(Ordering::Relaxed) > 0 && within(&self.sent, WAITS);
        let recent = within(&self.answered, ACTIVE);
        if !waits && !recent {
            self.recent.store(false, Ordering::Relaxed);
        }
        waits || recent && self.last.load(Ordering::Relaxed) != session.map_or(0, SessionId::get)
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.begin)).saturating_add(1)
    }

    pub(crate) fn sent(&self, now: Instant) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.sent.store(self.millis(now), Ordering::Relaxed);
        self.recent.store(true, Ordering::Relaxed);
    }

    /// Takes so many off that turned out to be a heavy session's.
    pub(crate) fn withdraw(&self, requests: u32) {
        self.in_flight.fetch_sub(requests, Ordering::Relaxed);
    }

    /// A request of a light session was answered after `took`.
    pub(crate) fn answered(&self, session: SessionId, took: Duration, now: Instant, latency: &Latency) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.answered.store(self.millis(now), Ordering::Relaxed);
        self.last.store(session.get(), Ordering::Relaxed);
        self.recent.store(true, Ordering::Relaxed);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut learning = self.learning.lock();
        let again = if latency.is_known() { RELEARN } else { LEARN_NEXT };
        if learning.left == 0 && learning.last.is_none_or(|last| now.saturating_duration_since(last) >= again) {
            (learning.left, learning.first) = (LEARNED, None);
        }
        if learning.left > 0 {
            learning.left -= 1;
            let first = *learning.first.get_or_insert(now);
            if now.saturating_duration_since(first) > ACTIVE && LEARNED - learning.left >= LEARNED_SELDOM {
                learning.left = 0;
            }
            learning.last = Some(now);
            self.window.store(FLOOR, Ordering::Relaxed);
            return latency.learn(took);
        }
        if let Some(alone) = latency.learned() {
            let window = self.window.load(Ordering::Relaxed);
            let step = (window / 4).max(1);
            // As many steps up as down where the median is one and a half of what was learned.
            let slow = took > alone.saturating_add(alone / 2);
            let next = if slow { window.saturating_sub(step) } else { window.saturating_add(step) };
            self.window.store(next.clamp(FLOOR, CEILING), Ordering::Relaxed);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The median latency of a light session at the least window, in nanoseconds; 0: not known.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    known: AtomicU64,
    /// What is being learned.
    next: AtomicU64,
}

impl Latency {
    fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed) > 0 || self.next.load(Ordering::Relaxed) > 0
    }

    fn learn(&self, took: u64) {
        let median = match self.next.load(Ordering::Relaxed) {
            0 => took.max(1),
            // Goes up as often as down once it is the median.
            median if took > median => median.saturating_add((median / 8).max(1)),
            median => median.saturating_sub((median / 8).max(1)).max(1),
        };
        self.next.store(median, Ordering::Relaxed);
    }

    /// What is known, with what was learned last.
    fn learned(&self) -> Option<u64> {
        let known = self.known.load(Ordering::Relaxed);
        let known = match self.next.swap(0, Ordering::Relaxed) {
            0 => known,
            next if known == 0 || next < known => next,
            // One bad time does not make the server a slow one.
            next => known.saturating_add((next - known) / 4),
        };
        self.known.store(known, Ordering::Relaxed);
        (known > 0).then_some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The latency of a light session is what it is alone, and as much more for each heavy request in the window.
    async fn settle(alone: Duration, each: Duration) -> u32 {
        let (pacer, latency) = (Pacer::default(), Latency::default());
        let mut sum = 0;
        for turn in 0..20_000 {
            let window = pacer.window().0;
            pacer.sent(Instant::now());
            tokio::time::advance(alone + each * window).await;
            pacer.answered(SessionId::after(0), alone + each * window, Instant::now(), &latency);
            sum += if turn < 10_000 { 0 } else { window };
        }
        sum / 10_000
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_as_large_as_it_can_be_without_slowing_light_requests_down_much() {
        let (alone, micros) = (Duration::from_micros(100), Duration::from_micros);
        // Alone 100 us, and 140 at the least window: half as much again is reached with 11.
        let window = settle(alone, micros(10)).await;
        assert!((7..=12).contains(&window), "{window}");
        let window = settle(alone, micros(1)).await;
        assert!((30..=60).contains(&window), "{window}");
        // Where it makes no difference, nothing is limited.
        let window = settle(Duration::from_millis(1), Duration::ZERO).await;
        assert!(window > 4096, "{window}");
    }
}
