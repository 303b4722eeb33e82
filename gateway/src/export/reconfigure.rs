//! Another configuration takes the place of the one in force.
//!
//! Owns what becomes of each export that is open. What could go wrong is looked at before:
//! [`Registry::objections`] says what must not be done to those who are there, and [`Registry::open_beforehand`] opens what
//! is to be open from the start. [`Registry::replace`] can't fail, and waits for nothing.

use std::sync::Arc;

use nbd_gateway_config::{Backend, Config, Resolved};
use nbd_gateway_policy::refusal::Reason;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::active::{ActiveConfig, show};
use super::aliases::Files;
use super::entry::Entry;
use super::{Export, Lease, OpenError, Registry, Teardown};

/// What becomes of an open export.
#[derive(Debug)]
enum Fate {
    /// Nothing: its sessions never notice.
    Stays,
    /// It goes by its new settings as it is, and its sessions stay.
    Adjusts(Arc<Export>, Box<Resolved>),
    /// It is there no more, and its sessions drain.
    Ends,
    /// Its sessions part, and the first that comes back opens it anew; why, for operators.
    Reopens(String),
}

impl Fate {
    /// What `config` makes of an export that is open by the configuration in force, `now`.
    fn of(entry: &Entry, now: &Config, config: &Config) -> Self {
        let open = entry.config();
        // Without a copy of either: most are the same, and there may be ten thousand.
        if now.has_same_export(config, open.name.as_str()) {
            return Self::Stays;
        }
        match config.export_for(open.name.as_str()) {
            Err(_) => Self::Ends,
            Ok(next) if is_same(&open, &next) => Self::Stays,
            Ok(next) => match entry.now_open() {
                None => Self::Reopens("it is being opened or closed just now".to_owned()),
                Some(export) => match export.may_adjust(&next) {
                    Ok(()) => Self::Adjusts(export, Box::new(next)),
                    Err(needs) => Self::Reopens(needs.to_string()),
                },
            },
        }
    }
}

/// Whether two settings are the same for an export: the bounds of the process are not its own.
fn is_same(open: &Resolved, next: &Resolved) -> bool {
    let mut own = open.clone();
    own.limits.handshake_timeout = next.limits.handshake_timeout;
    own.limits.option_length = next.limits.option_length;
    own.limits.sessions_per_listener = next.limits.sessions_per_listener;
    own.limits.drain_timeout = next.limits.drain_timeout;
    own.limits.arrivals = next.limits.arrivals;
    own == *next
}

/// An export that was opened before its configuration is in force.
#[derive(Debug)]
pub(crate) struct Opened {
    entry: Arc<Entry>,
    export: Arc<Export>,
    /// It was counted before, by the ledger.
    counted: bool,
}

/// What a replacement has set going.
#[derive(Debug)]
pub(crate) struct Replaced {
    /// What was opened beforehand.
    pub leases: Vec<Lease>,
    /// How many exports leave.
    pub leaving: usize,
}

impl Registry {
    /// What must not be done to exports that are open: a sentence for each.
    pub(crate) fn objections(&self, config: &Config) -> Vec<String> {
        let (mut objections, now) = (Vec::new(), self.config());
        for entry in self.index.all().iter().filter(|entry| !entry.is_leaving()) {
            let (open, name) = (entry.config(), entry.name());
            if matches!(open.backend, Backend::Memory { .. })
                && let Fate::Reopens(why) = Fate::of(entry, &now, config)
            {
                objections.push(format!(
                    "export {name:?} is in memory, and would have to be opened anew ({why}): its data would be gone; leave it \
                     as it was, or take it out with one reload and add it with another"
                ));
            }
        }
        objections
    }

    /// The embedded disks that `next` adds, to be opened before it is in force, except those whose name or file an export
    /// still has that is open or leaves. Blocks.
    pub(crate) fn new_disks(&self, next: &Config) -> Vec<Resolved> {
        let now = self.config();
        let leaves = |entry: &Arc<Entry>| {
            entry.is_leaving() || matches!(Fate::of(entry, &now, next), Fate::Ends | Fate::Reopens(_))
        };
        let all = self.index.all();
        let files = all.iter().filter(|entry| matches!(entry.config().backend, Backend::File { .. }) && leaves(entry));
        let files = Files::of(files.map(|entry| entry.config().backend.clone()));
        let added = next.embedded().filter(|name| !self.index.contains(name) && now.export_for(name).is_err());
        added.filter_map(|name| next.export_for(name).ok()).filter(|export| !files.have(&export.backend)).collect()
    }

    /// Opens an export that the configuration in force does not have.
    pub(crate) async fn open_beforehand(&self, next: Resolved) -> Result<Opened, OpenError> {
        let counted = self.shared.accounts.books(|books| books.size(&next.name)).is_some();
        let opened = self.open_backend(&next).await;
        if opened.is_err() && !counted {
            // Nothing of it is held.
            let _ = self.shared.accounts.books(|books| books.remove(&next.name));
        }
        let export = Arc::new(opened?);
        Ok(Opened { entry: Entry::new(next), export, counted })
    }

    /// Closes what was opened beforehand in vain. A file that was made for it stays.
    pub(crate) async fn close_again(&self, opened: Opened) {
        let Opened { entry, export, counted } = opened;
        export.close().await;
        let config = entry.config();
        if !counted && let Some(size) = self.shared.accounts.books(|books| books.size(&config.name)) {
            if let Err(error) = self.shared.ledger_cache.forget(&config.name, &config.tenant, size).await {
                tracing::warn!(export = config.name.as_str(), %error, "the ledger goes on counting an export that was not added");
            } else {
                let _ = self.shared.accounts.books(|books| books.remove(&config.name));
            }
        }
        self.forget_series(&entry);
    }

    /// Puts `config` in force. From the return on everything that begins goes by it; sessions of what did not change never
    /// notice, and the others have until `over`.
    pub(crate) fn replace(self: &Arc<Self>, config: Arc<Config>, opened: Vec<Opened>, over: Instant) -> Replaced {
        let (mut leaving, mut leases) = (Vec::new(), Vec::new());
        let (before, now) = {
            let mut active = self.active.write();
            let before = Arc::clone(&active);
            let now = ActiveConfig::new(config, Some(&before), &self.shared.metrics);
            for entry in self.index.all() {
                let parted = |why: String| {
                    tracing::info!(export = entry.name(), why, "an export has to be opened anew");
                    Teardown::Parted
                };
                let how = match Fate::of(&entry, &before.config, &now.config) {
                    Fate::Stays => continue,
                    Fate::Adjusts(export, next) => match entry.adjust(&export, *next) {
                        Ok(()) => continue,
                        Err(needs) => parted(needs.to_string()),
                    },
                    Fate::Ends => Teardown::Drained,
                    Fate::Reopens(why) => parted(why),
                };
                if self.index.leaves(&entry) {
                    // At once, so that its sessions are judged no more. One that is being opened is told when it is open.
                    if let Some(export) = entry.now_open() {
                        export.end_sessions(how);
                    }
                    leaving.push((entry, how));
                }
            }
            for Opened { entry, export, .. } in opened {
                leases.push(self.put(&now, &entry, &export));
            }
            now.show(Some(&before.config), &self.shared.metrics);
            let now = Arc::new(now);
            *active = Arc::clone(&now);
            (before, now)
        };
        self.tell_bounds(&now.config);
        self.look_anew();
        let replaced = Replaced { leases, leaving: leaving.len() };
        self.see_all_off(leaving, &before.config, over);
        replaced
    }

    /// Takes in what was opened beforehand. Nobody else knows of it yet.
    fn put(self: &Arc<Self>, now: &ActiveConfig, entry: &Arc<Entry>, export: &Arc<Export>) -> Lease {
        let config = entry.config();
        // What is named is the operator's own doing: it is open even where its tenant has no room.
        let slot = now.slots(&config.tenant).and_then(|slots| slots.open(&config.name).ok());
        if let Ok(mut state) = entry.state.try_lock() {
            state.holds(Arc::clone(export), slot);
        }
        self.index.insert(entry);
        Lease::new(self, entry, export)
    }

    /// What tenants may have open and in flight, and how fast they may go; and whose the exports are.
    fn tell_bounds(&self, now: &Config) {
        now.tenants().iter().for_each(|tenant| self.adjust_tenant(tenant));
        // At once, also of those that are open and leave: who has them now must not grow into their room.
        let given = self.shared.accounts.books(|books| books.give_all(|export| now.owner_of(export.as_str())));
        if !given.is_empty() {
            tokio::spawn(Arc::clone(&self.shared.ledger_cache).give_all(given));
        }
    }

    fn see_all_off(self: &Arc<Self>, leaving: Vec<(Arc<Entry>, Teardown)>, before: &Arc<Config>, over: Instant) {
        let mut gone = JoinSet::new();
        for (entry, how) in leaving {
            gone.spawn(Arc::clone(self).see_off(entry, how, over));
        }
        let (registry, before) = (Arc::clone(self), Arc::clone(before));
        tokio::spawn(async move {
            while gone.join_next().await.is_some() {}
            // Their exports are gone: nothing counts for them any more.
            let active = registry.active.read();
            for tenant in before.tenants().iter().filter(|t| active.config.tenant(t.id.as_str()).is_none()) {
                registry.shared.metrics.forget_tenant(tenant.id.as_str(), Reason::LABELS);
            }
            let stays = |template: &str| active.config.templates().any(|now| now == template);
            for template in before.templates().filter(|template| !stays(template)) {
                registry.shared.metrics.forget_export(template);
            }
        });
    }

    /// An export that has left the configuration, or that a template leads to, has no series any more: it is closed.
    pub(super) fn forget_series(&self, entry: &Entry) {
        let config = entry.config();
        // Held to the end: whoever replaces it makes the series of what is there again.
        let active = self.active.read();
        let next = active.config.export_for(config.name.as_str());
        if next.as_ref().is_ok_and(|next| next.tenant == config.tenant && next.template.is_none()) {
            return;
        }
        self.shared.metrics.forget_export(config.name.as_str());
        if let Ok(next) = next
            && active.config.is_listable(config.name.as_str())
        {
            show(&next, &self.shared.metrics);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nbd_gateway_metrics::Metrics;
    use nbd_gateway_net::Pool;
    use nbd_gateway_policy::types::TenantId;

    use super::super::registry::Opener;
    use super::*;
    use crate::accounting::cache::LedgerCache;
    use crate::shards::Shards;

    const MIB: u64 = 1 << 20;

    fn config(tables: &str) -> Arc<Config> {
        let tenants = "[[tenant]]\nname = \"t\"\nquota = \"2MiB\"\n[[tenant]]\nname = \"u\"\n\
                       [[export]]\nname = \"served\"\ntenant = \"u\"\nbackend = \"nbd://127.0.0.1/x\"\n";
        let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{tenants}{tables}");
        Arc::new(Config::parse(&text, Path::new("config.toml")).unwrap_or_else(|why| panic!("{why}")))
    }

    /// A directory of a test's own, gone with it.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nbd-gateway-swap-{test}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn disk(&self, name: &str, tenant: &str, file: &str) -> String {
            let file = self.0.join(file);
            format!(
                "[[export]]\nname = \"{name}\"\ntenant = \"{tenant}\"\nbackend = \"file:{}\"\nsize = \"1MiB\"\n",
                file.display()
            )
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn registry(config: Arc<Config>) -> Arc<Registry> {
        let metrics = Arc::new(Metrics::new("0").unwrap());
        let notes = Arc::new(LedgerCache::in_memory().unwrap());
        Registry::new(config, Arc::new(Pool::new(1)), Shards::here(), metrics, notes, Arc::new(()))
    }

    fn used(registry: &Registry, tenant: &str) -> u64 {
        registry.usage(&TenantId::new(tenant).unwrap()).map_or(0, |usage| usage.used.0)
    }

    /// Those that only fit a template, and those that were open, went on counting for the tenant that had them before until
    /// somebody opened them again: whoever has them could grow into their room.
    #[tokio::test]
    async fn what_is_another_tenants_counts_for_it_at_once_open_or_not() {
        let scratch = Scratch::new("given");
        let disks = |tenant| config(&scratch.disk("t/*", tenant, "{}.img"));
        let registry = registry(disks("t"));
        let closed = registry.open_for("t/closed", Opener::Look).await.unwrap();
        registry.looked(closed).await;
        let open = registry.open("t/open").await.unwrap();
        registry.replace(disks("u"), Vec::new(), Instant::now());
        assert_eq!((used(&registry, "t"), used(&registry, "u")), (0, 2 * MIB));
        drop(open);
        // Whoever sees it off has its turn first.
        tokio::task::yield_now().await;
        let _again = registry.open("t/open").await.unwrap();
        assert_eq!((used(&registry, "t"), used(&registry, "u")), (0, 2 * MIB));
        let rows = registry.ledger().snapshot().await.unwrap().exports;
        assert!(rows.iter().all(|row| row.tenant.as_str() == "u"), "{rows:?}");
    }

    /// It was taken for one that a client's name makes up, and judged by the quota of before.
    #[tokio::test]
    async fn a_disk_that_is_added_is_the_operators_own_doing_whatever_its_tenant_has_left() {
        let scratch = Scratch::new("added");
        let registry = registry(config(""));
        let disk = |name| scratch.disk(name, "t", name);
        let next = config(&[disk("disk1"), disk("disk2"), disk("disk3")].concat());
        let mut opened = Vec::new();
        for name in ["disk1", "disk2", "disk3"] {
            opened.push(registry.open_beforehand(next.export_for(name).unwrap()).await.unwrap());
        }
        let replaced = registry.replace(next, opened, Instant::now());
        assert_eq!((replaced.leases.len(), used(&registry, "t")), (3, 3 * MIB));
    }
}
