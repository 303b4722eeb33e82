//! The ways in which clients grow an export and learn of its size.

use crate::scripted::Framing;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    /// NBD_CMD_RESIZE, answered by simple replies that tell no size.
    Simple,
    /// NBD_CMD_RESIZE, answered by a RESIZE chunk.
    Structured,
    /// The same with extended headers.
    Extended,
    /// Writes past the end.
    Automatic,
    /// NBD_CMD_RESIZE, and QUERY to learn.
    Query,
    /// NBD_CMD_RESIZE because bit 9 is set, as the upstream draft has it, and new handshakes to learn: it did not opt in.
    Handshake,
    /// NBD_CMD_RESIZE, and a standing NOTIFY.
    Notified,
    /// Stock libnbd: writes past the end, block status to poll, and a long poll to wait.
    Libnbd,
}

impl Style {
    pub(super) const ALL: &[Self] = &[
        Self::Simple,
        Self::Structured,
        Self::Extended,
        Self::Automatic,
        Self::Query,
        Self::Handshake,
        Self::Notified,
        Self::Libnbd,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Simple => "explicit, simple replies",
            Self::Structured => "explicit, structured replies",
            Self::Extended => "explicit, extended headers",
            Self::Automatic => "automatic",
            Self::Query => "polling in band",
            Self::Handshake => "polling by handshakes",
            Self::Notified => "notified",
            Self::Libnbd => "stock libnbd",
        }
    }

    /// Whether it grows an export by writing, and has no other way.
    pub(super) const fn only_writes(self) -> bool {
        matches!(self, Self::Automatic | Self::Libnbd)
    }

    /// Whether the server knows that it knows of other sizes.
    pub(super) const fn opts_in(self) -> bool {
        !matches!(self, Self::Handshake)
    }

    pub(super) const fn framing(self) -> Framing {
        match self {
            Self::Simple => Framing::Simple,
            Self::Extended => Framing::Extended,
            Self::Structured | Self::Automatic | Self::Query | Self::Handshake | Self::Notified | Self::Libnbd => {
                Framing::Structured
            }
        }
    }
}
