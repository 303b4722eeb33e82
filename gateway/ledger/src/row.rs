//! What the ledger remembers, as values of the domain. No SQL here, and no arithmetic: the sums are the policy crate's.

use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};

/// Milliseconds since the Unix epoch, from the caller: the ledger has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// The number of a reservation; never used twice in a ledger's life, restarts included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(pub(super) i64);

impl ReservationId {
    /// As a number, by which another process knows it.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// Of the reservation that has this [`number`](Self::number).
    #[must_use]
    pub const fn numbered(number: i64) -> Self {
        Self(number)
    }
}

/// What is known of an export's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The size that counts against the quota.
    pub size: Size,
    /// The end that clients are shown, where only the ledger has it: a window's, and where an operator has not published all.
    pub shown: Option<Size>,
    /// The generation of the export's view.
    pub generation: u64,
    /// When it was learned.
    pub at: UnixMillis,
}

/// An export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRow {
    /// Its name.
    pub name: ExportName,
    /// Whose quota it counts against.
    pub tenant: TenantId,
    /// What was last known of its size.
    pub known: Known,
    /// The ledger is an older copy, and no operator has said yet what this export has.
    pub in_doubt: bool,
}

/// How far a grow in flight has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The process that made it is at work on it.
    Reserved,
    /// Nobody knows its outcome.
    Unsettled,
}

/// Quota held for a grow that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRow {
    /// Its number.
    pub id: ReservationId,
    /// The export that may have grown.
    pub export: ExportName,
    /// The tenant that it was granted to.
    pub tenant: TenantId,
    /// How many bytes are held.
    pub bytes: Bytes,
    /// The size before.
    pub from: Size,
    /// The size asked for.
    pub to: Size,
    /// How far it has come.
    pub state: State,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// Bytes that a grow exposed, or may have, and that must read as zeroes before anyone sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zeroing {
    /// The export.
    pub export: ExportName,
    /// Where.
    pub range: ByteRange,
}

/// How much a tenant may have. What is more than 2^63-1 bytes is that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// The most that its exports may sum to; none: no quota.
    pub quota: Option<Size>,
    /// A sum beyond which an event is raised; none: no such event.
    pub soft: Option<Size>,
}

/// An operator's order that a tenant has another quota than the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaOrder {
    /// Whose.
    pub tenant: TenantId,
    /// What was ordered.
    pub ordered: Quotas,
    /// What the configuration said then: once it says something else, the order is void.
    pub configured: Quotas,
    /// When.
    pub at: UnixMillis,
}

/// The mark of an export that has changed data since it was opened, until it is closed in order: after a crash, requests
/// may still be under way at its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The export.
    pub export: ExportName,
    /// Where its backend listens, and the export's name there.
    pub backend: String,
    /// The backend's process, as the gateway writes it.
    pub server: Option<String>,
}

/// All that is remembered but for the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Ordered by name.
    pub exports: Vec<ExportRow>,
    /// Per export disjoint, not adjacent, in order.
    pub zeroing: Vec<Zeroing>,
    /// Ordered by number. There may be several of one export (a request that was given up while it was being written):
    /// the largest `to` is what may have happened.
    pub reservations: Vec<ReservationRow>,
    /// Ordered by tenant.
    pub orders: Vec<QuotaOrder>,
    /// Ordered by export.
    pub marks: Vec<Mark>,
}

/// Something to tell a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvent {
    /// When.
    pub at: UnixMillis,
    /// What, in a word that can be filtered by.
    pub kind: &'static str,
    /// Whose.
    pub tenant: Option<TenantId>,
    /// Of which export.
    pub export: Option<ExportName>,
    /// Text or JSON. What is beyond 16 KiB is cut off.
    pub detail: String,
    /// The size before.
    pub old_size: Option<Size>,
    /// The size after.
    pub new_size: Option<Size>,
}

/// Something that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Larger than every older event's.
    pub id: u64,
    /// When.
    pub at: UnixMillis,
    /// What.
    pub kind: String,
    /// Whose.
    pub tenant: Option<TenantId>,
    /// Of which export.
    pub export: Option<ExportName>,
    /// Text or JSON.
    pub detail: String,
    /// The size before.
    pub old_size: Option<Size>,
    /// The size after.
    pub new_size: Option<Size>,
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only this export's.
    pub export: Option<ExportName>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only those of this time and later.
    pub after: Option<UnixMillis>,
    /// Only those before this time.
    pub before: Option<UnixMillis>,
    /// The first ones after this id; none: the newest.
    pub since: Option<u64>,
    /// How many at most; never more than [`EventFilter::MOST`].
    pub limit: u32,
}

impl EventFilter {
    /// The most events in one answer.
    pub const MOST: u32 = 10_000;
}
