//! Which exports there are, and which are open.
//!
//! The first client that asks opens an export, once, however many ask at the same time; the last one to leave starts its
//! idle time. No guard of the map is held across an await; each entry has its own lock for opening and closing.

use super::unopened::{List, Unopened};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use dashmap::DashMap;
use nbd_gateway_config::{Backend, Config, NoExport, Resolved};
use nbd_gateway_ledger::{Ledger, ReservationRow, Snapshot};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::Pool;
use nbd_gateway_policy::quota::Usage;
use nbd_gateway_policy::types::TenantId;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::active::ActiveConfig;
use super::aliases::Files;
use super::entry::{Entry, Fitness, State};
use super::index::Index;
use super::known_openers::KnownOpeners;
use super::start::StartError;
use super::tenant_slots::{Slot, TenantSlots};
use super::{Export, Lease, OpenError, start, unpublished};
use crate::accounting::allowance::Allowances;
use crate::accounting::cache::LedgerCache;
use crate::accounting::tenants::TenantAccounts;
use crate::hooks::Disconnect;
use crate::limits::TenantBudget;
use crate::shards::Shards;
use crate::target::TargetParts;

/// How long after `drain-timeout` a backend has to be let go before whoever waits for that is told.
const CLOSING: Duration = Duration::from_secs(5);

/// Who wants an export open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opener {
    /// A client, which is told what is so now: it takes its place among its tenant's. Refused where the server is away, or
    /// came back different and others rely on what it was.
    Client,
    /// An operator, or the gateway for one: the same, whatever became of the server since the export was opened.
    Operator,
    /// A look at its size, which counts from then on. It takes no place that a client could have.
    Look,
}

/// An entry that is locked to be opened. Nobody may wait for that any more, and then nothing of it stays.
struct Attempt<'a> {
    registry: &'a Registry,
    entry: &'a Arc<Entry>,
    state: tokio::sync::MutexGuard<'a, State>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // One that failed is out of the map already, and answers those who wait.
        if self.state.export.is_none() && self.state.failed.is_none() {
            self.registry.discard(self.entry, &mut self.state);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Registry {
    pub(super) active: RwLock<Arc<ActiveConfig>>,
    pub(super) index: Index,
    pub(super) budgets: DashMap<String, Arc<TenantBudget>>,
    /// What its tenants may have, and by whom.
    pub(crate) allowances: Allowances,
    unopened: List,
    /// Told when there can be exports that nobody has measured.
    pub(super) to_look_at: Notify,
    pub(super) shared: Shared,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) parts: TargetParts,
    pub(super) metrics: Arc<Metrics>,
    pub(super) accounts: Arc<TenantAccounts>,
    pub(super) ledger_cache: Arc<LedgerCache>,
    /// Disconnects clients, for hooks.
    pub(super) clients: Arc<dyn Disconnect>,
    pub(super) known_openers: KnownOpeners,
}

impl Registry {
    /// With nothing open yet.
    pub(crate) fn new(
        config: Arc<Config>,
        pool: Arc<Pool>,
        shards: Shards,
        metrics: Arc<Metrics>,
        ledger_cache: Arc<LedgerCache>,
        clients: Arc<dyn Disconnect>,
    ) -> Arc<Self> {
        let accounts = Arc::new(TenantAccounts::default());
        let active = ActiveConfig::new(config, None, &metrics);
        active.show(None, &metrics);
        let tenants = active.config.tenants();
        tenants.iter().for_each(|tenant| accounts.pace_tenant(&tenant.id, tenant.rates));
        let allowances = Allowances::new(Arc::clone(&accounts), Arc::clone(&ledger_cache), tenants);
        let state = active.config.state.clone();
        let shared = Shared {
            parts: TargetParts::new(pool, shards, Arc::clone(&metrics), Arc::clone(&ledger_cache.marks), state),
            metrics,
            accounts,
            ledger_cache,
            clients,
            known_openers: KnownOpeners::default(),
        };
        let active = RwLock::new(Arc::new(active));
        Arc::new(Self {
            active,
            index: Index::default(),
            budgets: DashMap::new(),
            allowances,
            unopened: List::default(),
            to_look_at: Notify::new(),
            shared,
        })
    }

    pub(super) fn active(&self) -> Arc<ActiveConfig> {
        Arc::clone(&self.active.read())
    }

    /// The configuration that is in force now. Whoever begins something keeps to what it was then.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.active.read().config)
    }

    /// The ledger: what is counted, held and told.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.shared.ledger_cache.ledger
    }

    /// Counts what an earlier life has left in the ledger: each export at its last size, and what was held for grows of
    /// unknown outcome, until it is opened and measured. One that has left the configuration goes on counting against its
    /// tenant, for its bytes are still there. Answers those that are to be measured now: embedded ones, which is cheap, and
    /// those with a grow of unknown outcome. Within a runtime.
    pub(crate) fn remember(&self, snapshot: &Snapshot) -> Vec<String> {
        let (mut measure, mut given, mut gone) = (Vec::new(), Vec::new(), 0_u32);
        let active = self.config();
        for row in &snapshot.exports {
            let name = row.name.as_str();
            let of = |held: &&ReservationRow| held.export == row.name;
            let pending = snapshot.reservations.iter().filter(of).map(|held| held.to).max();
            let unknown = pending.is_some();
            // A shrink frees nothing before its outcome is known.
            let pending = pending.filter(|to| *to > row.known.size);
            let config = active.export_for(name).ok();
            let tenant = config.as_ref().map_or(&row.tenant, |config| &config.tenant);
            self.shared.accounts.books(|books| books.restore(&row.name, tenant, row.known.size, pending));
            if *tenant != row.tenant {
                given.push((row.name.clone(), tenant.clone()));
            }
            self.shared.known_openers.expect_return(&row.name);
            match config {
                Some(config) if unknown || config.backend.is_embedded() => measure.push(name.to_owned()),
                Some(_) => {}
                None => gone += 1,
            }
        }
        if !given.is_empty() {
            tokio::spawn(Arc::clone(&self.shared.ledger_cache).give_all(given));
        }
        if gone > 0 {
            tracing::info!(
                exports = gone,
                "exports of the ledger are not in the configuration any more; they are still counted"
            );
        }
        measure
    }

    /// The threads that move requests.
    pub(crate) fn shards(&self) -> &Shards {
        &self.shared.parts.shards
    }

    /// The exports that could not be opened at the last attempt.
    pub(crate) fn unopened(&self) -> Vec<Unopened> {
        let config = self.config();
        self.unopened.known(|name| config.export_for(name).is_ok())
    }

    pub(crate) fn open_exports(&self) -> usize {
        self.index.len()
    }

    /// Opens an export, or joins those who have it open. Cancel-safe: yes; an attempt that nobody waits for is dropped.
    pub(crate) async fn open(self: &Arc<Self>, name: &str) -> Result<Lease, OpenError> {
        self.open_for(name, Opener::Operator).await
    }

    /// The look is over: the export is closed without its idle time, unless a client came. Cancel-safe: yes; then it is
    /// closed when idle.
    pub(super) async fn looked(&self, lease: Lease) {
        let entry = Arc::clone(&lease.entry);
        let leased = entry.leased.load(Ordering::Acquire);
        drop(lease);
        self.close_idle(&entry, leased).await;
    }

    /// Opens an export, or joins those who have it open. Cancel-safe: yes.
    pub(crate) async fn open_for(self: &Arc<Self>, name: &str, opener: Opener) -> Result<Lease, OpenError> {
        let asked = Instant::now();
        let mut tried = false;
        loop {
            let entry = self.entry(name)?;
            let state = if entry.is_leaving() { self.wait_for(&entry).await? } else { entry.state.lock().await };
            if state.retired {
                continue;
            }
            let mut attempt = Attempt { registry: self, entry: &entry, state };
            let state = &mut attempt.state;
            if let Some(export) = state.export.clone() {
                if opener == Opener::Client {
                    match entry.fitness(&export) {
                        Fitness::Good => {}
                        Fitness::Stale => {
                            self.retire(&entry, state).await;
                            continue;
                        }
                        Fitness::Expected(presence, until) => {
                            drop(attempt);
                            presence.decided(until).await;
                            continue;
                        }
                        Fitness::Unfit(presence, error) => {
                            if tried {
                                return Err(self.not_opened(name, error));
                            }
                            drop(attempt);
                            presence.tried().await;
                            tried = true;
                            continue;
                        }
                    }
                }
                if opener != Opener::Look && state.slot.is_none() {
                    // It was opened for a look.
                    state.slot = self.slot_for(&entry.config()).await.map_err(OpenError::Crowded)?;
                }
                return Ok(Lease::new(self, &entry, &export));
            }
            if let Some((at, error)) = &state.failed
                && *at >= asked
            {
                return Err(error.clone());
            }
            match Box::pin(self.make(&entry.config(), opener)).await {
                Ok((export, slot)) => {
                    let export = Arc::new(export);
                    state.holds(Arc::clone(&export), slot);
                    self.unopened.opened(name);
                    return Ok(Lease::new(self, &entry, &export));
                }
                Err(error) => {
                    let error = if opener == Opener::Look { error } else { self.not_opened(name, error) };
                    state.failed = Some((Instant::now(), error.clone()));
                    // Waiters hold the entry and read the failure from it; the next to come starts afresh.
                    self.index.remove(&entry);
                    return Err(error);
                }
            }
        }
    }

    /// Tells the log, and counts it. What a tenant has no room for, and a name that a template's server does not have, is
    /// told with the refusal of its client.
    fn not_opened(&self, export: &str, error: OpenError) -> OpenError {
        if error.whose().is_for_operators() {
            tracing::warn!(export, %error, "export can't be opened");
            let template = self.config().export_for(export).ok().and_then(|config| config.template);
            self.shared.metrics.open_failed(export, template.as_deref());
            self.unopened.failed(export, error.to_string(), SystemTime::now());
        }
        error
    }

    /// One that leaves is over by then, or its backend does not let it go.
    async fn wait_for<'a>(&self, entry: &'a Entry) -> Result<tokio::sync::MutexGuard<'a, State>, OpenError> {
        timeout(self.closing_limit(), entry.state.lock()).await.map_err(|_| OpenError::Backend {
            export: entry.name(),
            why: "it is still being closed as it was configured before, for its backend does not answer".to_owned(),
        })
    }

    pub(super) fn entry(&self, name: &str) -> Result<Arc<Entry>, OpenError> {
        // Held to the end: whoever replaces it finds every entry that was made by it.
        let active = self.active.read();
        if let Some(entry) = self.index.get(name).filter(|entry| !entry.is_leaving()) {
            return Ok(entry);
        }
        let unknown = |why| OpenError::Unknown { export: name.to_owned(), why };
        let config = active.config.export_for(name).map_err(unknown)?;
        Ok(self.index.get_or_insert_with(name, || Entry::new(config)))
    }

    async fn make(self: &Arc<Self>, config: &Resolved, opener: Opener) -> Result<(Export, Option<Slot>), OpenError> {
        let _turn = match opener {
            Opener::Client => {
                let turn = self.turn_to_open(config).await?;
                self.descriptors_for(config).await?;
                turn
            }
            Opener::Operator | Opener::Look => None,
        };
        let slot = match opener {
            Opener::Client | Opener::Operator => self.slot_for(config).await.map_err(OpenError::Crowded)?,
            Opener::Look => None,
        };
        let created = self.provision(config, opener).await.map_err(OpenError::Crowded)?;
        let opened = self.open_backend(config).await;
        if created && opened.is_err() {
            self.unprovision(config).await;
        }
        Ok((opened?, slot))
    }

    /// Opens what an entry stands for, whatever else its tenant has, or has open.
    pub(super) async fn open_backend(&self, config: &Resolved) -> Result<Export, OpenError> {
        // Not before it is open: clients make up names that fit a template, and the series are bounded.
        let metrics = || self.shared.metrics.export(config.name.as_str(), config.template.as_deref());
        let failed = |error: StartError| {
            let (export, why) = (config.name.as_str().to_owned(), error.to_string());
            // Of what the configuration names, the operator was wrong.
            match error.is_unknown_name() && !self.config().is_listable(&export) {
                true => OpenError::Missing { export, why },
                false => OpenError::Backend { export, why },
            }
        };
        let budget = || TenantBudget::new(config.limits.tenant_bytes, config.limits.tenant_io);
        let budget = Arc::clone(&self.budgets.entry(config.tenant.as_str().to_owned()).or_insert_with(budget));
        let until = Instant::now() + self.closing_limit();
        loop {
            let leaving = self.index.leaving_files();
            match start::open(config, &self.shared, Arc::clone(&budget), metrics).await {
                // Only after a refusal: a leaving export may have closed its file already.
                Err(error) if error.is_locked() && have_left(leaving, &config.backend, until).await => {}
                opened => return opened.map_err(failed),
            }
        }
    }

    /// How long an opening waits for an export that is being closed.
    fn closing_limit(&self) -> Duration {
        self.config().limits.drain_timeout + CLOSING
    }

    /// Closes what is idle since `leased`.
    pub(super) async fn close_idle(&self, entry: &Arc<Entry>, leased: u64) {
        let mut state = entry.state.lock().await;
        if entry.users.load(Ordering::Acquire) > 0 || entry.leased.load(Ordering::Acquire) != leased {
            return;
        }
        self.retire(entry, &mut state).await;
    }

    /// Closes what nobody uses, before its idle time is over. Whether it was open, and is closed now. Never waits for whoever
    /// opens or closes it: that one may wait for the same of the caller.
    pub(super) async fn close_unused(&self, entry: &Arc<Entry>) -> bool {
        let Ok(mut state) = entry.state.try_lock() else { return false };
        let unused = state.export.is_some() && entry.users.load(Ordering::Acquire) == 0;
        if unused {
            self.retire(entry, &mut state).await;
        }
        unused
    }

    pub(super) async fn retire(&self, entry: &Arc<Entry>, state: &mut State) {
        if let Some(export) = state.export.take() {
            export.close().await;
            unpublished::remember(&self.shared.ledger_cache, &export);
            self.shared.known_openers.remember(&export.resizer);
            drop(export);
            self.forget_series(entry);
        }
        self.discard(entry, state);
    }

    /// Takes an entry out that has nothing open.
    pub(super) fn discard(&self, entry: &Arc<Entry>, state: &mut State) {
        state.slot = None;
        state.retired = true;
        self.index.remove(entry);
    }

    /// The exports that are open now, by name. One that is being opened or closed is not among them.
    pub(crate) fn open_now(&self) -> Vec<Arc<Export>> {
        self.index.open_now()
    }

    /// Whether an export of this name could be opened.
    pub(crate) fn knows(&self, name: &str) -> Result<(), NoExport> {
        self.config().export_for(name).map(|_| ())
    }

    /// Shows in the metrics what every tenant has.
    pub(crate) fn tell_usage(&self) {
        let unmeasured = self.unmeasured_exports();
        let tell = |slots: &Arc<TenantSlots>| {
            let unmeasured = unmeasured.get(&slots.tenant).copied().unwrap_or(0);
            self.usage(&slots.tenant).iter().for_each(|usage| slots.tell(usage, unmeasured));
        };
        self.active().all_slots().for_each(tell);
    }

    pub(crate) fn usage(&self, tenant: &TenantId) -> Option<Usage> {
        self.shared.accounts.books(|books| books.usage(tenant))
    }

    /// Closes every export, whoever uses it: the end of a drain.
    pub(crate) async fn close_all(self: &Arc<Self>) {
        let mut closing = tokio::task::JoinSet::new();
        for entry in self.index.all() {
            let registry = Arc::clone(self);
            closing.spawn(async move {
                let mut state = entry.state.lock().await;
                registry.retire(&entry, &mut state).await;
            });
        }
        while closing.join_next().await.is_some() {}
    }
}

/// Waits until those of the leaving exports are closed that have this file, by whatever path. False: there are none, or
/// time is over. Cancel-safe: yes.
async fn have_left(mut leaving: Vec<Arc<Entry>>, file: &Backend, until: Instant) -> bool {
    let file = file.clone();
    let look = tokio::task::spawn_blocking(move || {
        let file = Files::of([file]);
        leaving.retain(|entry| file.have(&entry.config().backend));
        leaving
    });
    let Ok(Ok(leaving)) = timeout_at(until, look).await else { return false };
    for entry in &leaving {
        if timeout_at(until, entry.state.lock()).await.is_err() {
            return false;
        }
    }
    !leaving.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[[export]]
name = "named"
description = "the one with a name"
backend = "memory:"
size = "1MiB"

[[export]]
name = "plain"
backend = "nbd+unix:///?socket=/nonexistent/socket"

[[export]]
name = "any/*"
backend = "nbd+unix:///{}?socket=/nonexistent/socket"
"#;

    fn registry() -> Arc<Registry> {
        registry_of(CONFIG)
    }

    fn registry_of(config: &str) -> Arc<Registry> {
        let config = Config::parse(config, std::path::Path::new("config.toml")).unwrap();
        let metrics = Arc::new(Metrics::new("0").unwrap());
        let ledger_cache = Arc::new(LedgerCache::in_memory().unwrap());
        Registry::new(Arc::new(config), Arc::new(Pool::new(1)), Shards::here(), metrics, ledger_cache, Arc::new(()))
    }

    /// Its entry stayed for good, one for each name that somebody makes up.
    #[tokio::test]
    async fn an_opening_that_nobody_waits_for_any_more_leaves_nothing() {
        let socket = std::env::temp_dir().join(format!("nbd-gateway-silent-{}", std::process::id()));
        let silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let config = CONFIG.replace("/nonexistent/socket", &socket.display().to_string());
        let registry = registry_of(&config);
        for name in ["any/1", "any/2"] {
            let opening = registry.open(name);
            tokio::select! {
                biased;
                _ = opening => panic!("it does not answer"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(registry.open_exports(), 0);
        std::fs::remove_file(&socket).unwrap();
        drop(silent);
        registry.open("any/1").await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_whose_server_does_not_answer_takes_no_more_than_its_turns_to_open_exports() {
        let socket = std::env::temp_dir().join(format!("nbd-gateway-turns-{}", std::process::id()));
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let template = |name: &str, timeout: &str| {
            format!(
                "[[export]]\nname = \"{name}/*\"\ntenant = \"a\"\nbackend = \"nbd+unix:///{{}}?socket={}\"\n\
                 dial-timeout = \"{timeout}\"\n",
                socket.display()
            )
        };
        let registry = registry_of(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"b\"\n{}{}\
             [[export]]\nname = \"other\"\ntenant = \"b\"\nbackend = \"memory:\"\nsize = \"1MiB\"\n",
            template("slow", "60s"),
            template("late", "5s")
        ));
        let mut opening = tokio::task::JoinSet::new();
        for n in 0..crate::export::tenant_slots::OPENINGS {
            let registry = Arc::clone(&registry);
            opening.spawn(async move { registry.open_for(&format!("slow/{n}"), Opener::Client).await.map(drop) });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let refused = registry.open_for("late/1", Opener::Client).await.unwrap_err();
        assert!(matches!(refused, OpenError::Busy { .. }), "{refused}");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        let other = registry.config().export_for("other").unwrap();
        registry.turn_to_open(&other).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(5), "another tenant's waits for nothing");
        opening.shutdown().await;
        std::fs::remove_file(&socket).unwrap();
    }

    /// It was refused, for the file was locked.
    #[tokio::test]
    async fn a_file_whose_export_of_another_name_leaves_is_opened_when_that_is_gone_by_whatever_path() {
        let place = std::env::temp_dir().join(format!("nbd-gateway-renamed-{}", std::process::id()));
        std::fs::create_dir_all(place.join("disks")).unwrap();
        std::os::unix::fs::symlink(place.join("disks"), place.join("link")).unwrap();
        let config = |template: &str, directory: &str| {
            let disks = format!("backend = \"file:{}/{directory}/{{}}.img\"\nsize = \"1MiB\"\n", place.display());
            let text = format!("{CONFIG}[[export]]\nname = \"{template}/*\"\n{disks}");
            Config::parse(&text, std::path::Path::new("config.toml")).unwrap()
        };
        let (metrics, ledger_cache) =
            (Arc::new(Metrics::new("0").unwrap()), Arc::new(LedgerCache::in_memory().unwrap()));
        let registry = Registry::new(
            Arc::new(config("t", "disks")),
            Arc::new(Pool::new(1)),
            Shards::here(),
            metrics,
            ledger_cache,
            Arc::new(()),
        );
        let mut lease = registry.open("t/one").await.unwrap();
        for (name, directory) in [("u", "disks"), ("v", "link"), ("w", "disks/../disks")] {
            let over = Instant::now() + Duration::from_secs(60);
            assert_eq!(registry.replace(Arc::new(config(name, directory)), Vec::new(), over).leaving, 1);
            let name = format!("{name}/one");
            let opening = registry.open(&name);
            // It has a moment in which the other is in use still.
            let (opened, ()) = tokio::join!(opening, async {
                tokio::task::yield_now().await;
                drop(lease);
            });
            lease = opened.unwrap();
        }
        drop(lease);
        registry.close_all().await;
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[tokio::test]
    async fn the_list_has_the_descriptions_of_the_configuration() {
        let registry = registry();
        let config = registry.config();
        let list: Vec<_> = config.listing().collect();
        assert_eq!(list, [("named", Some("the one with a name")), ("plain", None)]);
    }

    /// Names are free to make up, and series are not.
    #[tokio::test]
    async fn a_name_that_fits_a_template_has_no_series_unless_it_could_be_opened() {
        let registry = registry();
        registry.open("any/name").await.unwrap_err();
        registry.open("plain").await.unwrap_err();
        let series = registry.shared.metrics.render().unwrap();
        assert!(!series.contains("any/name"), "{series}");
        assert!(series.contains(r#"lane_up{export="plain"} 0"#), "{series}");
        let _open = registry.open("named").await.unwrap();
        let series = registry.shared.metrics.render().unwrap();
        assert!(series.contains(r#"lane_up{export="named"} 1"#), "{series}");
    }
}
