//! Every reason for which a size is not changed: one closed list, and one table each for the error on the wire, the
//! metric label and the sentence.
//!
//! Errors follow proto.md's "Error values" and the RESIZE extension's table: `EPERM` where a policy or a style forbids
//! it, `ENOSPC` where there is no room for it, `EINVAL` where it can't be meant, `EIO` where the backend's state is at
//! fault, `ESHUTDOWN` where the gateway is going. A write that wanted to grow the export and may not gets `ENOSPC`
//! whatever the reason was, except where the reason is not about room at all ([`Reason::errno`]).

mod sentence;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::types::{Bytes, ExportName, Size, TenantId};

/// An error value of the wire (proto.md, "Error values"), of those that a refused resize can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// `NBD_EPERM`, 1.
    Perm,
    /// `NBD_EIO`, 5.
    Io,
    /// `NBD_EINVAL`, 22.
    Inval,
    /// `NBD_ENOSPC`, 28.
    NoSpc,
    /// `NBD_ESHUTDOWN`, 108.
    Shutdown,
}

impl Errno {
    /// The number on the wire.
    #[must_use]
    pub const fn wire(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Shutdown => 108,
        }
    }
}

/// What was asked; the error depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// `NBD_CMD_RESIZE`, or an operator's order.
    Resize,
    /// A WRITE or WRITE_ZEROES that ends past the size.
    Write,
}

/// A refused wish: whose export it was about, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The export.
    pub export: ExportName,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// Why.
    pub reason: Reason,
}

/// Why a size is not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The size asked for is 0.
    Zero,
    /// The size asked for is 2^63 or more.
    Impossible {
        /// What was asked for, in bytes.
        asked: u64,
    },
    /// The client uses a part of the extension that it was not offered, or did not opt in to.
    NotOffered,
    /// The identity may not do this to this export.
    NotAuthorised {
        /// What it may not: `resize` or `shrink`.
        verb: &'static str,
    },
    /// Clients may not change this export.
    ReadOnly,
    /// Nothing can resize this backend.
    FixedSize {
        /// The size now.
        size: Size,
    },
    /// The export's policy does not let writes grow it for this client.
    AutomaticNotOffered {
        /// The size now.
        size: Size,
    },
    /// The export's policy has `shrink = false`.
    ShrinkForbidden,
    /// The backend only grows.
    BackendCannotShrink,
    /// The backend says that it can resize and has not yet shown it by a grow.
    BackendUnproven,
    /// Under the least size that a shrink may reach.
    BelowMinimum {
        /// What was asked for.
        asked: Size,
        /// The least there may be.
        min: Size,
    },
    /// Other sessions did not opt in: reading past a lower end would break them.
    OthersDidNotOptIn {
        /// How many.
        sessions: u32,
    },
    /// Other sessions without structured replies: their hosts use the size that they learned.
    KernelClients {
        /// How many.
        sessions: u32,
    },
    /// Sessions that did not opt in went without DISC a short time ago and may come back believing the old size.
    MayComeBack {
        /// How many.
        sessions: u32,
    },
    /// A shrink by a client that is behind: the export is smaller than what it asks for, and its reply can't say so.
    AlreadySmaller {
        /// What was asked for.
        asked: Size,
        /// The size now.
        size: Size,
    },
    /// The backend has bytes past the size shown, of another hand; a shrink would cut them off.
    HiddenBytes {
        /// The size now.
        size: Size,
        /// The backend's size.
        disk: Size,
    },
    /// Its operator says when clients see a larger size, so they can't grow it.
    OperatorPublishes {
        /// The size now.
        size: Size,
    },
    /// Its policy keeps the size that it was opened with.
    SizeStays {
        /// The size now.
        size: Size,
    },
    /// Too many resizes, or too many bytes grown, in the time.
    RateLimited {
        /// Which limit: `resize-rate`, `growth-rate` or `session-rate`.
        limit: &'static str,
        /// When to try again; none: never, it is more than the limit ever allows at once.
        again_after: Option<Duration>,
    },
    /// More than the tenant may still grow.
    OverQuota {
        /// The size now.
        size: Size,
        /// How many bytes more were wanted.
        wanted: Bytes,
        /// How many it may still grow.
        left: Bytes,
        /// The quota.
        quota: Bytes,
    },
    /// More than the export's `max-size`.
    OverCeiling {
        /// What was asked for, in bytes.
        asked: u64,
        /// The most there may be.
        ceiling: Size,
    },
    /// A window can't be larger than the disk behind it.
    OverWindow {
        /// What was asked for, in bytes.
        asked: u64,
        /// The size of the disk.
        disk: Size,
    },
    /// A window shows what it is resized to, however large the disk behind it is.
    OnlyAWindow {
        /// The size now.
        size: Size,
        /// The size of the disk.
        disk: Size,
    },
    /// An operator would adopt a size that the backend does not have.
    AdoptOther {
        /// What the operator said.
        asked: Size,
        /// The backend's size as last read.
        disk: Size,
    },
    /// Larger than the largest export that the tenant may have.
    LargestExport {
        /// What was asked for.
        asked: Size,
        /// The largest there may be.
        largest: Size,
    },
    /// The tenant has as many exports as it may have.
    TooManyExports {
        /// How many it may have.
        most: u32,
    },
    /// The tenant has as many sessions as it may have.
    TooManySessions {
        /// How many it may have.
        most: u32,
    },
    /// One write may not grow the export by so much.
    OverMaxStep {
        /// The size now.
        size: Size,
        /// Where the write ends, in bytes.
        end: u64,
        /// The most that one write may add.
        max_step: Bytes,
    },
    /// The backend says that it has no room.
    BackendFull,
    /// A window whose size nobody has on record, over a disk with data past it.
    Unrecorded {
        /// The size shown.
        size: Size,
    },
    /// The ledger is an older copy, and an operator has yet to say what the export has.
    OlderLedger,
    /// The ledger can't record the growth, so it is not begun.
    LedgerUnavailable,
    /// The backend has not been measured since the start, so nobody knows what there is to grow from.
    Unmeasured,
    /// A resize of this export is under way.
    Busy,
    /// What an earlier resize did is not known yet.
    Unsettled,
    /// The backend came back smaller than it was; a person must look.
    Quarantined,
    /// The backend failed, or closed the connection.
    BackendFailed,
    /// The backend did not answer in time.
    BackendTimedOut,
    /// The backend said yes, and its size is what it was.
    BackendUnchanged {
        /// The size read back.
        size: Size,
    },
    /// The backend said yes, and did not go as far as was needed.
    BackendGaveLess {
        /// The least that was needed.
        needed: Size,
        /// The size read back.
        size: Size,
    },
    /// Requests past the new end did not end in time, so it was taken back.
    DrainTimedOut,
    /// A person called the job off.
    Cancelled,
    /// The gateway or the export is draining.
    Draining,
}

impl std::error::Error for Refusal {}
