//! The seam between a client and whatever serves its export: a request as data, and its outcome as data.
//!
//! A backend (lanes to an NBD server, or an embedded disk) takes a [`Job`] and finishes it exactly once with an
//! [`Outcome`]. Neither side knows how the other frames its bytes: a backend knows of a client what its [`Ticket`] holds,
//! and what [`Client`] lets it do. A job that is dropped unfinished ends with EIO, so a reply can never be forgotten.

mod finished;
mod job;
mod origin;
mod outcome;
mod ticket;

pub(crate) use finished::Finished;
pub(crate) use job::{Heard, Job, Watcher};
pub(crate) use origin::{Origin, SessionId};
pub(crate) use outcome::{Extent, Failure, Found, Outcome, SHUTTING_DOWN, Status};
pub(crate) use ticket::{Client, Counts, PendingReply, Ticket};

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::{Cmd, CmdFlags, Payload};

/// One admitted request. `offset` and `length` are inside the export; lengths are 64-bit whatever the client's framing.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What to do; never DISC.
    pub command: Cmd,
    /// Only flags that this command and this export allow; PAYLOAD_LEN never.
    pub flags: CmdFlags,
    /// First byte concerned.
    pub offset: u64,
    /// Number of bytes concerned.
    pub length: u64,
    /// What a WRITE writes: exactly `length` bytes. Empty for all others.
    pub payload: Payload,
}

impl Request {
    /// A request without a payload.
    pub(crate) fn new(command: Cmd, flags: CmdFlags, offset: u64, length: u64) -> Self {
        Self { command, flags, offset, length, payload: Payload::empty() }
    }

    /// A WRITE of all of `payload`.
    pub(crate) fn write(flags: CmdFlags, offset: u64, payload: Payload) -> Self {
        let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        Self { command: Cmd::WRITE, flags, offset, length, payload }
    }

    /// The first byte after the range.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The bytes concerned, as far as an export can have them; none of a FLUSH.
    pub(crate) fn range(&self) -> Option<ByteRange> {
        ByteRange::at(self.offset, self.length)
    }

    /// The bytes of its payload, or of its answer's.
    pub(crate) fn payload_bytes(&self) -> u64 {
        if matches!(self.command, Cmd::READ | Cmd::WRITE) { self.length } else { 0 }
    }

    /// Whether it may change data: WRITE, TRIM, WRITE_ZEROES.
    pub(crate) fn changes_data(&self) -> bool {
        self.command.changes_data()
    }
}
