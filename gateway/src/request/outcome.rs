//! How a request ended, as data: what was found, or why it failed.

use std::borrow::Cow;

use nbd_gateway_proto::{Errno, Payload, Piece};

use crate::fault::Fault;

/// What a READ found: pieces that don't overlap and together are the range asked for.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// All of it, as data. The usual case: costs no allocation.
    Whole(Payload),
    /// In the order in which the backend sent them.
    Pieces(Vec<Piece>),
}

/// An extent of a metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Length in bytes, never 0.
    pub length: u64,
    /// The context's own flags.
    pub flags: u64,
}

impl Extent {
    /// Ends `extents` so many bytes after the first begins.
    pub(crate) fn clip(extents: &mut Vec<Self>, mut room: u64) {
        extents.retain_mut(|extent| {
            extent.length = extent.length.min(room);
            room -= extent.length;
            extent.length > 0
        });
    }
}

/// The extents of one metadata context, from the request's offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Index into the export's list of contexts.
    pub context: usize,
    /// At least one extent.
    pub extents: Vec<Extent>,
}

/// Why a request failed, as a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The error number; one of the protocol's.
    pub errno: Errno,
    /// A sentence for people; empty if there is none. Told to clients with structured replies.
    pub message: Cow<'static, str>,
    /// Where in the range it failed, if known (absolute offset).
    pub offset: Option<u64>,
}

/// The text of a refusal while the gateway drains.
pub(crate) const SHUTTING_DOWN: &str = "the gateway is shutting down";

/// What a backend answered.
impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::backend(format!("{}: {}", failure.errno, failure.message)).with_errno(failure.errno)
    }
}

impl Failure {
    /// A failure without an offset.
    pub(crate) fn new(errno: Errno, message: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, message: message.into(), offset: None }
    }

    /// The gateway drains, and takes no new requests.
    pub(crate) fn shutting_down() -> Self {
        Self::new(Errno::ESHUTDOWN, SHUTTING_DOWN)
    }

    /// Nobody will answer the request: a fault of the gateway.
    pub(crate) fn lost() -> Self {
        Self::new(Errno::EIO, "the request was lost in the gateway")
    }
}

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Success without data.
    Done,
    /// A READ's data.
    Found(Found),
    /// A BLOCK_STATUS' extents: one entry for each context of the export, in the export's order, unless the backend left one out.
    Status(Vec<Status>),
    /// A RESIZE's size now in force, in bytes.
    Resized(u64),
    Failed(Failure),
}
