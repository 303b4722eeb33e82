//! A table, suspended and resumed: every slot keeps its cookie, for the server goes on with what it has.

use std::sync::Arc;

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::{Cmd, CmdFlags, Framing, Payload};

use super::{Answered, Gather, Phase, Slot, Table, reach};
use crate::handover::state::{AnsweredState, Beside, RequestState, SlotState, StateError, TableState, TicketState};
use crate::lane::{LateWrites, Link};
use crate::request::{Client, Job, Request, SessionId};

/// Finds who waits for an answer, by the number of its session.
pub(in crate::lane) type Clients<'a> = &'a dyn Fn(SessionId) -> Option<Arc<dyn Client>>;

impl Table {
    /// When the oldest request was sent, by the clock: answers from before decide nothing any more.
    pub(in crate::lane) fn oldest_sent(&self) -> Option<u64> {
        self.slots.iter().map(|(_, slot)| slot.at).min()
    }

    /// What there is, from the moment `oldest` on; nobody is answered. A task of the gateway's own does not outlive this: what
    /// it has not sent is not sent, and what it has sent and changes data is late, and holds back what overlaps it.
    pub(in crate::lane) fn suspend(
        mut self,
        oldest: u64,
        late: &LateWrites,
        link: &Link,
        beside: &mut Beside,
    ) -> TableState {
        self.ask_again();
        let mut slots = Vec::new();
        for (key, mut slot) in self.slots {
            let ticket = slot.job.take_ticket();
            let reply = slot.gather.take().map(|gather| match &ticket {
                Some(_) => gather.suspend(),
                None => Gather::of_nobody().suspend(),
            });
            let request = &slot.job.request;
            if ticket.is_none() && !slot.sent && slot.late == 0 {
                continue;
            }
            if ticket.is_none() && slot.late == 0 && reach(request).is_some() {
                slot.late = late.left_behind(request, link);
            }
            slots.push(SlotState {
                key: u32::try_from(key).unwrap_or(u32::MAX),
                tag: slot.tag,
                ticket: ticket.map(TicketState::suspend),
                request: RequestState {
                    command: request.command.0,
                    flags: request.flags.0,
                    offset: request.offset,
                    length: request.length,
                    payload: beside.put(&request.payload),
                },
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
        TableState { tag: self.tag, slots, answered: answered.collect(), forgotten: self.forgotten }
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

    /// A table as it was, with its connection: what is not sent is sent by
    /// [`send_what_may_be`](Table::send_what_may_be).
    pub(in crate::lane) fn resume(
        state: TableState,
        framing: Framing,
        beside: &Beside,
        clients: Clients<'_>,
    ) -> Result<Self, StateError> {
        let mut slots = Vec::new();
        let mut keys = std::collections::HashSet::new();
        for SlotState { key, tag, ticket, request, sent, doubtful, at, late, covers, reply } in state.slots {
            if !keys.insert(key) {
                return Err(StateError::Twice(key));
            }
            let RequestState { command, flags, offset, length, payload } = request;
            let payload = Payload::from(beside.get(payload)?);
            let request = Request { command: Cmd(command), flags: CmdFlags(flags), offset, length, payload };
            let job = match ticket {
                Some(ticket) => {
                    let client = clients(ticket.session).ok_or(StateError::NoSession(ticket.session))?;
                    Job::for_client(request, ticket.resume(client))
                }
                None => Job::for_nobody(request),
            };
            let gather = reply.map(|reply| Box::new(Gather::resume(reply)));
            slots.push((
                usize::try_from(key).unwrap_or(usize::MAX),
                Slot { job, tag, sent, doubtful, at, late, covers, gather },
            ));
        }
        let answered = state.answered.into_iter().filter_map(|AnsweredState { at, offset, end }| {
            Some(Answered { at, range: ByteRange::at(offset, end.saturating_sub(offset))? })
        });
        Ok(Self {
            slots: slots.into_iter().collect(),
            tag: state.tag,
            phase: Phase::Up,
            framing: Some(framing),
            answered: answered.collect(),
            forgotten: state.forgotten,
        })
    }
}
