//! Option replies and the items inside them: written by the server side, read by the client side of the handshake.
//!
//! Owns the shapes of NBD_REP_INFO, NBD_REP_SERVER and NBD_REP_META_CONTEXT and their bounds. Never decides what is said
//! or asked. Decoding copies at most what a bound allows, and every refusal names the length or value at fault.
//! Source: proto.md, "Option reply types", "Size constraints".

#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

use super::BlockSizes;
use crate::resize::ResizeInfoError;
use crate::text::{cut, length_u32, longest, printable};
use crate::{ExportFlags, Info, MAX_STRING, Opt, REP_MAGIC, Rep};

/// Length of the head of an option reply: magic, option, type, length.
pub const REPLY_HEAD: usize = 20;
/// Longest body of an option reply that is read, in bytes. The largest meaningful ones hold two strings of 4096.
pub const MAX_REPLY: u32 = 0x1_0000;

/// Why the body of a reply could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A body of fixed length has another one.
    #[error("its body is {length} bytes long and must be {must}")]
    Length {
        /// Bytes there are.
        length: usize,
        /// Bytes there must be.
        must: usize,
    },
    /// A body ends before its fixed part does.
    #[error("its body of {length} bytes ends before the fields that it must have")]
    Short {
        /// Bytes there are.
        length: usize,
    },
    /// An inner length reaches past the outer one.
    #[error("its name of {inner} bytes does not fit into its body of {outer}")]
    Inner {
        /// Length that the body states.
        inner: u32,
        /// Length of the body.
        outer: usize,
    },
    /// A string over the protocol's bound.
    #[error("its {what} is {length} bytes long, more than {MAX_STRING}")]
    TextTooLong {
        /// Which string.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A string that the protocol does not allow.
    #[error("its {what} is not UTF-8 without NUL bytes: {start:?}")]
    Text {
        /// Which string.
        what: &'static str,
        /// How it starts, made printable.
        start: String,
    },
    /// Block sizes that contradict proto.md, "Size constraints".
    #[error(
        "its block sizes {}/{}/{} are not: powers of two up to 65536 and from 512, and a maximum no smaller",
        .0.minimum, .0.preferred, .0.maximum
    )]
    BlockSizes(BlockSizes),
    /// An NBD_INFO_RESIZE that is none.
    #[error("in NBD_INFO_RESIZE, {0}")]
    Resize(#[from] ResizeInfoError),
}

/// The head of an option reply, without its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// The option that is answered.
    pub opt: Opt,
    /// What kind of reply.
    pub rep: Rep,
    /// Length of the body in bytes.
    pub length: u32,
}

impl ReplyHead {
    /// Reads a head. `Err` holds the wrong magic; `None` means that there are fewer than [`REPLY_HEAD`] bytes.
    pub fn decode(mut bytes: &[u8]) -> Option<Result<Self, u64>> {
        let magic = bytes.try_get_u64().ok()?;
        let (opt, rep) = (Opt(bytes.try_get_u32().ok()?), Rep(bytes.try_get_u32().ok()?));
        let length = bytes.try_get_u32().ok()?;
        Some(if magic == REP_MAGIC { Ok(Self { opt, rep, length }) } else { Err(magic) })
    }
}

/// Whether block sizes are what proto.md, "Size constraints", allows.
fn are_sane(sizes: BlockSizes) -> bool {
    sizes.minimum.is_power_of_two()
        && sizes.minimum <= 0x1_0000
        && sizes.preferred.is_power_of_two()
        && sizes.preferred >= sizes.minimum.max(512)
        && sizes.maximum >= sizes.preferred
}

/// One item of an NBD_REP_INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InfoItem {
    /// Size in bytes and transmission flags.
    Export {
        /// Size in bytes.
        size: u64,
        /// What the export can do.
        flags: ExportFlags,
    },
    /// The canonical name.
    Name(String),
    /// A description for people.
    Description(String),
    /// Block sizes.
    BlockSize(BlockSizes),
    /// A whole NBD_INFO_RESIZE, its type included: read by who asked for it
    /// ([`ResizeInfo::parse`](crate::resize::ResizeInfo::parse)), for nobody else knows what it means.
    Resize(Bytes),
    /// A type that is not known here, to be ignored.
    Unknown(Info),
}

impl InfoItem {
    /// Reads the body of an NBD_REP_INFO.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut rest = body;
        let short = Malformed::Short { length: body.len() };
        let exactly = |must: usize| match body.len() {
            length if length == must => Ok(()),
            length => Err(Malformed::Length { length, must }),
        };
        let kind = Info(rest.try_get_u16().map_err(|_| short.clone())?);
        Ok(match kind {
            Info::EXPORT => {
                exactly(12)?;
                Self::Export {
                    size: rest.try_get_u64().map_err(|_| short.clone())?,
                    flags: ExportFlags(rest.try_get_u16().map_err(|_| short)?),
                }
            }
            Info::NAME => Self::Name(text("name", rest)?),
            Info::DESCRIPTION => Self::Description(text("description", rest)?),
            Info::BLOCK_SIZE => {
                exactly(14)?;
                let mut next = || rest.try_get_u32().map_err(|_| short.clone());
                let sizes = BlockSizes { minimum: next()?, preferred: next()?, maximum: next()? };
                if !are_sane(sizes) {
                    return Err(Malformed::BlockSizes(sizes));
                }
                Self::BlockSize(sizes)
            }
            Info::RESIZE => Self::Resize(Bytes::copy_from_slice(body)),
            other => Self::Unknown(other),
        })
    }
}

/// One export of an NBD_OPT_LIST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name to ask for.
    pub name: String,
    /// A description for people; often empty.
    pub description: String,
}

impl Listed {
    /// Reads the body of an NBD_REP_SERVER.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut rest = body;
        let inner = rest.try_get_u32().map_err(|_| Malformed::Short { length: body.len() })?;
        let split = usize::try_from(inner).ok().and_then(|at| rest.split_at_checked(at));
        let (name, description) = split.ok_or(Malformed::Inner { inner, outer: body.len() })?;
        Ok(Self { name: text("name", name)?, description: text("description", description)? })
    }
}

/// One metadata context of a reply to NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContext {
    /// The number that stands for it in BLOCK_STATUS replies; means nothing in a list.
    pub id: u32,
    /// Its name, `namespace:leaf`.
    pub name: String,
}

impl MetaContext {
    /// Reads the body of an NBD_REP_META_CONTEXT.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut rest = body;
        let id = rest.try_get_u32().map_err(|_| Malformed::Short { length: body.len() })?;
        Ok(Self { id, name: text("name", rest)? })
    }
}

/// Appends an option reply. `body` is at most [`MAX_REPLY`] bytes; that is the caller's to keep.
pub fn put_reply(out: &mut impl BufMut, opt: Opt, rep: Rep, body: &[u8]) {
    out.put_u64(REP_MAGIC);
    out.put_u32(opt.0);
    out.put_u32(rep.0);
    out.put_u32(length_u32(body.len()));
    out.put_slice(body);
}

/// Appends an error reply with a message for people, cut at the protocol's bound for strings.
pub fn put_error(out: &mut impl BufMut, opt: Opt, rep: Rep, message: &str) {
    put_reply(out, opt, rep, cut(message).as_bytes());
}

/// A string of the protocol. proto.md, "Conventions": UTF-8, no NUL, at most 4096 bytes.
fn text(what: &'static str, bytes: &[u8]) -> Result<String, Malformed> {
    if bytes.len() > longest() {
        return Err(Malformed::TextTooLong { what, length: bytes.len() });
    }
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Malformed::Text { what, start: printable(bytes.get(..64).unwrap_or(bytes)) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    /// The head and the body of the one reply in `out`.
    fn open(out: &[u8]) -> (ReplyHead, &[u8]) {
        let head = ReplyHead::decode(out).unwrap().unwrap();
        assert_eq!(out.len(), REPLY_HEAD + usize::try_from(head.length).unwrap());
        (head, &out[REPLY_HEAD..])
    }

    fn item() -> impl Strategy<Value = InfoItem> {
        let sizes = (0u32..=16, 9u32..=25, any::<u32>()).prop_map(|(minimum, preferred, maximum)| {
            let (minimum, preferred) = (1 << minimum, 1 << preferred.max(minimum));
            InfoItem::BlockSize(BlockSizes { minimum, preferred, maximum: maximum.max(preferred) })
        });
        prop_oneof![
            (any::<u64>(), any::<u16>()).prop_map(|(size, f)| InfoItem::Export { size, flags: ExportFlags(f) }),
            "[^\0]{0,99}".prop_map(InfoItem::Name),
            "[^\0]{0,99}".prop_map(InfoItem::Description),
            sizes,
            any::<[u8; 26]>().prop_map(|b| InfoItem::Resize([&[0x52, 0x53][..], &b].concat().into())),
            (4u16..0x5253).prop_map(|kind| InfoItem::Unknown(Info(kind))),
        ]
    }

    proptest! {
        #[test]
        fn an_info_item_is_read_back_as_it_was_written(item in item()) {
            let mut out = BytesMut::new();
            item.encode(Opt::GO, &mut out);
            let (head, body) = open(&out);
            prop_assert_eq!((head.opt, head.rep), (Opt::GO, Rep::INFO));
            prop_assert_eq!(InfoItem::decode(body), Ok(item));
        }

        #[test]
        fn a_listed_export_is_read_back_as_it_was_written(name in "[^\0]{0,99}", description in "[^\0]{0,99}") {
            let (listed, mut out) = (Listed { name, description }, BytesMut::new());
            listed.encode(&mut out);
            prop_assert_eq!(Listed::decode(open(&out).1), Ok(listed));
        }

        #[test]
        fn a_context_is_read_back_as_it_was_written(id in any::<u32>(), name in "[^\0]{0,99}") {
            let (context, mut out) = (MetaContext { id, name }, BytesMut::new());
            context.encode(Opt::SET_META_CONTEXT, &mut out);
            prop_assert_eq!(MetaContext::decode(open(&out).1), Ok(context));
        }

        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
            if let Ok(item) = InfoItem::decode(&body) && !matches!(item, InfoItem::Unknown(_)) {
                item.encode(Opt::GO, &mut a);
                prop_assert_eq!(open(&a).1, &body[..]);
            }
            if let Ok(listed) = Listed::decode(&body) {
                listed.encode(&mut b);
                prop_assert_eq!(open(&b).1, &body[..]);
            }
            let shown = printable(&body);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }

    #[test]
    fn a_body_of_the_wrong_length_is_refused_with_both_lengths() {
        assert_eq!(InfoItem::decode(&[0, 0, 1]), Err(Malformed::Length { length: 3, must: 12 }));
        assert_eq!(InfoItem::decode(&[0, 3, 1]), Err(Malformed::Length { length: 3, must: 14 }));
        assert_eq!(InfoItem::decode(&[0]), Err(Malformed::Short { length: 1 }));
        assert_eq!(MetaContext::decode(&[0; 3]), Err(Malformed::Short { length: 3 }));
        assert_eq!(Listed::decode(&[0; 3]), Err(Malformed::Short { length: 3 }));
        assert_eq!(Listed::decode(&[0, 0, 0, 2, b'x']), Err(Malformed::Inner { inner: 2, outer: 5 }));
        assert_eq!(Listed::decode(&[0xff; 8]), Err(Malformed::Inner { inner: u32::MAX, outer: 8 }));
    }

    #[test]
    fn a_string_over_its_bound_or_not_text_is_refused() {
        let long = [&[0, 1][..], &[b'n'; 4097]].concat();
        assert_eq!(InfoItem::decode(&long), Err(Malformed::TextTooLong { what: "name", length: 4097 }));
        assert!(InfoItem::decode(&long[..4098]).is_ok());
        for bad in [&[0, 2, 0xff][..], &[0, 2, b'a', 0]] {
            assert!(matches!(InfoItem::decode(bad), Err(Malformed::Text { what: "description", .. })));
        }
    }

    #[test]
    fn block_sizes_that_contradict_the_specification_are_refused() {
        let try_one = |minimum: u32, preferred: u32, maximum: u32| {
            let mut out = BytesMut::new();
            InfoItem::BlockSize(BlockSizes { minimum, preferred, maximum }).encode(Opt::GO, &mut out);
            InfoItem::decode(open(&out).1).is_ok()
        };
        assert!(try_one(1, 4096, 33_554_432) && try_one(65536, 65536, u32::MAX) && try_one(512, 512, 512));
        for (minimum, preferred, maximum) in [(0, 512, 512), (3, 512, 512), (131_072, 131_072, 131_072), (1, 256, 512)]
        {
            assert!(!try_one(minimum, preferred, maximum));
        }
        assert!(!try_one(4096, 512, 8192) && !try_one(1, 4096, 4095) && !try_one(1, 4097, 8192));
    }

    #[test]
    fn an_error_message_is_cut_at_a_character_and_made_printable() {
        let mut out = BytesMut::new();
        put_error(&mut out, Opt::GO, Rep::ERR_UNKNOWN, &"é".repeat(4096));
        assert_eq!(open(&out).1.len(), 4096);
        put_error(&mut { BytesMut::new() }, Opt::GO, Rep::ERR_UNKNOWN, "");
        assert_eq!(printable(b"no\n\x1b[31m such\0 export\n"), "no  [31m such  export");
        assert_eq!(printable(&[0xff; 9000]).len() / 3, 4096 / 3);
    }
}
