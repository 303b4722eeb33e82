//! A range of an export.

use nbd_gateway_policy::types::{ByteRange, Size};
use serde::{Deserialize, Serialize};

use super::StateError;

/// Where a range begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RangeState(u64, u64);

impl From<ByteRange> for RangeState {
    fn from(range: ByteRange) -> Self {
        Self(range.start().bytes(), range.end().bytes())
    }
}

impl TryFrom<RangeState> for ByteRange {
    type Error = StateError;

    fn try_from(RangeState(from, to): RangeState) -> Result<Self, StateError> {
        let range = || Self::new(Size::new(from).ok()?, Size::new(to).ok()?);
        range().ok_or(StateError::Range { from, to })
    }
}
