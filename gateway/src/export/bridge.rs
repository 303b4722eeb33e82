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
//! | BLOCK_STATUS | asked in turn, joined | widened, cut |

use std::sync::Arc;

use super::{Export, cut};
use crate::proto::{Cmd, CmdFlags, Errno, Payload};
use crate::work::{Extent, Failure, Finished, Found, Job, Outcome, Piece, Request, Status};

/// The most extents that a joined BLOCK_STATUS answer holds per context.
const MAX_JOINED: usize = 128 * 1024;

impl Export {
    /// Whether the backend can't take this request as it is, or it must wait its turn for a range.
    pub(super) fn needs_bridge(&self, request: &Request) -> bool {
        let block = self.core.facts().minimum_block();
        match request.command {
            Cmd::FLUSH => false,
            Cmd::READ | Cmd::WRITE if request.length > self.core.facts().largest_payload() => true,
            _ if request.length > self.core.facts().longest_range() => true,
            // Where some writes are read-modify-write, none may slip between the reading and the writing.
            _ => {
                block > 1
                    && (request.changes_data()
                        || !request.offset.is_multiple_of(block)
                        || !request.length.is_multiple_of(block))
            }
        }
    }
}

/// Carries a request of session `lane` out in a task of its own.
pub(super) fn spawn(export: Arc<Export>, lane: u64, job: Job) {
    // In sight of a drain from the moment it was admitted.
    let ends = job.request.end();
    let sight = export.core.gate.keep(&export.core, ends);
    let waits = export.wait(lane, &job);
    // Only for what was left behind before this was admitted: what comes later waits for this.
    let ahead = export.orphans.ahead(job.request.offset, ends, lane);
    tokio::spawn(async move {
        let _sight = sight;
        let request = job.request.clone();
        export.orphans.clear_of(ahead).await;
        let outcome = if export.needs_bridge(&request) {
            Bridge { export: &export, lane }.carry(&job).await
        } else {
            export.core.call(lane, request).await
        };
        job.finish(outcome, &mut Finished::default());
        drop(waits);
    });
}

struct Bridge<'a> {
    export: &'a Export,
    lane: u64,
}

fn round_down(n: u64, block: u64) -> u64 {
    n / block * block
}

impl Bridge<'_> {
    fn block(&self) -> u64 {
        self.export.core.facts().minimum_block()
    }

    fn round_up(&self, n: u64) -> u64 {
        let block = self.block();
        // The export's last, partial block: its end is the size, which the backend takes as it is.
        n.div_ceil(block).saturating_mul(block).min(self.export.size().max(n))
    }

    async fn carry(&self, job: &Job) -> Outcome {
        let request = &job.request;
        let block = self.block();
        let (start, end) = (round_down(request.offset, block), self.round_up(request.end()));
        let _exclusive = if block > 1 && request.changes_data() {
            Some(self.export.ranges.exclusive(start, end).await)
        } else {
            None
        };
        if block > 1 && request.changes_data() {
            // What is read before it lands, and written back after it, would undo it.
            self.export.core.backend.clear_of_late_writes(start, end).await;
        }
        match request.command {
            Cmd::READ => self.read(request, start, end).await,
            Cmd::WRITE => self.write(request, start, end).await,
            Cmd::WRITE_ZEROES => self.zeroes(request, start, end).await,
            Cmd::TRIM => {
                let (start, end) = (request.offset.next_multiple_of(block), round_down(request.end(), block));
                self.ranges(request, start, end).await
            }
            Cmd::CACHE => self.ranges(request, start, end).await,
            Cmd::BLOCK_STATUS => self.status(request, start, end).await,
            _ => self.export.core.call(self.lane, request.clone()).await,
        }
    }

    /// Reads `start..end` in pieces that the backend takes, all at once; gives what the request asks for.
    async fn read(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let most = self.export.core.facts().largest_payload();
        let (mut jobs, mut waiting, mut at) = (Vec::new(), Vec::new(), start);
        while at < end {
            let length = most.min(end - at);
            let part = Request { offset: at, length, ..request.clone() };
            let (job, outcome) = Job::for_task(part);
            jobs.push(job);
            waiting.push((at, length, outcome));
            at += length;
        }
        self.export.core.backend.submit(self.lane, &mut jobs, &mut Finished::default());
        let (mut pieces, mut failed) = (Vec::new(), None);
        for (at, length, outcome) in waiting {
            match outcome.await {
                Ok(Outcome::Found(Found::Whole(payload))) => pieces.push(Piece::Data { offset: at, payload }),
                Ok(Outcome::Found(Found::Pieces(more))) => pieces.extend(more),
                Ok(Outcome::Failed(failure)) => failed = failed.or(Some(failure)),
                _ => {
                    let why = format!("no answer to a READ of {length} bytes at {at}");
                    failed = failed.or(Some(Failure::new(Errno::EIO, why)));
                }
            }
        }
        if let Some(failure) = failed {
            return Outcome::Failed(failure);
        }
        let all_data = pieces.iter().all(|p| matches!(p, Piece::Data { .. }));
        let joined = match pieces {
            // Contiguous data is one piece again: what a client with DF or simple replies needs anyway.
            pieces if all_data && contiguous(&pieces) => {
                let segments = pieces
                    .iter()
                    .filter_map(|p| if let Piece::Data { payload, .. } = p { Some(payload) } else { None });
                Found::Whole(segments.flat_map(Payload::segments).cloned().collect())
            }
            pieces => Found::Pieces(pieces),
        };
        Outcome::Found(cut(joined, start, request.offset, request.length))
    }

    async fn write(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let payload = match self.filled(request, &request.payload, start, end).await {
            Ok(payload) => payload,
            Err(failure) => return Outcome::Failed(failure),
        };
        self.put(request.flags, start, payload).await
    }

    /// Writes a whole-block payload in pieces that the backend takes, all at once.
    async fn put(&self, flags: CmdFlags, start: u64, payload: Payload) -> Outcome {
        let most = self.export.core.facts().largest_payload();
        let end = start.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        let (mut jobs, mut waiting, mut at) = (Vec::new(), Vec::new(), start);
        while at < end {
            let length = most.min(end - at);
            let [skip, len] = [at - start, length].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            let part = Request { command: Cmd::WRITE, flags, offset: at, length, payload: payload.slice(skip, len) };
            let (job, outcome) = Job::for_task(part);
            jobs.push(job);
            waiting.push(outcome);
            at += length;
        }
        self.export.core.backend.submit(self.lane, &mut jobs, &mut Finished::default());
        let mut all = Outcome::Done;
        for outcome in waiting {
            match outcome.await {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Failed(failure)) => all = Outcome::Failed(failure),
                _ => all = Outcome::Failed(Failure::new(Errno::EIO, "no answer to part of a WRITE")),
            }
        }
        all
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
        let read = Request {
            command: Cmd::READ,
            flags: CmdFlags::NONE,
            offset: start,
            length: end - start,
            payload: Payload::empty(),
        };
        match self.export.core.call(self.lane, read).await {
            Outcome::Found(found) => Ok(flat(cut(found, start, from, to - from))),
            Outcome::Failed(failure) => Err(failure),
            _ => Err(Failure::new(Errno::EIO, "the backend's answer belongs to another command")),
        }
    }

    async fn zeroes(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let block = self.block();
        let (first, last) = (request.offset.next_multiple_of(block), round_down(request.end(), block));
        let whole_end = if request.end() == end { end } else { last };
        if first >= whole_end {
            // All inside one or two blocks.
            let length = usize::try_from(request.length).unwrap_or(usize::MAX);
            return self.write(&Request { payload: vec![0; length].into(), ..request.clone() }, start, end).await;
        }
        // The middle first: with FAST_ZERO it may refuse, and then nothing has been changed.
        let middle = self.ranges(request, first, whole_end).await;
        if matches!(middle, Outcome::Failed(_)) {
            return middle;
        }
        for (from, to) in [(request.offset, first.min(request.end())), (whole_end, request.end())] {
            if from < to {
                let length = usize::try_from(to - from).unwrap_or(usize::MAX);
                let flags = request.flags.without(CmdFlags::NO_HOLE).without(CmdFlags::FAST_ZERO);
                let edge = Request {
                    command: Cmd::WRITE,
                    flags,
                    offset: from,
                    length: to - from,
                    payload: vec![0; length].into(),
                };
                let outcome = self.write(&edge, round_down(from, block), self.round_up(to)).await;
                if matches!(outcome, Outcome::Failed(_)) {
                    return outcome;
                }
            }
        }
        Outcome::Done
    }

    /// A command without payload over `start..end`, in ranges that the backend takes, one after the other.
    async fn ranges(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let most = self.export.core.facts().longest_range();
        let mut at = start;
        while at < end {
            let length = most.min(end - at);
            let part = Request { offset: at, length, payload: Payload::empty(), ..request.clone() };
            let outcome = self.export.core.call(self.lane, part).await;
            if !matches!(outcome, Outcome::Done) {
                return outcome;
            }
            at += length;
        }
        Outcome::Done
    }

    /// Asks range after range as long as every context answers for all of it, and joins the answers.
    async fn status(&self, request: &Request, start: u64, end: u64) -> Outcome {
        let most = self.export.core.facts().longest_range();
        let mut joined: Vec<Status> = Vec::new();
        let mut at = start;
        while at < end {
            let length = most.min(end - at);
            let part = Request { offset: at, length, ..request.clone() };
            let found = match self.export.core.call(self.lane, part).await {
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
            let long = joined.iter().any(|s| s.extents.len() >= MAX_JOINED);
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
fn append(extents: &mut Vec<Extent>, mut more: Vec<Extent>, at: u64) {
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
            pieces.sort_by_key(|p| match p {
                Piece::Data { offset, .. } | Piece::Hole { offset, .. } => *offset,
            });
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
