//! What a READ brings: pieces in any order that must be the range asked for, no more and no less.

use super::ClientError;
use nbd_gateway_proto::{Payload, Piece};

/// The range of one READ, filling up.
#[derive(Debug)]
pub(super) struct Range {
    offset: u64,
    length: u64,
    pieces: Vec<Piece>,
    got: u64,
}

impl Range {
    /// Of a READ of `length` bytes at `offset`. For other commands `length` is 0: they bring nothing.
    pub(super) fn new(offset: u64, length: u64) -> Self {
        Self { offset, length, pieces: Vec::new(), got: 0 }
    }

    /// The whole range at once, as a simple reply has it.
    pub(super) fn whole(&mut self, payload: Payload) -> Result<(), ClientError> {
        self.push(Piece::Data { offset: self.offset, payload })
    }

    /// A piece. What goes past the range is refused now, so that pieces can't pile up; the rest by [`Self::finish`].
    pub(super) fn push(&mut self, piece: Piece) -> Result<(), ClientError> {
        let (start, length) = piece.range();
        let inside = start >= self.offset
            && start.checked_add(length).is_some_and(|end| end <= self.offset.saturating_add(self.length));
        self.got = self.got.saturating_add(length);
        if !inside {
            return Err(self.bad("lies outside of it"));
        }
        if self.got > self.length {
            return Err(self.bad("overlaps"));
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// The pieces in order.
    pub(super) fn finish(mut self) -> Result<Vec<Piece>, ClientError> {
        self.pieces.sort_by_key(|piece| piece.range().0);
        let mut next = self.offset;
        for piece in &self.pieces {
            let (start, length) = piece.range();
            if start < next {
                return Err(self.bad("overlaps"));
            }
            if start > next {
                return Err(self.bad("has a gap"));
            }
            next = next.saturating_add(length);
        }
        if self.got != self.length { Err(self.bad("is not all there")) } else { Ok(self.pieces) }
    }

    fn bad(&self, what: &'static str) -> ClientError {
        ClientError::BadData { offset: self.offset, length: self.length, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(offset: u64, length: usize) -> Piece {
        Piece::Data { offset, payload: vec![1; length].into() }
    }

    fn fill(pieces: Vec<Piece>) -> Result<Vec<Piece>, ClientError> {
        let mut range = Range::new(10, 10);
        pieces.into_iter().try_for_each(|piece| range.push(piece))?;
        range.finish()
    }

    #[test]
    fn pieces_that_are_not_the_range_are_refused() {
        for (pieces, what) in [
            (vec![data(9, 1)], "lies outside of it"),
            (vec![data(19, 2)], "lies outside of it"),
            (vec![Piece::Hole { offset: 11, length: u64::MAX }], "lies outside of it"),
            (vec![data(10, 9)], "is not all there"),
            (vec![], "is not all there"),
            (vec![data(10, 4), data(15, 5)], "has a gap"),
            (vec![data(10, 4), data(12, 6)], "overlaps"),
            (vec![data(10, 10), data(10, 1)], "overlaps"),
        ] {
            let error = fill(pieces).unwrap_err().to_string();
            let expected = format!("the server broke the protocol: its data for the 10 bytes at offset 10 {what}");
            assert_eq!(error, expected);
        }
    }

    proptest! {
        #[test]
        fn a_range_cut_and_shuffled_comes_back_in_order(mut cuts in proptest::collection::vec(11u64..20, 0..6), seed: u64) {
            cuts.extend([10, 20]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut pieces: Vec<Piece> = cuts
                .windows(2)
                .map(|w| Piece::Hole { offset: w[0], length: w[1] - w[0] })
                .collect();
            pieces.sort_by_key(|piece| piece.range().0.wrapping_mul(seed | 1));
            let sorted = fill(pieces).unwrap();
            prop_assert_eq!(sorted.iter().map(|piece| piece.range().0).collect::<Vec<_>>(), &cuts[..cuts.len() - 1]);
        }
    }
}
