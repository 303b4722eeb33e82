//! What cannot be in a cell, and why: a note below the table, and the error that the client is told.

use super::backend::Backend;
use super::event::Event;
use super::style::Style;
use crate::scripted::numbers::errno;

/// Why an event cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unable {
    /// The backend cannot grow, and the gateway knows.
    Fixed,
    /// The backend cannot grow, and the gateway finds out.
    FoundOut,
    /// The backend only grows.
    OnlyGrows,
    /// Who only writes has no way to ask for less, or for nothing; another client's shrink is told to it all the same.
    NoWayToAsk,
    /// Nobody can change the size of that backend.
    Nobody,
}

impl Unable {
    pub(super) const fn note(self) -> &'static str {
        match self {
            Self::Fixed => {
                "The backend has no way to be resized: NBD_CMD_RESIZE is not offered and gets EINVAL, a write past the end gets ENOSPC."
            }
            Self::FoundOut => {
                "The backend sets bit 9 and does not know NBD_CMD_RESIZE: the first try finds that out and gets EPERM, a write ENOSPC."
            }
            Self::OnlyGrows => "The backend only grows: EPERM.",
            Self::NoWayToAsk => {
                "A client that only writes cannot ask for less. When another client shrinks the export, it is told, and can grow it again."
            }
            Self::Nobody => "That backend's size is fixed for everybody.",
        }
    }

    /// The errno of an explicit resize.
    pub(super) const fn errno(self) -> u32 {
        match self {
            Self::Fixed | Self::NoWayToAsk | Self::Nobody => errno::EINVAL,
            Self::FoundOut | Self::OnlyGrows => errno::EPERM,
        }
    }

    /// What the sentence of the refusal has to speak of.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Fixed | Self::NoWayToAsk | Self::Nobody => "not resized by NBD_CMD_RESIZE",
            Self::FoundOut => "its backend can't be resized",
            Self::OnlyGrows => "its backend only grows",
        }
    }
}

/// What cannot be in this cell.
pub(super) fn unable(style: Style, backend: Backend, event: Event) -> Option<Unable> {
    let cannot_grow = match backend {
        Backend::Fixed | Backend::Stock => Some(Unable::Fixed),
        Backend::DraftLiar => Some(Unable::FoundOut),
        _ => None,
    };
    match event {
        Event::Grow | Event::GrowRounded => cannot_grow,
        Event::Shrink if cannot_grow.is_some() => cannot_grow,
        Event::Shrink if !backend.shrinks() => Some(Unable::OnlyGrows),
        Event::Shrink if style.only_writes() => Some(Unable::NoWayToAsk),
        // A bit that is set by mistake costs nothing here: there is nothing to ask the backend for.
        Event::SameSize if cannot_grow == Some(Unable::Fixed) && !style.only_writes() => cannot_grow,
        Event::BehindTheBack if backend == Backend::Fixed => Some(Unable::Nobody),
        Event::Shrink | Event::SameSize | Event::Refused | Event::BehindTheBack => None,
    }
}
