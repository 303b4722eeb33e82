//! What each tenant may have: what the configuration says, or an operator's order that stands.
//!
//! An order is kept in the ledger together with the quota that it replaced, and stands over restarts and changes of the
//! configuration for as long as that says the same quota. Once it says another, the configuration wins and the order is
//! dropped for good. The sums and the rule are the books'; nothing here shrinks anything.

use std::collections::HashMap;
use std::sync::Arc;

use nbd_gateway_config::Tenant;
use nbd_gateway_ledger::{Change, LedgerError, NewEvent, QuotaOrder, Quotas};
use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::types::{Bytes, Size, TenantId};
use parking_lot::Mutex;

use super::cache::{LedgerCache, now};
use super::history::{self, Kind};
use super::tenants::TenantAccounts;

/// What an operator wants changed; None: it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The quota; None inside: no quota.
    pub quota: Option<Option<Size>>,
    pub soft: Option<Option<Size>>,
}

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuotaOrderError {
    /// Nobody has that name.
    #[error("there is no tenant {0:?}; see `nbd-gateway tenants`")]
    Unknown(String),
    /// It would never warn of anything.
    #[error("soft-quota ({}) is more than quota ({}): give both, the soft one at most as large", soft.written(), quota.written())]
    SoftAboveQuota {
        /// The soft quota that there would be.
        soft: Size,
        /// The quota that there would be.
        quota: Size,
    },
    /// It could not be kept, and so it does not hold.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What a tenant may have now, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// What the configuration says.
    pub configured: Quotas,
    /// What an operator ordered instead; None: the configuration holds.
    pub ordered: Option<Quotas>,
}

impl Allowed {
    /// What is in force.
    pub(crate) fn effective(&self) -> Quotas {
        self.ordered.unwrap_or(self.configured)
    }

    /// For an operator: where the quota comes from if not from the configuration, and what to write there.
    pub(crate) fn note(&self) -> Option<String> {
        let ordered = self.ordered?;
        let says = [("quota", self.configured.quota), ("soft-quota", self.configured.soft)]
            .into_iter()
            .filter_map(|(key, size)| Some(format!("{key} = \"{}\"", size?.written())))
            .collect::<Vec<_>>();
        let says = if says.is_empty() { "none".to_owned() } else { says.join(", ") };
        let keys =
            [("quota", ordered.quota, self.configured.quota), ("soft-quota", ordered.soft, self.configured.soft)];
        let to_write = keys.into_iter().filter(|(_, ordered, configured)| ordered != configured);
        let to_write = to_write.map(|(key, size, _)| match size {
            Some(size) => format!("write {key} = \"{}\"", size.written()),
            None => format!("leave {key} out"),
        });
        let to_write = to_write.collect::<Vec<_>>().join(" and ");
        Some(format!(
            "an operator ordered this quota, and it holds as long as the configuration says what it says now ({says}); \
             to keep it, {to_write} in the [[tenant]] there"
        ))
    }
}

#[derive(Debug)]
struct Allowance {
    limits: TenantLimits,
    ordered: Option<Quotas>,
}

impl Allowance {
    fn allowed(&self) -> Allowed {
        Allowed { configured: quotas(&self.limits), ordered: self.ordered }
    }

    fn effective(&self) -> TenantLimits {
        let of = |size: Option<Size>| size.map(|size| Bytes(size.bytes()));
        match self.ordered {
            Some(Quotas { quota, soft }) => TenantLimits { quota: of(quota), soft_quota: of(soft), ..self.limits },
            None => self.limits,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Allowances {
    accounts: Arc<TenantAccounts>,
    cache: Arc<LedgerCache>,
    tenants: Mutex<HashMap<TenantId, Allowance>>,
    /// One change at a time, so that the ledger and the books take them in the same order; held while the ledger writes.
    turn: tokio::sync::Mutex<()>,
}

impl Allowances {
    /// As configured.
    pub(crate) fn new(accounts: Arc<TenantAccounts>, cache: Arc<LedgerCache>, tenants: &[Tenant]) -> Self {
        let of = |tenant: &Tenant| (tenant.id.clone(), Allowance { limits: tenant.allowance, ordered: None });
        for tenant in tenants {
            accounts.books(|books| books.set_limits(&tenant.id, tenant.allowance));
        }
        let tenants = Mutex::new(tenants.iter().map(of).collect());
        Self { accounts, cache, tenants, turn: tokio::sync::Mutex::default() }
    }

    /// What a tenant may have, and by whom; None: there is none of that name.
    pub(crate) fn allowed(&self, tenant: &TenantId) -> Option<Allowed> {
        self.tenants.lock().get(tenant).map(Allowance::allowed)
    }

    /// Takes up the orders of an earlier life that still stand, and drops the others.
    pub(crate) async fn restore(&self, orders: &[QuotaOrder]) {
        let _turn = self.turn.lock().await;
        for order in orders {
            let configured = self.allowed(&order.tenant).map(|allowed| allowed.configured);
            if configured == Some(order.configured) {
                self.set(&order.tenant, Some(order.ordered));
                let QuotaOrder { tenant, ordered: Quotas { quota, .. }, .. } = order;
                tracing::info!(
                    tenant = tenant.as_str(),
                    quota = told(*quota),
                    "a quota that an operator ordered holds"
                );
            } else {
                self.void(&order.tenant, order.ordered, configured).await;
            }
        }
    }

    /// What another configuration says of all tenants. Of those that have left it no order stands.
    pub(crate) async fn configure_all(&self, tenants: &[Tenant]) {
        for tenant in tenants {
            self.configure(&tenant.id, tenant.allowance).await;
        }
        let _turn = self.turn.lock().await;
        let stays = |id: &TenantId| tenants.iter().any(|tenant| tenant.id == *id);
        let left: Vec<(TenantId, Allowance)> = self.tenants.lock().extract_if(|id, _| !stays(id)).collect();
        for (tenant, allowance) in left {
            if let Some(ordered) = allowance.ordered {
                self.void(&tenant, ordered, None).await;
            }
        }
    }

    /// What the configuration says from now on. An order stands only if that is what it said when it was given.
    pub(crate) async fn configure(&self, tenant: &TenantId, limits: TenantLimits) {
        let _turn = self.turn.lock().await;
        let (before, after) = {
            let mut tenants = self.tenants.lock();
            let allowance = tenants.entry(tenant.clone()).or_insert(Allowance { limits, ordered: None });
            let before = allowance.allowed();
            allowance.limits = limits;
            if before.configured != quotas(&limits) {
                allowance.ordered = None;
            }
            self.accounts.books(|books| books.set_limits(tenant, allowance.effective()));
            (before, allowance.allowed())
        };
        match before.ordered {
            Some(ordered) if after.ordered.is_none() => self.void(tenant, ordered, Some(after.configured)).await,
            Some(_) | None if before.effective() != after.effective() => {
                let event = event(tenant, before.effective(), after.effective(), "the configuration was changed");
                self.cache.log_event(event).await;
            }
            Some(_) | None => {}
        }
    }

    /// Changes a tenant's quota by an operator's order: durable, and in force when it returns. What the configuration says
    /// is no order: that ends the one that stands.
    ///
    /// # Errors
    /// [`QuotaOrderError`]; then nothing has changed.
    pub(crate) async fn order(&self, tenant: &TenantId, wanted: Wanted) -> Result<Allowed, QuotaOrderError> {
        let _turn = self.turn.lock().await;
        let unknown = || QuotaOrderError::Unknown(tenant.as_str().to_owned());
        let before = self.allowed(tenant).ok_or_else(unknown)?;
        let now_is = before.effective();
        let ordered = Quotas { quota: wanted.quota.unwrap_or(now_is.quota), soft: wanted.soft.unwrap_or(now_is.soft) };
        if let Quotas { quota: Some(quota), soft: Some(soft) } = ordered
            && soft > quota
        {
            return Err(QuotaOrderError::SoftAboveQuota { soft, quota });
        }
        if ordered == now_is {
            return Ok(before);
        }
        let (ledger, event) = (&self.cache.ledger, event(tenant, now_is, ordered, "an operator ordered it"));
        let stands = (ordered != before.configured).then_some(ordered);
        match stands {
            Some(ordered) => {
                let (tenant, configured) = (tenant.clone(), before.configured);
                ledger
                    .write(Change::OrderQuota { order: QuotaOrder { tenant, ordered, configured, at: now() }, event })
                    .await?;
            }
            None => ledger.write(Change::DropQuotaOrder { tenant: tenant.clone(), event: Some(event) }).await?,
        }
        tracing::info!(
            tenant = tenant.as_str(),
            from = told(now_is.quota),
            quota = told(ordered.quota),
            soft_quota = told(ordered.soft),
            "an operator changed a tenant's quota"
        );
        self.set(tenant, stands).ok_or_else(unknown)
    }

    fn set(&self, tenant: &TenantId, ordered: Option<Quotas>) -> Option<Allowed> {
        let mut tenants = self.tenants.lock();
        let allowance = tenants.get_mut(tenant)?;
        allowance.ordered = ordered;
        self.accounts.books(|books| books.set_limits(tenant, allowance.effective()));
        Some(allowance.allowed())
    }

    /// The configuration has won. In the books it has already; were it not to reach the ledger, the next start would find the
    /// same. None: it has no such tenant any more.
    async fn void(&self, tenant: &TenantId, ordered: Quotas, configured: Option<Quotas>) {
        let (name, was) = (tenant.as_str(), told(ordered.quota));
        let is = told(configured.and_then(|configured| configured.quota));
        match configured {
            Some(configured) if configured == ordered => {
                tracing::info!(
                    tenant = name,
                    quota = is,
                    "the configuration says now what an operator ordered; the order is done with"
                );
            }
            Some(_) => tracing::info!(
                tenant = name,
                ordered = was,
                quota = is,
                "the configuration says another quota than when an operator ordered one; the order is dropped"
            ),
            None => tracing::info!(
                tenant = name,
                ordered = was,
                "the tenant is not in the configuration any more; the quota that an operator ordered for it is dropped"
            ),
        }
        let changed = configured.filter(|configured| *configured != ordered);
        let event = changed.map(|is| {
            event(tenant, ordered, is, "the configuration says another quota than when an operator ordered this")
        });
        if let Err(error) = self.cache.ledger.write(Change::DropQuotaOrder { tenant: tenant.clone(), event }).await {
            tracing::warn!(tenant = name, %error, "an order about a quota that is void stays in the ledger");
        }
    }
}

/// What the configuration says of a quota.
fn quotas(limits: &TenantLimits) -> Quotas {
    let of = |bytes: Option<Bytes>| bytes.map(|bytes| Size::new(bytes.0).unwrap_or(Size::MAX));
    Quotas { quota: of(limits.quota), soft: of(limits.soft_quota) }
}

/// As a configuration has it.
fn told(size: Option<Size>) -> String {
    size.map_or_else(|| "none".to_owned(), Size::written)
}

fn event(tenant: &TenantId, from: Quotas, to: Quotas, why: &str) -> NewEvent {
    let mut detail = format!("{why}: quota {} -> {}", told(from.quota), told(to.quota));
    if from.soft != to.soft {
        detail.push_str(&format!(", soft-quota {} -> {}", told(from.soft), told(to.soft)));
    }
    history::event(Kind::QuotaChanged, Some(tenant), None, detail, (from.quota, to.quota))
}

#[cfg(test)]
mod tests {
    use nbd_gateway_config::Config;
    use nbd_gateway_ledger::EventFilter;

    use super::*;

    fn tenants(keys: &str) -> Vec<Tenant> {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\n{keys}\n\
             [[export]]\nname = \"e\"\ntenant = \"t\"\nbackend = \"memory:\"\nsize = \"1MiB\"\n"
        );
        Config::parse(&text, std::path::Path::new("config.toml")).unwrap().tenants().to_vec()
    }

    fn t() -> TenantId {
        TenantId::new("t").unwrap()
    }

    fn size(bytes: u64) -> Option<Size> {
        Some(Size::new(bytes).unwrap())
    }

    /// A process of a gateway, with this configuration.
    async fn life(cache: &Arc<LedgerCache>, keys: &str) -> (Allowances, Arc<TenantAccounts>) {
        let accounts = Arc::new(TenantAccounts::default());
        let allowances = Allowances::new(Arc::clone(&accounts), Arc::clone(cache), &tenants(keys));
        allowances.restore(&cache.ledger.snapshot().await.unwrap().orders).await;
        (allowances, accounts)
    }

    fn quota(accounts: &TenantAccounts) -> Option<u64> {
        accounts.books(|books| books.usage(&t())).unwrap().quota.map(|quota| quota.0)
    }

    async fn events(cache: &LedgerCache) -> Vec<(String, Option<u64>, Option<u64>)> {
        let told = cache.ledger.events(EventFilter { limit: 100, ..EventFilter::default() }).await.unwrap();
        assert!(told.iter().all(|event| event.kind == "quota-changed" && event.tenant == Some(t())));
        let of = |size: Option<Size>| size.map(Size::bytes);
        told.into_iter().map(|event| (event.detail, of(event.old_size), of(event.new_size))).collect()
    }

    #[tokio::test]
    async fn an_order_holds_over_restarts_until_the_configuration_says_something_else() {
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let (allowances, accounts) = life(&cache, "quota = 100").await;
        let wanted = Wanted { quota: Some(size(200)), soft: Some(size(150)) };
        let allowed = allowances.order(&t(), wanted).await.unwrap();
        assert_eq!(allowed.ordered, Some(Quotas { quota: size(200), soft: size(150) }));
        assert_eq!(
            allowed.note().unwrap(),
            "an operator ordered this quota, and it holds as long as the configuration says what it says now \
             (quota = \"100\"); to keep it, write quota = \"200\" and write soft-quota = \"150\" in the [[tenant]] there"
        );
        assert_eq!(
            (quota(&accounts), accounts.books(|books| books.usage(&t())).unwrap().soft_quota),
            (Some(200), Some(Bytes(150)))
        );
        // Whatever else changes there.
        allowances.configure(&t(), tenants("quota = 100\nenforce = false")[0].allowance).await;
        assert_eq!(quota(&accounts), Some(200));
        let (allowances, accounts) = life(&cache, "quota = 100").await;
        assert_eq!((quota(&accounts), allowances.allowed(&t()).unwrap().ordered.is_some()), (Some(200), true));
        let (allowances, accounts) = life(&cache, "quota = 120").await;
        assert_eq!((quota(&accounts), allowances.allowed(&t()).unwrap().note()), (Some(120), None));
        // For good.
        let (_, accounts) = life(&cache, "quota = 100").await;
        assert_eq!(quota(&accounts), Some(100));
        let told = events(&cache).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0].0, "an operator ordered it: quota 100 -> 200, soft-quota none -> 150");
        assert_eq!((told[0].1, told[0].2, told[1].1, told[1].2), (Some(100), Some(200), Some(200), Some(120)));
    }

    #[tokio::test]
    async fn a_configuration_that_is_changed_while_the_gateway_runs_wins_too() {
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let (allowances, accounts) = life(&cache, "quota = 100").await;
        allowances.order(&t(), Wanted { quota: Some(None), soft: None }).await.unwrap();
        assert_eq!(quota(&accounts), None);
        // What was ordered is what it says: nothing changes, and there is nothing left to tell.
        allowances.configure(&t(), tenants("")[0].allowance).await;
        assert_eq!((quota(&accounts), allowances.allowed(&t()).unwrap().ordered), (None, None));
        allowances.configure(&t(), tenants("quota = 50")[0].allowance).await;
        assert_eq!(quota(&accounts), Some(50));
        assert_eq!(cache.ledger.snapshot().await.unwrap().orders, []);
        let told: Vec<_> = events(&cache).await.into_iter().map(|(_, from, to)| (from, to)).collect();
        assert_eq!(told, [(Some(100), None), (None, Some(50))]);
    }

    #[tokio::test]
    async fn to_order_what_the_configuration_says_ends_the_order() {
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let (allowances, accounts) = life(&cache, "quota = 100\nsoft-quota = 90").await;
        let order = async |quota, soft| allowances.order(&t(), Wanted { quota, soft }).await;
        let above = order(Some(size(80)), None).await.unwrap_err();
        assert_eq!(
            above.to_string(),
            "soft-quota (90) is more than quota (80): give both, the soft one at most as large"
        );
        assert_eq!(quota(&accounts), Some(100));
        assert!(order(Some(size(80)), Some(None)).await.unwrap().note().unwrap().ends_with(
            "(quota = \"100\", soft-quota = \"90\"); to keep it, write quota = \"80\" and leave soft-quota out in the \
             [[tenant]] there"
        ));
        assert_eq!(order(Some(size(100)), Some(size(90))).await.unwrap().ordered, None);
        assert_eq!((quota(&accounts), cache.ledger.snapshot().await.unwrap().orders.len()), (Some(100), 0));
        // Nothing is changed by that, so nothing is told.
        order(Some(size(100)), None).await.unwrap();
        assert_eq!(events(&cache).await.len(), 2);
        let nobody = allowances.order(&TenantId::new("nobody").unwrap(), Wanted::default()).await.unwrap_err();
        assert_eq!(nobody.to_string(), "there is no tenant \"nobody\"; see `nbd-gateway tenants`");
    }

    #[tokio::test]
    async fn an_order_that_can_not_be_kept_does_not_hold() {
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let (allowances, accounts) = life(&cache, "quota = 100").await;
        cache.close().await;
        let refused = allowances.order(&t(), Wanted { quota: Some(size(200)), soft: None }).await.unwrap_err();
        assert!(matches!(refused, QuotaOrderError::Ledger(LedgerError::Closed { .. })), "{refused}");
        assert_eq!((quota(&accounts), allowances.allowed(&t()).unwrap().ordered), (Some(100), None));
    }

    #[tokio::test]
    async fn an_order_for_a_tenant_that_is_gone_is_dropped() {
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let (allowances, _) = life(&cache, "quota = 100").await;
        allowances.order(&t(), Wanted { quota: Some(size(200)), soft: None }).await.unwrap();
        let other = Allowances::new(Arc::default(), Arc::clone(&cache), &[]);
        other.restore(&cache.ledger.snapshot().await.unwrap().orders).await;
        assert_eq!(cache.ledger.snapshot().await.unwrap().orders, []);
    }
}
