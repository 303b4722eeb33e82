//! Requests that the backend can't take as they are: too large, too long, or not aligned to its blocks.
//!
//! Each such request gets a task of its own, which splits it, widens it or reads, modifies and writes, and joins the
//! outcomes. All other requests never come here.
//!
//! | request | larger than the backend takes | not aligned to its minimum block |
//! |---|---|---|
//! | READ | split, joined | widened, cut |
//! | WRITE | split | head and tail read, modified, written, under an exclusive range |
//! | WRITE_ZEROES | split | the same for head and tail, zeroes between |
//! | TRIM | split | narrowed to whole blocks: it is only advice |
//! | CACHE | split | widened |
//! | BLOCK_STATUS | the first [`ROUNDS`] ranges asked in turn, joined | widened, cut |
//!
//! One request may be split into millions of pieces (2 EiB, over a server that takes 4 GiB at a time). So pieces without
//! payload go one after the other, and the rest is given up as soon as nobody waits for it: the client has left, its session
//! parts (then it sends the request again), or a shrink has lowered the export's end. Only the piece that the backend has
//! counts as left behind, and holds the exclusive range: overlapping requests of others wait for one piece, not for all.

use nbd_gateway_policy::types::{ByteRange, Bytes};
use nbd_gateway_proto::{Cmd, CmdFlags, Errno, Payload, Piece};
use std::collections::VecDeque;
use std::sync::Arc;

#[cfg(test)]
use super::orphans::Ahead;
use super::ranges::Exclusive;
use super::{Core, Held, lost};
use crate::request::{Extent, Failure, Finished, Found, Job, Origin, Outcome, Request, SessionId, Status};

/// The most ranges that one BLOCK_STATUS asks the backend about. Its answer may always cover less than was asked.
const ROUNDS: u32 = 8;
/// The most pieces of one READ or WRITE that the backend has at a time.
const WINDOW: usize = 32;

/// Carries a session's request out in a separate task.
pub(super) fn spawn(core: Arc<Core>, session: SessionId, job: Job) {
    // In sight of a drain from the moment it was admitted.
    let sight = core.gate.keep(&core, job.request.end());
    // Only for orphans from before this was admitted: later ones wait for this.
    let ahead = core.orphans.ahead(job.request.range(), session);
    let held = core.hold(session, job);
    #[cfg(test)]
    let ahead = if held.has_begun() { Ahead::default() } else { ahead };
    held.spawn(move |held| async move {
        let _sight = sight;
        core.orphans.clear_of(ahead).await;
        if !core.needs_bridge(&held.request) {
            return core.submit(
                Origin::Session(session),
                &mut held.take().into_iter().collect(),
                &mut Finished::default(),
            );
        }
        match (Bridge { core: &core, session, held: &held }).carry().await {
            Some(outcome) => held.finish(outcome, &mut Finished::default()),
            None => held.forget(),
        }
    });
}

struct Bridge<'a> {
    core: &'a Core,
    session: SessionId,
    held: &'a Held,
}

fn round_down(n: u64, block: u64) -> u64 {
    n / block * block
}

impl Bridge<'_> {
    fn block(&self) -> u64 {
        self.core.facts().minimum_block()
    }

    fn round_up(&self, n: u64) -> u64 {
        let block = self.block();
        // The export's last, partial block: its end is the size, which the backend takes as it is.
        n.div_ceil(block).saturating_mul(block).min(self.core.view().size().max(n))
    }

    /// Carries the request out. None: the client does not wait for the rest of it.
    async fn carry(&self) -> Option<Outcome> {
        let request = &self.held.request;
        let block = self.block();
        let (start, end) = (round_down(request.offset, block), self.round_up(request.end()));
        Some(match request.command {
            Cmd::READ => self.read(request, start, end).await,
            Cmd::WRITE => self.write(request, start, end).await,
            Cmd::WRITE_ZEROES => return self.zeroes(request, start, end).await,
            Cmd::TRIM => {
                let (start, end) = (request.offset.next_multiple_of(block), round_down(request.end(), block));
                return self.ranges(request, start, end).await;
            }
            Cmd::CACHE => return self.ranges(request, start, end).await,
            Cmd::BLOCK_STATUS => self.status(request, start, end).await,
            _ => self.ask(request.clone(), self.held.extents()).await,
        })
    }

    /// An exclusive range, if no other write may come between this request's read and its write.
    async fn alone(&self, request: &Request, start: u64, end: u64) -> Option<Exclusive<'_>> {
        let range = ByteRange::at(start, end - start).filter(|_| self.block() > 1 && request.changes_data())?;
        let alone = self.core.ranges.exclusive(range).await;
        #[cfg(test)]
        self.held.begins();
        // Data read before a late write lands, and written back after it, would undo that write.
        self.core.clear_of_late_writes(range).await;
        Some(alone)
    }

    /// One request to the backend, answered with at most so many extents of one context.
    async fn ask(&self, request: Request, extents: usize) -> Outcome {
        let (job, outcome) = Job::for_task(request);
        self.core.submit(Origin::Session(self.session), &mut vec![job.with_extents(extents)], &mut Finished::default());
        outcome.await.unwrap_or_else(|_| lost())
    }

    /// Asks the backend for all `parts`, [`WINDOW`] at a time, and hands their outcomes over in order. The first failure
    /// ends it: requests that the backend does not have by then are not sent.
    async fn in_pieces(
        &self,
        mut parts: impl Iterator<Item = Request>,
        mut done: impl FnMut(u64, Outcome),
    ) -> Result<(), Failure> {
        let (mut waiting, mut failed) = (VecDeque::new(), None);
        loop {
            let mut jobs = Vec::new();
            while failed.is_none()
                && waiting.len() < WINDOW
                && let Some(part) = parts.next()
            {
                let (at, command, length) = (part.offset, part.command, part.length);
                let (job, outcome) = Job::for_task(part);
                jobs.push(job);
                waiting.push_back((at, command, length, outcome));
            }
            self.core.submit(Origin::Session(self.session), &mut jobs, &mut Finished::default());
            let Some((at, command, length, outcome)) = waiting.pop_front() else { break };
            match outcome.await {
                Ok(Outcome::Failed(failure)) => failed = failed.or(Some(failure)),
                Ok(outcome) => {
                    #[cfg(test)]
                    if command.changes_data() {
                        self.held.has_done(at, at + length);
                    }
                    done(at, outcome);
                }
                Err(_) => {
                    let why = format!("no answer to a {command} of {} at {at}", Bytes(length));
                    failed = failed.or(Some(Failure::new(Errno::EIO, why)));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// `start..end` in ranges of the largest payload that the backend takes.
    fn payloads(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (most, mut at) = (self.core.facts().largest_payload(), start);
        std::iter::from_fn(move || {
            let part = (at, most.min(end.saturating_sub(at)));
            at += part.1;
            (part.1 > 0).then_some(part)
        })
    }

    /// Reads `start..end` in pieces that the backend takes; gives what the request asks for.
    async fn read(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let parts = self.payloads(start, end).map(|(offset, length)| Request { offset, length, ..request.clone() });
        let mut pieces = Vec::new();
        let read = self.in_pieces(parts, |at, outcome| match outcome {
            Outcome::Found(Found::Whole(payload)) => pieces.push(Piece::Data { offset: at, payload }),
            Outcome::Found(Found::Pieces(more)) => pieces.extend(more),
            // A command's outcome is of its kind: see `Gather::finish`.
            _ => {}
        });
        if let Err(failure) = read.await {
            return Outcome::Failed(failure);
        }
        Outcome::Found(cut(joined(pieces), start, request.offset, request.length))
    }

    async fn write(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let _alone = self.alone(request, start, end).await;
        let payload = match self.filled(request, &request.payload, start, end).await {
            Ok(payload) => payload,
            Err(failure) => return Outcome::Failed(failure),
        };
        self.put(request.flags, start, payload).await
    }

    /// Writes a whole-block payload in pieces that the backend takes.
    async fn put(&self, flags: CmdFlags, start: u64, payload: Payload) -> Outcome {
        let end = start.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        let parts = self.payloads(start, end).map(|(offset, length)| {
            let [skip, len] = [offset - start, length].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            Request::write(flags, offset, payload.slice(skip, len))
        });
        #[cfg(test)]
        let parts = parts.filter(|part| !self.held.is_done(part.offset, part.end()));
        self.in_pieces(parts, |_, _| {}).await.map_or_else(Outcome::Failed, |()| Outcome::Done)
    }

    /// `payload`, with what the backend has before and after it up to whole blocks.
    async fn filled(&self, request: &Request, payload: &Payload, start: u64, end: u64) -> Result<Payload, Failure> {
        let mut whole = Payload::empty();
        let block = self.block();
        if start < request.offset {
            let head = self.part(start, (start + block).min(end), start, request.offset).await?;
            head.segments().for_each(|s| whole.push(s.clone()));
        }
        payload.segments().for_each(|s| whole.push(s.clone()));
        if request.end() < end {
            let last = round_down(request.end(), block);
            let tail = self.part(last, end, request.end(), end).await?;
            tail.segments().for_each(|s| whole.push(s.clone()));
        }
        Ok(whole)
    }

    /// Reads the block `start..end` and gives its part `from..to`, as data.
    async fn part(&self, start: u64, end: u64, from: u64, to: u64) -> Result<Payload, Failure> {
        let read = Request::new(Cmd::READ, CmdFlags::NONE, start, end - start);
        match self.ask(read, 1).await {
            Outcome::Found(found) => Ok(flat(cut(found, start, from, to - from))),
            Outcome::Failed(failure) => Err(failure),
            _ => Err(Failure::new(Errno::EIO, "the backend's answer belongs to another command")),
        }
    }

    async fn zeroes(&self, request: &Request, start: u64, end: u64) -> Option<Outcome> {
        let block = self.block();
        let (first, last) = (request.offset.next_multiple_of(block), round_down(request.end(), block));
        let whole_end = if request.end() == end { end } else { last };
        if first >= whole_end {
            // All inside one or two blocks.
            let length = usize::try_from(request.length).unwrap_or(usize::MAX);
            let payload = vec![0; length].into();
            return Some(self.write(&Request { payload, ..request.clone() }, start, end).await);
        }
        // The middle first: with FAST_ZERO it may refuse, and then nothing has been changed.
        let middle = self.ranges(request, first, whole_end).await?;
        if matches!(middle, Outcome::Failed(_)) {
            return Some(middle);
        }
        for (from, to) in [(request.offset, first.min(request.end())), (whole_end, request.end())] {
            if from < to {
                let length = usize::try_from(to - from).unwrap_or(usize::MAX);
                let flags = request.flags.without(CmdFlags::NO_HOLE).without(CmdFlags::FAST_ZERO);
                let edge = Request::write(flags, from, vec![0; length].into());
                let (start, end) = (round_down(from, block), self.round_up(to));
                // In this order, as in `ranges`. If the session has left before, only the middle counts as left behind.
                self.held.narrow(start, end - start);
                if self.held.is_unwanted() {
                    return None;
                }
                let outcome = self.write(&edge, start, end).await;
                if matches!(outcome, Outcome::Failed(_)) {
                    return Some(outcome);
                }
            }
        }
        Some(Outcome::Done)
    }

    /// A command without payload over `start..end`, in ranges that the backend takes, one after the other. None: nobody
    /// waits for the ranges that are left.
    async fn ranges(&self, request: &Request, start: u64, end: u64) -> Option<Outcome> {
        let most = self.core.facts().longest_range();
        let (mut at, in_parts) = (start, end.saturating_sub(start) > most);
        while at < end {
            let length = most.min(end - at);
            #[cfg(test)]
            if self.held.is_done(at, at + length) {
                at += length;
                continue;
            }
            // In this order: a session that leaves in between finds this range, or this finds that it has left.
            self.held.narrow(at, length);
            if in_parts && self.held.is_unwanted() {
                return None;
            }
            let size = self.core.view().end();
            if at > start && at + length > size {
                let why = format!("{} ends past the export's size of {size} bytes", request.command);
                return Some(Outcome::Failed(Failure::new(Errno::EINVAL, why)));
            }
            let _alone = self.alone(request, at, at + length).await;
            let part = Request { offset: at, length, payload: Payload::empty(), ..request.clone() };
            let outcome = self.ask(part, 1).await;
            if !matches!(outcome, Outcome::Done) {
                return Some(outcome);
            }
            #[cfg(test)]
            if request.changes_data() {
                self.held.has_done(at, at + length);
            }
            at += length;
        }
        Some(Outcome::Done)
    }

    /// Asks range after range, a few, as long as every context answers for all of it, and joins the answers.
    async fn status(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let most = self.core.facts().longest_range();
        let mut joined: Vec<Status> = Vec::new();
        let (mut at, mut rounds) = (start, 0);
        while at < end && rounds < ROUNDS {
            rounds += 1;
            let length = most.min(end - at);
            let part = Request { offset: at, length, ..request.clone() };
            let found = match self.ask(part, self.held.extents()).await {
                Outcome::Status(found) => found,
                Outcome::Failed(_) if at > start => break,
                other => return other,
            };
            let covers = |s: &Status| s.extents.iter().map(|e| e.length).fold(0, u64::saturating_add);
            let full = found.iter().all(|s| covers(s) >= length) && (at == start || found.len() == joined.len());
            for status in found {
                match joined.iter_mut().find(|s| s.context == status.context) {
                    Some(so_far) => append(&mut so_far.extents, status.extents, at - start),
                    None if at == start => joined.push(status),
                    None => {}
                }
            }
            let long = joined.iter().any(|s| s.extents.len() >= self.held.extents());
            if !full || long || request.flags.has(CmdFlags::REQ_ONE) {
                break;
            }
            at += length;
        }
        joined.iter_mut().for_each(|s| skip(&mut s.extents, request.offset - start));
        Outcome::Status(joined)
    }
}

/// Appends extents that start `at` bytes after the first of `extents`; what is already told (an extent may reach beyond
/// what was asked) is not told twice, and equal neighbours become one.
pub(super) fn append(extents: &mut Vec<Extent>, mut more: Vec<Extent>, at: u64) {
    let told: u64 = extents.iter().map(|e| e.length).fold(0, u64::saturating_add);
    if told < at {
        return;
    }
    skip(&mut more, told - at);
    for extent in more {
        match extents.last_mut() {
            Some(last) if last.flags == extent.flags => last.length = last.length.saturating_add(extent.length),
            _ => extents.push(extent),
        }
    }
}

/// Drops the first `bytes` of what the extents cover.
fn skip(extents: &mut Vec<Extent>, mut bytes: u64) {
    extents.retain_mut(|e| {
        let gone = e.length.min(bytes);
        bytes -= gone;
        e.length -= gone;
        e.length > 0
    });
}

/// Pieces that follow each other. Contiguous data is one piece again: what a client with DF or simple replies needs
/// anyway.
pub(super) fn joined(pieces: Vec<Piece>) -> Found {
    if !contiguous(&pieces) {
        return Found::Pieces(pieces);
    }
    let segments = pieces.iter().filter_map(|p| if let Piece::Data { payload, .. } = p { Some(payload) } else { None });
    Found::Whole(segments.flat_map(Payload::segments).cloned().collect())
}

/// Whether it is data alone, without a gap.
fn contiguous(pieces: &[Piece]) -> bool {
    let mut next = None;
    pieces.iter().all(|p| {
        let Piece::Data { offset, payload } = p else { return false };
        let fits = next.is_none_or(|n| n == *offset);
        next = Some(offset.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX)));
        fits
    })
}

/// As data: holes become zeroes.
fn flat(found: Found) -> Payload {
    match found {
        Found::Whole(payload) => payload,
        Found::Pieces(mut pieces) => {
            pieces.sort_by_key(Piece::range);
            let mut flat = Payload::empty();
            for piece in pieces {
                match piece {
                    Piece::Data { payload, .. } => payload.segments().for_each(|s| flat.push(s.clone())),
                    Piece::Hole { length, .. } => {
                        flat.push(vec![0; usize::try_from(length).unwrap_or(usize::MAX)].into())
                    }
                }
            }
            flat
        }
    }
}

/// The part of what was found from `offset` on, `length` bytes long.
pub(super) fn cut(found: Found, at: u64, offset: u64, length: u64) -> Found {
    let part = |start: u64, payload: &Payload| {
        let skip = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
        let end = offset.saturating_add(length);
        let room = usize::try_from(end.saturating_sub(start.max(offset))).unwrap_or(usize::MAX);
        payload.slice(skip, room)
    };
    match found {
        Found::Whole(payload) => Found::Whole(part(at, &payload)),
        Found::Pieces(pieces) => Found::Pieces(
            pieces
                .into_iter()
                .filter_map(|piece| match piece {
                    Piece::Data { offset: start, payload } => {
                        let payload = part(start, &payload);
                        (!payload.is_empty()).then(|| Piece::Data { offset: start.max(offset), payload })
                    }
                    Piece::Hole { offset: start, length: long } => {
                        let (from, to) = (start.max(offset), (start + long).min(offset + length));
                        (from < to).then(|| Piece::Hole { offset: from, length: to - from })
                    }
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_joined_without_gap_or_repetition() {
        let e = |length, flags| Extent { length, flags };
        let mut so_far = vec![e(100, 0), e(50, 3)];
        append(&mut so_far, vec![e(30, 3), e(70, 0)], 100);
        assert_eq!(so_far, [e(100, 0), e(50, 3), e(50, 0)], "what reached beyond the first range is told once");
        append(&mut so_far, vec![e(5, 0)], 300);
        assert_eq!(so_far.len(), 3, "a gap ends the joining");
        skip(&mut so_far, 120);
        assert_eq!(so_far, [e(30, 3), e(50, 0)]);
    }
}
