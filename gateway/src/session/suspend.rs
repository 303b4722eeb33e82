//! A session suspended at any byte of its conversation, and resumed: its client notices nothing.
//!
//! What is half-way goes back into the protocol's own form. A request that was not admitted becomes bytes that are unread, a
//! reply bytes that are unsent. A request that a task had (over the bridge, waiting for a grow, a resize) is submitted again (`held`).
//! What a lane has is suspended with the lane, and finds the session by its number.

mod held;
mod resume;
mod words;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_net::{Released, SocketKind, Stream};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Framing, Payload};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

pub(in crate::session) use held::suspend_held;
pub(in crate::session) use resume::{ResumedSession, resume};

use super::Session;
use super::serve::Membership;
use super::status::SessionStatus;
use super::transmission::{Step, Transmission};
use crate::handover::SpeaksTls;
use crate::handover::state::{
    Age, AgreementState, Beside, CertificateState, FailureState, GateState, HeaderState, NotifyState, ReleaseState,
    SessionState, StepState, nanos,
};
use crate::limits::SharedLimiter;
use crate::request::{Failure, Outcome};

/// Why a session can't be suspended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuspendError {
    #[error(transparent)]
    Tls(#[from] SpeaksTls),
    #[error("the session has ended")]
    Ended,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A session on its way.
#[derive(Debug)]
pub(crate) struct SuspendedSession {
    pub(crate) socket: OwnedFd,
    pub(crate) kind: SocketKind,
    pub(crate) state: SessionState,
    pub(crate) beside: Beside,
}

/// Whether a session is to be suspended, and for whom.
#[derive(Debug, Default)]
pub(crate) struct Suspension(Mutex<Option<oneshot::Sender<io::Result<SuspendedSession>>>>);

/// How often it is looked again whether a session can be suspended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Session {
    /// Suspends it. Its requests with a server stay where they are: they go with the lane. What an embedded disk has is
    /// finished first, and meanwhile no further request is read.
    ///
    /// # Errors
    /// See [`SuspendError`].
    pub(crate) fn suspend(
        self: &Arc<Self>,
    ) -> Result<impl Future<Output = Result<SuspendedSession, SuspendError>> + use<>, SuspendError> {
        if self.tls {
            return Err(SpeaksTls.into());
        }
        let (suspended, mut receiver) = oneshot::channel();
        *self.suspension.0.lock() = Some(suspended);
        let session = Arc::clone(self);
        Ok(async move {
            loop {
                // Without a task it is ending by itself.
                if session.waker().is_none() && session.suspension.0.lock().take().is_some() {
                    return Err(SuspendError::Ended);
                }
                session.wake();
                if let Ok(suspended) = timeout(LOOK_AGAIN, &mut receiver).await {
                    return Ok(suspended.map_err(|_| SuspendError::Ended)??);
                }
            }
        })
    }

    pub(super) fn is_to_be_suspended(&self) -> bool {
        self.suspension.0.lock().is_some()
    }
}

impl Transmission {
    /// Suspends the session, as ordered.
    pub(super) fn hand_over(self, membership: Membership) {
        let session = Arc::clone(&self.session);
        *session.task.lock() = None;
        let ordered = session.suspension.0.lock().take();
        let suspended = self.into_state();
        // No client is missed: sessions are counted again.
        membership.guard.leave(true);
        drop((membership.place, membership.lease, membership.entered));
        if let Some(ordered) = ordered {
            // Who ordered it is gone: then so is the session.
            let _ = ordered.send(suspended);
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
            interval: nanos(notice.interval),
            sent: notice.sent.map(|sent| Age::of(Instant::now().checked_sub(sent).unwrap_or_else(Instant::now))),
            merged: notice.merged,
            begun,
        });
        let status = words::status(session.status.now());
        self.give_up_payload();
        let (passed, until) = self.throttle.suspend();
        let waits = until.map(|until| until.saturating_duration_since(Instant::now()));
        let waits = waits.map(nanos);
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
        let (sink, unsent) = session.out.suspend();
        unsent.releases.iter().for_each(|(_, released)| session.release(*released));
        let agreement = &session.agreement;
        let names = session.export.contexts();
        let contexts = agreement.contexts.iter().filter_map(|id| Some((*id, names.get(*id)?.clone())));
        let state = SessionState {
            id: session.id,
            export: session.export.name().to_owned(),
            peer: session.peer.into(),
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
            patience: self
                .patience
                .as_ref()
                .map(|patience| nanos(patience.deadline().saturating_duration_since(Instant::now()))),
            gate,
            io: self.throttle.own().map(SharedLimiter::suspend),
            notices: session.notices.suspend(session.export.notice_time()),
            watching: *session.watching.lock(),
            notify,
            unread: beside.put(&bytes),
            unsent: beside.put(&unsent.bytes),
            releases: unsent.releases.iter().map(|(after, released)| ReleaseState::of(*after, *released)).collect(),
        };
        session.status.rise(SessionStatus::Gone);
        session.share.leaves();
        let sink = sink.ok_or(io::ErrorKind::NotConnected)?;
        drop(self.departure);
        let (socket, kind) = Stream::join(self.read, sink)?.take()?;
        Ok(SuspendedSession { socket, kind, state, beside })
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
