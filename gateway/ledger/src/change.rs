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
    /// Puts a grow or a shrink on record, with what it will expose, before the backend is asked. An export that is new to
    /// the ledger is added with the size `from`.
    /// If it fails, nothing is held.
    Reserve(Reserve),
    /// Ends a grow with the size that was read back, and clears what reads as zeroes. The export stays with its tenant.
    /// Fails with [`LedgerError::NoReservation`](crate::LedgerError::NoReservation) if it is over.
    Commit(Commit),
    /// Ends a grow that did not happen, or a shrink: the backend was not asked, or its answer is known by now. What was noted
    /// for zeroing and is not exposed is cleared with it.
    /// Fails with [`LedgerError::NoReservation`](crate::LedgerError::NoReservation) if it is over.
    RollBack {
        /// The reservation, which ends.
        id: ReservationId,
        /// What was noted for it and is not exposed.
        unexposed: Vec<ByteRange>,
    },
    /// Keeps a reservation whose outcome nobody knows, until [`Settle`](Self::Settle).
    /// Fails with [`LedgerError::NoReservation`](crate::LedgerError::NoReservation) if it is over.
    Unsettle(ReservationId),
    /// Records a size that was measured when every request to resize the export was over: its reservations end. What is
    /// noted for zeroing stays.
    Settle(RecordSize),
    /// Records a measured size, or one that a shrink has freed. Reservations stay.
    RecordSize(RecordSize),
    /// Notes bytes to zero before anyone sees them, until they are cleared. An export that is new to the ledger is added for
    /// `tenant`.
    RecordZeroing(Zeroing, TenantId),
    /// Takes a range out of all notes of an export: it reads as zeroes, durably.
    ClearZeroing(Zeroing),
    /// An operator has said what an export has, although the ledger is an older copy.
    Trust {
        /// The export.
        export: ExportName,
        /// Tells it.
        event: NewEvent,
    },
    /// Writes an event, and answers its id. The newest 100 000 are kept.
    Event(NewEvent),
    /// Notes whose exports are from now on. Those that are not known are fine.
    Give(Vec<(ExportName, TenantId)>),
    /// Removes an export that is no longer this gateway's to count. One that is not known is fine.
    /// Fails with [`LedgerError::Unfinished`](crate::LedgerError::Unfinished) while a grow of it is not over or bytes of it are to be zeroed.
    Forget {
        /// The export.
        export: ExportName,
        /// Tells it.
        event: Option<NewEvent>,
    },
    /// Keeps an order about a tenant's quota; the one before it goes.
    /// If it fails, the one before it stands.
    OrderQuota {
        /// The order.
        order: QuotaOrder,
        /// Tells it.
        event: NewEvent,
    },
    /// Drops the order about a tenant's quota. None is fine.
    DropQuotaOrder {
        /// Whose.
        tenant: TenantId,
        /// Tells it.
        event: Option<NewEvent>,
    },
    /// Marks that an export has changed data since it was opened.
    Mark(Mark),
    /// Takes marks off. Those that are not there are fine.
    /// If it fails, they stay, and requests wait for nothing after the next start.
    Unmark(Vec<ExportName>),
}

/// For errors: "can't ...".
impl Change {
    /// What is told together with it.
    pub(super) fn event(&self) -> Option<&NewEvent> {
        match self {
            Self::Trust { event, .. } | Self::OrderQuota { event, .. } => Some(event),
            Self::Forget { event, .. } | Self::DropQuotaOrder { event, .. } => event.as_ref(),
            _ => None,
        }
    }
}

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
