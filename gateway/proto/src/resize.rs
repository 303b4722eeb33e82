//! The RESIZE extension on the wire: what is offered, what is asked, what is answered.
//!
//! Owns the shapes of NBD_INFO_RESIZE, of NBD_CMD_RESIZE in its three forms, of the RESIZE chunk and the names of the
//! `x-resize:` contexts, for both roles. Never decides whether a size may be: here a request is well-formed or it is not.
//! Source: the upstream draft `extension-resize` for command 8 and transmission flag 9; the rest is this project's own.
//!
#![doc = include_str!("../resize.md")]

use core::time::Duration;

use thiserror::Error;

use crate::chunk::put_chunk;
use crate::request::RequestHeader;
use crate::{Chunk, ChunkFlags, Cmd, CmdFlags, Cookie, Errno, Features, Framing, Info, MAX_SIZE};

mod context;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use context::{CONTEXT_PREFIX, Context};

/// Length of a whole NBD_INFO_RESIZE, its type included.
pub const RESIZE_INFO: usize = 28;
/// The longest interval of a NOTIFY, in milliseconds.
pub const MAX_INTERVAL: u64 = 0xffff_ffff;
/// The largest granularity: the largest power of two that a size can be.
const MAX_GRANULARITY: u64 = 1 << 62;

/// NBD_INFO_RESIZE: what one client may do to the size of an export, and learn of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResizeInfo {
    /// What is offered.
    pub features: Features,
    /// The least that a shrink may reach, in bytes. 0: no bound; the size now: no shrink.
    pub minimum: u64,
    /// The most that this client could reach now, in bytes, never less than `minimum`. [`MAX_SIZE`]: no bound known.
    pub maximum: u64,
    /// New sizes are multiples of it: a power of two from 1 to 2^62, in bytes.
    pub granularity: u64,
}

/// Why the bytes of an NBD_INFO_RESIZE are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResizeInfoError {
    /// Not 28 bytes.
    #[error("it is {length} bytes long and must be {RESIZE_INFO}")]
    Length {
        /// Bytes there are, the type included.
        length: usize,
    },
    /// Another information type.
    #[error("its type is {kind}, not NBD_INFO_RESIZE")]
    Kind {
        /// The type.
        kind: Info,
    },
    /// A granularity that no size can have.
    #[error("its granularity of {granularity} bytes is not a power of two from 1 to 2^62")]
    Granularity {
        /// In bytes.
        granularity: u64,
    },
    /// A size that can't be.
    #[error("its maximum of {maximum} bytes is more than 2^63-1")]
    Maximum {
        /// In bytes.
        maximum: u64,
    },
    /// Bounds with nothing between them.
    #[error("its minimum of {minimum} bytes is more than its maximum of {maximum}")]
    Bounds {
        /// In bytes.
        minimum: u64,
        /// In bytes.
        maximum: u64,
    },
}

impl ResizeInfo {
    /// The body of NBD_INFO_RESIZE after its type.
    pub fn to_body(&self) -> [u8; 26] {
        let mut body = [0; 26];
        let (features, sizes) = body.split_at_mut(2);
        features.copy_from_slice(&self.features.0.to_be_bytes());
        for (field, value) in sizes.chunks_exact_mut(8).zip([self.minimum, self.maximum, self.granularity]) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        body
    }

    /// Reads a whole NBD_INFO_RESIZE, its type included. Features without a name are kept as they are.
    ///
    /// Neither bound must be a multiple of the granularity: each may be the size now, which need not be one.
    pub fn parse(whole: &[u8]) -> Result<Self, ResizeInfoError> {
        let length = whole.len();
        let bad = ResizeInfoError::Length { length };
        let bytes: &[u8; RESIZE_INFO] = whole.try_into().map_err(|_| bad)?;
        let (kind, rest) = bytes.split_first_chunk().ok_or(bad)?;
        let (features, rest) = rest.split_first_chunk().ok_or(bad)?;
        let (minimum, rest) = rest.split_first_chunk().ok_or(bad)?;
        let (maximum, rest) = rest.split_first_chunk().ok_or(bad)?;
        let (granularity, _) = rest.split_first_chunk().ok_or(bad)?;
        let kind = Info(u16::from_be_bytes(*kind));
        if kind != Info::RESIZE {
            return Err(ResizeInfoError::Kind { kind });
        }
        let info = Self {
            features: Features(u16::from_be_bytes(*features)),
            minimum: u64::from_be_bytes(*minimum),
            maximum: u64::from_be_bytes(*maximum),
            granularity: u64::from_be_bytes(*granularity),
        };
        info.check().map(|()| info)
    }

    fn check(&self) -> Result<(), ResizeInfoError> {
        let Self { minimum, maximum, granularity, .. } = *self;
        if !granularity.is_power_of_two() || granularity > MAX_GRANULARITY {
            return Err(ResizeInfoError::Granularity { granularity });
        }
        if maximum > MAX_SIZE {
            return Err(ResizeInfoError::Maximum { maximum });
        }
        if minimum > maximum {
            return Err(ResizeInfoError::Bounds { minimum, maximum });
        }
        Ok(())
    }
}

impl Features {
    /// What is left of them on a connection with this framing: a simple reply can answer neither QUERY nor NOTIFY.
    pub fn with_framing(self, framing: Framing) -> Self {
        match framing {
            Framing::Simple => self.without(Self::QUERY).without(Self::NOTIFY),
            Framing::Structured | Framing::Extended => self,
        }
    }
}

/// A well-formed NBD_CMD_RESIZE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResizeRequest {
    /// What it asks for.
    pub wish: Wish,
    /// FUA: the new size is durable before the reply.
    pub durable: bool,
}

/// What an NBD_CMD_RESIZE asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Another size.
    Size {
        /// In bytes, 1 to [`MAX_SIZE`].
        size: u64,
    },
    /// The size now.
    Query,
    /// The size now, and each size from now on.
    Notify {
        /// The least time between two chunks: whole milliseconds, at most [`MAX_INTERVAL`].
        interval: Duration,
        /// How many chunks to send before it ends. 0: no bound.
        most: u64,
    },
}

/// Why an NBD_CMD_RESIZE is malformed. What a client is told: `EINVAL` and this sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResizeError {
    /// QUERY and NOTIFY in one request.
    #[error("NBD_CMD_RESIZE with QUERY and NOTIFY together: send them one at a time")]
    Both,
    /// A flag that this command doesn't have, or FUA where it is not offered.
    #[error("NBD_CMD_RESIZE with flags {flags}, which are not offered for it here")]
    Flags {
        /// Those too many.
        flags: CmdFlags,
    },
    /// A length where there must be none.
    #[error("NBD_CMD_RESIZE with length {length}: it must be 0 unless NOTIFY is set")]
    Length {
        /// As it was sent.
        length: u64,
    },
    /// A size that no export can have.
    #[error("NBD_CMD_RESIZE to {size} bytes: a size is 1 to 2^63-1 bytes")]
    Size {
        /// In bytes.
        size: u64,
    },
    /// An offset where there must be none.
    #[error("NBD_CMD_RESIZE with QUERY and offset {offset}: it must be 0")]
    Offset {
        /// As it was sent.
        offset: u64,
    },
    /// An interval that is too long.
    #[error("NBD_CMD_RESIZE with NOTIFY and an interval of {millis} ms: it is at most {MAX_INTERVAL}")]
    Interval {
        /// In milliseconds.
        millis: u64,
    },
}

impl ResizeError {
    /// What a client is told.
    pub const ERRNO: Errno = Errno::EINVAL;
}

impl ResizeRequest {
    /// Reads a request whose command is RESIZE; `fua` is whether SEND_FUA was offered. Whether what it asks for was
    /// offered ([`Wish::needs`]) and is allowed is not looked at. A payload (PAYLOAD_LEN) is the caller's to consume.
    pub fn parse(header: &RequestHeader, fua: bool) -> Result<Self, ResizeError> {
        let RequestHeader { flags, offset, length, .. } = *header;
        let known = CmdFlags::QUERY.with(CmdFlags::NOTIFY).with_if(CmdFlags::FUA, fua);
        let extra = flags.without(known);
        if extra != CmdFlags::NONE {
            return Err(ResizeError::Flags { flags: extra });
        }
        let (query, notify) = (flags.has(CmdFlags::QUERY), flags.has(CmdFlags::NOTIFY));
        if query && notify {
            return Err(ResizeError::Both);
        }
        if length != 0 && !notify {
            return Err(ResizeError::Length { length });
        }
        let wish = match (query, notify) {
            (true, _) if offset != 0 => return Err(ResizeError::Offset { offset }),
            (true, _) => Wish::Query,
            (_, true) if offset > MAX_INTERVAL => return Err(ResizeError::Interval { millis: offset }),
            (_, true) => Wish::Notify { interval: Duration::from_millis(offset), most: length },
            _ if offset == 0 || offset > MAX_SIZE => return Err(ResizeError::Size { size: offset }),
            _ => Wish::Size { size: offset },
        };
        Ok(Self { wish, durable: flags.has(CmdFlags::FUA) })
    }

    /// The request as it is sent. An interval is cut to whole milliseconds, and a count to what the framing has room for.
    pub fn header(&self, cookie: Cookie, framing: Framing) -> RequestHeader {
        let (form, offset, length) = match self.wish {
            Wish::Size { size } => (CmdFlags::NONE, size, 0),
            Wish::Query => (CmdFlags::QUERY, 0, 0),
            Wish::Notify { interval, most } => {
                let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).min(MAX_INTERVAL);
                let room = if framing == Framing::Extended { u64::MAX } else { u64::from(u32::MAX) };
                (CmdFlags::NOTIFY, millis, most.min(room))
            }
        };
        RequestHeader { flags: form.with_if(CmdFlags::FUA, self.durable), command: Cmd::RESIZE, cookie, offset, length }
    }
}

impl Wish {
    /// The feature that must have been offered for it. EXPLICIT may be known by NBD_FLAG_SEND_RESIZE alone.
    pub fn needs(&self) -> Features {
        match self {
            Self::Size { .. } => Features::EXPLICIT,
            Self::Query => Features::QUERY,
            Self::Notify { .. } => Features::NOTIFY,
        }
    }
}

/// Appends a whole RESIZE chunk: `size` is now in force. `offset` is the request's, which extended chunks repeat.
pub fn put_resize(out: &mut Vec<u8>, framing: Framing, done: bool, cookie: Cookie, offset: u64, size: u64) {
    let flags = ChunkFlags::NONE.with_if(ChunkFlags::DONE, done);
    let payload = size.to_be_bytes();
    put_chunk(out, framing, flags, Chunk::RESIZE, cookie, offset, payload.len());
    out.extend_from_slice(&payload);
}
