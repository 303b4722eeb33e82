//! A lane: its requests in flight, what came and was not acted on, what is not sent.

use serde::{Deserialize, Serialize};

use super::{Age, FramingState, LinkState, Span, TicketState};

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

/// What a lane's task knows of its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskState {
    pub link: Option<LinkState>,
    /// Whether the server takes a FLUSH.
    pub flushes: bool,
    /// Whether the connection is to be replaced.
    pub renews: bool,
    /// Since when the server is shutting down.
    pub leaving: Option<Age>,
    /// Since when requests have waited for an answer of this server.
    pub away: Option<Age>,
    /// Before the next attempt to connect, in nanoseconds.
    pub pause: u64,
    /// For how long it has been connected, in nanoseconds; how often; and what went wrong last.
    pub up: u64,
    pub connections: u64,
    pub trouble: Option<String>,
}

/// A lane, without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneState {
    pub framing: FramingState,
    /// The numbers of the export's contexts on this connection.
    pub contexts: Vec<u32>,
    pub table: TableState,
    /// Received and not acted on, from the start of a message on.
    pub unread: Span,
    /// How many bytes that nobody wants are received before `unread`.
    pub skip: u64,
    /// Not with the kernel yet.
    pub unsent: Span,
    /// Whether this connection has answered any request.
    pub answered: bool,
    /// Whether the server has said that it is shutting down.
    pub refused: bool,
}

/// Requests in flight, and answers lately given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableState {
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

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestState {
    pub command: u16,
    pub flags: u16,
    pub offset: u64,
    pub length: u64,
    pub payload: Span,
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
