//! Why a handshake with a backend failed: one variant for each cause, each naming the value at fault.

use thiserror::Error;

use crate::handshake::info::Malformed;
use crate::{ExportFlags, MAX_SIZE, Opt, Rep};

/// Why a handshake failed. The connection is of no further use, except to send what is still queued.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The first bytes are not NBD's.
    #[error("this is not an NBD server: it begins with {found:#018x} instead of `NBDMAGIC`")]
    NotNbd {
        /// The first eight bytes.
        found: u64,
    },
    /// An oldstyle server: the export's size at once, no negotiation, no names.
    #[error("the server speaks the oldstyle handshake, which has no export names; use a server that speaks newstyle")]
    Oldstyle,
    /// `NBDMAGIC`, but then neither newstyle nor oldstyle.
    #[error("the server's greeting goes on with {found:#018x} instead of `IHAVEOPT`")]
    UnknownStyle {
        /// The second eight bytes.
        found: u64,
    },
    /// A server without fixed newstyle can open an export, and nothing else.
    #[error("the server does not speak fixed newstyle, so it can't answer {opt}")]
    NotFixed {
        /// What would have been asked.
        opt: Opt,
    },
    /// The backend answered with an error reply.
    #[error("the server says {rep} to {opt}{}{}", about(.export), because(.message))]
    Refused {
        /// What was asked.
        opt: Opt,
        /// The kind of error.
        rep: Rep,
        /// For which export, if the option is about one.
        export: Option<String>,
        /// The backend's own words, printable, at most 4096 bytes; may be empty.
        message: String,
    },
    /// The backend does not do TLS, and nothing goes on without.
    #[error("the server says {rep} to NBD_OPT_STARTTLS{}; nothing is sent to it in the clear", because(.message))]
    NoTls {
        /// The kind of error.
        rep: Rep,
        /// The backend's own words, printable, at most 4096 bytes; may be empty.
        message: String,
    },
    /// The backend, or somebody on the way, has sent bytes in the clear that would pass for TLS's.
    #[error("{bytes} bytes came in the clear behind the server's agreement to TLS")]
    Injected {
        /// How many.
        bytes: usize,
    },
    /// A reply does not start as one.
    #[error("the server's reply to {opt} begins with {found:#018x} instead of the magic of option replies")]
    ReplyMagic {
        /// What was asked.
        opt: Opt,
        /// The first eight bytes.
        found: u64,
    },
    /// A reply to something that was not asked.
    #[error("the server replies to {answered} when asked {asked}")]
    ReplyToOther {
        /// What was asked.
        asked: Opt,
        /// What the reply names.
        answered: Opt,
    },
    /// A reply whose body is longer than any that is read.
    #[error("the server's {rep} to {opt} is {length} bytes long, more than {most}")]
    ReplyTooLong {
        /// What was asked.
        opt: Opt,
        /// The kind of reply.
        rep: Rep,
        /// Length stated.
        length: u32,
        /// The most that is read.
        most: u32,
    },
    /// A kind of reply that this option doesn't have.
    #[error("the server answers {opt} with {rep}, which is no reply to it")]
    UnexpectedReply {
        /// What was asked.
        opt: Opt,
        /// The kind of reply.
        rep: Rep,
    },
    /// A reply whose body can't be read.
    #[error("the server's {rep} to {opt} is malformed: {cause}")]
    MalformedReply {
        /// What was asked.
        opt: Opt,
        /// The kind of reply.
        rep: Rep,
        /// What is wrong.
        cause: Malformed,
    },
    /// More replies to one option than are read.
    #[error("the server sends more than {most} replies to {opt}, or more than they may hold in all")]
    TooMany {
        /// What was asked.
        opt: Opt,
        /// The most that are read.
        most: usize,
    },
    /// Success without the item that success must have.
    #[error("the server ends {opt} with NBD_REP_ACK but never sent NBD_INFO_EXPORT")]
    NoExport {
        /// What was asked.
        opt: Opt,
    },
    /// A size that no offset can reach.
    #[error("the server says the export is {size} bytes, more than {MAX_SIZE}")]
    SizeTooLarge {
        /// The size in bytes.
        size: u64,
    },
    /// Flags without the one that says they are flags.
    #[error("the server's transmission flags {flags:?} lack NBD_FLAG_HAS_FLAGS")]
    NoFlags {
        /// The flags.
        flags: ExportFlags,
    },
    /// A context selected that was not asked for.
    #[error("the server selects the metadata context {name:?}, which was not asked for")]
    ContextNotAsked {
        /// Its name.
        name: String,
    },
    /// Two contexts with one number, or one context twice.
    #[error(
        "the server selects the metadata context {name:?} with number {id}, and has given that name or number before"
    )]
    ContextTwice {
        /// Its name.
        name: String,
        /// Its number.
        id: u32,
    },
    /// Extended headers without NBD_OPT_GO, which they bring with them.
    #[error("the server agreed to extended headers but does not know NBD_OPT_GO")]
    ExtendedWithoutGo,
    /// A wish that the protocol has no room for: our own mistake.
    #[error("the {what} is {length} bytes long, more than the {most} that the NBD protocol allows")]
    WishTooLong {
        /// Which one.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// The backend closed the connection.
    #[error("the server closed the connection {when}")]
    Closed {
        /// What it was to say.
        when: Closed,
    },
    /// The handshake was over already.
    #[error("the handshake is over")]
    Over,
}

/// At which point the backend closed the connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Closed {
    /// Before its greeting was complete.
    #[error("before it had sent its greeting")]
    InGreeting,
    /// Before TLS was there.
    #[error("instead of starting TLS")]
    BeforeTls,
    /// While the reply to an option was awaited.
    #[error("instead of answering {0}")]
    InReply(Opt),
    /// After NBD_OPT_EXPORT_NAME, which has no other way to say no.
    #[error("when asked for export {0:?} with NBD_OPT_EXPORT_NAME, which is how such a server says that there is none")]
    AfterExportName(String),
}

impl HandshakeError {
    /// Whether the server may do without what it was asked for beyond need: then one tries again without.
    pub fn is_about_extras(&self) -> bool {
        let extra = |opt: Opt| {
            matches!(
                opt,
                Opt::EXTENDED_HEADERS | Opt::STRUCTURED_REPLY | Opt::LIST_META_CONTEXT | Opt::SET_META_CONTEXT
            )
        };
        match self {
            // Information is asked for together with the export.
            Self::Closed { when: Closed::InReply(opt) } => extra(*opt) || *opt == Opt::GO,
            Self::Refused { opt: Opt::GO, rep, .. } => !matches!(
                *rep,
                Rep::ERR_UNKNOWN
                    | Rep::ERR_POLICY
                    | Rep::ERR_PLATFORM
                    | Rep::ERR_TLS_REQD
                    | Rep::ERR_SHUTDOWN
                    | Rep::ERR_BLOCK_SIZE_REQD
            ),
            Self::ReplyMagic { opt, .. }
            | Self::ReplyTooLong { opt, .. }
            | Self::UnexpectedReply { opt, .. }
            | Self::MalformedReply { opt, .. }
            | Self::TooMany { opt, .. }
            | Self::ReplyToOther { asked: opt, .. } => extra(*opt),
            Self::ContextNotAsked { .. } | Self::ContextTwice { .. } | Self::ExtendedWithoutGo => true,
            _ => false,
        }
    }
}

fn about(export: &Option<String>) -> String {
    export.as_ref().map(|name| format!(" for export {name:?}")).unwrap_or_default()
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
