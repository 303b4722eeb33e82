//! What is in force: the configuration, and what is counted of each tenant by it.
//!
//! Whoever begins something (a handshake, a listing, an opening) takes it once and keeps to it; nothing on the way of a
//! request looks at it. It is replaced as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use nbd_gateway_config::{Config, Resolved, Tenant};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::types::TenantId;

use super::tenant_slots::TenantSlots;
use crate::resize::counters;

/// A configuration, as it is applied.
#[derive(Debug)]
pub(super) struct ActiveConfig {
    pub(super) config: Arc<Config>,
    all_slots: HashMap<TenantId, Arc<TenantSlots>>,
}

/// The series of one export that has an entry of its own exist from now on.
pub(super) fn show(export: &Resolved, metrics: &Metrics) {
    let (name, tenant) = (export.name.as_str(), export.tenant.as_str());
    drop(metrics.export(name, None));
    drop(metrics.resize(name, None, tenant, counters::label(&export.resize.driver)));
    if !export.notify.is_empty() {
        drop(metrics.hooks(name, None));
    }
}

impl ActiveConfig {
    /// A tenant that was there before keeps what is counted of it, and its bounds until it is adjusted.
    pub(super) fn new(config: Arc<Config>, before: Option<&Self>, metrics: &Metrics) -> Self {
        let slots = |tenant: &Tenant| {
            let known = before.and_then(|before| before.all_slots.get(&tenant.id));
            let slots = match known {
                Some(known) => Arc::clone(known),
                None => TenantSlots::new(tenant, metrics.tenant(tenant.id.as_str(), Reason::LABELS)),
            };
            (tenant.id.clone(), slots)
        };
        let all_slots = config.tenants().iter().map(slots).collect();
        Self { config, all_slots }
    }

    /// The series of exports that are named exist from the start; they do already where `before` had the same.
    pub(super) fn show(&self, before: Option<&Config>, metrics: &Metrics) {
        let is_new = |name: &&str| !before.is_some_and(|before| before.has_same_export(&self.config, name));
        let named = self.config.listable().filter(is_new).filter_map(|name| self.config.export_for(name).ok());
        named.for_each(|export| show(&export, metrics));
        self.config.templates().for_each(|template| metrics.template(template));
    }

    /// What is open of a tenant; None: it has left the configuration.
    pub(super) fn slots(&self, tenant: &TenantId) -> Option<&Arc<TenantSlots>> {
        self.all_slots.get(tenant)
    }

    /// Those of all tenants.
    pub(super) fn all_slots(&self) -> impl Iterator<Item = &Arc<TenantSlots>> {
        self.all_slots.values()
    }
}
