//! RESIZE requests of a client, and BLOCK_STATUS over the `x-resize:` contexts alone.
//!
//! A RESIZE holds no permit: a client whose permits are all with writes that wait for the export to grow could otherwise
//! never grow it. A session has at most [`MOST`] of them, QUERY and NOTIFY included, until their replies are written; then
//! it reads no further. The size is published before the reply that confirms it is queued (promise 2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nbd_gateway_net::Released;
use nbd_gateway_policy::access::Verb;
use nbd_gateway_policy::plan;
use nbd_gateway_policy::refusal::{Asked, Refusal};
use nbd_gateway_policy::style::Success;
use nbd_gateway_policy::types::Size;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::{Context, ResizeRequest, Wish};
use nbd_gateway_proto::{CmdFlags, Errno, ExportFlags, Features, Framing};
use tokio::time::Instant;
use tracing::Instrument;

use super::Session;
use super::shutdown::Shutdown;
use super::status::SessionStatus;
use super::transmission::{Step, Transmission};
use crate::limits::{ANSWER, CONTEXT};
use crate::request::{Counts, Failure, Finished, Job, Outcome, PendingReply, Request, Ticket};
use crate::target::Held;

/// RESIZE requests of one session, each until its reply is written.
const MOST: u32 = 16;
/// What a RESIZE holds until its reply is written, or a NOTIFY until its last chunk is.
pub(super) const ONE: Released = Released { resizes: 1, requests: 0, bytes: 0, notices: 0 };

impl Session {
    /// Whether one more resize has to wait.
    pub(super) fn has_too_many_resizes(&self) -> bool {
        self.resizes.load(Ordering::Acquire) >= MOST
    }

    /// A resize begins; it ends when what it holds is released.
    pub(super) fn begin_resize(&self) {
        self.resizes.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether no resize is under way and no NOTIFY stands.
    pub(super) fn is_quiet(&self) -> bool {
        self.resizes.load(Ordering::Acquire) == 0 && self.notify.lock().is_none()
    }

    /// The number by which this client knows an `x-resize:` context: after those of the backend.
    pub(super) fn size_context_id(&self, context: Context) -> usize {
        let place = Context::ALL.iter().position(|c| *c == context).unwrap_or(0);
        self.export.contexts().len() + place
    }

    /// The refusal of a resize that its client has no verb for, counted.
    fn not_authorised(&self, verb: Verb) -> Refusal {
        let refusal = self.export.resizer.not_authorised(verb);
        self.export.resize_metrics.denied(refusal.reason.label());
        refusal
    }

    fn ticket(self: &Arc<Self>, header: &RequestHeader, holds: Released) -> Ticket {
        let (cookie, counts, since) = (header.cookie, Counts::Nothing, Instant::now());
        Ticket::new(self.clone(), PendingReply { cookie, holds, extents: 1, counts, only: None, since })
    }
}

fn request(header: &RequestHeader) -> Request {
    let RequestHeader { command, flags, offset, .. } = *header;
    // Its offset is a size: no range of the export is concerned.
    Request::new(command, flags, offset, 0)
}

impl Transmission {
    /// A request whose command is RESIZE.
    pub(super) fn resize(&mut self, header: RequestHeader) {
        let agreement = &self.session.agreement;
        let payload = if agreement.framing == Framing::Extended && header.flags.has(CmdFlags::PAYLOAD_LEN) {
            header.length
        } else {
            0
        };
        self.step = match self.allowed(&header) {
            Ok(wish) if !self.session.has_too_many_resizes() => return self.begin_wish(&header, wish),
            Ok(_) => Step::Resize(header),
            Err(failure) => Step::Skip(header, failure, payload),
        };
    }

    fn begin_wish(&mut self, header: &RequestHeader, wish: Wish) {
        self.session.begin_resize();
        match wish {
            Wish::Query => {
                let size = self.session.export.size();
                self.session.tell(size);
                self.session.export.admit(1);
                let ticket = self.session.ticket(header, ONE);
                ticket.reply(&request(header), Outcome::Resized(size), self.finished());
            }
            Wish::Notify { interval, most } => self.session.start_notify(header, interval, most),
            Wish::Size { .. } => {
                let ticket = self.session.ticket(header, ONE);
                self.session.carry_resize(Job::for_client(request(header), ticket), false);
            }
        }
    }

    /// What a RESIZE asks for, if the session may.
    fn allowed(&self, header: &RequestHeader) -> Result<Wish, Failure> {
        let agreement = &self.session.agreement;
        if self.is_draining() {
            return Err(Failure::shutting_down());
        }
        let parsed = ResizeRequest::parse(header, agreement.flags.has(ExportFlags::SEND_FUA));
        let wish = parsed.map_err(|bad| Failure::new(Errno::EINVAL, bad.to_string()))?.wish;
        if matches!(wish, Wish::Size { .. }) && !self.session.verbs().has(Verb::Resize) {
            return Err(failure(&self.session.not_authorised(Verb::Resize)));
        }
        let features = Features(agreement.offer.features.wire());
        let (offered, otherwise) = match wish {
            Wish::Size { .. } => {
                (agreement.flags.has(ExportFlags::SEND_RESIZE), "this export is not resized by NBD_CMD_RESIZE")
            }
            Wish::Query => (
                features.has(Features::QUERY),
                "QUERY was not offered: ask for NBD_INFO_RESIZE after agreeing on structured replies",
            ),
            Wish::Notify { .. } => (
                features.has(Features::NOTIFY),
                "NOTIFY was not offered: ask for NBD_INFO_RESIZE after agreeing on structured replies",
            ),
        };
        if offered { Ok(wish) } else { Err(Failure::new(Errno::EINVAL, otherwise)) }
    }

    /// Whether a BLOCK_STATUS asks for `x-resize:` contexts and no others: then the size has no say in its range.
    pub(super) fn only_sizes(&self, header: &RequestHeader) -> bool {
        let agreement = &self.session.agreement;
        agreement.contexts.is_empty()
            && !agreement.sizes.is_empty()
            && !header.flags.has(CmdFlags::PAYLOAD_LEN)
            && header.length > 0
    }

    /// Answers it: at once, or, with `watch` among the contexts, when the size is another one than this client was told.
    pub(super) fn sizes(&mut self, header: RequestHeader) {
        if self.is_draining() {
            return self.refuse(header, Failure::shutting_down());
        }
        let contexts = u64::try_from(self.session.agreement.sizes.len()).unwrap_or(u64::MAX);
        let bytes = ANSWER.saturating_add(CONTEXT.saturating_mul(contexts));
        if !self.session.permits.take(bytes, || self.session.waker()) {
            // Rare enough that a client with all its permits out is told to come again.
            return self.refuse(header, Failure::new(Errno::ENOMEM, "too many requests in flight"));
        }
        let holds = Released { requests: 1, bytes, ..Released::default() };
        let ticket = self.session.ticket(&header, holds);
        let request = Request { length: header.length, ..request(&header) };
        let told = self.session.told();
        let waits = self.session.agreement.sizes.contains(&Context::Watch) && self.session.export.size() == told && {
            let mut watching = self.session.watching.lock();
            watching.is_none() && watching.replace(told).is_none()
        };
        self.session.export.admit(1);
        let job = Job::for_client(request, ticket);
        if waits {
            self.session.watch(self.shutdown(), job);
        } else {
            self.session.tell(self.session.export.size());
            job.finish(sizes_alone(), self.finished());
        }
    }
}

impl Session {
    /// Has a BLOCK_STATUS wait for another size than its client was told.
    pub(super) fn watch(self: &Arc<Self>, shutdown: Shutdown, job: Job) {
        let held = self.export.core.hold(self.id, job);
        let session = Arc::clone(self);
        held.spawn(|held| watch(session, shutdown, held));
    }

    /// Carries one explicit resize out, in a new task; `charged`: the tenant's rate has paid for it.
    pub(super) fn carry_resize(self: &Arc<Self>, job: Job, charged: bool) {
        let held = self.export.core.hold(self.id, job);
        let (session, span) = (Arc::clone(self), self.span.clone());
        held.spawn(|held| carry(session, held, charged).instrument(span));
    }
}

/// The contexts themselves are added to every answer; there is nothing else to say.
fn sizes_alone() -> Outcome {
    Outcome::Status(Vec::new())
}

/// The long poll: waits for another size, for the order to finish, or until nothing more is read from its client.
async fn watch(session: Arc<Session>, mut shutdown: Shutdown, held: Held) {
    let mut shown = session.export.core.view().follow();
    let told = session.watching.lock().unwrap_or_else(|| session.told());
    tokio::select! {
        // In any order: each ends the wait, and the answer is the same.
        biased;
        _ = shown.wait_for(|now| now.size != told) => {}
        _ = shutdown.next() => {}
        () = session.status.reached(SessionStatus::Draining) => {}
    }
    *session.watching.lock() = None;
    session.tell(session.export.size());
    held.finish(sizes_alone(), &mut Finished::default());
}

fn failure(refusal: &Refusal) -> Failure {
    Failure::new(Errno(refusal.reason.errno(Asked::Resize).wire()), refusal.to_string())
}

/// Carries one explicit resize out. Its offset is the size that is asked for.
async fn carry(session: Arc<Session>, held: Held, charged: bool) {
    let (target, durable) = (held.request.offset, held.request.flags.has(CmdFlags::FUA));
    let style = session.agreement.style;
    let told = Size::new(session.told()).unwrap_or(Size::MAX);
    let wish = plan::Wish::Explicit { client: style, told, target };
    let answer = if session.export.policy().shrinks(told, target) && !session.verbs().has(Verb::Shrink) {
        let refusal = session.not_authorised(Verb::Shrink);
        session.denied(held.request.command, &refusal.to_string());
        Err(refusal)
    } else {
        session.export.resizer.wish_of_client(wish, charged).await
    };
    let outcome = match answer {
        Ok(size) => {
            // Who is told no size knows only what it asked for; more than that must not make its next grow a shrink.
            session.tell(if style.success().tells_size() { size.bytes() } else { target });
            if durable { session.export.make_durable().await } else { Ok(()) }.map_or_else(Outcome::Failed, |()| {
                match style.success() {
                    Success::SizeChunk => Outcome::Resized(size.bytes()),
                    Success::Simple | Success::EmptyChunk => Outcome::Done,
                }
            })
        }
        Err(refusal) => Outcome::Failed(failure(&refusal)),
    };
    if let Some(job) = held.take() {
        session.export.admit(1);
        job.finish(outcome, &mut Finished::default());
    }
}
