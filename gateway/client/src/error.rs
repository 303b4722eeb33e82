//! Why a client command failed: each variant one clear line.

use nbd_gateway_policy::types::{Bytes, Count};
use std::io;

use thiserror::Error;

use super::connect::DEADLINE;
use super::output::shown;
use nbd_gateway_config::NbdUri;
use nbd_gateway_net::tls::{CertificateError, TlsError};
use nbd_gateway_net::{NegotiationError, Reached};
use nbd_gateway_proto::handshake::client::HandshakeError;
use nbd_gateway_proto::reply::ReplyError;
use nbd_gateway_proto::resize::Wish;
use nbd_gateway_proto::{Cmd, Errno, Rep};

/// Why a client command failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection.
    #[error("can't connect to {endpoint}: {cause}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why not.
        cause: io::Error,
    },
    /// TLS that can't be spoken.
    #[error("{0}")]
    Certificates(#[from] CertificateError),
    /// There is no TLS.
    #[error("{endpoint}: {fault}")]
    Tls {
        /// Where to.
        endpoint: String,
        /// Why not.
        fault: TlsError,
    },
    /// A connection, but no export within the deadline.
    #[error("{endpoint}: {}", .reached.late(format_args!("{seconds} s")))]
    Deadline {
        /// Where to.
        endpoint: String,
        /// How long was waited.
        seconds: u64,
        /// What there was of it.
        reached: Reached,
    },
    /// The handshake failed.
    #[error(transparent)]
    Handshake(HandshakeError),
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
    ReplyError(#[from] ReplyError),
    /// The server answered a READ with pieces that are not what was asked for.
    #[error("the server broke the protocol: its data for the {} at offset {offset} {what}", Bytes(*.length))]
    BadData {
        /// Where the READ began.
        offset: u64,
        /// How long it was.
        length: u64,
        /// What is wrong with its pieces.
        what: &'static str,
    },
    /// The server refused a request.
    #[error("the server says {errno} to {command} of {} at offset {offset}{}", Bytes(*.length), because(.message))]
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
    /// The server refused an NBD_CMD_RESIZE.
    #[error("the server says {errno} to {}{}", wished(.wish), because(.message))]
    ResizeRefused {
        /// What was asked for.
        wish: Wish,
        /// The error.
        errno: Errno,
        /// The server's own words, if it has any.
        message: String,
    },
    /// A size that can't be.
    #[error("the server broke the protocol: it says that the size is {}, more than 2^63-1 bytes", Bytes(*.size))]
    SizeTooLarge {
        /// In bytes.
        size: u64,
    },
    /// An answer that should bring a size, and doesn't.
    #[error("the server broke the protocol: its answer to {what} does not tell the size")]
    NoSize {
        /// What was asked.
        what: &'static str,
    },
    /// A server that can't resize.
    #[error("the server offers no way to resize this export over NBD, neither NBD_CMD_RESIZE nor growth by writes")]
    NotResizable,
    /// A server that sets a flag whose command it doesn't know.
    #[error(
        "this export can't be resized over NBD: the server sets NBD_FLAG_SEND_RESIZE, \
         but says EINVAL to NBD_CMD_RESIZE{}", because(.message)
    )]
    FlagOnly {
        /// The server's own words, if it has any.
        message: String,
    },
    /// A size that growth by writes can't connector.
    #[error("the export has {}, and the server only lets it grow (by writes past its end)", shown(*.size))]
    OnlyGrows {
        /// The size now, in bytes.
        size: u64,
    },
    /// A size past all sizes.
    #[error("{} and {} more are over 2^63-1 bytes, the most that an export can have", shown(*.size), shown(*.more))]
    TooMuchMore {
        /// The size now, in bytes.
        size: u64,
        /// How much more was asked for, in bytes.
        more: u64,
    },
    /// Nothing that makes it durable.
    #[error("the server can't be asked to make it durable: it does not offer {lacks}; do without --durable")]
    NotDurable {
        /// What would do.
        lacks: &'static str,
    },
    /// A resize that was answered with success, and had none.
    #[error("the server answered with success, but the export has {}; asked for {}", shown(*.now), shown(*.asked))]
    NotInForce {
        /// What was asked for, in bytes.
        asked: u64,
        /// The size now, in bytes.
        now: u64,
    },
    /// A resize that was answered with success, before the connection or the next one failed.
    #[error("the server answered the resize with success, but the size now can't be asked: {cause}")]
    Unchecked {
        /// Why not.
        cause: Box<ClientError>,
    },
    /// A NOTIFY that the server ended of its own accord.
    #[error("the server ended the NOTIFY without a reason")]
    NotifyEnded,
    /// A watch that could not go on.
    #[error("stopped watching after {}: {cause}", Count(*.lines, "line"))]
    WatchEnded {
        /// How many were printed.
        lines: u64,
        /// Why it stopped.
        cause: Box<ClientError>,
    },
    /// A range that is not inside the export.
    #[error(
        "the range of {} at offset {offset} ends past the end of the export, which has {}{}",
Bytes(*.length), shown(*.size),
        if *.grow { ": the server offers no growth by writes" } else { "" }
    )]
    PastEnd {
        /// Where the range starts.
        offset: u64,
        /// How long it is.
        length: u64,
        /// The export's size.
        size: u64,
        /// Whether it was to grow.
        grow: bool,
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
    #[error("stopped after {}: {cause}", shown(*.done))]
    Stopped {
        /// How many bytes from the start are read, or written but not flushed.
        done: u64,
        /// Why it stopped.
        cause: Box<ClientError>,
    },
}

impl ClientError {
    /// Why there is no connection to the server of `uri`.
    pub(super) fn of(uri: &NbdUri, error: NegotiationError) -> Self {
        let endpoint = uri.endpoint().to_string();
        match error {
            NegotiationError::Connect(cause) => Self::Connect { endpoint, cause },
            NegotiationError::Broken { error, .. } => Self::Broken(error),
            NegotiationError::Handshake(error) => Self::Handshake(error),
            NegotiationError::Tls(fault) => Self::Tls { endpoint, fault },
            NegotiationError::Late(reached) => Self::Deadline { endpoint, seconds: DEADLINE.as_secs(), reached },
        }
    }

    /// A file, stdin or stdout that fails.
    pub(super) fn local(what: impl Into<String>, cause: io::Error) -> Self {
        Self::Local { what: what.into(), cause }
    }

    /// Whether nobody reads standard output any more.
    pub(super) fn is_unread(&self) -> bool {
        match self {
            Self::Local { what, cause } => what == "stdout" && cause.kind() == io::ErrorKind::BrokenPipe,
            Self::Stopped { cause, .. } => cause.is_unread(),
            _ => false,
        }
    }

    /// Whether the same may succeed later: the server restarts, its backend does, or the network was cut.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Deadline { .. }
            | Self::Broken(_)
            | Self::HungUp { .. }
            | Self::NotifyEnded => true,
            Self::Refused { errno, .. } | Self::ResizeRefused { errno, .. } => *errno == Errno::ESHUTDOWN,
            Self::Handshake(HandshakeError::Closed { .. }) => true,
            Self::Handshake(HandshakeError::Refused { rep, .. }) => {
                [Rep::ERR_SHUTDOWN, Rep::ERR_PLATFORM, Rep::ERR_UNKNOWN].contains(rep)
            }
            _ => false,
        }
    }

    /// The same, after a part had been done.
    pub(super) fn after(self, done: u64) -> Self {
        if done == 0 { self } else { Self::Stopped { done, cause: Box::new(self) } }
    }
}

/// What was asked for, in words.
fn wished(wish: &Wish) -> String {
    match wish {
        Wish::Size { size } => format!("a resize to {}", shown(*size)),
        Wish::Query => "the question for the size (QUERY)".to_owned(),
        Wish::Notify { .. } => "the wish to be told of sizes (NOTIFY)".to_owned(),
    }
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
