//! The headers of replies: simple ones, and chunks in both of their framings. proto.md, "Structured reply chunk message".

use crate::{Chunk, ChunkFlags, Cookie, EXTENDED_REPLY_MAGIC, Framing, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};

/// Appends a simple reply's header. `errno` 0 is success.
pub fn put_simple(out: &mut Vec<u8>, errno: u32, cookie: Cookie) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&errno.to_be_bytes());
    out.extend_from_slice(&cookie.0.to_be_bytes());
}

/// Appends a chunk's header, structured or extended. `offset` is the request's (extended only), `length` that of the payload.
pub fn put_chunk(
    out: &mut Vec<u8>,
    framing: Framing,
    flags: ChunkFlags,
    kind: Chunk,
    cookie: Cookie,
    offset: u64,
    length: usize,
) {
    let extended = framing == Framing::Extended;
    let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&flags.0.to_be_bytes());
    out.extend_from_slice(&kind.0.to_be_bytes());
    out.extend_from_slice(&cookie.0.to_be_bytes());
    if extended {
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
    } else {
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
}
