//! Request headers, compact and extended. proto.md, "Request message" and "Extended headers".

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

fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b))
}
fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
}
fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b))
}

impl RequestHeader {
    /// Takes one header off the inbox; `None` until it is whole.
    pub fn take(inbox: &mut Inbox, framing: Framing) -> Result<Option<Self>, RequestMagicError> {
        let expected = if framing == Framing::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        // The magic is checked as soon as it is there: rubbish should not have to be longer than that.
        if let Some(magic) = inbox.peek::<4>() {
            let found = u32::from_be_bytes(*magic);
            if found != expected {
                return Err(RequestMagicError { found, expected });
            }
        }
        let header = match framing {
            Framing::Extended => {
                let Some(b) = inbox.peek::<EXTENDED_REQUEST>() else { return Ok(None) };
                Self::fields(b, u64_at(b, 24))
            }
            Framing::Simple | Framing::Structured => {
                let Some(b) = inbox.peek::<COMPACT_REQUEST>() else { return Ok(None) };
                Self::fields(b, u64::from(u32_at(b, 24)))
            }
        };
        inbox.advance(if framing == Framing::Extended { EXTENDED_REQUEST } else { COMPACT_REQUEST });
        Ok(Some(header))
    }

    fn fields(b: &[u8], length: u64) -> Self {
        Self {
            flags: CmdFlags(u16_at(b, 4)),
            command: Cmd(u16_at(b, 6)),
            cookie: Cookie(u64_at(b, 8)),
            offset: u64_at(b, 16),
            length,
        }
    }

    /// Appends the header to `out`. A compact length saturates at 2^32-1: callers split before that.
    pub fn put(&self, framing: Framing, out: &mut Vec<u8>) {
        let magic = if framing == Framing::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        let mut b = [0u8; EXTENDED_REQUEST];
        let (head, length) = b.split_at_mut(24);
        let fields: [&[u8]; 5] = [
            &magic.to_be_bytes(),
            &self.flags.0.to_be_bytes(),
            &self.command.0.to_be_bytes(),
            &self.cookie.0.to_be_bytes(),
            &self.offset.to_be_bytes(),
        ];
        let mut rest = head;
        for field in fields {
            let (here, next) = rest.split_at_mut(field.len());
            here.copy_from_slice(field);
            rest = next;
        }
        if framing == Framing::Extended {
            length.copy_from_slice(&self.length.to_be_bytes());
            out.extend_from_slice(&b);
        } else {
            let compact = u32::try_from(self.length).unwrap_or(u32::MAX);
            let (low, _) = length.split_at_mut(4);
            low.copy_from_slice(&compact.to_be_bytes());
            let (compact_header, _) = b.split_at(COMPACT_REQUEST);
            out.extend_from_slice(compact_header);
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
