//! How requests and replies are framed.

use nbd_gateway_proto::Framing;
use serde::{Deserialize, Serialize};

/// How requests and replies are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FramingState {
    Simple,
    Structured,
    Extended,
}

impl From<Framing> for FramingState {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Simple => Self::Simple,
            Framing::Structured => Self::Structured,
            Framing::Extended => Self::Extended,
        }
    }
}

impl From<FramingState> for Framing {
    fn from(framing: FramingState) -> Self {
        match framing {
            FramingState::Simple => Self::Simple,
            FramingState::Structured => Self::Structured,
            FramingState::Extended => Self::Extended,
        }
    }
}
