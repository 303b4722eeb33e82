//! A lane, suspended at any byte of a conversation and resumed: no outcome is another than without.
//!
//! The connection stays the same one, so nothing is sent again because of this, nothing counts as lost, and what is durable
//! stays durable. What is half read goes back into the protocol's own form.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;

use super::decode::Decoder;
use super::table::{Clients, Table};
use super::{Durability, Lane, LateWrites, Link};
use crate::handover::state::{Beside, DurabilityState, LaneState, StateError};
use crate::proto::reply::ReplyReader;
use crate::proto::{Framing, Inbox, Payload};

#[cfg(test)]
mod tests;

impl Durability {
    fn pack(&self) -> DurabilityState {
        let read = |number: &AtomicU64| number.load(Ordering::Acquire);
        DurabilityState {
            clock: read(&self.clock),
            written: read(&self.written),
            flushed: read(&self.flushed),
            losses: read(&self.losses),
        }
    }

    fn unpack(DurabilityState { clock, written, flushed, losses }: DurabilityState) -> Arc<Self> {
        let [clock, written, flushed, losses] = [clock, written, flushed, losses].map(AtomicU64::new);
        Arc::new(Self { clock, written, flushed, losses })
    }
}

impl Lane {
    /// When the oldest request in flight was sent, by the clock; of all lanes of an export the least is for
    /// [`pack`](Self::pack).
    fn oldest_sent(&self) -> Option<u64> {
        self.table.lock().oldest_sent()
    }

    /// What the lane knows, and what its reader had; the lane is empty afterwards, and has answered nobody.
    fn pack(&self, oldest: u64, decoder: &mut Decoder, inbox: &mut Inbox, beside: &mut Beside) -> LaneState {
        let link = self.link.lock().clone().unwrap_or_else(|| Link::new(None));
        let table = core::mem::take(&mut *self.table.lock());
        let table = table.pack(oldest, &self.late, &link, beside);
        let (begun, skip) = decoder.replies.suspend();
        let mut unread = Payload::from(begun);
        inbox.suspend().segments().for_each(|segment| unread.push(segment.clone()));
        LaneState {
            table,
            unread: beside.put(&unread),
            skip,
            unsent: beside.put(&self.out.suspend().1.bytes),
            answered: decoder.answered,
            refused: decoder.refused,
        }
    }

    /// The lane, and its reader. It has its connection, if there is a framing, as soon as its queue has the socket.
    fn unpack(
        state: LaneState,
        beside: &Beside,
        shared: (Arc<Durability>, Arc<LateWrites>),
        (framing, ids, export): (Framing, Vec<u32>, String),
        clients: Clients<'_>,
    ) -> Result<(Arc<Self>, Decoder, Inbox), StateError> {
        let lane = Self::new(shared.0, shared.1);
        let LaneState { table, unread, skip, unsent, answered, refused } = state;
        *lane.table.lock() = Table::unpack(table, Some(framing), beside, clients)?;
        let unsent = beside.get(unsent)?;
        lane.out.append(|batch| {
            batch.body(&unsent.into());
            lane.table.lock().send_what_may_be(lane.durability.tick(), &lane.late, batch);
        });
        let mut decoder = Decoder::new(framing, ids, export);
        (decoder.replies, decoder.answered, decoder.refused) = (ReplyReader::resume(framing, skip), answered, refused);
        Ok((lane, decoder, Inbox::resume(BytesMut::from(beside.get(unread)?))))
    }
}
