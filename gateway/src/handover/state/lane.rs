//! A lane: its requests in flight, unread replies, unsent bytes.

use serde::{Deserialize, Serialize};

use super::{Age, FramingState, LateState, LinkState, RequestState, Span, TicketState};

/// What the lanes of one export share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DurabilityState {
    pub clock: u64,
    pub written: u64,
    pub flushed: u64,
    pub known: u64,
    pub newcomers: bool,
    pub lost_at: u64,
    pub losses: u64,
}

/// The lanes of one export, and what they share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LanesState {
    pub durability: DurabilityState,
    pub late: LateState,
    pub lanes: Vec<LaneState>,
}

/// A lane, without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneState {
    /// The present connection, or the last one.
    pub link: Option<LinkState>,
    pub table: TableState,
    /// None: there is no connection.
    pub reader: Option<ReaderState>,
    /// Not with the kernel yet.
    pub unsent: Span,
    pub away: AwayState,
    /// Whether the connection is to be replaced.
    pub renews: bool,
    /// Whether the lane has to stay without a connection.
    pub aside: bool,
    /// For how long it has been connected, or not, in nanoseconds; how often it was; and what went wrong last.
    pub unchanged: u64,
    pub connections: u64,
    pub trouble: Option<String>,
}

/// The reading side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReaderState {
    pub framing: FramingState,
    /// The numbers of the export's contexts on this connection.
    pub contexts: Vec<u32>,
    /// Received and not acted on, from the start of a message on.
    pub unread: Span,
    /// How many bytes that nobody wants are received before `unread`.
    pub skip: u64,
    /// Whether this connection has answered any request.
    pub answered: bool,
    /// Whether the server has said that it is shutting down; and since when that is known.
    pub refused: bool,
    pub leaving: Option<Age>,
    /// Whether the server takes a FLUSH.
    pub flushes: bool,
}

/// How long the server has been away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwayState {
    /// Since when requests have waited for an answer of this server.
    pub since: Option<Age>,
    /// Before the next attempt to connect, in nanoseconds; and the longest that the pause after it may be.
    pub pause: u64,
    pub step: u64,
    /// None: there is a connection.
    pub absence: Option<AbsenceState>,
}

/// A time without a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AbsenceState {
    /// Whether the gateway itself has closed the connection.
    pub planned: bool,
    /// Why there is none.
    pub failure: String,
    /// For how long requests wait, in nanoseconds; none: they have not begun to.
    pub hold: Option<u64>,
    pub given_up: bool,
}

/// Whether a lane's requests are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PhaseState {
    Away,
    Up,
    Held,
    Leaving,
    /// They fail, with this sentence.
    Down(String),
}

/// Requests in flight, and answers lately given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableState {
    pub phase: PhaseState,
    pub tag: u32,
    pub slots: Vec<SlotState>,
    pub answered: Vec<AnsweredState>,
    pub forgotten: Option<u64>,
}

/// A request in flight. Its key and its tag are its cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotState {
    pub key: u32,
    pub tag: u32,
    /// Nobody waits for it if there is none: its answer is read and thrown away.
    pub ticket: Option<TicketState>,
    pub request: RequestState,
    pub sent: bool,
    pub doubtful: bool,
    pub at: u64,
    pub late: u64,
    pub covers: u64,
    pub reply: Option<ReplyState>,
}

/// What has come of a reply in pieces, but for what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplyState {
    pub chunks: u64,
    pub error: Option<FailureState>,
    pub fault: Option<String>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureState {
    pub errno: u32,
    pub message: String,
    pub offset: Option<u64>,
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnsweredState {
    pub at: u64,
    pub offset: u64,
    pub end: u64,
}
