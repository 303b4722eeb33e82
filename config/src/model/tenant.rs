//! Tenants: what each may hold, how fast it may grow, and how often its clients are told of that.

use nbd_gateway_policy::access::Entry;
use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::rate::{Oversize, Rate, RateError};
use nbd_gateway_policy::types::{Bytes, Size, TenantId};

use crate::names;
use crate::problem::Report;
use crate::raw::RawTenant;
use crate::units::{self, SizeRate};

use super::clients::{self, Listeners};
use super::limits::{LimitOverrides, Limits};
use super::section::Section;

/// Who exports belong to.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// Its bounds, completed from the global ones.
    pub limits: Limits,
    /// What the sizes of its exports may sum to.
    pub allowance: TenantLimits,
    /// How fast it may go.
    pub rates: Rates,
    /// How many may be there at once.
    pub crowd: Crowd,
}

/// How much of a tenant's may be open at once; None: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Crowd {
    /// Exports that are open at once, at least 1.
    pub exports: Option<u32>,
    /// Sessions at once over all its exports, at least 1.
    pub sessions: Option<u32>,
    /// New sessions. As many as in the rate's time may come at once.
    pub session_rate: Option<Rate>,
    /// Whether more are refused. If not, they are reported.
    pub enforce: bool,
}

/// How fast a tenant may go; None: as fast as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Rates {
    /// Resizes. As many as in the rate's time may come at once.
    pub resize: Option<Rate>,
    /// Bytes of growth. As many as in the rate's time may come at once; a growth larger than that passes when nothing is
    /// owed and is paid off afterwards, so that no size is out of reach for ever.
    pub growth: Option<Rate>,
    /// Notices of a new size to all its clients together. As many as in the rate's time may come at once.
    pub notice: Option<Rate>,
}

impl Tenant {
    /// A tenant that may have as much as there is.
    pub(super) const fn unbounded(id: TenantId, limits: Limits) -> Self {
        let rates = Rates { resize: None, growth: None, notice: None };
        let crowd = Crowd { exports: None, sessions: None, session_rate: None, enforce: true };
        Self { id, limits, allowance: TenantLimits::NONE, rates, crowd }
    }
}

/// The tenants, and whether the file declares them.
pub(super) struct Tenants {
    pub(super) list: Vec<Tenant>,
    pub(super) declared: bool,
    /// As written, whatever their problems: an export that names one of these is not to blame.
    pub(super) names: Vec<String>,
    /// Who may use the exports of those that say so.
    pub(super) clients: Vec<(TenantId, Vec<Entry>)>,
}

/// Reads every `[[tenant]]`; without one there is the default tenant.
pub(super) fn read(raw: Option<Vec<RawTenant>>, limits: Limits, listeners: &Listeners, report: &mut Report) -> Tenants {
    let raw = raw.unwrap_or_default();
    let mut tenants = Tenants { list: Vec::new(), declared: !raw.is_empty(), names: Vec::new(), clients: Vec::new() };
    for (index, mut raw) in raw.into_iter().enumerate() {
        let mut section = Section::new(format!("tenant[{index}]"), report);
        let own = LimitOverrides::of_tenant(&raw.limits.take().unwrap_or_default(), &mut section.inner("limits"));
        let limits = limits.with(&own);
        limits.check(&own, &mut section.inner("limits"));
        let (allowance, rates) = (allowance(&raw, &mut section), rates(&raw, &mut section));
        let clients = raw.clients.take().map(|clients| clients::read(clients, listeners, &mut section));
        let crowd = crowd(&raw, &mut section);
        let Some(name) = section.required("name", raw.name) else { continue };
        if tenants.names.contains(&name) {
            section.note_with("name", format_args!("there is a tenant `{name}` already"), "name = \"another\"");
        } else if let Some(id) = section.accept("name", names::tenant(&name)) {
            tenants.clients.extend(clients.map(|clients| (id.clone(), clients)));
            tenants.list.push(Tenant { id, limits, allowance, rates, crowd });
        }
        tenants.names.push(name);
    }
    if !tenants.declared {
        tenants.list.push(Tenant::unbounded(TenantId::default(), limits));
    }
    tenants
}

fn allowance(raw: &RawTenant, section: &mut Section<'_>) -> TenantLimits {
    let quota = section.size("quota", raw.quota.as_ref()).map(Bytes);
    let soft_quota = section.size("soft-quota", raw.soft_quota.as_ref()).map(Bytes);
    if let (Some(quota), Some(soft)) = (quota, soft_quota)
        && soft > quota
    {
        let (soft, quota) = (soft.written(), quota.written());
        let what = format_args!("soft-quota ({soft}) is more than quota ({quota}), so it would never warn of anything");
        section.note("soft-quota", what);
    }
    let largest_export = section.size_in("largest-export", raw.largest_export.as_ref(), 1..=Size::MAX.bytes());
    TenantLimits { quota, soft_quota, largest_export, enforce: raw.enforce.unwrap_or(true) }
}

fn crowd(raw: &RawTenant, section: &mut Section<'_>) -> Crowd {
    Crowd {
        exports: section.count("max-exports", raw.max_exports, 1..=1_000_000),
        sessions: section.count("max-sessions", raw.max_sessions, 1..=1_000_000),
        session_rate: count_rate("session-rate", raw.session_rate.as_ref(), section),
        enforce: raw.enforce.unwrap_or(true),
    }
}

fn rates(raw: &RawTenant, section: &mut Section<'_>) -> Rates {
    let resize = count_rate("resize-rate", raw.resize_rate.as_ref(), section);
    let notice = count_rate("notice-rate", raw.notice_rate.as_ref(), section);
    let growth = raw.growth_rate.as_ref().and_then(|text| {
        let SizeRate(rate) = section.accept("growth-rate", text.parse())?;
        section.accept("growth-rate", rate_of(rate, Oversize::Borrow))
    });
    Rates { resize, growth, notice }
}

/// A rate of things that are counted.
pub(super) fn count_rate(key: &str, text: Option<&String>, section: &mut Section<'_>) -> Option<Rate> {
    let rate = section.accept(key, text?.parse::<units::Rate>())?;
    section.accept(key, counted(rate))
}

/// As many as in its time at once.
pub(super) fn counted(rate: units::Rate) -> Result<Rate, RateError> {
    rate_of(rate, Oversize::Refuse)
}

/// So many per time, and as many at once.
fn rate_of(rate: units::Rate, oversize: Oversize) -> Result<Rate, RateError> {
    let amount = rate.count.get();
    Rate::new(amount, rate.per.duration(), amount, oversize)
}
