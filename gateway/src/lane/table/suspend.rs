//! A table, suspended and resumed: every slot keeps its cookie, for the server goes on with what it has.

use std::sync::Arc;

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::Framing;

use super::{Answered, Gather, Phase, Slot, Table, reach};
use crate::handover::state::{
    AnsweredState, Beside, PhaseState, RequestState, SlotState, StateError, TableState, TicketState,
};
use crate::lane::{LateWrites, Link};
use crate::request::{Client, Job};

/// Finds who waits for an answer, and has it hold what the request does; none: it is gone.
pub(crate) type Clients<'a> = &'a dyn Fn(&TicketState) -> Option<Arc<dyn Client>>;

impl Table {
    /// When the oldest request was sent, by the clock: answers from before decide nothing any more.
    pub(in crate::lane) fn oldest_sent(&self) -> Option<u64> {
        self.slots.iter().map(|(_, slot)| slot.at).min()
    }

    /// The requests in flight, none answered, and the answers from the moment `oldest` on.
    pub(in crate::lane) fn suspend(mut self, oldest: u64, beside: &mut Beside) -> TableState {
        self.ask_again();
        let mut slots = Vec::new();
        for (key, mut slot) in self.slots {
            let ticket = slot.job.take_ticket();
            let reply = slot.gather.take().map(|gather| match &ticket {
                Some(_) => gather.suspend(),
                None => Gather::of_nobody().suspend(),
            });
            let request = &slot.job.request;
            slots.push(SlotState {
                key: u32::try_from(key).unwrap_or(u32::MAX),
                tag: slot.tag,
                ticket: ticket.map(|ticket| TicketState::suspend(ticket, request)),
                request: RequestState::of(request, beside),
                sent: slot.sent,
                doubtful: slot.doubtful,
                at: slot.at,
                late: slot.late,
                covers: slot.covers,
                reply,
            });
        }
        let answered = self.answered.into_iter().filter(|answered| answered.at >= oldest);
        let answered = answered.map(|Answered { at, range }| AnsweredState {
            at,
            offset: range.start().bytes(),
            end: range.end().bytes(),
        });
        let phase = match self.phase {
            Phase::Away => PhaseState::Away,
            Phase::Up => PhaseState::Up,
            Phase::Held => PhaseState::Held,
            Phase::Leaving => PhaseState::Leaving,
            Phase::Down(why) => PhaseState::Down(why.into_owned()),
        };
        TableState { phase, tag: self.tag, slots, answered: answered.collect(), forgotten: self.forgotten }
    }

    /// What has found something already is asked once more, under another cookie: that is less than to carry it.
    fn ask_again(&mut self) {
        let half =
            |slot: &Slot| slot.job.ticket().is_some() && slot.gather.as_ref().is_some_and(|gather| gather.has_found());
        let keys: Vec<usize> = self.slots.iter().filter(|(_, slot)| half(slot)).map(|(key, _)| key).collect();
        for key in keys {
            let Some(slot) = self.slots.get_mut(key) else { continue };
            let nobodys = Job::for_nobody(slot.job.request.clone());
            let job = core::mem::replace(&mut slot.job, nobodys);
            let (at, covers) = (slot.at, slot.covers);
            self.tag = self.tag.wrapping_add(1);
            let tag = self.tag;
            self.slots.insert(Slot { job, tag, sent: false, doubtful: false, at, late: 0, covers, gather: None });
        }
    }

    /// A table as it was; unsent requests are sent by [`send_what_may_be`](Table::send_what_may_be). A task of the gateway
    /// does not outlive this, nor does a client that is gone: what they have not sent is not sent, and what they have sent and
    /// changes data is late, and holds back what overlaps it.
    pub(in crate::lane) fn resume(
        state: TableState,
        framing: Option<Framing>,
        beside: &Beside,
        (late, link): (&LateWrites, &Link),
        clients: Clients<'_>,
    ) -> Result<Self, StateError> {
        let mut slots = Vec::new();
        let mut keys = std::collections::HashSet::new();
        for SlotState { key, tag, ticket, request, sent, doubtful, at, late: own, covers, reply } in state.slots {
            if !keys.insert(key) {
                return Err(StateError::Twice(key));
            }
            let request = request.request(beside)?;
            let mut own = own;
            let job = match ticket.and_then(|ticket| Some((clients(&ticket)?, ticket))) {
                Some((client, ticket)) => Job::for_client(request, ticket.resume(client)),
                None if !sent && own == 0 => continue,
                None => {
                    if own == 0 && reach(&request).is_some() {
                        own = late.left_behind(&request, link);
                    }
                    Job::for_nobody(request)
                }
            };
            let gather = reply.map(|reply| Box::new(Gather::resume(reply)));
            slots.push((
                usize::try_from(key).unwrap_or(usize::MAX),
                Slot { job, tag, sent, doubtful, at, late: own, covers, gather },
            ));
        }
        let answered = state.answered.into_iter().filter_map(|AnsweredState { at, offset, end }| {
            Some(Answered { at, range: ByteRange::at(offset, end.saturating_sub(offset))? })
        });
        let phase = match state.phase {
            PhaseState::Away => Phase::Away,
            PhaseState::Up => Phase::Up,
            PhaseState::Held => Phase::Held,
            PhaseState::Leaving => Phase::Leaving,
            PhaseState::Down(why) => Phase::Down(why.into()),
        };
        Ok(Self {
            slots: slots.into_iter().collect(),
            tag: state.tag,
            phase,
            framing,
            answered: answered.collect(),
            forgotten: state.forgotten,
        })
    }
}
