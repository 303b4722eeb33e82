//! Payload bytes: slices of the buffer they were received in, never copied.

use bytes::Bytes;

/// The payload of a request or of a reply chunk, in at most a few segments.
///
/// A payload that began in one receive buffer and ended in the next has two segments. Cloning shares the bytes.
#[derive(Clone, Default, Debug)]
pub struct Payload {
    first: Bytes,
    rest: Vec<Bytes>,
    len: usize,
}

impl Payload {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Appends a segment.
    pub fn push(&mut self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        self.len = self.len.saturating_add(segment.len());
        if self.first.is_empty() { self.first = segment } else { self.rest.push(segment) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments, in order; none is empty.
    pub fn segments(&self) -> impl Iterator<Item = &Bytes> {
        core::iter::once(&self.first).filter(|s| !s.is_empty()).chain(self.rest.iter())
    }

    /// The part from `from`, `len` bytes long (cut at the end), sharing the bytes.
    pub fn slice(&self, from: usize, len: usize) -> Self {
        let (mut skip, mut left, mut out) = (from, len, Self::empty());
        for segment in self.segments() {
            let start = skip.min(segment.len());
            let end = segment.len().min(start.saturating_add(left));
            skip -= start;
            left -= end - start;
            out.push(segment.slice(start..end));
        }
        out
    }

    /// All bytes in one piece. Copies if there is more than one segment: for small control payloads and tests.
    pub fn to_contiguous(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        let mut all = bytes::BytesMut::with_capacity(self.len);
        self.segments().for_each(|s| all.extend_from_slice(s));
        all.freeze()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let mut payload = Self::empty();
        payload.push(bytes);
        payload
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(segments: I) -> Self {
        let mut payload = Self::empty();
        segments.into_iter().for_each(|s| payload.push(s));
        payload
    }
}

/// One piece of what a READ found.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes at an absolute offset.
    Data {
        /// Offset in the export.
        offset: u64,
        /// At least one byte.
        payload: Payload,
    },
    /// Zeroes at an absolute offset.
    Hole {
        /// Offset in the export.
        offset: u64,
        /// At least 1.
        length: u64,
    },
}

impl Piece {
    /// Its offset in the export, and its length in bytes.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Data { offset, payload } => (*offset, u64::try_from(payload.len()).unwrap_or(u64::MAX)),
            Self::Hole { offset, length } => (*offset, *length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_slice_of_a_payload_is_the_slice_of_its_bytes(
            segments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5),
            from in 0usize..40, len in 0usize..40,
        ) {
            let all: Vec<u8> = segments.concat();
            let payload: Payload = segments.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(payload.len(), all.len());
            let start = from.min(all.len());
            let end = all.len().min(start + len);
            let slice = payload.slice(from, len);
            prop_assert_eq!(slice.len(), end - start);
            prop_assert_eq!(&slice.to_contiguous()[..], &all[start..end]);
        }
    }
}
