//! Changing what is open, in place: a tenant's bounds, an export's settings. No session notices but by what it may do next.
//!
//! Changes nothing durable and opens nothing; which configuration is in force is not known here.

use std::sync::Arc;

use nbd_gateway_config::{Resolved, Tenant};

use super::settings::{AdjustError, Settings};
use super::{Export, Registry};
use crate::resize::follow::Patience;
use crate::resize::rules::Rules;

impl Registry {
    /// Goes by a tenant's other bounds: how fast it may go, how much of it may be open and in flight. Who and what is over a
    /// lower bound stays; nothing more comes. What it may have is [`allowances`](Registry::allowances)' to change.
    pub(crate) fn adjust_tenant(&self, tenant: &Tenant) {
        if let Some(slots) = self.active().slots(&tenant.id) {
            slots.adjust(tenant.crowd);
        }
        if let Some(budget) = self.budgets.get(tenant.id.as_str()).map(|budget| Arc::clone(&budget)) {
            budget.adjust(tenant.limits.tenant_bytes, tenant.limits.tenant_io);
        }
        self.shared.accounts.pace_tenant(&tenant.id, tenant.rates);
    }
}

impl Export {
    /// Whether it can go by another configuration of the same name as it is.
    ///
    /// # Errors
    /// The keys that can't change under its clients.
    pub(crate) fn may_adjust(&self, config: &Resolved) -> Result<(), AdjustError> {
        self.settings().may_become(&Settings::of(config, self.core.facts()))
    }

    /// Goes by another configuration of the same name from now on. Nothing is resized by that: a bound that the size is
    /// past already stops growth, and what sessions were told stays so. What the coordinator is doing it finishes by the old
    /// rules.
    ///
    /// # Errors
    /// The keys that can't change under its clients; then nothing has changed.
    pub(crate) fn adjust(&self, config: &Resolved) -> Result<(), AdjustError> {
        let next = Settings::of(config, self.core.facts());
        {
            let mut settings = self.settings.write();
            settings.may_become(&next)?;
            *settings = Arc::new(next.clone());
        }
        let Settings { config, policy } = next;
        if let Some(lanes) = self.core.lanes() {
            lanes.late.set_guard(config.late_write_guard);
        }
        self.resizer.openers.adjust(config.resize.shrink_grace);
        self.resizer.adjust(Rules { policy, timeout: config.resize.timeout });
        self.patience.send_if_modified(|patience| {
            let before = std::mem::replace(patience, Patience::of(&config));
            *patience != before
        });
        self.accounts.adjust_notices(&self.notices, config.limits.export_notices);
        self.session_io.set(config.limits.session_io);
        self.io.set(config.limits.export_io);
        self.hooks.adjust(&config.notify);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nbd_gateway_config::Config;
    use nbd_gateway_metrics::Metrics;
    use nbd_gateway_net::Pool;
    use nbd_gateway_policy::plan::Wish;
    use nbd_gateway_policy::refusal::Reason;
    use nbd_gateway_policy::types::{Bytes, Size};

    use super::*;
    use crate::accounting::cache::LedgerCache;
    use crate::shards::Shards;

    const MIB: u64 = 1 << 20;

    fn config(tenant: &str, export: &str) -> Config {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\n{tenant}\n\
             [[export]]\nname = \"e\"\ntenant = \"t\"\nbackend = \"memory:\"\nsize = \"1MiB\"\n{export}\n"
        );
        Config::parse(&text, Path::new("config.toml")).unwrap()
    }

    fn registry(config: Config) -> Arc<Registry> {
        let metrics = Arc::new(Metrics::new("0").unwrap());
        let notes = Arc::new(LedgerCache::in_memory().unwrap());
        Registry::new(Arc::new(config), Arc::new(Pool::new(1)), Shards::here(), metrics, notes, Arc::new(()))
    }

    async fn bounded(registry: &Registry, tenant: &Tenant) {
        registry.allowances.configure(&tenant.id, tenant.allowance).await;
        registry.adjust_tenant(tenant);
    }

    async fn grow(export: &Export, mib: u64) -> Result<u64, Reason> {
        let done = export.resizer.wish(Wish::Operator { target: mib * MIB }).await;
        done.map(Size::bytes).map_err(|refusal| refusal.reason)
    }

    fn adjusted(export: &Export, keys: &str) -> Result<(), AdjustError> {
        export.adjust(&config("", keys).export_for("e").unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_quota_shrinks_nothing_and_a_higher_one_lets_it_grow_again() {
        let registry = registry(config("quota = \"4MiB\"", ""));
        let lease = registry.open("e").await.unwrap();
        assert_eq!(grow(lease.export(), 4).await, Ok(4 * MIB));
        let lower = config("quota = \"2MiB\"\nsoft-quota = \"1MiB\"\nmax-sessions = 1", "");
        bounded(&registry, &lower.tenants()[0]).await;
        let usage = registry.usage(&lower.tenants()[0].id).unwrap();
        assert_eq!((usage.used, usage.quota, usage.over_quota), (Bytes(4 * MIB), Some(Bytes(2 * MIB)), true));
        assert_eq!(lease.export().size(), 4 * MIB);
        assert!(matches!(grow(lease.export(), 5).await, Err(Reason::OverQuota { .. })));
        let _one = registry.open("e").await.unwrap().for_session().unwrap();
        registry.open("e").await.unwrap().for_session().unwrap_err();
        bounded(&registry, &config("quota = \"5MiB\"", "").tenants()[0]).await;
        assert_eq!(grow(lease.export(), 5).await, Ok(5 * MIB));
        let _two = registry.open("e").await.unwrap().for_session().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_bytes_in_flight_and_growth_rate_change_under_it() {
        let registry = registry(config("growth-rate = \"2MiB/h\"", ""));
        let lease = registry.open("e").await.unwrap();
        assert_eq!(grow(lease.export(), 3).await, Ok(3 * MIB));
        let other = config("growth-rate = \"8MiB/h\"\nlimits = { tenant-bytes = \"64MiB\" }", "");
        bounded(&registry, &other.tenants()[0]).await;
        // Nothing was left of the two, and nothing of the eight is there before it is earned.
        assert!(matches!(grow(lease.export(), 4).await, Err(Reason::RateLimited { limit: "growth-rate", .. })));
        tokio::time::advance(std::time::Duration::from_secs(450)).await;
        assert_eq!(grow(lease.export(), 4).await, Ok(4 * MIB));
        assert_eq!(lease.export().budget.limit(), 64 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_export_goes_by_its_new_bounds_at_once() {
        let registry = registry(config("", "max-size = \"4MiB\""));
        let lease = registry.open("e").await.unwrap();
        let export = lease.export();
        assert!(matches!(grow(export, 5).await, Err(Reason::OverCeiling { .. })));
        adjusted(export, "max-size = \"6MiB\"\ndescription = \"more\"").unwrap();
        assert_eq!((grow(export, 5).await, export.description().as_deref()), (Ok(5 * MIB), Some("more")));
        let refused = adjusted(export, "max-size = \"9MiB\"\nread-only = true").unwrap_err();
        assert_eq!(refused.to_string(), "read-only can't change while it is open");
        assert!(matches!(grow(export, 7).await, Err(Reason::OverCeiling { .. })), "what is refused changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_maximum_below_the_size_stops_growth_and_shrinks_nothing() {
        let registry = registry(config("", ""));
        let lease = registry.open("e").await.unwrap();
        let export = lease.export();
        assert_eq!(grow(export, 8).await, Ok(8 * MIB));
        adjusted(export, "max-size = \"4MiB\"\n[export.resize]\nshrink = true\nmin-size = \"1MiB\"").unwrap();
        assert!(matches!(grow(export, 9).await, Err(Reason::OverCeiling { .. })));
        assert_eq!(export.size(), 8 * MIB);
        assert_eq!(grow(export, 2).await, Ok(2 * MIB));
        assert_eq!(grow(export, 3).await, Ok(3 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_held_back_is_shown_once_sizes_are_published_by_themselves() {
        let registry = registry(config("", "[export.resize]\npublish = \"manual\""));
        let lease = registry.open("e").await.unwrap();
        let export = lease.export();
        assert_eq!((grow(export, 2).await, export.size()), (Ok(MIB), MIB));
        adjusted(export, "").unwrap();
        let mut sizes = export.core.view().follow();
        sizes.wait_for(|shown| shown.size == 2 * MIB).await.unwrap();
    }
}
