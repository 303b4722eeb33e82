//! What the interface says of the ledger: its history, and how it compares with what there is. As with all views, fields may be added; none is ever renamed.

use nbd_gateway_ledger::Event;
use nbd_gateway_policy::types::{ExportName, Size, TenantId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::accounting::history::kinds;
use crate::export::reconcile::{Audited, Found};

/// Something that happened to a size.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct EventView {
    /// Its number: larger than every older event's, over restarts too.
    pub id: u64,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// What: resized, refused, unsettled, settled, adopted, outside, quarantined, soft-quota, forgotten or quota-changed.
    #[schemars(extend("enum" = kinds()))]
    pub kind: String,
    /// Whose export, or whose quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Which export; absent: it is about the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// Who wished for it, and why it was not done.
    pub detail: String,
    /// The size shown before, or the quota; in bytes. Absent: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_size: Option<u64>,
    /// The size shown after, or the quota; in bytes. Absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_size: Option<u64>,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            id: event.id,
            at: event.at.0,
            kind: event.kind,
            tenant: event.tenant.as_ref().map(TenantId::as_str).map(str::to_owned),
            export: event.export.as_ref().map(ExportName::as_str).map(str::to_owned),
            detail: event.detail,
            old_size: event.old_size.map(Size::bytes),
            new_size: event.new_size.map(Size::bytes),
        }
    }
}

/// An order to hold the ledger against what there is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reconcile {
    /// Make the books agree; else only tell.
    pub apply: bool,
}

/// An order that says what an export has whose ledger is an older copy.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settle {
    /// What the ledger has noted is zeroed; else what is there is kept.
    pub zero: bool,
}

/// What was settled.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Settled {
    /// Of which export.
    pub export: String,
    /// What the ledger had noted is zeroed; else what is there is kept.
    pub zero: bool,
}

/// The ledger, held against what there is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reconciled {
    /// Whether the books were to be made to agree.
    pub applied: bool,
    /// Whether every export counts at what it has now: nothing drifts, is unmeasured, of unknown outcome, or gone and still
    /// counted.
    pub agrees: bool,
    /// The exports of the ledger, by name.
    pub exports: Vec<AccountView>,
}

/// An export of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct AccountView {
    /// Its name.
    pub name: String,
    /// Whose quota it counts against.
    pub tenant: String,
    /// The size on record, in bytes.
    pub record: u64,
    /// What there is, in bytes; absent: nobody could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<u64>,
    /// So many bytes more than on record, or fewer; absent: nobody could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<i64>,
    /// Held for a grow in flight, in bytes.
    pub reserved: u64,
    /// Held for grows of unknown outcome, in bytes.
    pub unsettled: u64,
    /// Still to be zeroed before anyone sees it, in bytes.
    pub to_zero: u64,
    /// How it is: agrees, drifted, corrected, unmeasured, not configured or forgotten.
    pub state: String,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Reconciled {
    /// What was found.
    pub(in crate::admin) fn of(applied: bool, audited: &[Audited]) -> Self {
        let settled = |a: &Audited| match a.found {
            Found::Measured { agrees, .. } => agrees && (applied || a.unsettled.0 == 0),
            Found::Unmeasured(_) | Found::Gone { .. } => false,
            Found::Forgotten => true,
        };
        Self { applied, agrees: audited.iter().all(settled), exports: audited.iter().map(AccountView::of).collect() }
    }
}

impl AccountView {
    fn of(audited: &Audited) -> Self {
        let Audited { row, reserved, unsettled, to_zero, found } = audited;
        let counted = |bytes: Size| i64::try_from(bytes.bytes()).unwrap_or(i64::MAX);
        let (mut record, mut measured, mut drift, mut note) = (row.known.size, None, None, None);
        let state = match found {
            Found::Measured { size, counted: on_record, agrees } => {
                record = *on_record;
                measured = Some(size.bytes());
                drift = Some(counted(*size).saturating_sub(counted(*on_record)));
                match (agrees, size == on_record) {
                    (true, true) => "agrees",
                    (true, false) => "corrected",
                    (false, _) => "drifted",
                }
            }
            Found::Unmeasured(why) => {
                note = Some(why.clone());
                "unmeasured"
            }
            Found::Gone { kept } => {
                note.clone_from(kept);
                "not configured"
            }
            Found::Forgotten => "forgotten",
        };
        Self {
            name: row.name.as_str().to_owned(),
            tenant: row.tenant.as_str().to_owned(),
            record: record.bytes(),
            measured,
            drift,
            reserved: reserved.0,
            unsettled: unsettled.0,
            to_zero: to_zero.0,
            state: state.to_owned(),
            note,
        }
    }
}
