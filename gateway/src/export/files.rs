//! Files that names of a template have made, and that nobody has on record: the ledger is new, or an older copy.
//!
//! They are there, so they count, from the start on and before anything of their tenant's can grow. Only looks at
//! directories, never opens a file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use nbd_gateway_policy::types::{ExportName, Size, TenantId};
use tokio::task::JoinSet;

use super::Registry;

impl Registry {
    /// Counts them, for tenants with a quota, and puts them on record. Within a runtime; cancel-safe: yes.
    pub(crate) async fn count_files(self: &Arc<Self>) {
        let config = self.config();
        let directories: BTreeSet<PathBuf> = config.directories_of_templates().collect();
        if directories.is_empty() {
            return;
        }
        let registry = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || registry.files_not_on_record(directories)).await;
        let found = found.unwrap_or_default();
        if found.is_empty() {
            return;
        }
        tracing::warn!(files = found.len(), "files of templates are there that are not on record; they are counted");
        for (export, tenant, size) in &found {
            self.shared.accounts.books(|books| books.restore(export, tenant, *size, None));
        }
        // Before any of them is opened: what is written then is newer.
        let mut writing = JoinSet::new();
        for (export, tenant, size) in found {
            let cache = Arc::clone(&self.shared.ledger_cache);
            writing.spawn(async move {
                if let Err(error) = cache.count(&export, &tenant, size).await {
                    tracing::debug!(export = export.as_str(), %error, "a file that was found is not on record yet");
                }
            });
        }
        while writing.join_next().await.is_some() {}
    }

    fn files_not_on_record(&self, directories: BTreeSet<PathBuf>) -> Vec<(ExportName, TenantId, Size)> {
        let config = self.config();
        let mut found = Vec::new();
        for entry in directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten() {
            let Some(name) = config.export_of_file(&entry.path()) else { continue };
            let (Ok(export), Some(tenant)) = (ExportName::new(&name), config.owner_of(&name)) else { continue };
            let bounded = || self.allowances.allowed(tenant).is_some_and(|allowed| allowed.effective().quota.is_some());
            if self.shared.accounts.books(|books| books.size(&export)).is_some() || !bounded() {
                continue;
            }
            let size = entry.metadata().ok().filter(|file| file.is_file()).and_then(|file| Size::new(file.len()).ok());
            found.extend(size.filter(|size| *size > Size::ZERO).map(|size| (export, tenant.clone(), size)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_config::Config;
    use nbd_gateway_metrics::Metrics;
    use nbd_gateway_net::Pool;

    use super::*;
    use crate::accounting::cache::LedgerCache;
    use crate::shards::Shards;

    #[tokio::test]
    async fn files_that_names_have_made_count_also_where_the_ledger_knows_nothing_of_them() {
        let place = std::env::temp_dir().join(format!("nbd-gateway-files-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(place.join("d")).unwrap();
        for (file, size) in [("t-a.img", 1 << 20), ("t-%20b.img", 2 << 20), ("t-.img", 4 << 20), ("other", 8 << 20)] {
            std::fs::File::create(place.join("d").join(file)).unwrap().set_len(size).unwrap();
        }
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\nquota = \"64MiB\"\n\
             [[export]]\nname = \"t/*\"\ntenant = \"t\"\nbackend = \"file:{}/t-{{}}.img\"\nsize = \"1MiB\"\n",
            place.join("d").display()
        );
        let config = Config::parse(&text, std::path::Path::new("config.toml")).unwrap();
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let metrics = Arc::new(Metrics::new("0").unwrap());
        let registry =
            Registry::new(Arc::new(config), Arc::new(Pool::new(1)), Shards::here(), metrics, cache, Arc::new(()));
        registry.count_files().await;
        let tenant = TenantId::new("t").unwrap();
        assert_eq!(registry.usage(&tenant).unwrap().used.0, 3 << 20);
        let size = |name: &str| {
            registry.shared.accounts.books(|books| books.size(&ExportName::new(name).unwrap())).map(Size::bytes)
        };
        assert_eq!((size("t/a"), size("t/ b")), (Some(1 << 20), Some(2 << 20)));
        // Once: what is on record is left as it is.
        registry.count_files().await;
        assert_eq!(registry.usage(&tenant).unwrap().used.0, 3 << 20);
        std::fs::remove_dir_all(&place).unwrap();
    }
}
