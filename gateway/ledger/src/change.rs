//! The language of writes: each change is one transaction, whole or not at all.

use std::fmt;

use nbd_gateway_policy::types::{ByteRange, Bytes, Count, ExportName, Size, TenantId};

use super::{Known, Mark, NewEvent, QuotaOrder, ReservationId, UnixMillis, Zeroing};

/// A grow or a shrink that the backend is about to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The export that is to be resized.
    pub export: ExportName,
    /// Whose quota is held.
    pub tenant: TenantId,
    /// How many bytes are held; 0 for a shrink.
    pub bytes: Bytes,
    /// The size now.
    pub from: Size,
    /// The size to ask for.
    pub to: Size,
    /// What a grow exposes, and has to be zeroed before anyone sees it.
    pub zeroes: Option<ByteRange>,
    /// When.
    pub at: UnixMillis,
}

/// A grow that is over, with the size that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its reservation, which ends.
    pub id: ReservationId,
    /// What the backend has now.
    pub known: Known,
    /// Ranges that read as zeroes by now, or that the backend does not have: their notes go.
    pub zeroed: Vec<ByteRange>,
}

/// A size that was measured, or freed by a shrink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSize {
    /// The export, added if it is new.
    pub export: ExportName,
    /// Its tenant from now on.
    pub tenant: TenantId,
    /// What was measured.
    pub known: Known,
}

/// Everything that can be written.
#[derive(Clone, Debug)]
pub enum Change {
    /// See [`Ledger::reserve`](crate::Ledger::reserve).
    Reserve(Reserve),
    /// See [`Ledger::commit`](crate::Ledger::commit).
    Commit(Commit),
    /// See [`Ledger::roll_back`](crate::Ledger::roll_back).
    RollBack {
        /// The reservation, which ends.
        id: ReservationId,
        /// What was noted for it and is not exposed.
        unexposed: Vec<ByteRange>,
    },
    /// See [`Ledger::unsettle`](crate::Ledger::unsettle).
    Unsettle(ReservationId),
    /// See [`Ledger::settle`](crate::Ledger::settle).
    Settle(RecordSize),
    /// See [`Ledger::record_size`](crate::Ledger::record_size).
    RecordSize(RecordSize),
    /// See [`Ledger::record_zeroing`](crate::Ledger::record_zeroing).
    RecordZeroing(Zeroing, TenantId),
    /// See [`Ledger::clear_zeroing`](crate::Ledger::clear_zeroing).
    ClearZeroing(Zeroing),
    /// See [`Ledger::trust`](crate::Ledger::trust).
    Trust {
        /// The export.
        export: ExportName,
        /// Tells it.
        event: NewEvent,
    },
    /// See [`Ledger::event`](crate::Ledger::event).
    Event(NewEvent),
    /// See [`Ledger::give`](crate::Ledger::give).
    Give(Vec<(ExportName, TenantId)>),
    /// See [`Ledger::forget`](crate::Ledger::forget).
    Forget {
        /// The export.
        export: ExportName,
        /// Tells it.
        event: Option<NewEvent>,
    },
    /// See [`Ledger::order_quota`](crate::Ledger::order_quota).
    OrderQuota {
        /// The order.
        order: QuotaOrder,
        /// Tells it.
        event: NewEvent,
    },
    /// See [`Ledger::drop_quota_order`](crate::Ledger::drop_quota_order).
    DropQuotaOrder {
        /// Whose.
        tenant: TenantId,
        /// Tells it.
        event: Option<NewEvent>,
    },
    /// See [`Ledger::mark`](crate::Ledger::mark).
    Mark(Mark),
    /// See [`Ledger::unmark`](crate::Ledger::unmark).
    Unmark(Vec<ExportName>),
}

/// For errors: "can't ...".
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve(Reserve { export, bytes, .. }) => write!(f, "reserve {bytes} for export `{export}`"),
            Self::Commit(Commit { id, known, .. }) => write!(f, "commit {} for reservation {}", known.size, id.0),
            Self::RollBack { id, .. } => write!(f, "roll back reservation {}", id.0),
            Self::Unsettle(id) => write!(f, "mark reservation {} as unsettled", id.0),
            Self::Settle(RecordSize { export, known, .. }) => write!(f, "settle export `{export}` at {}", known.size),
            Self::RecordSize(RecordSize { export, known, .. }) => {
                write!(f, "record {} for export `{export}`", known.size)
            }
            Self::RecordZeroing(Zeroing { export, .. }, _) => write!(f, "note what to zero in export `{export}`"),
            Self::ClearZeroing(Zeroing { export, .. }) => write!(f, "clear what was zeroed in export `{export}`"),
            Self::Trust { export, .. } => write!(f, "keep that export `{export}` is as an operator says"),
            Self::Event(event) => write!(f, "write an event of kind {}", event.kind),
            Self::Give(given) => write!(f, "give {} to other tenants", Count::of(given.len(), "export")),
            Self::Forget { export, .. } => write!(f, "forget export `{export}`"),
            Self::OrderQuota { order, .. } => write!(f, "keep the quota ordered for tenant `{}`", order.tenant),
            Self::Mark(Mark { export, .. }) => write!(f, "mark that export `{export}` changes data"),
            Self::Unmark(exports) => write!(f, "take off the marks of {} exports that changed data", exports.len()),
            Self::DropQuotaOrder { tenant, .. } => write!(f, "drop the quota ordered for tenant `{tenant}`"),
        }
    }
}
