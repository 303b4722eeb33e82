//! The session's own task in the transmission phase: read, decode, admit, hand over, and wait.
//!
//! One read takes in what is there; everything whole in it goes to the backend as one batch; what is answered at once is
//! written at once. The task also waits for room when the client's socket is full, whoever was writing. It stops reading
//! when the session's permits run out: that slows this client and nobody else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nbd_gateway_net::{FarEnd, Pool, ReadHalf, Released};
use nbd_gateway_policy::access::Verbs;
use nbd_gateway_policy::notice;
use nbd_gateway_policy::offer::PastEnd;
use nbd_gateway_proto::request::{EXTENDED_REQUEST, RequestHeader, RequestMagicError};
use nbd_gateway_proto::{Buffers, Cmd, CmdFlags, Errno, Inbox, Payload};
use tokio::time::{Instant, Sleep};

use super::Session;
use super::admit::{Rules, Verdict, admit, narrow, too_long};
use super::departure::Departure;
use super::shutdown::Shutdown;
use super::status::SessionStatus;
use crate::export::Teardown;
use crate::limits::{ACTIVE, ANSWER, CONTEXT, EXTENT, RateGate};
use crate::request::{Client, Counts, Failure, Finished, Found, Job, Outcome, PendingReply, Request, Ticket};
use crate::stamp::Stamp;

/// The shortest extent that an answer is given room for, in bytes.
const SECTOR: u64 = 512;
/// The most extents of one context that an answer is given room for: as many as are read from a backend.
const MOST_EXTENTS: u64 = 128 * 1024;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransmissionEnd {
    /// The client said DISC.
    #[error("client disconnected")]
    Disconnected,
    /// The client closed without DISC.
    #[error("client closed the connection without NBD_CMD_DISC")]
    Closed,
    /// The gateway drains, and nothing of this session was left to do.
    #[error("drained")]
    Drained,
    /// The gateway ended it between two messages; all that was admitted is answered.
    #[error("ended by the gateway between two messages")]
    ByGateway,
    /// It goes on elsewhere.
    #[cfg(test)]
    #[error("suspended")]
    Suspended,
    /// The client closed in the middle of a message.
    #[error("client closed the connection in the middle of a message")]
    Torn,
    /// The client's stream can't be followed.
    #[error("client broke the protocol: {0}")]
    Magic(#[from] RequestMagicError),
    /// The client's stream can't be followed.
    #[error("client broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("client connection failed: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub(super) enum Step {
    Header,
    /// Admitted, waiting for its turn; with the contexts that a BLOCK_STATUS payload named.
    Turn(RequestHeader, CmdFlags, Option<Box<[usize]>>),
    /// Waiting for permits; with the contexts that a BLOCK_STATUS payload named.
    Permits(RequestHeader, CmdFlags, Option<Box<[usize]>>),
    /// Permits are held, for so many bytes; a WRITE's payload is on its way.
    Payload(RequestHeader, CmdFlags, Option<Box<[usize]>>, u64, Instant),
    /// Answered here, once there is a permit: replies that nobody reads must not pile up.
    Answer(RequestHeader, Outcome),
    /// A BLOCK_STATUS' own payload is on its way.
    Contexts(RequestHeader, usize),
    /// A resize that waits for one of this session's others to end.
    Resize(RequestHeader),
    /// Refused; its payload is thrown away.
    Skip(RequestHeader, Failure, u64),
    /// Nothing more is read.
    Closing(TransmissionEnd),
}

/// What stopped the decoding.
enum Pause {
    Input,
    Turn(Instant),
    Permits,
    Resizes,
    Closing,
}

/// The reading side of one session.
pub(super) struct Transmission {
    pub(super) session: Arc<Session>,
    pub(super) read: ReadHalf,
    pub(super) inbox: Inbox,
    pub(super) pool: Arc<Pool>,
    pub(super) step: Step,
    jobs: Vec<Job>,
    finished: Finished,
    /// When what is decoded now was admitted.
    stamp: Stamp,
    shutdown: Shutdown,
    draining: bool,
    /// While the gateway closes the session: when its client has to have read what was written so far.
    pub(super) patience: Option<Pin<Box<Sleep>>>,
    pub(super) throttle: RateGate,
    /// While it does not read: whether its client is still there.
    pub(super) departure: Departure,
    /// Ends when the request that waits for its rate may ask again.
    turn: Option<Pin<Box<Sleep>>>,
}

impl Transmission {
    pub(super) fn new(
        session: Arc<Session>,
        read: ReadHalf,
        inbox: Inbox,
        pool: Arc<Pool>,
        shutdown: Shutdown,
        throttle: RateGate,
    ) -> Self {
        let draining = shutdown.is_ordered();
        Self {
            throttle,
            turn: None,
            departure: Departure::default(),
            session,
            read,
            inbox,
            pool,
            step: Step::Header,
            jobs: Vec::with_capacity(64),
            finished: Finished::default(),
            stamp: Stamp::default(),
            shutdown,
            draining,
            patience: None,
        }
    }

    /// Runs to the session's end. Afterwards every request that was admitted is answered, or the client is gone.
    /// Cancel-safe: no; dropped midway, requests in flight still finish, towards nobody.
    pub(super) async fn run(&mut self) -> TransmissionEnd {
        let mut shutdown = self.shutdown.clone();
        let end = loop {
            tokio::select! {
                // Orders first: each is heard once, and requests may come for ever.
                biased;
                order = shutdown.next() => match order {
                    Teardown::Not => {}
                    Teardown::Drained => {
                        self.draining = true;
                        // Look at once whether anything is left to do.
                        self.session.wake();
                    }
                    Teardown::Parted => self.session.close(),
                    Teardown::Cut => self.session.cut(),
                },
                end = std::future::poll_fn(|cx| self.poll(cx)) => break end,
            }
        };
        #[cfg(test)]
        if matches!(end, TransmissionEnd::Suspended) {
            return end;
        }
        *self.session.task.lock() = None;
        if matches!(end, TransmissionEnd::ByGateway) {
            self.linger().await;
        }
        if let Some(buffer) = self.inbox.forget() {
            self.pool.retire(buffer);
        }
        self.session.status.rise(SessionStatus::Left);
        self.session.share.leaves();
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TransmissionEnd> {
        self.arm(cx);
        loop {
            if self.session.out.is_blocked() {
                match self.session.out.poll_room(cx) {
                    Poll::Ready(Ok(())) => self.session.flush(),
                    Poll::Ready(Err(e)) => return Poll::Ready(e.into()),
                    // Full: go on reading as far as permits reach.
                    Poll::Pending => {}
                }
            }
            if self.session.out.is_broken() {
                return Poll::Ready(TransmissionEnd::Closed);
            }
            #[cfg(test)]
            if self.session.is_to_be_suspended() {
                return if self.session.export.core.is_suspendable() {
                    Poll::Ready(TransmissionEnd::Suspended)
                } else {
                    Poll::Pending
                };
            }
            if self.session.is_closing() && self.close(cx) {
                return Poll::Ready(TransmissionEnd::ByGateway);
            }
            let pause = self.decode();
            if !self.jobs.is_empty() {
                self.session.submit(&mut self.jobs, &mut self.finished);
                self.submitted();
            }
            self.finished.flush();
            self.session.share.rests();
            if matches!(pause, Pause::Closing) {
                self.session.stops_reading();
            }
            let ending = self.draining || matches!(pause, Pause::Closing);
            if ending {
                let why = if matches!(pause, Pause::Closing) {
                    notice::NoticeEnd::Disconnected
                } else {
                    notice::NoticeEnd::Drained
                };
                self.session.end_notify(why);
            }
            // What TLS keeps back has no permits any more, and is owed all the same.
            let written = !self.session.out.is_blocked();
            let done = ending
                && written
                && self.session.permits.is_idle()
                && self.session.is_quiet()
                && self.session.has_closed();
            let deserted = match pause {
                Pause::Input => false,
                Pause::Closing if done => false,
                Pause::Permits | Pause::Turn(_) | Pause::Resizes | Pause::Closing => self.is_deserted(cx),
            };
            if deserted {
                return Poll::Ready(self.deserted());
            }
            match pause {
                Pause::Permits => return Poll::Pending,
                Pause::Turn(until) => {
                    let turn = self.turn.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                    turn.as_mut().reset(until);
                    ready!(turn.as_mut().poll(cx));
                    continue;
                }
                Pause::Closing if done => {
                    let end = core::mem::replace(&mut self.step, Step::Header);
                    return Poll::Ready(if let Step::Closing(end) = end { end } else { TransmissionEnd::Closed });
                }
                Pause::Closing => return Poll::Pending,
                Pause::Resizes => return Poll::Pending,
                Pause::Input if self.draining && done && self.inbox.is_empty() => {
                    return Poll::Ready(TransmissionEnd::Drained);
                }
                Pause::Input => {}
            }
            let room = self.inbox.room(self.pool.as_ref());
            match self.read.poll_fill(cx, room) {
                Poll::Ready(Ok(0)) => {
                    let between = self.inbox.is_empty() && matches!(self.step, Step::Header);
                    self.give_up_payload();
                    self.step = Step::Closing(if between { TransmissionEnd::Closed } else { TransmissionEnd::Torn });
                    if self.read.far_end() == FarEnd::Gone {
                        return Poll::Ready(self.deserted());
                    }
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(e.into()),
                Poll::Pending => {
                    if let Some(buffer) = self.inbox.release() {
                        self.pool.retire(buffer);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// A payload that will never be whole: nobody else gives its permits back.
    pub(super) fn give_up_payload(&self) {
        if let Step::Payload(.., held, _) = &self.step {
            self.session.permits.release(Released { requests: 1, bytes: *held, ..Released::default() });
        }
    }

    fn arm(&self, cx: &Context<'_>) {
        let mut task = self.session.task.lock();
        if !task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// Everything whole in the inbox.
    fn decode(&mut self) -> Pause {
        self.stamp.forget();
        loop {
            match core::mem::replace(&mut self.step, Step::Header) {
                Step::Header => match RequestHeader::take(&mut self.inbox, self.session.agreement.framing) {
                    Ok(Some(header)) => self.header(header),
                    Ok(None) => return Pause::Input,
                    Err(bad) => self.step = Step::Closing(bad.into()),
                },
                Step::Turn(header, flags, only) => {
                    if let Err(until) = self.throttle.pass(header.command, charge(&header)) {
                        self.session.share.waits(queued(&header, self.inbox.received()));
                        self.step = Step::Turn(header, flags, only);
                        return Pause::Turn(until);
                    }
                    self.step = Step::Permits(header, flags, only);
                }
                Step::Permits(header, flags, only) => {
                    // Its tenant's bound may have been lowered while it waited.
                    let (length, longest) = (charge(&header), self.session.permits.longest(charge(&header)));
                    if length > longest {
                        let payload = if header.command == Cmd::WRITE { length } else { 0 };
                        self.step = Step::Skip(header, too_long(header.command, length, longest), payload);
                        continue;
                    }
                    let (share, inbox) = (&self.session.share, &self.inbox);
                    let queued = || queued(&header, inbox.received());
                    if !share.admits(charge(&header), queued, || self.session.waker()) {
                        self.step = Step::Permits(header, flags, only);
                        return Pause::Turn(Instant::now() + ACTIVE);
                    }
                    let contexts = if header.command == Cmd::BLOCK_STATUS { self.contexts_of(&only) } else { 0 };
                    let mut bytes = charge(&header) + ANSWER + CONTEXT * contexts;
                    if !self.session.permits.take(bytes, || self.session.waker()) {
                        self.step = Step::Permits(header, flags, only);
                        return Pause::Permits;
                    }
                    if contexts > 0 && !flags.has(CmdFlags::REQ_ONE) {
                        let extents = (header.length / SECTOR).min(MOST_EXTENTS) * contexts;
                        bytes += self.session.permits.take_more(extents * EXTENT);
                    }
                    self.step = Step::Payload(header, flags, only, bytes, self.stamp.now(0));
                }
                Step::Answer(header, outcome) => {
                    if !self.session.permits.take(ANSWER, || self.session.waker()) {
                        self.step = Step::Answer(header, outcome);
                        return Pause::Permits;
                    }
                    self.answer(&header, outcome);
                }
                Step::Resize(header) => {
                    if self.session.has_too_many_resizes() {
                        self.step = Step::Resize(header);
                        return Pause::Resizes;
                    }
                    self.resize(header);
                }
                Step::Payload(header, flags, only, held, since) => {
                    let length = if header.command == Cmd::WRITE { header.length } else { 0 };
                    let Some(payload) = self.inbox.payload(usize::try_from(length).unwrap_or(usize::MAX)) else {
                        self.step = Step::Payload(header, flags, only, held, since);
                        return Pause::Input;
                    };
                    self.push(header, flags, payload, only, held, since);
                }
                Step::Contexts(header, length) => {
                    let Some(payload) = self.inbox.payload(length) else {
                        self.step = Step::Contexts(header, length);
                        return Pause::Input;
                    };
                    self.contexts(header, &payload.to_contiguous());
                }
                Step::Skip(header, failure, left) => {
                    let left = left - self.inbox.skip(left);
                    if left > 0 {
                        self.step = Step::Skip(header, failure, left);
                        return Pause::Input;
                    }
                    self.refuse(header, failure);
                }
                closing @ Step::Closing(_) => {
                    self.step = closing;
                    return Pause::Closing;
                }
            }
        }
    }

    /// Replies that are to be written when this batch is done.
    pub(super) fn finished(&mut self) -> &mut Finished {
        &mut self.finished
    }

    /// What orders it to finish.
    pub(super) fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    fn rules(&self, header: &RequestHeader) -> Rules {
        let agreement = &self.session.agreement;
        Rules {
            framing: agreement.framing,
            flags: agreement.flags,
            verbs: self.session.verbs(),
            end: self.session.end(),
            // Past the ceiling nothing grows.
            grows: self.session.past_end() != PastEnd::Refuse && !self.session.sees_ceiling(),
            largest: self.session.permits.longest(charge(header)),
            contexts: agreement.contexts.len() + agreement.sizes.len(),
            draining: self.draining,
        }
    }

    fn header(&mut self, header: RequestHeader) {
        if header.command == Cmd::RESIZE {
            return self.resize(header);
        }
        if header.command == Cmd::BLOCK_STATUS && self.only_sizes(&header) {
            return self.sizes(header);
        }
        let verdict = admit(&self.rules(&header), &header);
        self.verdict(header, verdict);
    }

    fn verdict(&mut self, header: RequestHeader, verdict: Verdict) {
        match verdict {
            Verdict::Go(flags) => self.step = Step::Turn(header, flags, None),
            Verdict::Nothing => self.step = Step::Answer(header, Outcome::Done),
            Verdict::Contexts(length) => self.step = Step::Contexts(header, length),
            Verdict::Refuse(failure, skip) => self.step = Step::Skip(header, failure, skip),
            Verdict::Disconnect => self.step = Step::Closing(TransmissionEnd::Disconnected),
            Verdict::End(why) => self.step = Step::Closing(TransmissionEnd::Protocol(why)),
        }
    }

    /// A BLOCK_STATUS payload has come.
    fn contexts(&mut self, mut header: RequestHeader, payload: &[u8]) {
        match narrow(&self.rules(&header), &mut header, payload, &self.session.agreement.contexts) {
            (Verdict::Go(flags), only) => self.step = Step::Turn(header, flags, Some(only)),
            (other, _) => self.verdict(header, other),
        }
    }

    fn push(
        &mut self,
        header: RequestHeader,
        flags: CmdFlags,
        payload: Payload,
        only: Option<Box<[usize]>>,
        held: u64,
        since: Instant,
    ) {
        let counts = self.session.share.sent(charge(&header), since);
        let extents = if header.command == Cmd::BLOCK_STATUS { self.extents_in(held, &only) } else { 0 };
        let holds = Released { requests: 1, bytes: held, ..Released::default() };
        let reply = PendingReply { cookie: header.cookie, holds, extents, counts, only, since };
        let ticket = Ticket::new(self.session.clone(), reply);
        let RequestHeader { command, offset, length, .. } = header;
        self.jobs.push(Job::for_client(Request { command, flags, offset, length, payload }, ticket));
    }

    /// How many contexts a BLOCK_STATUS asks about.
    fn contexts_of(&self, only: &Option<Box<[usize]>>) -> u64 {
        let agreement = &self.session.agreement;
        let all = agreement.contexts.len() + agreement.sizes.len();
        u64::try_from(only.as_ref().map_or(all, |only| only.len())).unwrap_or(u64::MAX)
    }

    /// The most extents of each context for which there is room in the bytes that a BLOCK_STATUS holds.
    fn extents_in(&self, held: u64, only: &Option<Box<[usize]>>) -> usize {
        let contexts = self.contexts_of(only);
        let more = held.saturating_sub(ANSWER + CONTEXT * contexts) / EXTENT / contexts.max(1);
        usize::try_from(more.saturating_add(1)).unwrap_or(usize::MAX)
    }

    pub(super) fn refuse(&mut self, header: RequestHeader, failure: Failure) {
        tracing::debug!(session = self.session.id.get(), cookie = %header.cookie, command = %header.command, why = %failure.message, "request refused");
        if failure.errno == Errno::EPERM && self.session.verbs() != Verbs::ALL {
            self.session.denied(header.command, &failure.message);
        }
        self.step = Step::Answer(header, Outcome::Failed(failure));
    }

    /// Answers without the backend.
    fn answer(&mut self, header: &RequestHeader, outcome: Outcome) {
        let RequestHeader { command, flags, offset, length, cookie } = *header;
        let outcome = match (command, outcome) {
            (Cmd::READ, Outcome::Done) => Outcome::Found(Found::Whole(Payload::empty())),
            (_, outcome) => outcome,
        };
        let request = Request::new(command, flags, offset, length);
        let (counts, since) = (Counts::Nothing, self.stamp.now(0));
        let holds = Released { requests: 1, bytes: ANSWER, ..Released::default() };
        let reply = PendingReply { cookie, holds, extents: 0, counts, only: None, since };
        self.session.export.admit(1);
        Ticket::new(self.session.clone(), reply).reply(&request, outcome, &mut self.finished);
    }
}

/// How many requests of this kind there are at the least in so many bytes behind its header.
fn queued(header: &RequestHeader, received: usize) -> usize {
    let length = if header.command == Cmd::WRITE { header.length } else { 0 };
    let payload = usize::try_from(length).unwrap_or(usize::MAX);
    received.saturating_sub(payload) / payload.saturating_add(EXTENDED_REQUEST)
}

/// The payload bytes of a request, or of its reply.
fn charge(header: &RequestHeader) -> u64 {
    match header.command {
        Cmd::READ | Cmd::WRITE => header.length,
        _ => 0,
    }
}
