//! What the connecting side sends: client flags and options, and the bounds of what goes into them.

use bytes::{BufMut, BytesMut};

use super::{Contexts, HandshakeError, MAX_CONTEXTS, Wishes};
use crate::text::length_u32;
use crate::{Info, MAX_STRING, OPT_MAGIC, Opt};

impl Wishes {
    /// Refuses what the protocol has no room for, before the first byte is sent.
    pub(super) fn check(&self) -> Result<(), HandshakeError> {
        let most = usize::try_from(MAX_STRING).unwrap_or(usize::MAX);
        let fits = |what, length: usize, most| {
            if length > most { Err(HandshakeError::WishTooLong { what, length, most }) } else { Ok(()) }
        };
        fits("export's name", self.export.len(), most)?;
        if let Contexts::These(names) = &self.contexts {
            fits("list of metadata contexts", names.len(), MAX_CONTEXTS)?;
            names.iter().try_for_each(|name| fits("metadata context's name", name.len(), most))?;
        }
        Ok(())
    }
}

/// Appends an option.
pub(super) fn put_option(out: &mut BytesMut, opt: Opt, body: &[u8]) {
    out.put_u64(OPT_MAGIC);
    out.put_u32(opt.0);
    out.put_u32(length_u32(body.len()));
    out.put_slice(body);
}

/// Appends NBD_OPT_INFO or NBD_OPT_GO. Information is asked for once each, whatever the wishes repeat.
pub(super) fn put_info_or_go(out: &mut BytesMut, opt: Opt, export: &str, infos: &[Info]) {
    let mut once: Vec<Info> = Vec::with_capacity(infos.len());
    for info in infos {
        if !once.contains(info) && *info != Info::EXPORT {
            once.push(*info);
        }
    }
    let mut body = BytesMut::new();
    put_string(&mut body, export);
    body.put_u16(u16::try_from(once.len()).unwrap_or(u16::MAX));
    once.iter().take(usize::from(u16::MAX)).for_each(|info| body.put_u16(info.0));
    put_option(out, opt, &body);
}

/// Appends NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT.
pub(super) fn put_contexts(out: &mut BytesMut, opt: Opt, export: &str, queries: &[String]) {
    let mut body = BytesMut::new();
    put_string(&mut body, export);
    body.put_u32(length_u32(queries.len()));
    queries.iter().for_each(|query| put_string(&mut body, query));
    put_option(out, opt, &body);
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u32(length_u32(text.len()));
    out.put_slice(text.as_bytes());
}
