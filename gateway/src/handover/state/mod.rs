//! The state types: plain named fields, written as JSON. Nothing else of the crate derives serde for this, but
//! [`SessionId`].
//!
//! Times are ages, for the clock of one process means nothing to another. Payloads lie beside the document ([`Beside`]), which
//! points into them.

mod age;
mod beside;
mod coordinator;
mod export;
mod framing;
mod held;
mod lane;
mod late;
mod limiter;
mod peer;
mod range;
mod request;
mod session;
mod style;
mod ticket;

pub(crate) use age::{Age, Wait, nanos};
pub(crate) use beside::{Beside, Span};
pub(crate) use coordinator::{AccountState, CoordinatorState, DisprovedState, ExposedState, StreamState};
pub(crate) use export::{ExportState, ReconnectState};
pub(crate) use framing::FramingState;
pub(crate) use held::HeldState;
pub(crate) use lane::{
    AbsenceState, AnsweredState, AwayState, DurabilityState, FailureState, LaneState, LanesState, PhaseState,
    ReaderState, ReplyState, SlotState, TableState,
};
pub(crate) use late::{LateState, LateWriteState, LinkState};
pub(crate) use limiter::{IoState, LimiterState};
pub(crate) use peer::PeerState;
pub(crate) use range::RangeState;
use range::size;
pub(crate) use request::RequestState;
pub(crate) use session::{
    AgreementState, CertificateState, ClosingState, GateState, HeaderState, NotifyState, PastEndState, ReleaseState,
    SessionState, StatusState, StepState, StyleState,
};
pub(crate) use ticket::TicketState;

/// Why a state can't be resumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{length} bytes at {offset} are not among the bytes that came with the state")]
    Outside { offset: u64, length: u64 },
    #[error("no range goes from {from} to {to}")]
    Range { from: u64, to: u64 },
    #[error("two requests of one lane have the place {0}")]
    Twice(u32),
    #[error("export `{export}` has no context `{context}` with the number {number}")]
    Context { export: String, context: String, number: usize },
    #[error("cannot read the server's process `{0}`")]
    Server(String),
    #[error("{came} lanes came, and the export has {has}")]
    Lanes { came: usize, has: usize },
}

/// By way of JSON and back, as to another process.
pub(crate) fn carried<T: serde::Serialize + serde::de::DeserializeOwned>(state: &T) -> T {
    let document = serde_json::to_string(state).unwrap();
    serde_json::from_str(&document).unwrap()
}
