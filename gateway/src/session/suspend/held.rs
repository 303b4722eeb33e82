//! Requests that tasks have, suspended with the sessions of their export, and submitted again.

use std::sync::Arc;

use super::resume::ResumedSession;
use crate::export::Export;
use crate::handover::state::{Beside, HeldState, RequestState, StateError, TicketState};
use crate::request::{Finished, Job};
use crate::session::Session;
use crate::session::shutdown::Shutdown;
use crate::target::{Progress, TakenRequest};
use nbd_gateway_proto::Cmd;

/// Takes the requests along that tasks have for clients of an export, whose sessions read nothing more.
pub(in crate::session) fn suspend_held(export: &Export, beside: &mut Beside) -> Vec<HeldState> {
    let held = export.core.take_held().into_iter().filter_map(|taken| {
        let TakenRequest { mut job, order, progress: Progress { begun, done } } = taken;
        let (ticket, request) = (job.take_ticket()?, &job.request);
        if request.command == Cmd::RESIZE {
            // Counted as in flight only to be answered.
            export.admit(1);
        }
        let (request, ticket) = (RequestState::of(request, beside), TicketState::suspend(ticket, request));
        Some(HeldState { order, begun, done, request, ticket })
    });
    held.collect()
}

/// Has them begin again, first those for which others wait. What belongs to no session is forgotten.
pub(super) fn submit_again(
    mut held: Vec<HeldState>,
    beside: &Beside,
    sessions: &[ResumedSession],
) -> Result<(), StateError> {
    held.sort_by_key(|held| (!held.begun, held.order));
    for HeldState { begun, done, request, ticket, .. } in held {
        if let Some(resumed) = sessions.iter().find(|session| session.id() == ticket.session) {
            let (session, shutdown) = resumed.parts();
            session.hold(ticket.holds());
            let job = Job::for_client(request.request(beside)?, ticket.resume(Arc::<Session>::clone(session)));
            session.submit_again(job, Progress { begun, done }, shutdown);
        }
    }
    Ok(())
}

impl Session {
    /// A resize is not charged again to the tenant's rate: its task had run, and what it wished for had not begun.
    fn submit_again(self: &Arc<Self>, job: Job, progress: Progress, shutdown: Shutdown) {
        if job.request.command == Cmd::RESIZE {
            return self.carry_resize(job, true);
        }
        self.export.admit(1);
        if job.request.command == Cmd::BLOCK_STATUS && self.agreement.contexts.is_empty() {
            return self.watch(shutdown, job);
        }
        if let Some(ticket) = job.ticket().filter(|_| progress != Progress::default()) {
            self.export.core.expect_held(self.id, ticket.cookie(), progress);
        }
        self.hand_over(&mut vec![job], &mut Finished::default());
    }
}
