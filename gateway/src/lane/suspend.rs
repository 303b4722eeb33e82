//! A lane, suspended at any byte of a conversation and resumed: no outcome is another than without.
//!
//! The connection stays the same one, so nothing is sent again because of this, nothing counts as lost, and durable data
//! stays durable. A message that is half read goes back into the protocol's own form. A lane without a connection goes on waiting for
//! one where it was.
//!
//! First its task [stops](Lane::order_stop); requests still come, and are still sent. Then, when no more can come, it is
//! [taken](Lane::suspend).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use nbd_gateway_net::{ReadHalf, Stream, WriteHalf};
use nbd_gateway_proto::reply::ReplyReader;
use nbd_gateway_proto::{Framing, Inbox, Payload};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::decode::Decoder;
use super::run::{Absence, Away, Beginning, Leaving, Reading, go_on};
use super::status::ConnectionHistory;
use super::table::{Clients, Table};
use super::{Durability, Lane, Life, Link};
use crate::handover::state::{
    AbsenceState, Age, AwayState, Beside, DurabilityState, LaneState, LinkState, ReaderState, StateError, nanos,
};

#[cfg(test)]
mod tests;

impl Durability {
    pub(crate) fn suspend(&self) -> DurabilityState {
        let read = |number: &AtomicU64| number.load(Ordering::Acquire);
        DurabilityState {
            clock: read(&self.clock),
            written: read(&self.written),
            flushed: read(&self.flushed),
            known: read(&self.known),
            newcomers: self.newcomers.load(Ordering::Acquire),
            lost_at: read(&self.lost_at),
            losses: read(&self.losses),
        }
    }

    pub(crate) fn resume(&self, state: &DurabilityState) {
        let put = |number: &AtomicU64, value| number.store(value, Ordering::Release);
        put(&self.clock, state.clock);
        put(&self.written, state.written);
        put(&self.flushed, state.flushed);
        put(&self.known, state.known);
        self.newcomers.store(state.newcomers, Ordering::Release);
        put(&self.lost_at, state.lost_at);
        put(&self.losses, state.losses);
    }
}

/// A lane on its way.
pub(crate) struct SuspendedLane {
    pub(crate) state: LaneState,
    pub(crate) beside: Beside,
    /// None: it has no connection.
    stream: Option<Stream>,
    /// In this process: what the lane lives on.
    life: Life,
}

/// Whether a lane's task is to stop, and what it has left.
#[derive(Default)]
pub(super) struct Suspension {
    ordered: AtomicBool,
    reading: Mutex<Option<Reading>>,
    stopped: Mutex<Option<Stopped>>,
}

/// What a lane's task had.
struct Stopped {
    absence: Option<Absence>,
    away: Away,
    life: Life,
}

impl fmt::Debug for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Suspension").field(&self.ordered).finish()
    }
}

impl Lane {
    /// Has the lane's task stop at the order to end, instead of ending.
    pub(crate) fn order_stop(&self) {
        self.suspension.ordered.store(true, Ordering::Release);
    }

    pub(super) fn is_suspending(&self) -> bool {
        self.suspension.ordered.load(Ordering::Acquire)
    }

    /// Whether the lane's task has stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        self.suspension.stopped.lock().is_some()
    }

    /// The task reads no further.
    pub(super) fn leave_reading(&self, reading: Reading) {
        *self.task.lock() = None;
        *self.suspension.reading.lock() = Some(reading);
    }

    /// The task's last act: no request is answered, and the socket stays open.
    pub(super) fn stop(&self, absence: Option<Absence>, away: Away, life: Life) {
        *self.suspension.stopped.lock() = Some(Stopped { absence, away, life });
    }

    /// When the oldest request in flight was sent, by the clock; of all lanes of an export the least is for
    /// [`suspend`](Self::suspend).
    pub(crate) fn oldest_sent(&self) -> Option<u64> {
        self.table.lock().oldest_sent()
    }

    /// Takes a lane whose task has stopped; it is empty afterwards. None: it has ended.
    pub(crate) fn suspend(&self, oldest: u64) -> Option<io::Result<SuspendedLane>> {
        self.suspension.ordered.store(false, Ordering::Release);
        let Stopped { absence, away, life } = self.suspension.stopped.lock().take()?;
        let reading = self.suspension.reading.lock().take();
        let (mut beside, now) = (Beside::default(), Instant::now());
        let away = AwayState {
            since: away.since.map(Age::of),
            pause: nanos(away.pause),
            step: nanos(away.backoff.step()),
            absence: absence.map(|absence| AbsenceState {
                planned: absence.planned,
                failure: absence.failure,
                hold: absence.hold_over.map(|over| nanos(over.saturating_duration_since(now))),
                given_up: absence.given_up,
            }),
        };
        let (read, reader) = match reading {
            Some(Reading { read, mut inbox, mut decoder, framing, flushes, leaving, .. }) => {
                let mut reader = decoder.suspend(framing, &mut inbox, &mut beside);
                (reader.flushes, reader.leaving) = (flushes, leaving.map(|leaving| Age::of(leaving.since)));
                (Some(read), Some(reader))
            }
            None => (None, None),
        };
        let (state, write) = self.take(oldest, reader, away, &mut beside);
        let stream = match (read, write) {
            (Some(read), Some(write)) => Stream::join(read, write).map(Some),
            (None, None) => Ok(None),
            _ => Err(io::ErrorKind::NotConnected.into()),
        };
        Some(stream.map(|stream| SuspendedLane { state, beside, stream, life }))
    }

    /// What the lane knows; no request is answered. With it the half of the socket that it wrote through.
    fn take(
        &self,
        oldest: u64,
        reader: Option<ReaderState>,
        away: AwayState,
        beside: &mut Beside,
    ) -> (LaneState, Option<WriteHalf>) {
        let table = core::mem::take(&mut *self.table.lock()).suspend(oldest, beside);
        let (write, unsent) = self.out.suspend();
        let history = self.history.lock();
        let state = LaneState {
            link: self.link.lock().as_ref().map(LinkState::of),
            table,
            reader,
            unsent: beside.put(&unsent.bytes),
            away,
            renews: self.renew.load(Ordering::Acquire),
            aside: *self.aside.borrow(),
            unchanged: nanos(history.since.elapsed().unwrap_or_default()),
            connections: history.connections,
            trouble: history.trouble.clone(),
        };
        (state, write)
    }

    /// Goes on with a lane, in this one, to which only requests have come; what runs its task. What was not sent is sent.
    pub(crate) fn resume(
        self: &Arc<Self>,
        suspended: SuspendedLane,
        clients: Clients<'_>,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let SuspendedLane { mut state, beside, stream, life } = suspended;
        let AwayState { since, pause, step, absence } = state.away.clone();
        let mut away = Away::new(&life.name);
        (away.since, away.pause) = (since.map(Age::ago), Duration::from_nanos(pause));
        away.backoff = away.backoff.from_step(Duration::from_nanos(step));
        let (read, write) = stream.map(Stream::rehome).transpose()?.map(Stream::split).unzip();
        let reader = state.reader.take();
        self.put(state, reader.as_ref(), &beside, write, clients).map_err(io::Error::other)?;
        let beginning = match (read, reader) {
            (Some(read), Some(reader)) => {
                Beginning::Connected(Ok(reading(read, reader, &beside, &life).map_err(io::Error::other)?))
            }
            _ => Beginning::Absent(match absence {
                Some(AbsenceState { planned, failure, hold, given_up }) => {
                    let hold_over = hold.map(|hold| Instant::now() + Duration::from_nanos(hold));
                    Absence { hold_over, given_up, ..Absence::new(planned, failure) }
                }
                None => Absence::new(true, String::new()),
            }),
        };
        Ok(go_on(Arc::clone(self), beginning, life, away))
    }

    fn put(
        &self,
        state: LaneState,
        reader: Option<&ReaderState>,
        beside: &Beside,
        write: Option<WriteHalf>,
        clients: Clients<'_>,
    ) -> Result<(), StateError> {
        let link = state.link.map(LinkState::link).transpose()?;
        let framing = reader.map(|reader| reader.framing.into());
        let known = (&*self.late, &link.clone().unwrap_or_else(|| Link::new(None)));
        let resumed = Table::resume(state.table, framing, beside, known, clients)?;
        let unsent = beside.get(state.unsent)?;
        *self.link.lock() = link;
        self.renew.store(state.renews, Ordering::Release);
        self.aside.send_replace(state.aside);
        let since = SystemTime::now() - Duration::from_nanos(state.unchanged);
        let up = reader.is_some();
        *self.history.lock() = ConnectionHistory { up, since, connections: state.connections, trouble: state.trouble };
        let connected = write.map(|write| self.out.connect(write)).is_some();
        {
            let mut table = self.table.lock();
            let meanwhile = core::mem::replace(&mut *table, resumed).take_all();
            let now = self.durability.tick();
            self.out.append(|batch| {
                batch.body(&unsent.into());
                for slot in meanwhile.into_iter().filter(|slot| !slot.job.is_abandoned()) {
                    table.insert(slot.job, now, slot.covers, &self.late, batch);
                }
                table.send_what_may_be(now, &self.late, batch);
            });
        }
        if connected {
            self.flush();
        }
        Ok(())
    }
}

impl Decoder {
    fn suspend(&mut self, framing: Framing, inbox: &mut Inbox, beside: &mut Beside) -> ReaderState {
        let (begun, skip) = self.replies.suspend();
        let mut unread = Payload::from(begun);
        inbox.suspend().segments().for_each(|segment| unread.push(segment.clone()));
        ReaderState {
            framing: framing.into(),
            contexts: core::mem::take(&mut self.ids),
            unread: beside.put(&unread),
            skip,
            answered: self.answered,
            refused: self.refused,
            leaving: None,
            flushes: false,
        }
    }

    fn resume(state: ReaderState, beside: &Beside, export: &str) -> Result<(Self, Inbox), StateError> {
        let framing = state.framing.into();
        let mut decoder = Self::new(framing, state.contexts, export.to_owned());
        decoder.replies = ReplyReader::resume(framing, state.skip);
        (decoder.answered, decoder.refused) = (state.answered, state.refused);
        Ok((decoder, Inbox::resume(BytesMut::from(beside.get(state.unread)?))))
    }
}

fn reading(read: ReadHalf, state: ReaderState, beside: &Beside, life: &Life) -> Result<Reading, StateError> {
    let (framing, flushes, hold) = (state.framing.into(), state.flushes, life.policy.hold);
    let leaving = state.leaving.map(|since| Leaving::new(since.ago(), hold));
    let (decoder, inbox) = Decoder::resume(state, beside, &life.name)?;
    let pool = Arc::clone(&life.pool);
    Ok(Reading { read, inbox, decoder, framing, pool, renewing: None, flushes, hold, leaving })
}
