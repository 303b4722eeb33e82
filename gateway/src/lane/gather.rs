//! A reply that comes in pieces, until it is whole.
//!
//! Pieces are checked against the request and against each other. A reply with a piece outside its request, or one that
//! says a byte twice or never, fails that request; the stream is still in step, so the lane goes on.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nbd_gateway_proto::reply::Body;
use nbd_gateway_proto::{Cmd, Errno, Piece};

use crate::request::{Extent, Failure, Found, Outcome, Request, Status};

/// The smallest piece of a READ that counts as useful, in bytes. Each piece costs some hundred bytes here, outside the byte
/// permits; with this bound that is at most a quarter of the READ's length.
const SMALL: u64 = 512;
/// The chunks that the reply to a READ of any length may have.
const FEW: u64 = 16;
/// The chunks that any other reply may have: more than one for each context that there can be.
const OTHERS: u64 = 128;

/// The most chunks that a reply to this request may have. One that goes on after that never ends, and keeps a thread busy.
pub(super) fn most_chunks(request: &Request) -> u64 {
    if request.command == Cmd::READ { (request.length / SMALL).saturating_add(FEW) } else { OTHERS }
}

/// What has come so far.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// How many chunks have come.
    chunks: u64,
    pieces: Vec<Piece>,
    /// Ranges covered by `pieces`: start to end.
    covered: BTreeMap<u64, u64>,
    statuses: Vec<Status>,
    error: Option<Failure>,
    fault: Option<Cow<'static, str>>,
}

/// A reply that is whole in one event: the usual case, without a gather. `None` if it must be gathered.
pub(super) fn at_once(request: &Request, body: Body) -> Result<Outcome, Body> {
    match body {
        Body::Whole(payload) => Ok(Outcome::Found(Found::Whole(payload))),
        Body::Piece(Piece::Data { offset, payload })
            if offset == request.offset && u64::try_from(payload.len()) == Ok(request.length) =>
        {
            Ok(Outcome::Found(Found::Whole(payload)))
        }
        Body::Resize { size } if request.command == Cmd::RESIZE => Ok(Outcome::Resized(size)),
        Body::Nothing if !matches!(request.command, Cmd::READ | Cmd::BLOCK_STATUS) => Ok(Outcome::Done),
        Body::Error { errno, message, offset } => {
            Ok(Outcome::Failed(Failure { errno, message: message.into(), offset }))
        }
        other => Err(other),
    }
}

impl Gather {
    /// Takes one event. `contexts` are the numbers of the export's contexts on this connection. False: the reply has more
    /// than [`most_chunks`].
    pub(super) fn add(&mut self, request: &Request, body: Body, contexts: &[u32]) -> bool {
        self.chunks += 1;
        if self.chunks > most_chunks(request) {
            return false;
        }
        match body {
            Body::Nothing => {}
            Body::Whole(payload) => self.piece(request, Piece::Data { offset: request.offset, payload }),
            Body::Piece(piece) => self.piece(request, piece),
            Body::Status { context, extents } => self.status(request, context, extents, contexts),
            Body::Resize { .. } => self.fault("a RESIZE chunk in reply to another command"),
            Body::Error { errno, message, offset } => {
                self.error.get_or_insert(Failure { errno, message: message.into(), offset });
            }
        }
        true
    }

    fn fault(&mut self, what: &'static str) {
        self.fault.get_or_insert(Cow::Borrowed(what));
    }

    fn piece(&mut self, request: &Request, piece: Piece) {
        let (start, length) = piece.range();
        let Some(end) = start.checked_add(length).filter(|end| start >= request.offset && *end <= request.end()) else {
            return self.fault("a chunk outside its request");
        };
        if self.fault.is_some() {
            return;
        }
        let before = self.covered.range(..end).next_back();
        if before.is_some_and(|(_, covered)| *covered > start) {
            return self.fault("overlapping chunks");
        }
        self.covered.insert(start, end);
        self.pieces.push(piece);
    }

    fn status(&mut self, request: &Request, context: u32, extents: Vec<(u64, u64)>, contexts: &[u32]) {
        if request.command != Cmd::BLOCK_STATUS {
            return self.fault("extents in reply to another command");
        }
        // A context that was not selected on this connection is none of the client's.
        let Some(context) = contexts.iter().position(|id| *id == context) else { return };
        if self.statuses.iter().any(|s| s.context == context) {
            return self.fault("two chunks of extents for one context");
        }
        let extents = extents.into_iter().map(|(length, flags)| Extent { length, flags }).collect();
        self.statuses.push(Status { context, extents });
    }

    /// The whole reply, and what the backend did wrong in it, if anything.
    pub(super) fn finish(mut self, request: &Request) -> (Outcome, Option<Cow<'static, str>>) {
        let covered: u64 = self.covered.iter().map(|(start, end)| end - start).sum();
        if self.error.is_none() {
            match request.command {
                Cmd::READ if covered != request.length => self.fault("chunks that leave out part of the READ"),
                Cmd::BLOCK_STATUS if self.statuses.is_empty() => self.fault("no extents at all"),
                _ => {}
            }
        }
        if let Some(fault) = self.fault {
            let failure = Failure::new(Errno::EIO, format!("the backend answered with {fault}"));
            return (Outcome::Failed(failure), Some(fault));
        }
        let outcome = match (self.error, request.command) {
            (Some(failure), _) => Outcome::Failed(failure),
            (None, Cmd::READ) => Outcome::Found(Found::Pieces(self.pieces)),
            (None, Cmd::BLOCK_STATUS) => Outcome::Status(self.statuses),
            (None, _) => Outcome::Done,
        };
        (outcome, None)
    }
}

#[cfg(test)]
mod suspend;
#[cfg(test)]
mod tests {
    use nbd_gateway_proto::CmdFlags;

    use super::*;

    fn read(offset: u64, length: u64) -> Request {
        Request::new(Cmd::READ, CmdFlags::NONE, offset, length)
    }

    fn data(offset: u64, length: usize) -> Body {
        Body::Piece(Piece::Data { offset, payload: vec![1; length].into() })
    }

    fn faults(bodies: Vec<Body>) -> Option<Cow<'static, str>> {
        let request = read(100, 50);
        let mut gather = Gather::default();
        bodies.into_iter().for_each(|b| assert!(gather.add(&request, b, &[])));
        gather.finish(&request).1
    }

    #[test]
    fn a_read_may_come_in_any_order_and_must_come_whole() {
        assert_eq!(faults(vec![data(120, 30), Body::Piece(Piece::Hole { offset: 100, length: 20 })]), None);
        assert_eq!(faults(vec![data(100, 20), data(119, 31)]), Some("overlapping chunks".into()));
        assert_eq!(faults(vec![data(119, 31), data(100, 20)]), Some("overlapping chunks".into()));
        assert_eq!(faults(vec![data(100, 50), data(100, 50)]), Some("overlapping chunks".into()));
        assert_eq!(faults(vec![data(90, 20)]), Some("a chunk outside its request".into()));
        assert_eq!(faults(vec![data(140, 20)]), Some("a chunk outside its request".into()));
        assert_eq!(
            faults(vec![Body::Piece(Piece::Hole { offset: u64::MAX, length: 9 })]),
            Some("a chunk outside its request".into())
        );
        assert_eq!(faults(vec![data(100, 20), data(121, 29)]), Some("chunks that leave out part of the READ".into()));
    }

    #[test]
    fn a_read_in_crumbs_is_told_of_before_it_fills_the_memory() {
        let request = read(0, 1 << 20);
        let mut gather = Gather::default();
        let taken = (0..1 << 20).take_while(|at| gather.add(&request, data(*at, 1), &[])).count();
        assert_eq!(taken, 2048 + 16);
        assert_eq!(gather.pieces.len(), taken);
    }

    #[test]
    fn a_reply_that_goes_on_without_end_is_told_of() {
        for (command, most) in [(Cmd::READ, 17), (Cmd::BLOCK_STATUS, 128), (Cmd::WRITE, 128)] {
            let request = Request { command, ..read(0, 512) };
            for endless in [
                Body::Piece(Piece::Hole { offset: 0, length: 512 }),
                Body::Error { errno: Errno::EIO, message: String::new(), offset: None },
                Body::Status { context: 99, extents: vec![(512, 0)] },
            ] {
                let mut gather = Gather::default();
                assert_eq!((0..1000).take_while(|_| gather.add(&request, endless.clone(), &[])).count(), most);
            }
        }
    }

    #[test]
    fn an_error_after_data_is_an_error_and_keeps_its_place() {
        let request = read(100, 50);
        let mut gather = Gather::default();
        assert!(gather.add(&request, data(100, 10), &[]));
        gather.add(
            &request,
            Body::Error { errno: Errno::EIO, message: "bad sector".to_owned(), offset: Some(110) },
            &[],
        );
        let (outcome, fault) = gather.finish(&request);
        assert_eq!(fault, None);
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure, Failure { errno: Errno::EIO, message: "bad sector".into(), offset: Some(110) });
    }

    #[test]
    fn contexts_are_known_by_their_numbers_on_this_connection() {
        let mut request = read(0, 4096);
        request.command = Cmd::BLOCK_STATUS;
        let mut gather = Gather::default();
        gather.add(&request, Body::Status { context: 9, extents: vec![(4096, 3)] }, &[7, 9]);
        gather.add(&request, Body::Status { context: 4, extents: vec![(4096, 3)] }, &[7, 9]);
        let (outcome, _) = gather.finish(&request);
        let Outcome::Status(statuses) = outcome else { panic!("{outcome:?}") };
        assert_eq!(statuses, [Status { context: 1, extents: vec![Extent { length: 4096, flags: 3 }] }]);
    }
}
