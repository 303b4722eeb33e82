//! Why a client command failed: each variant one clear line.

use std::io;

use thiserror::Error;

use crate::proto::handshake::client::HandshakeError;
use crate::proto::reply::BadReply;
use crate::proto::{Cmd, Errno};

/// Why a client command failed.
#[derive(Debug, Error)]
pub enum ClientFault {
    /// No connection.
    #[error("can't connect to {endpoint}: {cause}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why not.
        cause: io::Error,
    },
    /// A connection, but no export within the deadline.
    #[error(
        "{endpoint} did not finish the handshake within {seconds} s; a server that takes one client at a time may have one"
    )]
    Deadline {
        /// Where to.
        endpoint: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection broke.
    #[error("the connection to the server broke: {0}")]
    Broken(io::Error),
    /// The server hung up on requests.
    #[error("the server closed the connection with {unanswered} requests unanswered")]
    HungUp {
        /// How many it did not answer.
        unanswered: usize,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    BadReply(#[from] BadReply),
    /// The server answered a READ with pieces that are not what was asked for.
    #[error("the server broke the protocol: its data for the {length} bytes at offset {offset} {what}")]
    BadData {
        /// Where the READ began.
        offset: u64,
        /// How long it was.
        length: u64,
        /// What is wrong with its pieces.
        what: &'static str,
    },
    /// The server refused a request.
    #[error("the server says {errno} to {command} of {length} bytes at offset {offset}{}", because(.message))]
    Refused {
        /// The command.
        command: Cmd,
        /// Its offset.
        offset: u64,
        /// Its length.
        length: u64,
        /// The error.
        errno: Errno,
        /// The server's own words, if it has any.
        message: String,
    },
    /// A range that is not inside the export.
    #[error("{length} bytes at offset {offset} reach past the end of the export, which has {size} bytes")]
    PastEnd {
        /// Where the range starts.
        offset: u64,
        /// How long it is.
        length: u64,
        /// The export's size.
        size: u64,
    },
    /// A write to an export that takes none.
    #[error("the export is read-only")]
    ReadOnly,
    /// A write that the export's minimum block size doesn't allow.
    #[error("{what} ({value}) is not a multiple of the export's minimum block size, {minimum}")]
    Unaligned {
        /// What is not.
        what: &'static str,
        /// Its value in bytes.
        value: u64,
        /// The block size.
        minimum: u64,
    },
    /// A file, stdin or stdout.
    #[error("{what}: {cause}")]
    Local {
        /// Which one.
        what: String,
        /// What is wrong.
        cause: io::Error,
    },
    /// A transfer that stopped on the way.
    #[error("stopped after {done} bytes: {cause}")]
    Stopped {
        /// How many bytes from the start are read, or written but not flushed.
        done: u64,
        /// Why it stopped.
        cause: Box<ClientFault>,
    },
}

impl ClientFault {
    /// A file, stdin or stdout that fails.
    pub(super) fn local(what: impl Into<String>, cause: io::Error) -> Self {
        Self::Local { what: what.into(), cause }
    }

    /// The same, after a part had been done.
    pub(super) fn after(self, done: u64) -> Self {
        if done == 0 { self } else { Self::Stopped { done, cause: Box::new(self) } }
    }
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
