//! A lane, suspended at any byte of a conversation and resumed: no outcome is another than without.
//!
//! The connection stays the same one, so nothing is sent again because of this, nothing counts as lost, and what is durable
//! stays durable. What is half read goes back into the protocol's own form.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use nbd_gateway_net::{Stream, WriteHalf};
use nbd_gateway_proto::reply::ReplyReader;
use nbd_gateway_proto::{Framing, Inbox, Payload};
use parking_lot::Mutex;

use super::decode::Decoder;
use super::run::{Away, Leaving, Reading, go_on};
use super::status::ConnectionHistory;
use super::table::{Clients, Table};
use super::{Durability, Lane, LateWrites, Life, Link};
use crate::handover::state::{Age, Beside, DurabilityState, LaneState, LinkState, StateError, TaskState};

#[cfg(test)]
mod tests;

impl Durability {
    fn suspend(&self) -> DurabilityState {
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

    fn resume(state: DurabilityState) -> Arc<Self> {
        let DurabilityState { clock, written, flushed, known, newcomers, lost_at, losses } = state;
        let [clock, written, flushed, known, lost_at, losses] =
            [clock, written, flushed, known, lost_at, losses].map(AtomicU64::new);
        Arc::new(Self { clock, written, flushed, known, newcomers: AtomicBool::new(newcomers), lost_at, losses })
    }
}

impl Lane {
    /// When the oldest request in flight was sent, by the clock; of all lanes of an export the least is for
    /// [`suspend`](Self::suspend).
    fn oldest_sent(&self) -> Option<u64> {
        self.table.lock().oldest_sent()
    }

    /// What the lane knows, and what its reader had; the lane is empty afterwards, and has answered nobody. With it the half of
    /// the socket that it wrote through.
    fn suspend(
        &self,
        oldest: u64,
        decoder: &mut Decoder,
        inbox: &mut Inbox,
        beside: &mut Beside,
    ) -> (LaneState, Option<WriteHalf>) {
        let link = self.link.lock().clone().unwrap_or_else(|| Link::new(None));
        let table = core::mem::take(&mut *self.table.lock());
        let framing = table.framing.unwrap_or(Framing::Simple).into();
        let table = table.suspend(oldest, &self.late, &link, beside);
        let (begun, skip) = decoder.replies.suspend();
        let mut unread = Payload::from(begun);
        inbox.suspend().segments().for_each(|segment| unread.push(segment.clone()));
        let (write, unsent) = self.out.suspend();
        let state = LaneState {
            framing,
            contexts: core::mem::take(&mut decoder.ids),
            table,
            unread: beside.put(&unread),
            skip,
            unsent: beside.put(&unsent.bytes),
            answered: decoder.answered,
            refused: decoder.refused,
        };
        (state, write)
    }

    /// The lane, and its reader. What was not sent is sent, if there is a socket to write through.
    fn resume(
        state: LaneState,
        beside: &Beside,
        shared: (Arc<Durability>, Arc<LateWrites>),
        export: &str,
        write: Option<WriteHalf>,
        clients: Clients<'_>,
    ) -> Result<(Arc<Self>, Decoder, Inbox), StateError> {
        let lane = Self::new(shared.0, shared.1);
        let LaneState { framing, contexts, table, unread, skip, unsent, answered, refused } = state;
        let framing = Framing::from(framing);
        *lane.table.lock() = Table::resume(table, framing, beside, clients)?;
        let unsent = beside.get(unsent)?;
        let connected = write.map(|write| lane.out.connect(write)).is_some();
        lane.out.append(|batch| {
            batch.body(&unsent.into());
            lane.table.lock().send_what_may_be(lane.durability.tick(), &lane.late, batch);
        });
        if connected {
            lane.flush();
        }
        let mut decoder = Decoder::new(framing, contexts, export.to_owned());
        (decoder.replies, decoder.answered, decoder.refused) = (ReplyReader::resume(framing, skip), answered, refused);
        Ok((lane, decoder, Inbox::resume(BytesMut::from(beside.get(unread)?))))
    }

    /// Has the lane's task suspend it, when the task is told to end; `oldest` as for [`suspend`](Self::suspend).
    fn suspend_at_end(&self, oldest: u64) {
        *self.suspension.oldest.lock() = Some(oldest);
    }

    pub(super) fn is_suspending(&self) -> bool {
        self.suspension.oldest.lock().is_some()
    }

    /// The task's part: it ends without an answer to anybody, and the socket stays open.
    pub(super) fn suspend_in_task(&self, mut reading: Reading, away: &Away) {
        *self.task.lock() = None;
        let (oldest, mut beside) = (self.suspension.oldest.lock().unwrap_or(0), Beside::default());
        let link = self.link.lock().as_ref().map(LinkState::of);
        let (lane, write) = self.suspend(oldest, &mut reading.decoder, &mut reading.inbox, &mut beside);
        let history = self.history.lock();
        let task = TaskState {
            link,
            flushes: reading.flushes,
            renews: reading.renewing.is_some() || self.renew.load(Ordering::Acquire),
            leaving: reading.leaving.map(|leaving| Age::of(leaving.since)),
            away: away.since.map(Age::of),
            pause: nanos(away.pause),
            up: nanos(history.since.elapsed().unwrap_or_default()),
            connections: history.connections,
            trouble: history.trouble.clone(),
        };
        let stream = write.and_then(|write| Stream::join(reading.read, write).ok());
        *self.suspension.suspended.lock() = stream.map(|stream| Suspended { lane, task, beside, stream });
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether a lane's task is to suspend it, and what it has suspended.
#[derive(Debug, Default)]
pub(super) struct Suspension {
    oldest: Mutex<Option<u64>>,
    suspended: Mutex<Option<Suspended>>,
}

/// A lane that was connected, with its socket.
#[derive(Debug)]
struct Suspended {
    lane: LaneState,
    task: TaskState,
    beside: Beside,
    stream: Stream,
}

impl Suspended {
    /// The lane, and its task, which goes on where the other one stopped.
    fn resume(
        self,
        life: Life,
        shared: (Arc<Durability>, Arc<LateWrites>),
        clients: Clients<'_>,
    ) -> io::Result<(Arc<Lane>, impl Future<Output = ()> + Send + use<>)> {
        let Self { lane, task, beside, stream } = self;
        let framing = Framing::from(lane.framing);
        let (read, write) = stream.rehome()?.split();
        let resumed = Lane::resume(lane, &beside, shared, &life.name, Some(write), clients);
        let (lane, decoder, inbox) = resumed.map_err(io::Error::other)?;
        *lane.link.lock() = task.link.map(LinkState::link).transpose().map_err(io::Error::other)?;
        lane.renew.store(task.renews, Ordering::Release);
        let since = SystemTime::now() - Duration::from_nanos(task.up);
        *lane.history.lock() =
            ConnectionHistory { up: true, since, connections: task.connections, trouble: task.trouble };
        let reading = Reading {
            read,
            inbox,
            decoder,
            framing,
            pool: Arc::clone(&life.pool),
            renewing: None,
            flushes: task.flushes,
            hold: life.policy.hold,
            leaving: task.leaving.map(|since| Leaving::new(since.ago(), life.policy.hold)),
        };
        let mut away = Away::new(&life.name);
        (away.since, away.pause) = (task.away.map(Age::ago), Duration::from_nanos(task.pause));
        Ok((Arc::clone(&lane), go_on(lane, Ok(reading), life, away)))
    }
}
