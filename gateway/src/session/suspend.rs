//! A session taken apart at any byte of its conversation, and put together again: its client notices nothing.
//!
//! What is half-way goes back into the protocol's own form. A request that was not admitted becomes bytes that are unread, a
//! reply bytes that are unsent. A request that a task had (over the bridge, waiting for a grow, a resize) is submitted again.
//! What a target has stays there: its answer finds the session by the one that was taken apart.

mod resume;
mod words;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_net::{Released, SocketKind, Stream};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, Framing, Payload};
use parking_lot::MutexGuard;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use resume::resume;

use super::Session;
use super::serve::Membership;
use super::status::SessionStatus;
use super::transmission::{Step, Transmission};
use crate::handover::state::{
    Age, AgreementState, Beside, CertificateState, FailureState, GateState, HeaderState, HeldState, NotifyState,
    ReleaseState, RequestState, SessionState, StepState, TicketState,
};
use crate::request::{Client, Counts, Failure, Finished, Job, Outcome, PendingReply, Request, Ticket};

/// A session on its way.
#[derive(Debug)]
pub(crate) struct SuspendedSession {
    pub(crate) socket: OwnedFd,
    pub(crate) kind: SocketKind,
    pub(crate) state: SessionState,
    pub(crate) beside: Beside,
    /// In this process: what was taken apart, and what its requests hold that a target still has.
    before: Arc<Session>,
    in_flight: Released,
}

/// Whether a session is to be taken apart, and where its answers go from then on.
#[derive(Debug, Default)]
pub(crate) enum Suspension {
    #[default]
    Not,
    Ordered(oneshot::Sender<io::Result<SuspendedSession>>),
    /// Answers that came since.
    Away(Vec<(PendingReply, Request, Outcome)>),
    To(Arc<Session>),
}

impl Session {
    /// Takes it apart, soon; an error from the receiver says that it ended before.
    pub(crate) fn suspend(&self) -> oneshot::Receiver<io::Result<SuspendedSession>> {
        let (suspended, receiver) = oneshot::channel();
        *self.suspension.lock() = Suspension::Ordered(suspended);
        self.wake();
        receiver
    }

    pub(super) fn is_to_be_suspended(&self) -> bool {
        matches!(*self.suspension.lock(), Suspension::Ordered(_))
    }

    /// An answer of a session that was taken apart goes to the one that goes on. Until the guard is dropped it is not taken
    /// apart: another thread may be just about to queue the answer.
    pub(super) fn pass_on(
        &self,
        mut reply: PendingReply,
        request: &Request,
        outcome: Outcome,
        finished: &mut Finished,
    ) -> Option<(PendingReply, Outcome, MutexGuard<'_, Suspension>)> {
        let mut suspension = self.suspension.lock();
        let next = match &mut *suspension {
            Suspension::Not | Suspension::Ordered(_) => return Some((reply, outcome, suspension)),
            Suspension::Away(late) => {
                self.uncount(&mut reply, request);
                late.push((reply, request.clone(), outcome));
                return None;
            }
            Suspension::To(next) => Arc::clone(next),
        };
        drop(suspension);
        self.uncount(&mut reply, request);
        next.reply(reply, request, outcome, finished);
        None
    }

    /// Where sessions take turns, it counts where it was sent.
    fn uncount(&self, reply: &mut PendingReply, request: &Request) {
        let counts = core::mem::replace(&mut reply.counts, Counts::Nothing);
        self.share.answered(counts, request.payload_bytes(), reply.since.elapsed(), Instant::now());
    }

    /// Answers that came meanwhile, and those to come, are for `next`.
    fn goes_on_as(&self, next: &Arc<Session>) {
        let before = core::mem::replace(&mut *self.suspension.lock(), Suspension::To(Arc::clone(next)));
        if let Suspension::Away(late) = before {
            let mut finished = Finished::default();
            late.into_iter().for_each(|(reply, request, outcome)| {
                Arc::clone(next).reply(reply, &request, outcome, &mut finished);
            });
        }
    }
}

impl Transmission {
    /// Takes the session apart, for whoever has ordered it.
    pub(super) fn suspend(self, membership: Membership) {
        let session = Arc::clone(&self.session);
        *session.task.lock() = None;
        let ordered = core::mem::replace(&mut *session.suspension.lock(), Suspension::Away(Vec::new()));
        let suspended = self.into_state();
        // Nobody is missed: who is there is counted anew.
        membership.guard.leave(true);
        drop((membership.place, membership.lease, membership.entered));
        if let Suspension::Ordered(receiver) = ordered {
            let _ = receiver.send(suspended);
        }
    }

    fn into_state(mut self) -> io::Result<SuspendedSession> {
        let session = Arc::clone(&self.session);
        let framing = session.agreement.framing;
        let mut beside = Beside::default();
        let notify = session.suspend_notify().map(|(header, notice, begun)| NotifyState {
            header: HeaderState::of(&header),
            latest: notice.latest.bytes(),
            due: notice.due,
            credit: notice.credit.map(Into::into),
            interval: u64::try_from(notice.interval.as_nanos()).unwrap_or(u64::MAX),
            sent: notice.sent.map(|sent| Age::of(Instant::now().checked_sub(sent).unwrap_or_else(Instant::now))),
            merged: notice.merged,
            begun,
        });
        let status = words::status(session.status.now());
        self.give_up_payload();
        let (passed, until) = self.throttle.suspend();
        let waits = until.map(|until| until.saturating_duration_since(Instant::now()));
        let waits = waits.map(|waits: Duration| u64::try_from(waits.as_nanos()).unwrap_or(u64::MAX));
        let mut gate = GateState { passed, waits };
        let mut unread = Vec::new();
        let step = match core::mem::replace(&mut self.step, Step::Header) {
            Step::Header => StepState::Next,
            Step::Turn(header, _, only) => put_back(framing, &header, only.as_deref(), &mut unread),
            Step::Permits(header, _, only) | Step::Payload(header, _, only, ..) => {
                gate = GateState { passed: usize::MAX, waits: None };
                put_back(framing, &header, only.as_deref(), &mut unread)
            }
            Step::Contexts(header, _) | Step::Resize(header) => put_back(framing, &header, None, &mut unread),
            Step::Answer(header, Outcome::Failed(failure)) => {
                StepState::Answers(HeaderState::of(&header), Some(FailureState::of(&failure)))
            }
            Step::Answer(header, _) => StepState::Answers(HeaderState::of(&header), None),
            Step::Skip(header, failure, left) => {
                StepState::Skips(HeaderState::of(&header), FailureState::of(&failure), left)
            }
            Step::Closing(end) => StepState::Closing(words::closing(&end)),
        };
        let mut bytes = Payload::from(unread);
        self.inbox.suspend().segments().for_each(|segment| bytes.push(segment.clone()));
        let held = session.suspend_held(&mut beside);
        let (sink, unsent) = session.out.suspend();
        unsent.releases.iter().for_each(|(_, released)| session.release(*released));
        let in_flight = session.permits.held();
        session.permits.release(in_flight);
        let agreement = &session.agreement;
        let names = session.export.contexts();
        let contexts = agreement.contexts.iter().filter_map(|id| Some((*id, names.get(*id)?.clone())));
        let state = SessionState {
            id: session.id,
            export: session.export.name().to_owned(),
            peer: words::peer(session.peer),
            from: session.from.clone(),
            listener: session.listener.as_ref().to_owned(),
            tls: session.tls,
            age: session.since.elapsed().unwrap_or_default().as_secs(),
            certificate: session
                .certificate
                .as_ref()
                .map(|shown| CertificateState { subject: shown.subject.clone(), sans: shown.sans.clone() }),
            agreement: AgreementState {
                framing: framing.into(),
                flags: agreement.flags.0,
                contexts: contexts.collect(),
                size: agreement.size,
                style: words::style(agreement.style),
                features: agreement.offer.features.wire(),
                past_end: words::past_end(agreement.offer.past_end),
                ceiling: agreement.offer.ceiling,
                sizes: agreement.sizes.iter().map(|context| context.name().to_owned()).collect(),
                verbs: agreement.decision.verbs.iter().map(|verb| verb.as_str().to_owned()).collect(),
            },
            told: session.told(),
            losses: session.losses.load(std::sync::atomic::Ordering::Acquire),
            repeats: session.repeats(),
            status,
            step,
            gate,
            watching: *session.watching.lock(),
            notify,
            held,
            unread: beside.put(&bytes),
            unsent: beside.put(&unsent.bytes),
            releases: unsent.releases.iter().map(|(after, released)| ReleaseState::of(*after, *released)).collect(),
        };
        session.status.rise(SessionStatus::Gone);
        session.share.leaves();
        let sink = sink.ok_or(io::ErrorKind::NotConnected)?;
        drop(self.departure);
        let (socket, kind) = Stream::join(self.read, sink)?.take()?;
        Ok(SuspendedSession { socket, kind, state, beside, before: session, in_flight })
    }
}

impl Session {
    /// Takes the requests along that tasks have, and gives back what they hold here.
    fn suspend_held(&self, beside: &mut Beside) -> Vec<HeldState> {
        let suspended = self.export.core().take_held(self.id).into_iter().filter_map(|job: Job| {
            let mut job = job;
            let (client, reply) = job.take_ticket()?.into_parts();
            let request = &job.request;
            if request.command == Cmd::RESIZE {
                // Counted as in flight only to be answered.
                self.export.admit(1);
            }
            let PendingReply { cookie, holds, extents, only, since, .. } = &reply;
            let (counts, only) = (Counts::Nothing, only.clone());
            let again = PendingReply { cookie: *cookie, holds: *holds, extents: *extents, counts, only, since: *since };
            let ticket = TicketState::suspend(Ticket::new(Arc::clone(&client), again));
            client.forget(reply, request);
            let Request { command, flags, offset, length, payload } = request;
            let payload = beside.put(payload);
            let request =
                RequestState { command: command.0, flags: flags.0, offset: *offset, length: *length, payload };
            Some(HeldState { request, ticket })
        });
        suspended.collect()
    }
}

/// A request that was not admitted becomes the bytes again that it came as.
fn put_back(framing: Framing, header: &RequestHeader, only: Option<&[usize]>, unread: &mut Vec<u8>) -> StepState {
    match only {
        None => header.put(framing, unread),
        Some(only) => {
            // The length of its effect and the contexts are its payload.
            let length = u64::try_from(8 + 4 * only.len()).unwrap_or(u64::MAX);
            RequestHeader { length, ..*header }.put(framing, unread);
            unread.extend_from_slice(&header.length.to_be_bytes());
            only.iter().for_each(|id| unread.extend_from_slice(&u32::try_from(*id).unwrap_or(u32::MAX).to_be_bytes()));
        }
    }
    StepState::Next
}

impl HeaderState {
    fn of(header: &RequestHeader) -> Self {
        let RequestHeader { flags, command, cookie, offset, length } = *header;
        Self { cookie: cookie.0, command: command.0, flags: flags.0, offset, length }
    }
}

impl FailureState {
    fn of(failure: &Failure) -> Self {
        Self { errno: failure.errno.0, message: failure.message.clone().into_owned(), offset: failure.offset }
    }
}

impl ReleaseState {
    fn of(after: usize, released: Released) -> Self {
        let Released { requests, resizes, bytes, notices } = released;
        Self { after, requests, resizes, bytes, notices }
    }
}
