//! The numbers of the NBD protocol, each in one place.
//!
//! Numbers that come from the network are open: a newtype with named constants, so that an unknown value passes through
//! and prints in hexadecimal. Source: NBD `doc/proto.md`, section "Values" of each chapter. Numbers marked (ours) are in
//! the ranges that the specification leaves to experiments; a later assignment changes one line each.

/// First eight bytes of a greeting: `NBDMAGIC`.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: second half of a newstyle greeting, and the start of each option.
pub const OPT_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second half of an oldstyle greeting.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Start of each option reply.
pub const REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string of the protocol (names, descriptions, error messages), in bytes. proto.md, "Text strings".
pub const MAX_STRING: u32 = 4096;
/// The largest size an export can have: offsets are signed in every implementation.
pub const MAX_SIZE: u64 = 0x7fff_ffff_ffff_ffff;

macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident($int:ty) { $($(#[$vmeta:meta])* $konst:ident = $value:expr => $text:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);
        impl $name {
            $($(#[$vmeta])* pub const $konst: $name = $name($value);)*
            /// Every value that has a name, for tables in tests.
            pub const NAMED: &'static [$name] = &[$($name::$konst),*];
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self { $($name::$konst => f.write_str($text),)* $name(other) => write!(f, "{other:#x}") }
            }
        }
        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { core::fmt::Display::fmt(self, f) }
        }
    };
}

open_enum! {
    /// An option of the handshake. proto.md, "Option types".
    Opt(u32) {
        /// Enter transmission with an export; no error reply is possible.
        EXPORT_NAME = 1 => "NBD_OPT_EXPORT_NAME",
        /// End the negotiation.
        ABORT = 2 => "NBD_OPT_ABORT",
        /// List exports.
        LIST = 3 => "NBD_OPT_LIST",
        /// Switch to TLS.
        STARTTLS = 5 => "NBD_OPT_STARTTLS",
        /// Ask about an export.
        INFO = 6 => "NBD_OPT_INFO",
        /// Ask, and enter transmission.
        GO = 7 => "NBD_OPT_GO",
        /// Agree on structured replies.
        STRUCTURED_REPLY = 8 => "NBD_OPT_STRUCTURED_REPLY",
        /// List metadata contexts.
        LIST_META_CONTEXT = 9 => "NBD_OPT_LIST_META_CONTEXT",
        /// Select metadata contexts.
        SET_META_CONTEXT = 10 => "NBD_OPT_SET_META_CONTEXT",
        /// Agree on extended headers.
        EXTENDED_HEADERS = 11 => "NBD_OPT_EXTENDED_HEADERS",
    }
}

open_enum! {
    /// The type of an option reply. proto.md, "Option reply types".
    Rep(u32) {
        /// Done, nothing follows.
        ACK = 1 => "NBD_REP_ACK",
        /// One export of a list.
        SERVER = 2 => "NBD_REP_SERVER",
        /// One information item.
        INFO = 3 => "NBD_REP_INFO",
        /// One metadata context.
        META_CONTEXT = 4 => "NBD_REP_META_CONTEXT",
        /// The option is not known.
        ERR_UNSUP = 0x8000_0001 => "NBD_REP_ERR_UNSUP",
        /// Forbidden by the server's policy.
        ERR_POLICY = 0x8000_0002 => "NBD_REP_ERR_POLICY",
        /// The option is malformed, or not in order.
        ERR_INVALID = 0x8000_0003 => "NBD_REP_ERR_INVALID",
        /// Not possible on this platform.
        ERR_PLATFORM = 0x8000_0004 => "NBD_REP_ERR_PLATFORM",
        /// TLS first.
        ERR_TLS_REQD = 0x8000_0005 => "NBD_REP_ERR_TLS_REQD",
        /// There is no such export.
        ERR_UNKNOWN = 0x8000_0006 => "NBD_REP_ERR_UNKNOWN",
        /// The server is going away.
        ERR_SHUTDOWN = 0x8000_0007 => "NBD_REP_ERR_SHUTDOWN",
        /// The client must honour block sizes.
        ERR_BLOCK_SIZE_REQD = 0x8000_0008 => "NBD_REP_ERR_BLOCK_SIZE_REQD",
        /// The option is larger than the server takes.
        ERR_TOO_BIG = 0x8000_0009 => "NBD_REP_ERR_TOO_BIG",
        /// Extended headers first.
        ERR_EXT_HEADER_REQD = 0x8000_000a => "NBD_REP_ERR_EXT_HEADER_REQD",
    }
}

impl Rep {
    /// Whether bit 31 is set: this reply ends the option with an error.
    pub fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

open_enum! {
    /// An information type of NBD_OPT_INFO and NBD_OPT_GO.
    Info(u16) {
        /// Size and transmission flags.
        EXPORT = 0 => "NBD_INFO_EXPORT",
        /// The canonical name.
        NAME = 1 => "NBD_INFO_NAME",
        /// A description for people.
        DESCRIPTION = 2 => "NBD_INFO_DESCRIPTION",
        /// Minimum, preferred and maximum block size.
        BLOCK_SIZE = 3 => "NBD_INFO_BLOCK_SIZE",
        /// What the export's size can do (ours).
        RESIZE = 0x5253 => "NBD_INFO_RESIZE",
    }
}

open_enum! {
    /// A command of the transmission phase. proto.md, "Request types".
    Cmd(u16) {
        /// Read data.
        READ = 0 => "NBD_CMD_READ",
        /// Write data.
        WRITE = 1 => "NBD_CMD_WRITE",
        /// Disconnect.
        DISC = 2 => "NBD_CMD_DISC",
        /// Make what was answered durable.
        FLUSH = 3 => "NBD_CMD_FLUSH",
        /// Discard.
        TRIM = 4 => "NBD_CMD_TRIM",
        /// Read into the server's cache.
        CACHE = 5 => "NBD_CMD_CACHE",
        /// Write zeroes without sending them.
        WRITE_ZEROES = 6 => "NBD_CMD_WRITE_ZEROES",
        /// Ask for metadata.
        BLOCK_STATUS = 7 => "NBD_CMD_BLOCK_STATUS",
        /// Change the size (upstream draft).
        RESIZE = 8 => "NBD_CMD_RESIZE",
    }
}

impl Cmd {
    /// Whether it may change data: WRITE, TRIM, WRITE_ZEROES.
    #[must_use]
    pub const fn changes_data(self) -> bool {
        self.writes() || matches!(self, Self::TRIM)
    }

    /// Whether it is WRITE or WRITE_ZEROES: past the end it makes an export grow, or fails with ENOSPC.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::WRITE | Self::WRITE_ZEROES)
    }
}

open_enum! {
    /// The type of a structured or extended reply chunk. proto.md, "Structured reply types".
    Chunk(u16) {
        /// Nothing but the end.
        NONE = 0 => "NBD_REPLY_TYPE_NONE",
        /// Data at an offset.
        OFFSET_DATA = 1 => "NBD_REPLY_TYPE_OFFSET_DATA",
        /// Zeroes at an offset.
        OFFSET_HOLE = 2 => "NBD_REPLY_TYPE_OFFSET_HOLE",
        /// Extents with 32-bit lengths.
        BLOCK_STATUS = 5 => "NBD_REPLY_TYPE_BLOCK_STATUS",
        /// Extents with 64-bit lengths.
        BLOCK_STATUS_EXT = 6 => "NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
        /// The size now in force (ours).
        RESIZE = 0x5253 => "NBD_REPLY_TYPE_RESIZE",
        /// An error.
        ERROR = 0x8001 => "NBD_REPLY_TYPE_ERROR",
        /// An error at an offset.
        ERROR_OFFSET = 0x8002 => "NBD_REPLY_TYPE_ERROR_OFFSET",
    }
}

impl Chunk {
    /// Whether bit 15 is set: the chunk reports an error.
    pub fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

open_enum! {
    /// An error number of the protocol. proto.md, "Error values".
    Errno(u32) {
        /// Not permitted.
        EPERM = 1 => "EPERM",
        /// Input or output error.
        EIO = 5 => "EIO",
        /// Out of memory.
        ENOMEM = 12 => "ENOMEM",
        /// Malformed, or out of range.
        EINVAL = 22 => "EINVAL",
        /// No space left, or a write past the end.
        ENOSPC = 28 => "ENOSPC",
        /// A DF read too large for one chunk.
        EOVERFLOW = 75 => "EOVERFLOW",
        /// FAST_ZERO can't be met.
        ENOTSUP = 95 => "ENOTSUP",
        /// The server is going away.
        ESHUTDOWN = 108 => "ESHUTDOWN",
    }
}

macro_rules! bits {
    ($(#[$meta:meta])* $name:ident($int:ty) { $($(#[$vmeta:meta])* $konst:ident = $bit:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $int);
        impl $name {
            $($(#[$vmeta])* pub const $konst: $name = $name(1 << $bit);)*
            /// No bit set.
            pub const NONE: $name = $name(0);
            /// Every bit that has a name.
            pub const NAMED: &'static [($name, &'static str)] = &[$(($name::$konst, stringify!($konst))),*];
            /// Whether every bit of `other` is set here.
            pub const fn has(self, other: $name) -> bool { self.0 & other.0 == other.0 }
            /// Whether any bit of `other` is set here.
            pub const fn any(self, other: $name) -> bool { self.0 & other.0 != 0 }
            /// These bits and those of `other`.
            pub const fn with(self, other: $name) -> $name { $name(self.0 | other.0) }
            /// These bits without those of `other`.
            pub const fn without(self, other: $name) -> $name { $name(self.0 & !other.0) }
            /// These bits, with those of `other` if `on`.
            pub const fn with_if(self, other: $name, on: bool) -> $name { if on { self.with(other) } else { self } }
        }
        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)?;
                for (bit, name) in Self::NAMED { if self.has(*bit) { write!(f, " {name}")?; } }
                Ok(())
            }
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { core::fmt::Debug::fmt(self, f) }
        }
    };
}

bits! {
    /// Handshake flags of the server. proto.md, "Handshake flags".
    HandshakeFlags(u16) {
        /// Fixed newstyle.
        FIXED_NEWSTYLE = 0,
        /// The 124 zeroes after an EXPORT_NAME may be left out.
        NO_ZEROES = 1,
    }
}

bits! {
    /// Handshake flags of the client. proto.md, "Client flags".
    ClientFlags(u32) {
        /// Fixed newstyle.
        FIXED_NEWSTYLE = 0,
        /// The 124 zeroes after an EXPORT_NAME are left out.
        NO_ZEROES = 1,
    }
}

bits! {
    /// Transmission flags: what an export can do. proto.md, "Transmission flags".
    ExportFlags(u16) {
        /// Must be set.
        HAS_FLAGS = 0,
        /// No command that writes is accepted.
        READ_ONLY = 1,
        /// NBD_CMD_FLUSH.
        SEND_FLUSH = 2,
        /// NBD_CMD_FLAG_FUA.
        SEND_FUA = 3,
        /// Seeking is expensive.
        ROTATIONAL = 4,
        /// NBD_CMD_TRIM.
        SEND_TRIM = 5,
        /// NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE.
        SEND_WRITE_ZEROES = 6,
        /// NBD_CMD_FLAG_DF.
        SEND_DF = 7,
        /// A FLUSH on one connection covers all of them.
        CAN_MULTI_CONN = 8,
        /// NBD_CMD_RESIZE (upstream draft).
        SEND_RESIZE = 9,
        /// NBD_CMD_CACHE.
        SEND_CACHE = 10,
        /// NBD_CMD_FLAG_FAST_ZERO.
        SEND_FAST_ZERO = 11,
        /// NBD_CMD_BLOCK_STATUS with a payload.
        BLOCK_STATUS_PAYLOAD = 12,
    }
}

bits! {
    /// Command flags. proto.md, "Command flags".
    CmdFlags(u16) {
        /// Durable before the reply.
        FUA = 0,
        /// Zeroes must be allocated.
        NO_HOLE = 1,
        /// One data chunk.
        DF = 2,
        /// One extent.
        REQ_ONE = 3,
        /// Fail fast rather than write slowly.
        FAST_ZERO = 4,
        /// The length is that of a payload.
        PAYLOAD_LEN = 5,
        /// RESIZE: ask for the size (ours).
        QUERY = 6,
        /// RESIZE: stay open and tell each new size (ours).
        NOTIFY = 7,
    }
}

bits! {
    /// Flags of a reply chunk.
    ChunkFlags(u16) {
        /// The last chunk of this reply.
        DONE = 0,
    }
}

bits! {
    /// What NBD_INFO_RESIZE offers (ours). Bits without a name mean nothing and are not acted on.
    Features(u16) {
        /// NBD_CMD_RESIZE without flags is accepted; NBD_FLAG_SEND_RESIZE is then set too.
        EXPLICIT = 0,
        /// A WRITE or WRITE_ZEROES that ends past the size grows the export first.
        AUTOMATIC = 1,
        /// NBD_CMD_RESIZE with QUERY is accepted.
        QUERY = 2,
        /// NBD_CMD_RESIZE with NOTIFY is accepted.
        NOTIFY = 3,
        /// EXPLICIT may go down as well as up.
        SHRINK = 4,
        /// What a grow exposes reads as zeroes until it is written.
        ZEROED = 5,
    }
}

/// A cookie: what a client chose to recognise a reply by. Given back bit-exact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

impl core::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl core::fmt::Display for Cookie {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// How requests and replies are framed on one connection; each style includes what the one before can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Default)]
pub enum Framing {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies: 64-bit lengths.
    Extended,
}
