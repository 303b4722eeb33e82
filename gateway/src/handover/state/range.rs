//! A range of an export, and a size.

use nbd_gateway_policy::types::{ByteRange, Size};
use serde::{Deserialize, Serialize};

use super::StateError;

/// Where a range begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", try_from = "(u64, u64)")]
pub(crate) struct RangeState(ByteRange);

impl From<ByteRange> for RangeState {
    fn from(range: ByteRange) -> Self {
        Self(range)
    }
}

impl From<RangeState> for ByteRange {
    fn from(RangeState(range): RangeState) -> Self {
        range
    }
}

impl From<RangeState> for (u64, u64) {
    fn from(RangeState(range): RangeState) -> Self {
        (range.start().bytes(), range.end().bytes())
    }
}

impl TryFrom<(u64, u64)> for RangeState {
    type Error = StateError;

    fn try_from((from, to): (u64, u64)) -> Result<Self, StateError> {
        let range = || ByteRange::new(Size::new(from).ok()?, Size::new(to).ok()?);
        Ok(Self(range().ok_or(StateError::Range { from, to })?))
    }
}

/// A size, in bytes.
pub(super) mod size {
    use nbd_gateway_policy::types::Size;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(size: &Size, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(size.bytes())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
        Size::new(u64::deserialize(from)?).map_err(de::Error::custom)
    }
}
