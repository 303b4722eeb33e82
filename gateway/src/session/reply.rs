//! What a session is to those who serve its requests: from an outcome to a reply in its client's framing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nbd_gateway_net::{Batch, Written};
use nbd_gateway_proto::reply::{put_chunk, put_simple};
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{Chunk, ChunkFlags, Cmd, CmdFlags, Errno, Framing, MAX_STRING, Payload, Piece};
use tokio::time::Instant;

use super::Session;
use crate::request::{Client, Extent, Failure, Finished, Found, Outcome, PendingReply, Request, SessionId, Status};

/// What a chunk of a READ's reply takes in memory beside its data: its header, and its place in the outgoing queue.
const PIECE: usize = 160;
/// Of what a request holds, the bytes that are not for an error's sentence.
const HEADERS: u64 = 128;
/// Extents that take more bytes than this are queued as they are; fewer are copied behind their header.
const LONG: usize = 1024;
/// The longest sentence of an error in reply to a RESIZE, which holds no bytes.
const RESIZE_SENTENCE: u64 = 1024;

impl Client for Session {
    fn id(&self) -> SessionId {
        self.id
    }

    fn reply(self: Arc<Self>, reply: PendingReply, request: &Request, outcome: Outcome, finished: &mut Finished) {
        let framed = Framed { session: &self, reply: &reply, request };
        let outcome = framed.fit(outcome);
        let now = finished.now(request);
        let took = now.saturating_duration_since(reply.since);
        self.export.count(request, &outcome, took);
        self.is_answered(&reply, request, took, now);
        if self.is_gone() {
            return self.release(reply.holds);
        }
        self.out.append(|batch| {
            framed.put(batch, &outcome);
            batch.release(reply.holds);
        });
        finished.touch(self);
    }

    fn forget(&self, reply: PendingReply, request: &Request) {
        self.export.forget();
        self.is_answered(&reply, request, reply.since.elapsed(), Instant::now());
        self.release(reply.holds);
    }

    fn flush(&self) {
        let (written, blocked) = self.out.flush();
        match written {
            Written::Progress(released) => self.release(released),
            Written::Broken(error, released) => {
                self.span.in_scope(|| tracing::debug!(%error, "client connection broke while writing"));
                self.release(released);
                self.wake();
            }
        }
        if blocked {
            self.wake();
        }
    }

    fn has_given_up(&self) -> bool {
        self.is_left() || self.is_closing()
    }

    fn settle_losses(&self, losses: u64) {
        self.losses.fetch_max(losses, Ordering::AcqRel);
    }
}

impl Session {
    /// A request was answered, or never will be: nobody has to wait for it any more.
    fn is_answered(&self, reply: &PendingReply, request: &Request, took: Duration, now: Instant) {
        self.share.answered(reply.counts, request.payload_bytes(), took, now);
        if self.is_left() {
            self.export.core.settle_orphan(self.id, reply.cookie);
        }
    }
}

/// One reply, as its client is to get it.
struct Framed<'a> {
    session: &'a Session,
    reply: &'a PendingReply,
    request: &'a Request,
}

impl Framed<'_> {
    /// The errors that the protocol allows for what was asked, and successes that say what was asked.
    fn fit(&self, outcome: Outcome) -> Outcome {
        let request = self.request;
        match outcome {
            Outcome::Failed(mut failure) => {
                failure.errno = fit_errno(request, failure.errno);
                Outcome::Failed(failure)
            }
            Outcome::Status(found) if request.command == Cmd::BLOCK_STATUS => self.select(found),
            Outcome::Found(found) if request.command == Cmd::READ => Outcome::Found(self.bounded(found)),
            Outcome::Done if !matches!(request.command, Cmd::READ | Cmd::BLOCK_STATUS) => Outcome::Done,
            Outcome::Resized(size) if request.command == Cmd::RESIZE => Outcome::Resized(size),
            _ => Outcome::Failed(Failure::new(Errno::EIO, "the backend's answer belongs to another command")),
        }
    }

    /// In one piece, if the pieces would take more memory than the request holds: many small ones do.
    fn bounded(&self, found: Found) -> Found {
        let Found::Pieces(pieces) = &found else { return found };
        let data = |piece: &Piece| if let Piece::Data { payload, .. } = piece { payload.len() } else { 0 };
        let weight: usize = pieces.iter().map(|piece| data(piece) + PIECE).sum();
        if u64::try_from(weight).is_ok_and(|weight| weight <= self.reply.holds.bytes) {
            return found;
        }
        let mut whole = vec![0; usize::try_from(self.request.length).unwrap_or_default()];
        for piece in pieces {
            let Piece::Data { offset, payload } = piece else { continue };
            let start = usize::try_from(offset.saturating_sub(self.request.offset)).unwrap_or(usize::MAX);
            let mut into = whole.get_mut(start..).unwrap_or_default();
            for segment in payload.segments() {
                let Some((now, later)) = into.split_at_mut_checked(segment.len()) else { break };
                now.copy_from_slice(segment);
                into = later;
            }
        }
        Found::Whole(whole.into())
    }

    /// Only the contexts that the client selected, and asked for; one extent if it wants one.
    fn select(&self, found: Vec<Status>) -> Outcome {
        let (request, only) = (self.request, &self.reply.only);
        let selected = &self.session.agreement.contexts;
        let wanted = |c: usize| selected.contains(&c) && only.as_ref().is_none_or(|only| only.contains(&c));
        let mut statuses: Vec<Status> = found.into_iter().filter(|s| wanted(s.context)).collect();
        // A backend may tell of more than it was asked for: of bytes that are none of this client's.
        let room = self.session.told().max(request.end()).saturating_sub(request.offset);
        for status in &mut statuses {
            status.extents.truncate(self.reply.extents);
            Extent::clip(&mut status.extents, room);
            if request.flags.has(CmdFlags::REQ_ONE) {
                status.extents.truncate(1);
                if let Some(one) = status.extents.first_mut() {
                    one.length = one.length.min(request.length);
                }
            }
            if self.session.agreement.framing != Framing::Extended {
                compact(&mut status.extents);
            }
        }
        let size = self.session.told();
        let resize_contexts = self.session.agreement.sizes.iter().filter(|c| match only {
            Some(only) => only.contains(&self.session.size_context_id(**c)),
            None => true,
        });
        for context in resize_contexts {
            let flags = size_flags(*context, size);
            let length = request.length;
            statuses.push(Status {
                context: self.session.size_context_id(*context),
                extents: vec![Extent { length, flags }],
            });
        }
        statuses.retain(|s| !s.extents.is_empty());
        if statuses.is_empty() && only.as_ref().is_none_or(|only| !only.is_empty()) {
            return Outcome::Failed(Failure::new(Errno::EIO, "the backend told nothing about the contexts asked for"));
        }
        Outcome::Status(statuses)
    }

    fn put(&self, batch: &mut Batch, outcome: &Outcome) {
        match self.session.agreement.framing {
            Framing::Simple => self.put_simple(batch, outcome),
            framing => self.put_chunks(batch, framing, outcome),
        }
    }

    fn put_simple(&self, batch: &mut Batch, outcome: &Outcome) {
        let errno = match outcome {
            Outcome::Failed(failure) => failure.errno.0,
            _ => 0,
        };
        batch.head(|out| put_simple(out, errno, self.reply.cookie));
        match outcome {
            Outcome::Found(Found::Whole(payload)) => batch.body(payload),
            Outcome::Found(Found::Pieces(pieces)) => {
                debug_assert_eq!(pieces.iter().map(|piece| piece.range().1).sum::<u64>(), self.request.length);
                put_in_order(batch, pieces);
            }
            Outcome::Done | Outcome::Status(_) | Outcome::Resized(_) | Outcome::Failed(_) => {}
        }
    }

    fn put_chunks(&self, batch: &mut Batch, framing: Framing, outcome: &Outcome) {
        let request = self.request;
        let chunk = |batch: &mut Batch, done: bool, kind: Chunk, control: &[u8], body: usize| {
            let flags = ChunkFlags::NONE.with_if(ChunkFlags::DONE, done);
            batch.head(|out| {
                put_chunk(out, framing, flags, kind, self.reply.cookie, request.offset, control.len() + body);
                out.extend_from_slice(control);
            });
        };
        let data = |batch: &mut Batch, done: bool, offset: u64, payload: &Payload| {
            chunk(batch, done, Chunk::OFFSET_DATA, &offset.to_be_bytes(), payload.len());
            batch.body(payload);
        };
        match outcome {
            Outcome::Done => chunk(batch, true, Chunk::NONE, &[], 0),
            Outcome::Resized(size) => chunk(batch, true, Chunk::RESIZE, &size.to_be_bytes(), 0),
            Outcome::Found(Found::Whole(payload)) if payload.is_empty() => chunk(batch, true, Chunk::NONE, &[], 0),
            Outcome::Found(Found::Whole(payload)) => data(batch, true, request.offset, payload),
            Outcome::Found(Found::Pieces(pieces)) if request.flags.has(CmdFlags::DF) => {
                // One chunk: holes become zeroes.
                let length = usize::try_from(request.length).unwrap_or(usize::MAX);
                chunk(batch, true, Chunk::OFFSET_DATA, &request.offset.to_be_bytes(), length);
                put_in_order(batch, pieces);
            }
            Outcome::Found(Found::Pieces(pieces)) => {
                let last = pieces.len().saturating_sub(1);
                for (i, piece) in pieces.iter().enumerate() {
                    match piece {
                        Piece::Data { offset, payload } => data(batch, i == last, *offset, payload),
                        Piece::Hole { offset, length } => {
                            let length = u32::try_from(*length).unwrap_or(u32::MAX);
                            let control = [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
                            chunk(batch, i == last, Chunk::OFFSET_HOLE, &control, 0);
                        }
                    }
                }
            }
            Outcome::Status(statuses) => {
                let last = statuses.len().saturating_sub(1);
                for (i, status) in statuses.iter().enumerate() {
                    let (kind, control) = extents(framing, status);
                    if control.len() > LONG {
                        chunk(batch, i == last, kind, &[], control.len());
                        batch.body(&control.into());
                    } else {
                        chunk(batch, i == last, kind, &control, 0);
                    }
                }
                if statuses.is_empty() {
                    chunk(batch, true, Chunk::NONE, &[], 0);
                }
            }
            Outcome::Failed(failure) => {
                let held = if self.reply.holds.resizes > 0 {
                    RESIZE_SENTENCE
                } else {
                    self.reply.holds.bytes.saturating_sub(HEADERS)
                };
                let most = usize::try_from(held.min(u64::from(MAX_STRING))).unwrap_or(usize::MAX);
                let message = failure.message.get(..failure.message.floor_char_boundary(most)).unwrap_or_default();
                let mut control = error_control(failure.errno, message);
                let inside = failure.offset.filter(|o| (request.offset..request.end()).contains(o));
                let kind = if let Some(offset) = inside {
                    control.extend_from_slice(&offset.to_be_bytes());
                    Chunk::ERROR_OFFSET
                } else {
                    Chunk::ERROR
                };
                chunk(batch, true, kind, &control, 0);
            }
        }
    }
}

/// Appends what was found as plain bytes.
fn put_in_order(batch: &mut Batch, pieces: &[Piece]) {
    let mut order: Vec<&Piece> = pieces.iter().collect();
    order.sort_by_key(|piece| piece.range());
    for piece in order {
        match piece {
            Piece::Data { payload, .. } => batch.body(payload),
            Piece::Hole { length, .. } => batch.zeroes(*length),
        }
    }
}

/// The payload of an error chunk, without an offset.
pub(super) fn error_control(errno: Errno, message: &str) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(0);
    [&errno.0.to_be_bytes()[..], &length.to_be_bytes(), message.as_bytes()].concat()
}

/// The error number that may stand in a reply to this request: those of the protocol, ENOTSUP only with FAST_ZERO,
/// EOVERFLOW only with DF; everything else is EIO. proto.md, "Error values".
fn fit_errno(request: &Request, errno: Errno) -> Errno {
    match errno {
        Errno::EPERM | Errno::EIO | Errno::ENOMEM | Errno::EINVAL | Errno::ENOSPC | Errno::ESHUTDOWN => errno,
        Errno::ENOTSUP if request.flags.has(CmdFlags::FAST_ZERO) => errno,
        Errno::EOVERFLOW if request.flags.has(CmdFlags::DF) => errno,
        Errno::ENOTSUP => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

/// Makes extents fit 32-bit lengths and flags: long ones are cut into pieces whose sum fits 32 bits too, as clients of
/// compact headers expect; what follows one whose flags do not fit is left out (an answer may be short).
fn compact(extents: &mut Vec<Extent>) {
    let fits = extents.iter().take_while(|e| u32::try_from(e.flags).is_ok()).count();
    extents.truncate(fits);
    // A multiple of every block size there is.
    const MOST: u64 = 0xffff_0000;
    Extent::clip(extents, MOST);
}

fn extents(framing: Framing, status: &Status) -> (Chunk, Vec<u8>) {
    let id = u32::try_from(status.context).unwrap_or(u32::MAX);
    // Exactly: what is queued may lie there for long.
    let each = if framing == Framing::Extended { 16 } else { 8 };
    let mut out = Vec::with_capacity(each + each * status.extents.len());
    out.extend_from_slice(&id.to_be_bytes());
    if framing == Framing::Extended {
        out.extend_from_slice(&u32::try_from(status.extents.len()).unwrap_or(u32::MAX).to_be_bytes());
        for extent in &status.extents {
            out.extend_from_slice(&extent.length.to_be_bytes());
            out.extend_from_slice(&extent.flags.to_be_bytes());
        }
        (Chunk::BLOCK_STATUS_EXT, out)
    } else {
        for extent in &status.extents {
            out.extend_from_slice(&u32::try_from(extent.length).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(&u32::try_from(extent.flags).unwrap_or(u32::MAX).to_be_bytes());
        }
        (Chunk::BLOCK_STATUS, out)
    }
}

/// What an `x-resize:` context says about a size.
fn size_flags(context: Context, size: u64) -> u64 {
    match context {
        Context::SizeLow => size & 0xffff_ffff,
        Context::SizeHigh => size >> 32,
        Context::Automatic | Context::NoAutomatic | Context::Watch => 0,
    }
}
