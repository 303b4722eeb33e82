//! The bytes beside a document.

use bytes::{Bytes, BytesMut};
use nbd_gateway_proto::Payload;
use serde::{Deserialize, Serialize};

use super::StateError;

/// Payloads, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside(BytesMut);

/// Where a payload lies: offset and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span(u64, u64);

impl Beside {
    /// Appends a payload.
    pub(crate) fn put(&mut self, payload: &Payload) -> Span {
        let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let span = Span(wide(self.0.len()), wide(payload.len()));
        payload.segments().for_each(|segment| self.0.extend_from_slice(segment));
        span
    }

    /// Copies a payload out: a slice would keep all the others alive.
    pub(crate) fn get(&self, span: Span) -> Result<Bytes, StateError> {
        let Span(offset, length) = span;
        let range = || Some(usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(length)?).ok()?);
        let bytes = range().and_then(|range| self.0.get(range));
        bytes.map(Bytes::copy_from_slice).ok_or(StateError::Outside { offset, length })
    }
}
