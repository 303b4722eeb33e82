//! What can be asked of the ledger: each change is one transaction, whole or not at all.

use nbd_gateway_policy::types::Count;
use std::fmt;

use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};

use super::{Known, Mark, NewEvent, QuotaOrder, ReservationId, UnixMillis};

/// Quota to hold for a grow, and what it exposes, before the backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The export that is to grow.
    pub export: ExportName,
    /// Whose quota.
    pub tenant: TenantId,
    /// How many bytes are held.
    pub bytes: Bytes,
    /// The size now.
    pub from: Size,
    /// The size to ask for.
    pub to: Size,
    /// What will have to be zeroed.
    pub zeroes: Option<ByteRange>,
    /// When.
    pub at: UnixMillis,
    /// To tell in the same transaction.
    pub event: Option<NewEvent>,
}

/// A grow that is over, with the size that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its reservation, which ends.
    pub id: ReservationId,
    /// What the backend has now.
    pub known: Known,
    /// What became of the bytes that were noted for zeroing.
    pub zeroes: Zeroes,
    /// To tell in the same transaction.
    pub event: Option<NewEvent>,
}

/// What became of the bytes that were noted for zeroing with a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// They read as zeroes, durably, or they were never exposed: the notes go.
    Done,
    /// Not yet: the notes below the size stay, until [`super::Ledger::clear_zeroing`].
    Owed,
}

/// Unsettled grows of an export, ended by a size that was measured after they could no longer land.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The export.
    pub export: ExportName,
    /// What was measured. Notes about bytes beyond it go, the others stay.
    pub known: Known,
    /// To tell in the same transaction.
    pub event: Option<NewEvent>,
}

/// A size that was measured, or freed by a shrink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSize {
    /// The export, added if it is new.
    pub export: ExportName,
    /// Whose it is from now on.
    pub tenant: TenantId,
    /// What was measured. Notes about bytes beyond it go, except those of grows that are not over.
    pub known: Known,
    /// To tell in the same transaction.
    pub event: Option<NewEvent>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Reserve(Reserve),
    Commit(Commit),
    Rollback { id: ReservationId, event: Option<NewEvent> },
    Unsettle { id: ReservationId, event: Option<NewEvent> },
    Settle(Settle),
    RecordSize(RecordSize),
    RecordZeroing { export: ExportName, range: ByteRange, of: Option<ReservationId> },
    ClearZeroing { export: ExportName, range: ByteRange },
    Quarantine { export: ExportName, why: Option<String>, at: UnixMillis, event: Option<NewEvent> },
    Event(NewEvent),
    Give(Vec<(ExportName, TenantId)>),
    Forget { export: ExportName, event: Option<NewEvent> },
    OrderQuota { order: QuotaOrder, event: Option<NewEvent> },
    DropQuotaOrder { tenant: TenantId, event: Option<NewEvent> },
    Mark(Mark),
    Unmark(Vec<ExportName>),
}

/// For errors: "can't ...".
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve(Reserve { export, bytes, .. }) => write!(f, "reserve {bytes} for export `{export}`"),
            Self::Commit(Commit { id, known, .. }) => write!(f, "commit {} for reservation {}", known.size, id.0),
            Self::Rollback { id, .. } => write!(f, "roll back reservation {}", id.0),
            Self::Unsettle { id, .. } => write!(f, "mark reservation {} as unsettled", id.0),
            Self::Settle(Settle { export, known, .. }) => write!(f, "settle export `{export}` at {}", known.size),
            Self::RecordSize(RecordSize { export, known, .. }) => {
                write!(f, "record {} for export `{export}`", known.size)
            }
            Self::RecordZeroing { export, .. } => write!(f, "note what to zero in export `{export}`"),
            Self::ClearZeroing { export, .. } => write!(f, "clear what was zeroed in export `{export}`"),
            Self::Quarantine { export, why: Some(_), .. } => write!(f, "put export `{export}` in quarantine"),
            Self::Quarantine { export, why: None, .. } => write!(f, "take export `{export}` out of quarantine"),
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
