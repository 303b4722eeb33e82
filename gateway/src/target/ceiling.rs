//! Requests past the real end, of a client that is shown the ceiling: there is nothing there, and it reads as zeroes.
//!
//! | request | all past the end | begins before it |
//! |---|---|---|
//! | READ | a hole | the backend's part, then a hole |
//! | BLOCK_STATUS | hole and zero; 0 in every context but `base:allocation` | the backend's part, then that |
//! | TRIM, CACHE | succeeds, does nothing | cut at the end |
//! | WRITE, WRITE_ZEROES | waits in `grow` until the export reaches so far | the same |
//!
//! Never asks the backend for a byte that it does not have. The end is the view's at the moment the request is judged:
//! whoever was answered a write past it finds it raised by then.

use std::sync::Arc;

use nbd_gateway_proto::{Cmd, Piece};

use super::bridge::append;
use super::{Core, lost};
use crate::request::{Extent, Finished, Found, Job, Outcome, Request, SessionId, Status};

/// `base:allocation`: NBD_STATE_HOLE and NBD_STATE_ZERO.
const HOLE_AND_ZERO: u64 = 3;

impl Core {
    /// Carries out a request that ends past `end`, of a client that is shown a ceiling, and does not grow the export.
    pub(crate) fn carry_to_ceiling(
        self: &Arc<Self>,
        session: SessionId,
        mut job: Job,
        end: u64,
        finished: &mut Finished,
    ) {
        let request = job.request.clone();
        let near = Request { length: end.saturating_sub(request.offset), ..request.clone() };
        match request.command {
            Cmd::TRIM | Cmd::CACHE if near.length == 0 => job.finish(Outcome::Done, finished),
            Cmd::TRIM | Cmd::CACHE => {
                job.request = near;
                self.bridge(session, job);
            }
            _ if near.length == 0 => job.finish(joined(nothing(&request, self), &request, end, self), finished),
            _ => {
                let (part, outcome) = Job::for_task(near);
                self.bridge(session, part.with_extents(job.extents()));
                let (core, held) = (Arc::clone(self), self.hold(session, job));
                held.spawn(move |held| async move {
                    let outcome = outcome.await.unwrap_or_else(|_| lost());
                    held.finish(joined(outcome, &request, end, &core), &mut Finished::default());
                });
            }
        }
    }
}

/// The backend's part of an answer to which it has nothing to say.
fn nothing(request: &Request, core: &Core) -> Outcome {
    match request.command {
        Cmd::READ => Outcome::Found(Found::Pieces(Vec::new())),
        _ => Outcome::Status(
            (0..core.facts().contexts.len()).map(|context| Status { context, extents: Vec::new() }).collect(),
        ),
    }
}

/// What the backend found before `end`, and what there is from there on.
fn joined(near: Outcome, request: &Request, end: u64, core: &Core) -> Outcome {
    let from = end.max(request.offset);
    let length = request.end().saturating_sub(from);
    match near {
        Outcome::Found(found) => {
            let mut pieces = match found {
                Found::Whole(payload) => vec![Piece::Data { offset: request.offset, payload }],
                Found::Pieces(pieces) => pieces,
            };
            pieces.push(Piece::Hole { offset: from, length });
            Outcome::Found(Found::Pieces(pieces))
        }
        Outcome::Status(mut statuses) => {
            for status in &mut statuses {
                let allocation =
                    core.facts().contexts.get(status.context).is_some_and(|name| name == "base:allocation");
                let flags = if allocation { HOLE_AND_ZERO } else { 0 };
                extend(&mut status.extents, from.saturating_sub(request.offset), Extent { length, flags });
            }
            Outcome::Status(statuses)
        }
        other => other,
    }
}

/// Adds `tail` after what the extents say about the first `near` bytes, if they say something about all of them: an answer
/// may be short.
fn extend(extents: &mut Vec<Extent>, near: u64, tail: Extent) {
    Extent::clip(extents, near);
    append(extents, vec![tail], near);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(of: &[(u64, u64)]) -> Vec<Extent> {
        of.iter().map(|(length, flags)| Extent { length: *length, flags: *flags }).collect()
    }

    #[test]
    fn a_status_is_continued_only_where_the_backend_has_told_all_of_its_part() {
        let tail = Extent { length: 8, flags: 3 };
        for (told, near, expect) in [
            (vec![], 0, vec![(8, 3)]),
            (vec![(4, 0)], 4, vec![(4, 0), (8, 3)]),
            (vec![(4, 3)], 4, vec![(12, 3)]),
            (vec![(9, 0)], 4, vec![(4, 0), (8, 3)]),
            (vec![(2, 0), (9, 3), (1, 0)], 4, vec![(2, 0), (10, 3)]),
            (vec![(3, 0)], 4, vec![(3, 0)]),
            (vec![], 4, vec![]),
        ] {
            let mut found = extents(&told);
            extend(&mut found, near, tail);
            assert_eq!(found, extents(&expect), "{told:?} of {near}");
        }
    }
}
