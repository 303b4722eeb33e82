//! What a server sends of these, by other code than the server's: for the fuzz targets and the tests.

use bytes::{BufMut, BytesMut};

use super::{InfoItem, Listed, MetaContext, put_reply};
use crate::text::length_u32;
use crate::{Info, Opt, Rep};

impl InfoItem {
    /// Appends a whole NBD_REP_INFO in answer to `opt`.
    pub fn encode(&self, opt: Opt, out: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(32);
        match self {
            Self::Export { size, flags } => {
                body.put_u16(Info::EXPORT.0);
                body.put_u64(*size);
                body.put_u16(flags.0);
            }
            Self::Name(name) => {
                body.put_u16(Info::NAME.0);
                body.put_slice(name.as_bytes());
            }
            Self::Description(text) => {
                body.put_u16(Info::DESCRIPTION.0);
                body.put_slice(text.as_bytes());
            }
            Self::BlockSize(sizes) => {
                body.put_u16(Info::BLOCK_SIZE.0);
                body.put_u32(sizes.minimum);
                body.put_u32(sizes.preferred);
                body.put_u32(sizes.maximum);
            }
            Self::Resize(whole) => body.put_slice(whole),
            Self::Unknown(kind) => body.put_u16(kind.0),
        }
        put_reply(out, opt, Rep::INFO, &body);
    }
}

impl Listed {
    /// Appends a whole NBD_REP_SERVER.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut body =
            BytesMut::with_capacity(self.name.len().saturating_add(self.description.len()).saturating_add(4));
        body.put_u32(length_u32(self.name.len()));
        body.put_slice(self.name.as_bytes());
        body.put_slice(self.description.as_bytes());
        put_reply(out, Opt::LIST, Rep::SERVER, &body);
    }
}

impl MetaContext {
    /// Appends a whole NBD_REP_META_CONTEXT in answer to `opt`.
    pub fn encode(&self, opt: Opt, out: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(self.name.len().saturating_add(4));
        body.put_u32(self.id);
        body.put_slice(self.name.as_bytes());
        put_reply(out, opt, Rep::META_CONTEXT, &body);
    }
}
