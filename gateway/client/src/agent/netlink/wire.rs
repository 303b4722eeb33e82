//! Netlink's framing, sans-IO: messages and attributes, appended to a buffer and read from one.
//!
//! Owns lengths, alignment and the byte order, which is the machine's own. Never believes a length: what reaches past its
//! buffer, or is shorter than its own head, ends the reading. Source: netlink(7), `linux/netlink.h`, `linux/genetlink.h`.

/// Length of `nlmsghdr`.
pub(super) const MESSAGE_HEAD: usize = 16;
/// Length of `genlmsghdr`.
pub(super) const GENERIC_HEAD: usize = 4;
/// Length of `nlattr`.
const ATTRIBUTE_HEAD: usize = 4;
/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NLA_TYPE_MASK: without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE: u16 = 0x3fff;

/// NLM_F_REQUEST and NLM_F_ACK: a question that is answered by an error code in any case.
const REQUEST_WITH_ACK: u16 = 0x0001 | 0x0004;
/// NLMSG_ERROR: an acknowledgement, with an error code or 0.
const ERROR: u16 = 0x0002;

/// Everything is padded to four bytes.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Builds one generic netlink request.
#[derive(Debug)]
pub(super) struct Builder(Vec<u8>);

impl Builder {
    /// A request to `family`, which answers with the same `sequence`.
    pub(super) fn new(family: u16, command: u8, version: u8, sequence: u32) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]); // its length, which `finish` knows
        bytes.extend_from_slice(&family.to_ne_bytes());
        bytes.extend_from_slice(&REQUEST_WITH_ACK.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]); // from whom: the kernel fills it in
        bytes.extend_from_slice(&[command, version, 0, 0]);
        Self(bytes)
    }

    /// Appends an attribute. What does not fit into the 16 bits of its length is cut.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let most = usize::from(u16::MAX).saturating_sub(ATTRIBUTE_HEAD);
        let value = value.get(..most).unwrap_or(value);
        let length = u16::try_from(value.len().saturating_add(ATTRIBUTE_HEAD)).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
    }

    /// Appends an attribute that holds others.
    pub(super) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let mut nest = Self(Vec::new());
        inside(&mut nest);
        self.put(kind | NESTED, &nest.0);
    }

    /// The whole message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
        self.0
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// An acknowledgement: 0, or an error number of the kernel's (positive).
    Ack { sequence: u32, error: i32 },
    /// A generic netlink message of a family.
    Generic { family: u16, command: u8, attributes: &'a [u8] },
}

/// The messages of a datagram, up to the first that is not one.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    core::iter::from_fn(move || {
        loop {
            let head: &[u8; MESSAGE_HEAD] = datagram.first_chunk()?;
            let length = usize::try_from(u32_at(head, 0)?).ok()?;
            let (kind, sequence) = (u16_at(head, 4)?, u32_at(head, 8)?);
            let body = datagram.get(MESSAGE_HEAD..length)?;
            datagram = datagram.get(aligned(length)..).unwrap_or_default();
            if kind == ERROR {
                let error = i32::from_ne_bytes(*body.first_chunk()?);
                return Some(Message::Ack { sequence, error: error.checked_neg()? });
            }
            // Other messages of netlink itself (NOOP, DONE, OVERRUN) say nothing here.
            if kind >= MESSAGE_HEAD_OF_FAMILIES {
                let (&command, attributes) = (body.first()?, body.get(GENERIC_HEAD..)?);
                return Some(Message::Generic { family: kind, command, attributes });
            }
        }
    })
}

/// NLMSG_MIN_TYPE: smaller types are netlink's own.
const MESSAGE_HEAD_OF_FAMILIES: u16 = 0x10;

/// The attributes in a run of them, up to the first that is not one: type without its flags, and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let (length, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let value = bytes.get(ATTRIBUTE_HEAD..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

/// The number at a place, in the machine's order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

/// The number at a place, in the machine's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let mut builder = Builder::new(0x1c, 3, 1, 7);
        builder.put(1, &5_u32.to_ne_bytes());
        builder.nest(7, |list| list.nest(1, |item| item.put(1, &9_u32.to_ne_bytes())));
        builder.put(10, b"id\0");
        let bytes = builder.finish();
        let mut expected = Vec::new();
        expected.extend_from_slice(&52_u32.to_ne_bytes());
        for half in [0x1c_u16, 5] {
            expected.extend_from_slice(&half.to_ne_bytes());
        }
        expected.extend_from_slice(&7_u32.to_ne_bytes());
        expected.extend_from_slice(&[0, 0, 0, 0, 3, 1, 0, 0]);
        let attribute = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        expected.extend_from_slice(&attribute(8, 1));
        expected.extend_from_slice(&5_u32.to_ne_bytes());
        expected.extend_from_slice(&attribute(16, 0x8007));
        expected.extend_from_slice(&attribute(12, 0x8001));
        expected.extend_from_slice(&attribute(8, 1));
        expected.extend_from_slice(&9_u32.to_ne_bytes());
        expected.extend_from_slice(&attribute(7, 10));
        expected.extend_from_slice(b"id\0\0");
        assert_eq!(bytes.len(), expected.len());
        assert_eq!(bytes[4..], expected[4..]);
        assert_eq!(u32_at(&bytes, 0), u32::try_from(bytes.len()).ok());
    }

    proptest! {
        #[test]
        fn what_is_built_reads_back(
            family in 0x10_u16.., command: u8, sequence: u32,
            list in prop::collection::vec((0_u16..0x4000, prop::collection::vec(any::<u8>(), 0..70)), 0..9),
        ) {
            let mut builder = Builder::new(family, command, 1, sequence);
            for (kind, value) in &list {
                builder.put(*kind, value);
            }
            let bytes = builder.finish();
            let read: Vec<_> = messages(&bytes).collect();
            let [Message::Generic { family: to, command: which, attributes: rest }] = read[..] else {
                panic!("{read:?}")
            };
            prop_assert_eq!((to, which), (family, command));
            let back: Vec<_> = attributes(rest).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(back, list);
        }

        #[test]
        fn any_bytes_end_the_reading_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            // Bounded by the bytes there are: each message takes a head, each attribute too.
            prop_assert!(messages(&bytes).count() <= bytes.len() / MESSAGE_HEAD);
            prop_assert!(attributes(&bytes).count() <= bytes.len() / ATTRIBUTE_HEAD);
            for message in messages(&bytes) {
                if let Message::Generic { attributes: inner, .. } = message {
                    prop_assert!(attributes(inner).all(|(kind, value)| kind <= TYPE && value.len() < bytes.len()));
                }
            }
        }

        #[test]
        fn a_message_that_is_cut_anywhere_is_no_message(cut in 1_usize..40, error in 0_i32..200) {
            let mut ack = [36_u32.to_ne_bytes(), [2, 0, 0, 0]].concat();
            ack[4..6].copy_from_slice(&ERROR.to_ne_bytes());
            ack.extend_from_slice(&3_u32.to_ne_bytes());
            ack.extend_from_slice(&[0; 4]);
            ack.extend_from_slice(&(-error).to_ne_bytes());
            ack.extend_from_slice(&[0; 16]);
            let whole: Vec<_> = messages(&ack).collect();
            prop_assert_eq!(whole, vec![Message::Ack { sequence: 3, error }]);
            let end = ack.len().saturating_sub(cut);
            prop_assert_eq!(messages(&ack[..end]).count(), 0);
        }
    }

    #[test]
    fn lengths_under_their_own_heads_do_not_loop() {
        for length in 0_u32..16 {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(64, 0);
            assert_eq!(messages(&bytes).count(), 0, "{length}");
        }
        for length in 0_u16..4 {
            let bytes = [length.to_ne_bytes(), [1, 0], [0, 0], [0, 0]].concat();
            assert_eq!(attributes(&bytes).count(), 0, "{length}");
        }
    }
}
