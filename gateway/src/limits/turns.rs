//! Turns: a session with few requests in flight does not queue behind the hundreds of another.
//!
//! A session that never wants more than [`LIGHT`] small requests in flight is *light*; any other one is *heavy*. While a light
//! session of a shard is active, the heavy sessions of each lane there share a window of requests and bytes in flight, and
//! take turns in it: a turn is half the window, and the next session in the queue is woken when that much is free. Without
//! a light session nothing is limited, and no lock is taken here. An embedded disk has no lanes, and no turns.
//!
//! The `pacer` of the shard decides how large the window is. What the window counts is per lane: a server that hangs holds up
//! its own lane only.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::pacer::{BYTES, Latency, Pacer};
use crate::request::{Counts, SessionId};

/// The most requests in flight of a light session. One with a payload counts once more for each [`BYTES`] of it.
const LIGHT: u32 = 2;

/// What the sessions of one lane share.
#[derive(Debug)]
pub(crate) struct Turns {
    pacer: Arc<Pacer>,
    /// Requests of heavy sessions in flight in the upper 24 bits, their payload bytes in the lower 40.
    in_flight: AtomicU64,
    /// Whether the queue holds anything.
    busy: AtomicBool,
    queue: Mutex<Queue>,
}

const REQUEST: u64 = 1 << 40;

#[derive(Debug, Default)]
struct Queue {
    turn: Option<Turn>,
    /// Sessions and their tasks, in the order of their turns.
    waiting: VecDeque<(SessionId, Waker)>,
}

#[derive(Debug)]
struct Turn {
    session: SessionId,
    /// What is left of it.
    requests: u32,
    bytes: u64,
}

impl Turns {
    /// For a lane on the shard of this pacer.
    pub(crate) fn new(pacer: Arc<Pacer>) -> Arc<Self> {
        Arc::new(Self { pacer, in_flight: AtomicU64::new(0), busy: AtomicBool::new(false), queue: Mutex::default() })
    }

    /// Whether less than this part of the window is taken. An empty one takes a request of any size.
    fn has_room(&self, part: u32) -> bool {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let (requests, bytes) = self.pacer.window();
        in_flight == 0
            || in_flight / REQUEST < u64::from(requests / part) && in_flight % REQUEST < bytes / u64::from(part)
    }

    fn turn_of(&self, session: SessionId) -> Turn {
        let (requests, bytes) = self.pacer.window();
        Turn { session, requests: requests / 2, bytes: bytes / 2 }
    }

    /// Whether a heavy session may send its next request now; if not, it is woken when its turn comes.
    fn admits(&self, bytes: u64, session: SessionId, task: impl FnOnce() -> Option<Waker>) -> bool {
        let mut queue = self.queue.lock();
        if queue.turn.is_none() && queue.waiting.is_empty() {
            queue.turn = Some(self.turn_of(session));
        }
        if let Some(turn) = queue.turn.as_mut().filter(|turn| turn.session == session)
            && turn.requests > 0
            && self.has_room(1)
        {
            turn.requests -= 1;
            turn.bytes = turn.bytes.saturating_sub(bytes);
            if turn.bytes == 0 {
                turn.requests = 0;
            }
            self.busy.store(true, Ordering::Release);
            return true;
        }
        queue.turn.take_if(|turn| turn.session == session);
        if !queue.waiting.iter().any(|(waiting, _)| *waiting == session)
            && let Some(task) = task()
        {
            queue.waiting.push_back((session, task));
        }
        self.call_next(&mut queue);
        false
    }

    /// Wakes the next session if nobody has the turn and there is room for one.
    fn call_next(&self, queue: &mut Queue) {
        if queue.turn.is_none()
            && self.has_room(2)
            && let Some((session, task)) = queue.waiting.pop_front()
        {
            queue.turn = Some(self.turn_of(session));
            task.wake();
        }
        self.busy.store(queue.turn.is_some() || !queue.waiting.is_empty(), Ordering::Release);
    }

    /// Nothing is limited any more.
    fn end(&self, queue: &mut Queue) {
        queue.turn = None;
        queue.waiting.drain(..).for_each(|(_, task)| task.wake());
        self.busy.store(false, Ordering::Release);
    }

    /// There may be room.
    fn pass_on(&self) {
        if self.busy.load(Ordering::Acquire) {
            let mut queue = self.queue.lock();
            if self.pacer.limits(None) { self.call_next(&mut queue) } else { self.end(&mut queue) }
        }
    }

    /// This session's turn is over; if it `leaves`, it waits for none either.
    fn rests(&self, session: SessionId, leaves: bool) {
        if self.busy.load(Ordering::Acquire) {
            let mut queue = self.queue.lock();
            queue.turn.take_if(|turn| turn.session == session);
            if leaves {
                queue.waiting.retain(|(waiting, _)| *waiting != session);
            }
            self.call_next(&mut queue);
        }
    }
}

/// One session's part in the turns of its lane.
#[derive(Debug)]
pub(crate) struct Share {
    session: SessionId,
    turns: Option<Arc<Turns>>,
    in_flight: AtomicU32,
    /// The most that it wanted in flight of late.
    peak: AtomicU32,
    /// Requests in flight that the pacer knows of.
    light: AtomicU32,
    latency: Latency,
}

/// What a request with so large a payload counts as.
fn weight(bytes: u64) -> u32 {
    u32::try_from(bytes / BYTES).unwrap_or(u32::MAX - 1).saturating_add(1)
}

impl Share {
    /// Of a session without a lane: nothing.
    pub(crate) fn new(session: SessionId, turns: Option<Arc<Turns>>) -> Self {
        let (in_flight, peak, light) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        Self { session, turns, in_flight, peak, light, latency: Latency::default() }
    }

    /// Whether its next request may go, which at least `queued` others follow; if not, its task is woken when it may,
    /// and asks again after `ACTIVE`: by then no light session may be left. Only that task asks.
    pub(crate) fn admits(
        &self,
        bytes: u64,
        queued: impl FnOnce() -> usize,
        task: impl FnOnce() -> Option<Waker>,
    ) -> bool {
        let Some(turns) = &self.turns else { return true };
        if self.next_peak(bytes) <= LIGHT {
            return true;
        }
        self.becomes_heavy(turns);
        if !turns.pacer.limits(Some(self.session)) {
            turns.pass_on();
            return true;
        }
        let admits = turns.admits(bytes, self.session, task);
        if !admits {
            self.waits(queued());
        }
        admits
    }

    /// Its next request has to wait, and at least `queued` others behind it: what it has in flight now says how it is
    /// limited, not what it wants.
    pub(crate) fn waits(&self, queued: usize) {
        let queued = u32::try_from(queued).unwrap_or(u32::MAX);
        let wanted = self.in_flight.load(Ordering::Relaxed).saturating_add(queued).saturating_add(1);
        self.peak.fetch_max(wanted, Ordering::Relaxed);
    }

    /// The most in flight of late, with the next request.
    fn next_peak(&self, bytes: u64) -> u32 {
        let peak = self.peak.load(Ordering::Relaxed);
        // Forgotten slowly: a session whose batch was answered, and that begins the next, is not light.
        self.in_flight.load(Ordering::Relaxed).saturating_add(weight(bytes)).max(peak - peak.div_ceil(8))
    }

    /// What it began with, as every session does, is no reason to limit others, or itself.
    fn becomes_heavy(&self, turns: &Turns) {
        if self.light.load(Ordering::Relaxed) > 0 {
            turns.pacer.withdraw(self.light.swap(0, Ordering::Relaxed));
        }
    }

    /// A request goes.
    pub(crate) fn sent(&self, bytes: u64, now: Instant) -> Counts {
        let Some(turns) = &self.turns else { return Counts::Nothing };
        let peak = self.next_peak(bytes);
        self.peak.store(peak, Ordering::Relaxed);
        self.in_flight.fetch_add(weight(bytes), Ordering::Relaxed);
        if peak <= LIGHT {
            self.light.fetch_add(1, Ordering::Relaxed);
            turns.pacer.sent(now);
            return Counts::Light;
        }
        self.becomes_heavy(turns);
        turns.in_flight.fetch_add(REQUEST + bytes, Ordering::Relaxed);
        Counts::Heavy
    }

    /// A request was answered after `took`.
    pub(crate) fn answered(&self, counts: Counts, bytes: u64, took: Duration, now: Instant) {
        let Some(turns) = &self.turns else { return };
        match counts {
            Counts::Nothing => return,
            Counts::Light => {
                let light = self.light.load(Ordering::Relaxed);
                if light > 0 {
                    self.light.store(light - 1, Ordering::Relaxed);
                    turns.pacer.answered(self.session, took, now, &self.latency);
                }
            }
            Counts::Heavy => {
                turns.in_flight.fetch_sub(REQUEST + bytes, Ordering::Relaxed);
            }
        }
        self.in_flight.fetch_sub(weight(bytes), Ordering::Relaxed);
        turns.pass_on();
    }

    /// All that was whole in its buffer is sent: its turn is over.
    pub(crate) fn rests(&self) {
        if let Some(turns) = &self.turns {
            turns.rests(self.session, false);
        }
    }

    /// It reads no further.
    pub(crate) fn leaves(&self) {
        if let Some(turns) = &self.turns {
            turns.rests(self.session, true);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.leaves();
    }
}
