//! What the interface says, as types: the server writes them, the operator's commands read them, and the OpenAPI document
//! is made of them. Sizes are whole numbers, in bytes. A reader takes what it knows and leaves the rest, so fields may be
//! added; none is ever renamed.

mod lanes;
mod ledger;

use nbd_gateway_config::Backend;
use nbd_gateway_policy::plan::Standing;
use nbd_gateway_policy::quota::Usage;
use nbd_gateway_policy::style::{ClientStyle, Grows, Tells};
use nbd_gateway_policy::types::{Bytes, Size, TenantId};
use nbd_gateway_proto::Framing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::accounting::allowance::Allowed;
use crate::export::{Export, Unopened};
use crate::resize::jobs::Job;
use crate::session::Session;
use crate::target::Lanes;

pub(crate) use self::lanes::{HealthView, LaneView};
pub(crate) use self::ledger::{AccountView, EventView, Reconcile, Reconciled, Settle, Settled};

/// An export that is open.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ExportView {
    /// Its name, as clients say it.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// The size that clients are shown, in bytes.
    pub size: u64,
    /// The backend's size as last read, in bytes.
    pub disk: u64,
    /// The most that it may become, in bytes; absent: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// How often its size has changed; goes on over openings and restarts.
    pub generation: u64,
    /// Whether it can be resized now: ready, unmeasured, unsettled, quarantined or draining.
    pub standing: String,
    /// What an operator should know of it, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What has its data: nbd, file or memory.
    pub backend: String,
    /// How the configuration has it resized.
    pub driver: String,
    /// How it turned out to grow: explicit, automatic, embedded, window, driver or fixed.
    pub grows: String,
    /// How its backend tells of a new size: notify, query, handshake or itself.
    pub tells: String,
    /// Whether clients may only read.
    pub read_only: bool,
    /// Whether its backend can be used.
    pub health: HealthView,
    /// The connections to its backend; none: it is embedded.
    pub lanes: Vec<LaneView>,
    /// How many clients have it open.
    pub sessions: u64,
    /// Its last resizes, newest last.
    pub jobs: Vec<Job>,
}

impl ExportView {
    /// What there is to see of an export now.
    pub(super) fn of(export: &Export, sessions: u64) -> Self {
        let (shown, settings) = (export.core.view().shown(), export.settings());
        let (config, policy) = (&settings.config, &settings.policy);
        let seen = export.resizer.status();
        let standing = seen.map_or(Standing::Unmeasured, |seen| seen.standing);
        let disk = match (standing, seen) {
            (Standing::Quarantined { found }, _) => found,
            (_, Some(seen)) => seen.disk.bytes(),
            (_, None) => shown.size,
        };
        let style = seen.map(|seen| seen.backend);
        let lanes = export.core.lanes().map(Lanes::status).unwrap_or_default();
        let window = style.is_some_and(|style| style.grows == Grows::Window);
        Self {
            name: export.name().to_owned(),
            tenant: export.tenant().to_owned(),
            size: shown.size,
            disk,
            max_size: (policy.max_size < Size::MAX).then_some(policy.max_size.bytes()),
            generation: shown.generation,
            standing: word(standing).to_owned(),
            note: note(standing, shown.size, if window { shown.size } else { disk }),
            backend: kind(&config.backend).to_owned(),
            driver: config.resize.driver.key().unwrap_or("embedded").to_owned(),
            grows: style.map_or("fixed", |style| grows(style.grows)).to_owned(),
            tells: style.map_or(Tells::SecondHandshake, |style| style.tells).as_str().to_owned(),
            read_only: policy.read_only,
            health: HealthView::of(&lanes),
            lanes: LaneView::all(&lanes, &config.backend.to_string()),
            sessions,
            jobs: export.resizer.jobs.list(),
        }
    }
}

/// An export that could not be opened at the last attempt.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UnopenedView {
    /// Its name, as clients say it.
    pub export: String,
    /// The tenant that it belongs to.
    pub tenant: String,
    /// Why it could not be opened.
    pub why: String,
    /// The first attempt that failed since one succeeded, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// The last attempt, in seconds since 1970-01-01 UTC.
    pub last: u64,
    /// How many attempts failed.
    pub attempts: u64,
}

impl UnopenedView {
    pub(super) fn of(it: Unopened, tenant: &TenantId) -> Self {
        let Unopened { export, why, since, last, attempts } = it;
        let (since, last) = (lanes::seconds(since), lanes::seconds(last));
        Self { export, tenant: tenant.as_str().to_owned(), why, since, last, attempts }
    }
}

/// A tenant.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TenantView {
    /// Its name.
    pub name: String,
    /// The most that its exports may sum to, in bytes; absent: no quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Beyond this the gateway warns, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_quota: Option<u64>,
    /// The sizes of its exports that were measured, in bytes.
    pub used: u64,
    /// Held for grows in flight, in bytes.
    pub reserved: u64,
    /// Held for grows of unknown outcome, in bytes.
    pub unsettled: u64,
    /// How many of its exports are counted.
    pub exports: u64,
    /// How many count nothing although they may have bytes: they could not be measured yet.
    #[serde(default)]
    pub unmeasured_exports: u64,
    /// Whether more is used, reserved and unsettled than its quota: nothing of it grows.
    pub over_quota: bool,
    /// Whether an operator ordered what it may have, with `quota`. If not, the configuration says it.
    #[serde(default)]
    pub quota_ordered: bool,
    /// The quota that the configuration says, in bytes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured_quota: Option<u64>,
    /// The soft quota that the configuration says, in bytes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured_soft_quota: Option<u64>,
    /// What an operator should know of it, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl TenantView {
    /// What a tenant has, out of what it may have.
    pub(super) fn of(tenant: &TenantId, usage: Option<&Usage>, unmeasured: u32, allowed: Allowed) -> Self {
        let of = |bytes: fn(&Usage) -> Bytes| usage.map_or(0, |u| bytes(u).0);
        Self {
            name: tenant.as_str().to_owned(),
            quota: usage.and_then(|u| u.quota).map(|q| q.0),
            soft_quota: usage.and_then(|u| u.soft_quota).map(|q| q.0),
            used: of(|u| u.used),
            reserved: of(|u| u.reserved),
            unsettled: of(|u| u.unsettled),
            exports: usage.map_or(0, |u| u64::from(u.exports)),
            unmeasured_exports: u64::from(unmeasured),
            over_quota: usage.is_some_and(|u| u.over_quota),
            quota_ordered: allowed.ordered.is_some(),
            configured_quota: allowed.configured.quota.map(Size::bytes),
            configured_soft_quota: allowed.configured.soft.map(Size::bytes),
            note: allowed.note(),
        }
    }
}

/// A client that is connected.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SessionView {
    /// Its number, unique in this process.
    pub id: u64,
    /// The export that it has open.
    pub export: String,
    /// Whose that is.
    pub tenant: String,
    /// What it may do with it: list, read, write, trim, resize, shrink.
    pub verbs: Vec<String>,
    /// The entry of `clients` that says so.
    pub rule: String,
    /// Where it comes from: an address and port, or unix.
    pub peer: String,
    /// How its replies are framed: simple, structured or extended.
    pub framing: String,
    /// What it knows of resize: explicit, automatic or stock.
    pub style: String,
    /// The size that it was last told, in bytes.
    pub size: u64,
    /// Where it came in: the listener, as the configuration has it.
    pub listener: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// When it opened the export, in seconds since 1970-01-01 UTC.
    pub since: u64,
}

impl From<&Session> for SessionView {
    fn from(session: &Session) -> Self {
        let agreement = &session.agreement;
        let framing = match agreement.framing {
            Framing::Simple => "simple",
            Framing::Structured => "structured",
            Framing::Extended => "extended",
        };
        let style = match agreement.style {
            ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured => "explicit",
            ClientStyle::Automatic => "automatic",
            ClientStyle::Stock | ClientStyle::Kernel => "stock",
        };
        Self {
            id: session.id().get(),
            export: session.export.name().to_owned(),
            tenant: session.export.tenant().to_owned(),
            verbs: session.verbs().iter().map(|verb| verb.as_str().to_owned()).collect(),
            rule: agreement.decision.rule.to_string(),
            peer: session.from.clone(),
            framing: framing.to_owned(),
            style: style.to_owned(),
            size: session.told(),
            listener: session.listener.to_string(),
            tls: session.tls,
            since: lanes::seconds(session.since),
        }
    }
}

/// An order for another size.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resize {
    /// Bytes, or a text: `8GiB`, or `+1GiB` for more than it has now.
    pub size: Wanted,
    /// Take the backend for what it is, whatever it has lost; `size` is what it is.
    #[serde(default)]
    pub adopt: bool,
}

/// A size as it may be asked for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of bytes, or a text such as \"8GiB\"")]
pub(crate) enum Wanted {
    /// In bytes.
    Bytes(u64),
    /// With a unit; with a `+`, by how much.
    Text(#[schemars(regex(pattern = SIZE))] String),
}

/// A size in text: a number, and a unit or none.
const SIZE: &str = r"^\+?[0-9]+(\.[0-9]+)?\s*(([KkMmGgTtPpEe][Ii]?)?[Bb])?$";

/// What an order about a size came to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Resized {
    /// The size now in force, in bytes: what clients see.
    pub size: u64,
    /// What the backend has, in bytes, where clients do not see all of it; `publish` shows it. Absent: they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpublished: Option<u64>,
}

impl Resized {
    /// What came of an order that was carried out.
    pub(super) fn of(export: &Export, size: Size) -> Self {
        let seen = export.resizer.status().filter(|seen| seen.backend.grows != Grows::Window);
        let unpublished = seen.map(|seen| seen.disk).filter(|disk| *disk > size);
        Self { size: size.bytes(), unpublished: unpublished.map(Size::bytes) }
    }
}

/// An order for another quota. What is not there stays as it is; at least one of the two has to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotaOrder {
    /// What the tenant's exports may sum to: bytes, or a text like `2TiB`; null: no quota.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub quota: Option<Option<Wanted>>,
    /// A sum from which on the gateway warns; null: none.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub soft_quota: Option<Option<Wanted>>,
}

/// What is there, be it null.
fn said<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<Wanted>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// The gateway is going.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Draining {
    /// Clients that are still connected.
    pub sessions: u64,
}

/// The configuration was read anew.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reloaded {
    /// What has changed, in the words of the file, a line each.
    pub changes: Vec<String>,
}

/// Why something was not done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Refused {
    /// In a sentence.
    pub error: String,
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Ready => "ready",
        Standing::Unmeasured => "unmeasured",
        Standing::Unsettled { .. } => "unsettled",
        Standing::Quarantined { .. } => "quarantined",
        Standing::Draining => "draining",
    }
}

fn note(standing: Standing, size: u64, disk: u64) -> Option<String> {
    match standing {
        Standing::Unsettled { asked } => Some(format!("nobody knows yet whether the backend went to {asked}")),
        Standing::Quarantined { found } => Some(format!(
            "the backend has {} where clients rely on {}; give the bytes back, or adopt what is left",
            Bytes(found),
            Bytes(size)
        )),
        Standing::Ready if disk > size => {
            Some(format!("the backend has {} more than is shown; publish shows it", Bytes(disk.saturating_sub(size))))
        }
        Standing::Ready | Standing::Unmeasured | Standing::Draining => None,
    }
}

fn kind(backend: &Backend) -> &'static str {
    match backend {
        Backend::Nbd(_) => "nbd",
        Backend::File { .. } => "file",
        Backend::Memory { .. } => "memory",
    }
}

fn grows(grows: Grows) -> &'static str {
    match grows {
        Grows::Explicit { .. } => "explicit",
        Grows::Automatic { .. } => "automatic",
        Grows::Embedded => "embedded",
        Grows::Window => "window",
        Grows::Driver { .. } => "driver",
        Grows::Fixed => "fixed",
    }
}
