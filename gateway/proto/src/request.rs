//! Request headers, compact and extended. proto.md, "Request message" and "Extended headers".

use bytes::BufMut;

use crate::reply::Fields;
use crate::{Cmd, CmdFlags, Cookie, EXTENDED_REQUEST_MAGIC, Framing, Inbox, REQUEST_MAGIC};

/// A request as its header says it, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: CmdFlags,
    /// Command.
    pub command: Cmd,
    /// The sender's cookie.
    pub cookie: Cookie,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes: of the range, or of the payload if PAYLOAD_LEN is set. At most 2^32-1 with compact headers.
    pub length: u64,
}

/// The stream does not hold a request where one should be. The connection can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request magic is {found:#010x}, not {expected:#010x}")]
pub struct RequestMagicError {
    /// What the stream holds.
    pub found: u32,
    /// What it should hold with the headers that were negotiated.
    pub expected: u32,
}

/// Length of a compact request header.
pub const COMPACT_REQUEST: usize = 28;
/// Length of an extended request header.
pub const EXTENDED_REQUEST: usize = 32;

impl RequestHeader {
    /// Takes one header off the inbox; `None` until it is whole.
    pub fn take(inbox: &mut Inbox, framing: Framing) -> Result<Option<Self>, RequestMagicError> {
        let extended = framing == Framing::Extended;
        let expected = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        // The magic is checked as soon as it is there: rubbish should not have to be longer than that.
        if let Some(magic) = inbox.peek::<4>() {
            let found = u32::from_be_bytes(*magic);
            if found != expected {
                return Err(RequestMagicError { found, expected });
            }
        }
        let head = if extended {
            inbox.peek::<EXTENDED_REQUEST>().map(<[u8; EXTENDED_REQUEST]>::as_slice)
        } else {
            inbox.peek::<COMPACT_REQUEST>().map(<[u8; COMPACT_REQUEST]>::as_slice)
        };
        let Some(head) = head else { return Ok(None) };
        let mut fields = Fields(head);
        let _ = fields.u32();
        let header = Self {
            flags: CmdFlags(fields.u16()),
            command: Cmd(fields.u16()),
            cookie: Cookie(fields.u64()),
            offset: fields.u64(),
            length: if extended { fields.u64() } else { fields.u32().into() },
        };
        inbox.advance(if extended { EXTENDED_REQUEST } else { COMPACT_REQUEST });
        Ok(Some(header))
    }

    /// Appends the header to `out`. A compact length saturates at 2^32-1: callers split before that.
    pub fn put(&self, framing: Framing, out: &mut Vec<u8>) {
        let extended = framing == Framing::Extended;
        out.reserve(EXTENDED_REQUEST);
        out.put_u32(if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC });
        out.put_u16(self.flags.0);
        out.put_u16(self.command.0);
        out.put_u64(self.cookie.0);
        out.put_u64(self.offset);
        if extended {
            out.put_u64(self.length);
        } else {
            out.put_u32(u32::try_from(self.length).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Heap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_reads_back_as_it_was_written_and_not_before_its_last_byte(
            flags: u16, command: u16, cookie: u64, offset: u64, length: u64,
            framing in prop_oneof![Just(Framing::Simple), Just(Framing::Structured), Just(Framing::Extended)],
        ) {
            let length = if framing == Framing::Extended { length } else { length & 0xffff_ffff };
            let header = RequestHeader { flags: CmdFlags(flags), command: Cmd(command), cookie: Cookie(cookie), offset, length };
            let mut bytes = Vec::new();
            header.put(framing, &mut bytes);
            let mut inbox = Inbox::default();
            for (i, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(RequestHeader::take(&mut inbox, framing).unwrap(), None, "at byte {}", i);
                inbox.room(&Heap).extend_from_slice(&[*byte]);
            }
            prop_assert_eq!(RequestHeader::take(&mut inbox, framing).unwrap(), Some(header));
            prop_assert!(inbox.is_empty());
        }
    }

    #[test]
    fn rubbish_is_known_by_its_first_four_bytes() {
        let mut inbox = Inbox::default();
        inbox.room(&Heap).extend_from_slice(b"GET ");
        let error = RequestHeader::take(&mut inbox, Framing::Simple).unwrap_err();
        assert_eq!(error.to_string(), "request magic is 0x47455420, not 0x25609513");
    }
}
