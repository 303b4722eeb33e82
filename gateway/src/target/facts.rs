//! A backend's properties when it was opened, and whether a later connection still has them.

use nbd_gateway_config::Resolved;
use nbd_gateway_policy::style::BackendStyle;
use nbd_gateway_policy::types::Bytes;
use nbd_gateway_proto::handshake::BlockSizes;
use nbd_gateway_proto::handshake::client::Negotiated;
use nbd_gateway_proto::resize::ResizeInfo;
use nbd_gateway_proto::{ExportFlags, Framing};

use super::style;
use crate::driver::BackendSnapshot;
use crate::fault::Fault;

/// A backend's properties.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Size in bytes.
    pub size: u64,
    pub flags: ExportFlags,
    /// Framing of its connections; Extended for an embedded disk, which has 64-bit lengths too.
    pub framing: Framing,
    pub contexts: Vec<String>,
    /// Its block sizes, if it announces any.
    pub block_sizes: Option<BlockSizes>,
    pub description: Option<String>,
    /// Its NBD_INFO_RESIZE, if it sent one.
    pub resize: Option<ResizeInfo>,
    /// How it grows, and how it announces its size.
    pub style: BackendStyle,
}

impl Facts {
    /// From a handshake.
    pub(super) fn of(negotiated: &Negotiated, config: &Resolved) -> Self {
        Self {
            size: usable_size(negotiated),
            flags: negotiated.flags,
            framing: negotiated.framing,
            contexts: negotiated.contexts.iter().map(|(name, _)| name.clone()).collect(),
            block_sizes: negotiated.block_sizes,
            description: negotiated.description.clone(),
            resize: negotiated.resize,
            style: style::of_backend(negotiated, &config.resize.driver),
        }
    }

    /// Offsets and lengths must be multiples of this, in bytes.
    pub(crate) fn minimum_block(&self) -> u64 {
        u64::from(self.block_sizes.map_or(1, |s| s.minimum).max(1))
    }

    /// The largest payload of one request, in bytes: a multiple of the minimum. 32 MiB if the backend announces none.
    pub(crate) fn largest_payload(&self) -> u64 {
        let maximum = u64::from(self.block_sizes.map_or(32 << 20, |s| s.maximum)).min(64 << 20);
        (maximum / self.minimum_block() * self.minimum_block()).max(self.minimum_block())
    }

    /// The longest range of one request without payload, in bytes: with compact headers, the largest multiple of 64 KiB
    /// (no block is larger) below 2^32.
    pub(crate) fn longest_range(&self) -> u64 {
        if self.framing == Framing::Extended { u64::MAX } else { 0xffff_0000 }
    }

    /// For a driver, which has to put the backend's export back as it was; `name` is its name at the backend.
    pub(super) fn snapshot(&self, name: &str) -> BackendSnapshot {
        BackendSnapshot {
            name: name.to_owned(),
            flags: self.flags,
            contexts: self.contexts.clone(),
            description: self.description.clone(),
        }
    }

    /// Checks that a later connection can replace the first one: it must have `size` bytes, and all that clients negotiated.
    ///
    /// # Errors
    /// The first property that is missing.
    pub(super) fn fits(&self, size: u64, new: &Negotiated) -> Result<(), Fault> {
        let different = |how: String| Err(Fault::backend(how));
        let is = usable_size(new);
        if is < size {
            return different(format!(
                "its size is {} and was {}; a size never goes back by itself",
                Bytes(is),
                Bytes(size)
            ));
        }
        let missing = self.flags.without(ExportFlags::READ_ONLY).without(new.flags);
        if missing != ExportFlags::NONE {
            return different(format!("it no longer offers {missing}"));
        }
        if new.flags.has(ExportFlags::READ_ONLY) && !self.flags.has(ExportFlags::READ_ONLY) {
            return different("it has become read-only".to_owned());
        }
        if let Some(lost) = self.contexts.iter().find(|c| !new.contexts.iter().any(|(name, _)| name == *c)) {
            return different(format!("it no longer has the metadata context {lost}"));
        }
        let sizes = |s: Option<BlockSizes>| s.map_or((1, 32 << 20), |s| (s.minimum, s.maximum));
        let ((minimum, maximum), (new_minimum, new_maximum)) = (sizes(self.block_sizes), sizes(new.block_sizes));
        if new_minimum > minimum || new_maximum < maximum {
            return different(format!(
                "its block sizes are {} to {} and were {} to {}",
                Bytes(u64::from(new_minimum)),
                Bytes(u64::from(new_maximum)),
                Bytes(u64::from(minimum)),
                Bytes(u64::from(maximum))
            ));
        }
        Ok(())
    }
}

/// The usable size in bytes: a server takes whole blocks only, and its disk may end inside one.
pub(super) fn usable_size(negotiated: &Negotiated) -> u64 {
    let minimum = u64::from(negotiated.block_sizes.map_or(1, |sizes| sizes.minimum).max(1));
    negotiated.size - negotiated.size % minimum
}
