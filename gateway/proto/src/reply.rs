//! Replies: writing them to clients, reading them from backends. proto.md, "Simple reply message", "Structured reply
//! chunk message" and "Extended reply chunk message".
//!
//! The reader asks its owner what a cookie waits for, because a simple reply can't be framed without knowing whether it
//! answers a READ; an unknown cookie ends the connection. Every length is checked before its payload is awaited.

pub use crate::chunk::{put_chunk, put_simple};
use crate::text::printable;
use crate::{
    Chunk, ChunkFlags, Cookie, EXTENDED_REPLY_MAGIC, Errno, Framing, Inbox, MAX_STRING, Payload, Piece,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// Length of a simple reply header.
pub const SIMPLE_REPLY: usize = 16;
/// Length of a structured chunk header.
pub const STRUCTURED_REPLY: usize = 20;
/// Length of an extended chunk header.
pub const EXTENDED_REPLY: usize = 32;
/// Most extents that are read from one BLOCK_STATUS chunk: as many as qemu ever sends (1 MiB of compact extents).
pub const MAX_EXTENTS: usize = 128 * 1024;

/// What a cookie waits for.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The length of the READ it stands for; `None` for all other commands.
    pub read: Option<u64>,
    /// The most extents of one context that are kept of its answer.
    pub extents: usize,
}

/// What one reply or chunk says.
#[derive(Clone, Debug)]
pub enum Body {
    /// A simple reply, or a NONE chunk: no news but `done`.
    Nothing,
    /// A simple reply to a READ: all its data.
    Whole(Payload),
    /// A part of the answer to a READ.
    Piece(Piece),
    /// Extents of one context, lengths and flags widened.
    Status {
        /// The context's id on this connection.
        context: u32,
        /// (length, flags), at least one, no length 0; the first ones, if there are more than are kept.
        extents: Vec<(u64, u64)>,
    },
    /// The size now in force.
    Resize {
        /// In bytes.
        size: u64,
    },
    /// An error.
    Error {
        /// Never 0.
        errno: Errno,
        /// For people; may be empty. At most 4096 bytes, without control characters.
        message: String,
        /// Where it happened (absolute offset).
        offset: Option<u64>,
    },
}

/// One reply or chunk.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whom it answers.
    pub cookie: Cookie,
    /// Whether it is the last for this cookie.
    pub done: bool,
    /// What it says.
    pub body: Body,
}

/// The backend broke the protocol; the connection can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No reply starts here.
    #[error("reply magic is {0:#010x}, which starts no reply in the negotiated framing ({1:?})")]
    Magic(u32, Framing),
    /// Nobody waits for this cookie.
    #[error("reply to cookie {0}, which was never sent or is already answered")]
    Cookie(Cookie),
    /// A chunk's length can't be that of its type.
    #[error("{kind} chunk with a payload of {length} bytes, allowed here: {allowed}")]
    Length {
        /// The chunk's type.
        kind: Chunk,
        /// Its length.
        length: u64,
        /// What would be right.
        allowed: &'static str,
    },
    /// A chunk of a type that does not belong to the command it answers.
    #[error("{0} chunk in reply to another command")]
    Kind(Chunk),
    /// A simple reply where a chunk must be.
    #[error("simple reply with data to a READ although {0:?} replies were negotiated")]
    SimpleRead(Framing),
    /// An error chunk that says there was no error.
    #[error("error chunk with error 0")]
    NoError,
    /// Extents that can't be.
    #[error("BLOCK_STATUS chunk with an extent of length 0")]
    EmptyExtent,
    /// A reply without end.
    #[error("a reply in more than {0} chunks")]
    Chunks(u64),
    /// A payload that does not parse.
    #[error("{0} chunk whose inner lengths disagree with its own")]
    Inner(Chunk),
}

#[derive(Clone, Copy, Debug)]
struct ChunkHead {
    cookie: Cookie,
    kind: Chunk,
    done: bool,
    /// Of what is awaited.
    length: usize,
    /// How many bytes follow that nobody wants: extents that the answer has no room for.
    surplus: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Whole { cookie: Cookie, length: usize },
    Control(ChunkHead),
    Skip(u64),
    Data { cookie: Cookie, done: bool, offset: u64, length: usize },
}

/// Reads replies of one connection.
#[derive(Debug)]
pub struct ReplyReader {
    framing: Framing,
    state: State,
}

impl ReplyReader {
    /// For a connection with this framing.
    pub fn new(framing: Framing) -> Self {
        Self { framing, state: State::Header }
    }

    /// Stops in front of the message that is not whole: the bytes of it that were taken off the inbox, to be read again before
    /// what is there; and how many bytes are to be skipped before all of them.
    pub fn suspend(&mut self) -> (Vec<u8>, u64) {
        let (mut out, framing) = (Vec::new(), self.framing);
        let mut chunk = |done, kind, cookie, length| {
            put_chunk(&mut out, framing, ChunkFlags::NONE.with_if(ChunkFlags::DONE, done), kind, cookie, 0, length);
        };
        match core::mem::replace(&mut self.state, State::Header) {
            State::Header => {}
            State::Skip(left) => return (out, left),
            State::Whole { cookie, .. } => put_simple(&mut out, 0, cookie),
            State::Control(ChunkHead { cookie, kind, done, length, surplus }) => {
                chunk(done, kind, cookie, length.saturating_add(usize::try_from(surplus).unwrap_or(usize::MAX)));
            }
            State::Data { cookie, done, offset, length } => {
                chunk(done, Chunk::OFFSET_DATA, cookie, length.saturating_add(8));
                out.extend_from_slice(&offset.to_be_bytes());
            }
        }
        (out, 0)
    }

    /// Goes on where another reader of the same connection stopped, after `skip` bytes that nobody wants.
    pub fn resume(framing: Framing, skip: u64) -> Self {
        Self { framing, state: if skip > 0 { State::Skip(skip) } else { State::Header } }
    }

    /// The next reply or chunk; `None` until it is whole. `expected` tells what a cookie waits for, `None` if nobody does.
    pub fn next(
        &mut self,
        inbox: &mut Inbox,
        mut expected: impl FnMut(Cookie) -> Option<Expected>,
    ) -> Result<Option<Event>, ReplyError> {
        loop {
            match self.state {
                State::Header => {
                    let Some(magic) = inbox.peek::<4>() else { return Ok(None) };
                    let magic = u32::from_be_bytes(*magic);
                    let event = match (magic, self.framing) {
                        (SIMPLE_REPLY_MAGIC, Framing::Simple | Framing::Structured) => {
                            self.simple(inbox, &mut expected)?
                        }
                        (STRUCTURED_REPLY_MAGIC, Framing::Structured) => {
                            self.chunk::<STRUCTURED_REPLY>(inbox, &mut expected)?
                        }
                        (EXTENDED_REPLY_MAGIC, Framing::Extended) => {
                            self.chunk::<EXTENDED_REPLY>(inbox, &mut expected)?
                        }
                        (other, framing) => return Err(ReplyError::Magic(other, framing)),
                    };
                    match event {
                        Step::More => return Ok(None),
                        Step::Go => {}
                        Step::Event(event) => return Ok(Some(event)),
                    }
                }
                State::Whole { cookie, length } => {
                    let Some(payload) = inbox.payload(length) else { return Ok(None) };
                    self.state = State::Header;
                    return Ok(Some(Event { cookie, done: true, body: Body::Whole(payload) }));
                }
                State::Data { cookie, done, offset, length } => {
                    let Some(payload) = inbox.payload(length) else { return Ok(None) };
                    self.state = State::Header;
                    return Ok(Some(Event { cookie, done, body: Body::Piece(Piece::Data { offset, payload }) }));
                }
                State::Skip(left) => {
                    let left = left - inbox.skip(left);
                    if left > 0 {
                        self.state = State::Skip(left);
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Control(head) if head.kind == Chunk::OFFSET_DATA => {
                    let Some(offset) = inbox.peek::<8>() else { return Ok(None) };
                    let offset = u64::from_be_bytes(*offset);
                    inbox.advance(8);
                    self.state = State::Data {
                        cookie: head.cookie,
                        done: head.done,
                        offset,
                        length: head.length.saturating_sub(8),
                    };
                }
                State::Control(head) => {
                    let Some(payload) = inbox.payload(head.length) else { return Ok(None) };
                    self.state = if head.surplus > 0 { State::Skip(head.surplus) } else { State::Header };
                    let body = control(head.kind, &payload.to_contiguous(), head.surplus)?;
                    return Ok(Some(Event { cookie: head.cookie, done: head.done, body }));
                }
            }
        }
    }

    fn simple(
        &mut self,
        inbox: &mut Inbox,
        expected: &mut impl FnMut(Cookie) -> Option<Expected>,
    ) -> Result<Step, ReplyError> {
        let Some(head) = inbox.peek::<SIMPLE_REPLY>() else { return Ok(Step::More) };
        let mut fields = Fields(head);
        let (_, errno, cookie) = (fields.u32(), fields.u32(), Cookie(fields.u64()));
        let waits = expected(cookie).ok_or(ReplyError::Cookie(cookie))?;
        inbox.advance(SIMPLE_REPLY);
        let body = match (errno, waits.read) {
            (0, None) => Body::Nothing,
            (0, Some(_)) if self.framing != Framing::Simple => return Err(ReplyError::SimpleRead(self.framing)),
            (0, Some(length)) => {
                self.state = State::Whole { cookie, length: usize::try_from(length).unwrap_or(usize::MAX) };
                return Ok(Step::Go);
            }
            (errno, _) => Body::Error { errno: Errno(errno), message: String::new(), offset: None },
        };
        Ok(Step::Event(Event { cookie, done: true, body }))
    }

    fn chunk<const HEAD: usize>(
        &mut self,
        inbox: &mut Inbox,
        expected: &mut impl FnMut(Cookie) -> Option<Expected>,
    ) -> Result<Step, ReplyError> {
        let Some(head) = inbox.peek::<HEAD>() else { return Ok(Step::More) };
        let mut fields = Fields(head);
        let _ = fields.u32();
        let (flags, kind, cookie) = (ChunkFlags(fields.u16()), Chunk(fields.u16()), Cookie(fields.u64()));
        let length = if HEAD == EXTENDED_REPLY {
            // The offset repeats the request's; servers in the wild differ in how strictly, and nothing depends on it.
            let _ = fields.u64();
            fields.u64()
        } else {
            u64::from(fields.u32())
        };
        let waits = expected(cookie).ok_or(ReplyError::Cookie(cookie))?;
        let bad = |allowed| ReplyError::Length { kind, length, allowed };
        let most = u64::try_from(MAX_EXTENTS).unwrap_or(u64::MAX);
        match kind {
            Chunk::NONE if length != 0 => return Err(bad("0")),
            Chunk::NONE if !flags.has(ChunkFlags::DONE) => return Err(bad("0, with the DONE flag")),
            Chunk::OFFSET_DATA | Chunk::OFFSET_HOLE if waits.read.is_none() => return Err(ReplyError::Kind(kind)),
            Chunk::BLOCK_STATUS | Chunk::BLOCK_STATUS_EXT | Chunk::RESIZE if waits.read.is_some() => {
                return Err(ReplyError::Kind(kind));
            }
            Chunk::OFFSET_DATA if length <= 8 || length > waits.read.unwrap_or(0).saturating_add(8) => {
                return Err(bad("9 to 8 more than the READ asks for"));
            }
            Chunk::OFFSET_HOLE if length != 12 => return Err(bad("12")),
            Chunk::BLOCK_STATUS if length < 12 || length % 8 != 4 => return Err(bad("4 and 8 for each extent")),
            Chunk::BLOCK_STATUS_EXT if length < 24 || length % 16 != 8 => return Err(bad("8 and 16 for each extent")),
            Chunk::BLOCK_STATUS if (length - 4) / 8 > most => return Err(bad("at most 128 Ki extents")),
            Chunk::BLOCK_STATUS_EXT if (length - 8) / 16 > most => return Err(bad("at most 128 Ki extents")),
            Chunk::RESIZE if length != 8 => return Err(bad("8")),
            Chunk::NONE | Chunk::OFFSET_DATA | Chunk::OFFSET_HOLE => {}
            Chunk::BLOCK_STATUS | Chunk::BLOCK_STATUS_EXT | Chunk::RESIZE => {}
            error if error.is_error() && !(6..=u64::from(MAX_STRING) + 14).contains(&length) => {
                return Err(bad("6 to 4110"));
            }
            error if error.is_error() => {}
            other => return Err(ReplyError::Kind(other)),
        }
        inbox.advance(HEAD);
        let done = flags.has(ChunkFlags::DONE);
        if length == 0 {
            return Ok(Step::Event(Event { cookie, done, body: Body::Nothing }));
        }
        let extents = u64::try_from(waits.extents.max(1)).unwrap_or(u64::MAX);
        let wanted = match kind {
            Chunk::BLOCK_STATUS => length.min(extents.saturating_mul(8).saturating_add(4)),
            Chunk::BLOCK_STATUS_EXT => length.min(extents.saturating_mul(16).saturating_add(8)),
            _ => length,
        };
        let (surplus, length) = (length - wanted, usize::try_from(wanted).unwrap_or(usize::MAX));
        self.state = State::Control(ChunkHead { cookie, kind, done, length, surplus });
        Ok(Step::Go)
    }
}

enum Step {
    /// The header is not whole.
    More,
    /// A payload is awaited.
    Go,
    Event(Event),
}

/// Big-endian fields in order; past the end they read as 0 (lengths were checked before).
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }
    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

fn control(kind: Chunk, payload: &[u8], surplus: u64) -> Result<Body, ReplyError> {
    let mut fields = Fields(payload);
    Ok(match kind {
        Chunk::OFFSET_HOLE => {
            let offset = fields.u64();
            let length = u64::from(fields.u32());
            if length == 0 {
                return Err(ReplyError::Inner(kind));
            }
            Body::Piece(Piece::Hole { offset, length })
        }
        Chunk::BLOCK_STATUS => {
            let context = fields.u32();
            let extents = fields.0.chunks_exact(8).map(|c| {
                let mut f = Fields(c);
                (u64::from(f.u32()), u64::from(f.u32()))
            });
            status(context, extents)?
        }
        Chunk::BLOCK_STATUS_EXT => {
            let (context, count) = (fields.u32(), fields.u32());
            // The count is advisory in the specification's words; one that disagrees is still a bug worth ending for.
            let told = u64::try_from(fields.0.len()).unwrap_or(u64::MAX).saturating_add(surplus) / 16;
            if count != 0 && u64::from(count) != told {
                return Err(ReplyError::Inner(kind));
            }
            let extents = fields.0.chunks_exact(16).map(|c| {
                let mut f = Fields(c);
                (f.u64(), f.u64())
            });
            status(context, extents)?
        }
        Chunk::RESIZE => Body::Resize { size: fields.u64() },
        error => {
            let (errno, length) = (fields.u32(), usize::from(fields.u16()));
            if errno == 0 {
                return Err(ReplyError::NoError);
            }
            let (message, rest) = fields.0.split_at_checked(length).ok_or(ReplyError::Inner(error))?;
            let offset = match error {
                Chunk::ERROR_OFFSET => Some(rest.try_into().map_err(|_| ReplyError::Inner(error))?),
                _ => None,
            };
            let offset = offset.map(u64::from_be_bytes);
            Body::Error { errno: Errno(errno), message: printable(message), offset }
        }
    })
}

fn status(context: u32, extents: impl Iterator<Item = (u64, u64)>) -> Result<Body, ReplyError> {
    let extents: Vec<_> = extents.collect();
    if extents.iter().any(|(length, _)| *length == 0) {
        return Err(ReplyError::EmptyExtent);
    }
    Ok(Body::Status { context, extents })
}

#[cfg(test)]
mod tests;
