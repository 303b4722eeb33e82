//! Zeroes at a backend: making a range read as such, and finding out whether one does already.
//!
//! Of a window's backend, what the allocation map (base:allocation) says is a hole and reads as zeroes is left as it is:
//! a window over a large sparse disk costs what it has used. Without that context everything is zeroed, for nobody can
//! tell. Requests are the gateway's own, one after the other, and never past the range.

use nbd_gateway_policy::types::{ByteRange, Span};
use std::time::Duration;

use nbd_gateway_policy::style::Grows;
use nbd_gateway_proto::{Cmd, CmdFlags, ExportFlags, Framing, Payload, Piece};

use super::Core;
use crate::fault::Fault;
use crate::request::{Found, Outcome, Request};

/// The context, proto.md "base:allocation", and its flags.
const ALLOCATION: &str = "base:allocation";
const HOLE: u64 = 1;
const ZERO: u64 = 2;

/// As much per request as keeps a backend from thinking for long; a WRITE's zeroes also have to be sent.
const ZEROES: u64 = 1 << 30;
const WRITTEN: u64 = 1 << 20;
/// As much of the map as is asked for at a time, where lengths have 64 bits.
const MAPPED: u64 = 1 << 40;
/// An answer that covers less than this is worth no further question: this much is taken as data.
const LEAST: u64 = 64 << 10;
/// The most that is read to see whether a disk is zero, in bytes.
const READ_AT_MOST: u64 = 256 << 20;

/// Makes a range read as zeroes, durably.
///
/// # Errors
/// The backend's error, or that it did not answer within `timeout`.
pub(crate) async fn zero(core: &Core, range: ByteRange, timeout: Duration) -> Result<(), Fault> {
    let backend = Backend { core, timeout };
    backend.settled(range).await?;
    let (mut at, end) = (range.start().bytes(), range.end().bytes());
    let mut wrote = false;
    while at < end {
        let map = if core.facts().style.grows == Grows::Window { backend.map(at, end).await } else { None };
        for (from, to, flags) in map.unwrap_or_else(|| data(at, end)) {
            if flags & (HOLE | ZERO) != HOLE | ZERO {
                backend.zero(from, to).await?;
                wrote = true;
            }
            at = to;
        }
    }
    if wrote
        && core.facts().flags.has(ExportFlags::SEND_FLUSH)
        && let Outcome::Failed(failure) = backend.call(Request::new(Cmd::FLUSH, CmdFlags::NONE, 0, 0)).await?
    {
        return Err(Fault::from(failure).saying(|why| format!("FLUSH after zeroing: {why}")));
    }
    Ok(())
}

/// Whether a range reads as zeroes: by the allocation map, and by reading the rest, as long as that is not too much. What
/// can't be told, or not at bounded cost, does not.
///
/// # Errors
/// The backend's error, or that it did not answer within `timeout`.
pub(crate) async fn reads_as_zeroes(core: &Core, range: ByteRange, timeout: Duration) -> Result<bool, Fault> {
    let backend = Backend { core, timeout };
    backend.settled(range).await?;
    let (mut at, end) = (range.start().bytes(), range.end().bytes());
    let mut left = READ_AT_MOST;
    while at < end {
        for (from, to, flags) in backend.map(at, end).await.unwrap_or_else(|| data(at, end)) {
            if flags & ZERO == 0 {
                let Some(rest) = left.checked_sub(to - from) else { return Ok(false) };
                left = rest;
                if !backend.is_zero(from, to).await? {
                    return Ok(false);
                }
            }
            at = to;
        }
    }
    Ok(true)
}

/// Pieces that follow each other: from, to, flags. Not empty.
type Pieces = Vec<(u64, u64, u64)>;

/// Without a map, everything counts as data.
fn data(at: u64, end: u64) -> Pieces {
    vec![(at, end, 0)]
}

/// Extents from `at` on as pieces up to `end`, cut to whole blocks. `None` if that is nowhere.
fn pieces(extents: impl Iterator<Item = (u64, u64)>, at: u64, end: u64, block: u64) -> Option<Pieces> {
    let (mut pieces, mut from): (Pieces, u64) = (Vec::new(), at);
    for (length, flags) in extents {
        let to = from.saturating_add(length).min(end);
        match pieces.last_mut() {
            Some((_, last, same)) if *same == flags => *last = to,
            _ if from < to => pieces.push((from, to, flags)),
            _ => {}
        }
        from = to;
    }
    if block > 1 && pieces.iter().any(|(_, to, _)| to % block != 0 && *to != end) {
        // A server tells its extents in whole blocks; one that does not is not believed.
        return None;
    }
    let enough = from >= end || from - at >= LEAST;
    (enough && !pieces.is_empty()).then_some(pieces)
}

struct Backend<'a> {
    core: &'a Core,
    timeout: Duration,
}

impl Backend<'_> {
    async fn call(&self, request: Request) -> Result<Outcome, Fault> {
        let (command, timeout) = (request.command, self.timeout);
        let changes = request.range().filter(|_| request.changes_data());
        let answer = tokio::time::timeout(timeout, self.core.call(request)).await;
        if let (Some(range), Err(_), Some(lanes)) = (changes, &answer, self.core.lanes()) {
            // Zeroes that land after a client has written there would undo that.
            lanes.left_behind(range);
        }
        answer.map_err(|_| Fault::backend(format!("no answer to {command} within {}", Span(timeout))).or_done())
    }

    /// Late writes are not in the allocation map yet, and are not read.
    async fn settled(&self, range: ByteRange) -> Result<(), Fault> {
        let (core, timeout) = (self.core, self.timeout);
        tokio::time::timeout(timeout, core.clear_of_late_writes(range)).await.map_err(|_| {
            Fault::backend(format!(
                "a write of a lost connection may still land there after {} (late-write-guard)",
                Span(timeout)
            ))
        })
    }

    /// The map from `at` on, at most up to `end`.
    async fn map(&self, at: u64, end: u64) -> Option<Pieces> {
        let facts = self.core.facts();
        let context = facts.contexts.iter().position(|name| name == ALLOCATION)?;
        let most = if facts.framing == Framing::Extended { MAPPED } else { facts.longest_range() };
        let length = most.min(end - at);
        let asked = self.call(Request::new(Cmd::BLOCK_STATUS, CmdFlags::NONE, at, length)).await;
        let Ok(Outcome::Status(found)) = asked else { return None };
        let status = found.into_iter().find(|status| status.context == context)?;
        let extents = status.extents.iter().map(|extent| (extent.length, extent.flags));
        pieces(extents, at, at + length, facts.minimum_block())
    }

    async fn zero(&self, from: u64, to: u64) -> Result<(), Fault> {
        let facts = self.core.facts();
        let by_zeroes = facts.flags.has(ExportFlags::SEND_WRITE_ZEROES);
        let most = if by_zeroes { ZEROES } else { WRITTEN.min(facts.largest_payload()) };
        let mut at = from;
        while at < to {
            let length = most.min(to - at);
            let zeroes = if by_zeroes {
                Request::new(Cmd::WRITE_ZEROES, CmdFlags::NONE, at, length)
            } else {
                let payload = vec![0; usize::try_from(length).unwrap_or(0)].into();
                Request::write(CmdFlags::NONE, at, payload)
            };
            match self.call(zeroes).await? {
                Outcome::Done => at += length,
                Outcome::Failed(failure) => return Err(failure.into()),
                _ => return Err(Fault::backend("an answer to another command")),
            }
        }
        Ok(())
    }

    async fn is_zero(&self, from: u64, to: u64) -> Result<bool, Fault> {
        let most = WRITTEN.min(self.core.facts().largest_payload());
        let mut at = from;
        while at < to {
            let length = most.min(to - at);
            match self.call(Request::new(Cmd::READ, CmdFlags::NONE, at, length)).await? {
                Outcome::Found(found) if zeroes(&found) => at += length,
                Outcome::Found(_) => return Ok(false),
                Outcome::Failed(failure) => return Err(failure.into()),
                _ => return Err(Fault::backend("an answer to another command")),
            }
        }
        Ok(true)
    }
}

fn zeroes(found: &Found) -> bool {
    let zero = |payload: &Payload| payload.segments().all(|bytes| bytes.iter().all(|byte| *byte == 0));
    match found {
        Found::Whole(payload) => zero(payload),
        Found::Pieces(pieces) => pieces.iter().all(|piece| match piece {
            Piece::Data { payload, .. } => zero(payload),
            Piece::Hole { .. } => true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_ends_where_it_was_asked_to_and_is_dropped_where_it_leads_nowhere() {
        let told = |extents: &[(u64, u64)], end, block| pieces(extents.iter().copied(), 100, end, block);
        assert_eq!(told(&[(50, 3), (10, 3), (900, 0)], 300, 1), Some(vec![(100, 160, 3), (160, 300, 0)]));
        assert_eq!(told(&[(LEAST, 3)], 1 << 30, 1), Some(vec![(100, 100 + LEAST, 3)]));
        assert_eq!(told(&[(u64::MAX, 0)], 300, 1), Some(vec![(100, 300, 0)]));
        assert_eq!(told(&[], 300, 1), None);
        assert_eq!(told(&[(1, 3)], 1 << 30, 1), None, "a byte for each question");
        assert_eq!(told(&[(28, 3), (1, 0), (500, 3)], 356, 64), None, "an end inside a block");
    }

    #[test]
    fn whatever_a_backend_tells_its_pieces_follow_each_other_and_lead_on() {
        use proptest::prelude::*;
        proptest!(|(
            extents in prop::collection::vec((1..200_000_u64, 0..4_u64), 0..20), at in 0..9_u64, long in 1..500_000_u64,
        )| {
            let Some(pieces) = pieces(extents.into_iter(), at, at + long, 1) else { return Ok(()) };
            let mut next = at;
            for (from, to, _) in pieces {
                prop_assert!(from == next && from < to && to <= at + long);
                next = to;
            }
            prop_assert!(next == at + long || next - at >= LEAST);
        });
    }
}
