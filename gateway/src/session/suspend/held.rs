//! Requests that tasks have, suspended with the sessions of their export, and submitted again.

use std::sync::Arc;

use super::resume::ResumedSession;
use super::words;
use crate::export::Export;
use crate::handover::state::{
    AnsweredPartState, Beside, FailureState, HeldState, RequestState, StateError, TicketState,
};
use crate::request::{Finished, Job};
use crate::session::Session;
use crate::session::shutdown::Shutdown;
use crate::target::{Answered, TakenRequest};
use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::{Cmd, Cookie};

/// Takes the requests along that tasks have for clients of an export, whose sessions read nothing more.
pub(in crate::session) fn suspend_held(export: &Export, beside: &mut Beside) -> Vec<HeldState> {
    let held = export.core.take_held().into_iter().filter_map(|taken| {
        let TakenRequest { mut job, order, alone } = taken;
        let (ticket, request) = (job.take_ticket()?, &job.request);
        if request.command == Cmd::RESIZE {
            // Counted as in flight only to be answered.
            export.admit(1);
        }
        let (request, ticket) = (RequestState::of(request, beside), TicketState::suspend(ticket, request));
        let alone = alone.map(|range| (range.start().bytes(), range.len().0));
        Some(HeldState { order, alone, answered: Vec::new(), request, ticket })
    });
    held.collect()
}

/// Adds what of them is answered, when no more answers come and [no task](crate::target::Core::has_taken) of theirs is left.
pub(in crate::session) fn add_answered(export: &Export, held: &mut [HeldState]) {
    for state in held {
        let part = |Answered { range, failure }| AnsweredPartState {
            offset: range.start().bytes(),
            length: range.len().0,
            failure: failure.as_ref().map(FailureState::of),
        };
        state.answered = export.core.answered_of(state.order).into_iter().map(part).collect();
    }
}

/// Has them begin again, oldest first. What belongs to no session is forgotten.
pub(super) fn submit_again(
    mut held: Vec<HeldState>,
    beside: &Beside,
    sessions: &[ResumedSession],
) -> Result<(), StateError> {
    held.sort_by_key(|held| held.order);
    for HeldState { alone, answered, request, ticket, .. } in held {
        if let Some(resumed) = sessions.iter().find(|session| session.id() == ticket.session) {
            let (session, shutdown) = resumed.parts();
            session.hold(ticket.holds());
            let whose = (session.id, Cookie(ticket.cookie));
            if alone.is_some() || !answered.is_empty() {
                let part = |AnsweredPartState { offset, length, failure }| {
                    Some(Answered { range: ByteRange::at(offset, length)?, failure: failure.map(words::to_failure) })
                };
                let alone = alone.and_then(|(offset, length)| ByteRange::at(offset, length));
                session.export.core.expect_held(whose, alone, answered.into_iter().filter_map(part).collect());
            }
            let job = Job::for_client(request.request(beside)?, ticket.resume(Arc::<Session>::clone(session)));
            session.submit_again(job, shutdown);
        }
    }
    Ok(())
}

impl Session {
    /// A resize is not charged again to the tenant's rate: its task had run, and what it wished for had not begun.
    fn submit_again(self: &Arc<Self>, job: Job, shutdown: Shutdown) {
        if job.request.command == Cmd::RESIZE {
            return self.carry_resize(job, true);
        }
        self.export.admit(1);
        if job.request.command == Cmd::BLOCK_STATUS && self.agreement.contexts.is_empty() {
            return self.watch(shutdown, job);
        }
        self.hand_over(&mut vec![job], &mut Finished::default());
    }
}
