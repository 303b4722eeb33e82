//! A session: its agreement with its client, how far it is, and messages that are half-way, in the protocol's own form.

use serde::{Deserialize, Serialize};

use super::{Age, FailureState, FramingState, IoState, LimiterState, PeerState, Span};
use crate::request::SessionId;

/// A session, without its socket. Permits, its places in tables and its span are not here: they are made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionState {
    /// Stays the same: it chooses the lane.
    pub id: SessionId,
    pub export: String,
    pub peer: PeerState,
    pub from: String,
    pub listener: String,
    pub tls: bool,
    /// Seconds since the session was opened.
    pub age: u64,
    pub certificate: Option<CertificateState>,
    pub agreement: AgreementState,
    pub told: u64,
    pub losses: u64,
    pub repeats: bool,
    pub status: StatusState,
    pub step: StepState,
    /// For how long a client whose session the gateway closes may still leave its replies unread, in nanoseconds.
    pub patience: Option<u64>,
    pub gate: GateState,
    /// How fast it may read and write by itself; none: it has no limiters.
    pub io: Option<IoState>,
    /// How fast it is sent notices.
    pub notices: Option<LimiterState>,
    pub notify: Option<NotifyState>,
    /// The size that a BLOCK_STATUS, which a task has, waits to change.
    pub watching: Option<u64>,
    /// Received and not acted on, from the start of a request on.
    pub unread: Span,
    /// Owed to the client and not with the kernel.
    pub unsent: Span,
    pub releases: Vec<ReleaseState>,
}

/// The certificate that the client has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateState {
    pub subject: String,
    pub sans: Vec<String>,
}

/// What was agreed on in the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgreementState {
    pub framing: FramingState,
    pub flags: u16,
    /// By their numbers, which the client has, and their names, by which another process knows them.
    pub contexts: Vec<(usize, String)>,
    pub size: u64,
    pub style: StyleState,
    pub features: u16,
    pub past_end: PastEndState,
    pub ceiling: bool,
    /// The `x-resize:` contexts.
    pub sizes: Vec<String>,
    pub verbs: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StyleState {
    ExplicitSimple,
    ExplicitStructured,
    Automatic,
    Stock,
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PastEndState {
    Grow,
    GrowAndCut,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StatusState {
    Open,
    Draining,
    Left,
    Closing,
}

/// What of a request can't go back into the bytes that are unread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StepState {
    /// Nothing.
    Next,
    /// An answer that waits for a permit; a success if there is no failure.
    Answers(HeaderState, Option<FailureState>),
    /// A refusal, and how much of the refused payload has yet to come.
    Skips(HeaderState, FailureState, u64),
    /// No further request is read.
    Closing(ClosingState),
}

/// A request's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeaderState {
    pub cookie: u64,
    pub command: u16,
    pub flags: u16,
    pub offset: u64,
    pub length: u64,
}

/// Why no further request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClosingState {
    Disconnected,
    Closed,
    Torn,
    ByGateway,
    /// The client broke the protocol, or its connection failed.
    Broken,
}

/// How far the first unread request has come through its limits: it does not pay twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateState {
    pub passed: usize,
    /// How long it has to wait for the last of them, in nanoseconds.
    pub waits: Option<u64>,
}

/// A standing NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotifyState {
    pub header: HeaderState,
    pub latest: u64,
    pub due: bool,
    /// Chunks that may still be sent; none: no bound.
    pub credit: Option<u32>,
    pub interval: u64,
    /// When the last chunk was sent.
    pub sent: Option<Age>,
    pub merged: u64,
    pub begun: bool,
}

/// What is given back after so many of the unsent bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseState {
    pub after: usize,
    pub requests: u32,
    pub resizes: u32,
    pub bytes: u64,
    pub notices: u32,
}
