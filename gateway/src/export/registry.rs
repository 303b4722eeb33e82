//! Which exports there are, and which are open.
//!
//! The first client that asks opens an export, once, however many ask at the same time; the last one to leave starts its
//! idle time. No guard of the map is held across an await; each entry has its own lock for opening and closing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use nbd_gateway_config::{Config, NoExport, Resolved, Tenant};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_policy::access::{Access, Rule, Verb};
use nbd_gateway_policy::quota::Usage;
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::types::{Size, TenantId};
use tokio::time::Instant;

use super::crowd::{Crowd, Room};
use super::failures::Failures;
use super::probes::Probes;
use super::{Export, held_back, start};
use crate::ledger::{Ledger, ReservationRow, Snapshot};
use crate::net::Pool;
use crate::resize::book::Book;
use crate::resize::notes::Notes;
use crate::resize::watchers;
use crate::session::{SessionTable, TenantBudget};
use crate::shards::Shards;

/// Why an export can't be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration has no such name.
    #[error("there is no export {export:?}: {why}")]
    Unknown {
        /// What was asked for.
        export: String,
        /// Nothing fits, or a template refuses it: with the template's name, for operators.
        why: NoExport,
    },
    /// It is there, and this client may not know of it.
    #[error("the client may not list export {export:?}: {rule}")]
    Hidden {
        /// What was asked for.
        export: String,
        /// What decided.
        rule: Rule,
    },
    /// It is there, and this client may not open it.
    #[error("the client may not {verb} export {export:?}: {rule}")]
    Forbidden {
        /// What was asked for.
        export: String,
        /// What it may not.
        verb: Verb,
        /// What decided.
        rule: Rule,
    },
    /// The gateway is going away.
    #[error("the gateway is shutting down")]
    Draining,
    /// Its tenant has as much open as it may have.
    #[error("{0}")]
    Crowded(Refusal),
    /// Its backend can't be reached or opened.
    #[error("export {export:?} can't be opened: {why}")]
    Backend {
        /// Which export.
        export: String,
        /// Why not: with the backend's address, for operators.
        why: String,
    },
}

impl OpenError {
    /// The export that was asked for.
    pub fn export(&self) -> &str {
        match self {
            OpenError::Unknown { export, .. }
            | OpenError::Hidden { export, .. }
            | OpenError::Forbidden { export, .. }
            | OpenError::Backend { export, .. } => export,
            OpenError::Crowded(refusal) => refusal.export.as_str(),
            OpenError::Draining => "",
        }
    }

    /// The sentence for a client: without addresses and other names of the inside.
    pub fn for_client(&self) -> String {
        match self {
            OpenError::Unknown { export, .. } | OpenError::Hidden { export, .. } => {
                format!("there is no export {export:?}")
            }
            OpenError::Forbidden { export, verb, .. } => {
                format!("you may not {verb} export {export:?}; ask the operator for the verb `{verb}`")
            }
            OpenError::Draining | OpenError::Crowded(_) => self.to_string(),
            OpenError::Backend { export, .. } => {
                format!(
                    "export {export:?} can't be opened now: its backend does not answer as it should; the gateway's log says why"
                )
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    config: Resolved,
    state: tokio::sync::Mutex<State>,
    /// Leases.
    users: AtomicUsize,
    /// Rises whenever a lease is made: an idle time that began before it is void.
    leased: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    export: Option<Arc<Export>>,
    /// Its place among those of its tenant's.
    room: Option<Room>,
    /// When the last attempt to open failed, and why: those who were waiting then get the same answer.
    failed: Option<(Instant, OpenError)>,
    /// Taken out of the map: ask the map again.
    retired: bool,
}

/// Whether an export that was opened for a look stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until its idle time is over: something may have to be settled.
    UntilIdle,
    /// No longer than it takes, unless a client came.
    No,
}

/// Who wants an export open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    /// A client, or an operator: it takes its place among its tenant's.
    Somebody,
    /// The gateway, for a look.
    Look,
}

/// All exports.
#[derive(Debug)]
pub struct Registry {
    pub(super) config: Arc<Config>,
    entries: DashMap<String, Arc<Entry>>,
    budgets: DashMap<String, Arc<TenantBudget>>,
    crowds: HashMap<TenantId, Arc<Crowd>>,
    failures: Failures,
    pub(super) shared: Shared,
}

/// What all exports share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    pub(super) shards: Shards,
    pub(super) metrics: Arc<Metrics>,
    pub(super) book: Arc<Book>,
    pub(super) notes: Arc<Notes>,
    pub(super) probes: Arc<Probes>,
    /// The state directory.
    pub(super) state: PathBuf,
    pub(super) sessions: Arc<SessionTable>,
}

impl Registry {
    /// With nothing open yet.
    pub fn new(
        config: Arc<Config>,
        pool: Arc<Pool>,
        shards: Shards,
        metrics: Arc<Metrics>,
        notes: Arc<Notes>,
    ) -> Arc<Self> {
        // The series of exports that are named exist from the start.
        for export in config.listable().filter_map(|name| config.export_for(name).ok()) {
            let (name, tenant) = (export.name.as_str(), export.tenant.as_str());
            drop(metrics.export(name));
            drop(metrics.resize(name, tenant, watchers::label(&export.resize.driver)));
            if !export.notify.is_empty() {
                drop(metrics.hooks(name));
            }
        }
        let book = Arc::new(Book::default());
        config.tenants().iter().for_each(|tenant| book.tenant(&tenant.id, tenant.allowance, tenant.rates));
        let crowd = |tenant: &Tenant| {
            let told = metrics.tenant(tenant.id.as_str(), Reason::LABELS.as_slice());
            (tenant.id.clone(), Crowd::new(tenant, told))
        };
        let crowds = config.tenants().iter().map(crowd).collect();
        let shared = Shared {
            pool,
            shards,
            metrics,
            book,
            notes,
            probes: Arc::default(),
            state: config.state.clone(),
            sessions: Arc::default(),
        };
        Arc::new(Self {
            config,
            entries: DashMap::new(),
            budgets: DashMap::new(),
            crowds,
            failures: Failures::default(),
            shared,
        })
    }

    /// The ledger: what is counted, held and told.
    pub fn ledger(&self) -> &Ledger {
        self.shared.notes.ledger()
    }

    /// Counts what an earlier life has left in the ledger: each export at its last size, and what was held for grows of
    /// unknown outcome, until it is opened and measured. One that has left the configuration goes on counting against its
    /// tenant, for its bytes are still there. Answers those that are to be measured now: embedded ones, which is cheap, and
    /// those with a grow of unknown outcome.
    pub fn remember(&self, snapshot: &Snapshot) -> Vec<String> {
        let (mut measure, mut gone) = (Vec::new(), 0_u32);
        for row in &snapshot.exports {
            let name = row.name.as_str();
            let of = |held: &&ReservationRow| held.export == row.name;
            let pending = snapshot.reservations.iter().filter(of).map(|held| held.to).max();
            let config = self.config.export_for(name).ok();
            let tenant = config.as_ref().map_or(&row.tenant, |config| &config.tenant);
            self.shared.book.restore(&row.name, tenant, row.known.size, pending);
            match config {
                Some(config) if pending.is_some() || config.backend.is_embedded() => measure.push(name.to_owned()),
                Some(_) => {}
                None => gone += 1,
            }
        }
        if gone > 0 {
            tracing::info!(
                exports = gone,
                "exports of the ledger are not in the configuration any more; they are still counted"
            );
        }
        measure
    }

    /// The exports that a client may see, with the configuration's descriptions: those with a name of their own. A
    /// template's are not listed, and no backend is asked.
    pub fn list(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.config.listing()
    }

    /// Who may do what.
    pub fn access(&self) -> &Access {
        self.config.access()
    }

    /// Whose export a name means; None: there is none of that name.
    pub fn owner_of(&self, name: &str) -> Option<&TenantId> {
        self.config.owner_of(name)
    }

    /// The threads that move requests.
    pub fn shards(&self) -> &Shards {
        &self.shared.shards
    }

    /// The sessions that are open on any of them.
    pub fn sessions(&self) -> &Arc<SessionTable> {
        &self.shared.sessions
    }

    /// How many exports are open.
    pub fn open_exports(&self) -> usize {
        self.entries.len()
    }

    /// Opens an export, or joins those who have it open. Cancel-safe: yes; an attempt that nobody waits for is dropped.
    pub async fn open(self: &Arc<Self>, name: &str) -> Result<Lease, OpenError> {
        self.open_for(name, Opener::Somebody).await
    }

    /// Opens an export for a look at its size, which counts from then on. It takes no place that a client could have.
    /// Cancel-safe: yes; then it is closed when idle.
    pub(super) async fn look(self: &Arc<Self>, name: &str, stay: Stay) -> Result<(), OpenError> {
        let lease = self.open_for(name, Opener::Look).await?;
        let entry = Arc::clone(&lease.entry);
        let leased = entry.leased.load(Ordering::Acquire);
        drop(lease);
        if stay == Stay::No {
            self.close_idle(&entry, leased).await;
        }
        Ok(())
    }

    async fn open_for(self: &Arc<Self>, name: &str, opener: Opener) -> Result<Lease, OpenError> {
        let asked = Instant::now();
        loop {
            let entry = self.entry(name)?;
            let mut state = entry.state.lock().await;
            if state.retired {
                continue;
            }
            if let Some(export) = state.export.clone() {
                if state.room.is_none() {
                    state.room = self.room(&entry.config, opener)?;
                }
                return Ok(Lease::new(self, &entry, &export));
            }
            if let Some((at, error)) = &state.failed
                && *at >= asked
            {
                return Err(error.clone());
            }
            match self.make(&entry.config, opener).await {
                Ok((export, room)) => {
                    let export = Arc::new(export);
                    state.room = room;
                    state.failed = None;
                    state.export = Some(Arc::clone(&export));
                    return Ok(Lease::new(self, &entry, &export));
                }
                Err(error) => {
                    // What a tenant has no room for is told with the refusal of its client.
                    if opener == Opener::Somebody && !matches!(error, OpenError::Crowded(_)) {
                        if let Some(not_shown) = self.failures.admit(name) {
                            tracing::warn!(export = name, %error, not_shown, "export can't be opened");
                        }
                        self.shared.metrics.open_failed(name);
                    }
                    state.failed = Some((Instant::now(), error.clone()));
                    // Waiters hold the entry and read the failure from it; the next to come starts afresh.
                    self.entries.remove_if(name, |_, e| Arc::ptr_eq(e, &entry));
                    return Err(error);
                }
            }
        }
    }

    fn entry(&self, name: &str) -> Result<Arc<Entry>, OpenError> {
        if let Some(entry) = self.entries.get(name) {
            return Ok(Arc::clone(&entry));
        }
        let config = self.config.export_for(name).map_err(|why| OpenError::Unknown { export: name.to_owned(), why })?;
        let fresh = || {
            Arc::new(Entry {
                config,
                state: tokio::sync::Mutex::default(),
                users: AtomicUsize::new(0),
                leased: AtomicU64::new(0),
            })
        };
        Ok(Arc::clone(&self.entries.entry(name.to_owned()).or_insert_with(fresh)))
    }

    /// A place among its tenant's, if somebody wants it.
    fn room(&self, config: &Resolved, opener: Opener) -> Result<Option<Room>, OpenError> {
        match (opener, self.crowds.get(&config.tenant)) {
            (Opener::Somebody, Some(crowd)) => crowd.open(&config.name).map(Some).map_err(OpenError::Crowded),
            (Opener::Somebody, None) | (Opener::Look, _) => Ok(None),
        }
    }

    async fn make(&self, config: &Resolved, opener: Opener) -> Result<(Export, Option<Room>), OpenError> {
        let room = self.room(config, opener)?;
        // Not before it is open: clients make up names that fit a template, and the series are bounded.
        let metrics = || self.shared.metrics.export(config.name.as_str());
        let failed = |why: String| OpenError::Backend { export: config.name.as_str().to_owned(), why };
        let budget = || TenantBudget::new(config.limits.tenant_bytes, config.limits.tenant_io);
        let budget = Arc::clone(&self.budgets.entry(config.tenant.as_str().to_owned()).or_insert_with(budget));
        let created = self.make_room(config).await.map_err(OpenError::Crowded)?;
        let opened = start::open(config, &self.shared, budget, metrics).await.map_err(failed);
        if created && opened.is_err() {
            // It was not made: nothing of it is held.
            let _ = self.shared.book.forget(&config.name);
        }
        opened.map(|export| (export, room))
    }

    /// A file that a client's name has made up is room that its tenant must have. Whether it is counted from now on. What
    /// the configuration names is the operator's own doing, and only counted.
    async fn make_room(&self, config: &Resolved) -> Result<bool, Refusal> {
        let (export, tenant) = (&config.name, &config.tenant);
        let nbd_gateway_config::Backend::File { path, size: Some(size) } = &config.backend else { return Ok(false) };
        let there = tokio::fs::metadata(path).await.is_ok_and(|file| file.len() > 0);
        if there || self.config.listable().any(|name| name == export.as_str()) {
            return Ok(false);
        }
        let size = Size::new(size.bytes()).unwrap_or(Size::MAX);
        let refusal = |reason| Refusal { export: export.clone(), tenant: tenant.clone(), reason };
        self.shared.book.create(export, tenant, size).map_err(refusal)
    }

    /// Closes what is idle since `leased`.
    async fn close_idle(&self, entry: &Arc<Entry>, leased: u64) {
        let mut state = entry.state.lock().await;
        if entry.users.load(Ordering::Acquire) > 0 || entry.leased.load(Ordering::Acquire) != leased {
            return;
        }
        self.retire(entry, &mut state).await;
    }

    async fn retire(&self, entry: &Arc<Entry>, state: &mut State) {
        if let Some(export) = state.export.take() {
            export.close().await;
            held_back::remember(&self.shared.notes, &export);
        }
        state.room = None;
        state.retired = true;
        self.entries.remove_if(entry.config.name.as_str(), |_, e| Arc::ptr_eq(e, entry));
    }

    /// The exports that are open now, by name. One that is being opened or closed is not among them.
    pub fn open_now(&self) -> Vec<Arc<Export>> {
        let entries: Vec<Arc<Entry>> = self.entries.iter().map(|e| Arc::clone(e.value())).collect();
        let mut open: Vec<Arc<Export>> =
            entries.iter().filter_map(|e| e.state.try_lock().ok().and_then(|s| s.export.clone())).collect();
        open.sort_by(|a, b| a.name().cmp(b.name()));
        open
    }

    /// Whether an export of this name could be opened.
    pub fn knows(&self, name: &str) -> Result<(), NoExport> {
        self.config.export_for(name).map(|_| ())
    }

    /// Shows in the metrics what every tenant has.
    pub fn tell_usage(&self) {
        let unmeasured = self.unmeasured_exports();
        let tell = |crowd: &Arc<Crowd>| {
            let unmeasured = unmeasured.get(crowd.tenant()).copied().unwrap_or(0);
            self.usage(crowd.tenant()).iter().for_each(|usage| crowd.tell(usage, unmeasured));
        };
        self.crowds.values().for_each(tell);
    }

    /// What a tenant has.
    pub fn usage(&self, tenant: &TenantId) -> Option<Usage> {
        self.shared.book.usage(tenant)
    }

    /// The tenants, as configured.
    pub fn tenants(&self) -> &[Tenant] {
        self.config.tenants()
    }

    /// Closes every export, whoever uses it: the end of a drain.
    pub async fn close_all(self: &Arc<Self>) {
        let entries: Vec<Arc<Entry>> = self.entries.iter().map(|e| Arc::clone(e.value())).collect();
        let mut closing = tokio::task::JoinSet::new();
        for entry in entries {
            let registry = Arc::clone(self);
            closing.spawn(async move {
                let mut state = entry.state.lock().await;
                registry.retire(&entry, &mut state).await;
            });
        }
        while closing.join_next().await.is_some() {}
    }
}

/// The right to use an open export; the last one dropped starts its idle time.
#[derive(Debug)]
pub struct Lease {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    export: Arc<Export>,
    /// Its place among the sessions of its tenant's, if it is one.
    room: Option<Room>,
}

impl Lease {
    /// Called with the entry's lock held: nothing closes it meanwhile.
    fn new(registry: &Arc<Registry>, entry: &Arc<Entry>, export: &Arc<Export>) -> Self {
        entry.users.fetch_add(1, Ordering::AcqRel);
        entry.leased.fetch_add(1, Ordering::AcqRel);
        Self { registry: Arc::clone(registry), entry: Arc::clone(entry), export: Arc::clone(export), room: None }
    }

    /// For a session: refused where its tenant has as many as it may have.
    pub fn for_session(mut self) -> Result<Self, OpenError> {
        if let Some(crowd) = self.registry.crowds.get(&self.entry.config.tenant) {
            self.room = Some(crowd.enter(&self.entry.config.name).map_err(OpenError::Crowded)?);
        }
        Ok(self)
    }

    /// The export.
    pub fn export(&self) -> &Arc<Export> {
        &self.export
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.entry.users.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let leased = self.entry.leased.load(Ordering::Acquire);
        let (registry, entry) = (Arc::clone(&self.registry), Arc::clone(&self.entry));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(entry.config.idle_timeout).await;
            registry.close_idle(&entry, leased).await;
        });
    }
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
        let config = Config::parse(CONFIG, std::path::Path::new("config.toml")).unwrap();
        let metrics = Arc::new(Metrics::new("0").unwrap());
        let notes = Arc::new(Notes::in_memory().unwrap());
        Registry::new(Arc::new(config), Arc::new(Pool::new(1)), Shards::here(), metrics, notes)
    }

    #[tokio::test]
    async fn the_list_has_the_descriptions_of_the_configuration() {
        let registry = registry();
        let list: Vec<_> = registry.list().collect();
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
