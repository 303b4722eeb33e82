//! A disk that a client's name makes up is room that its tenant must have: a file that is not there yet, a window that has
//! never shown anything. It is counted, and in the ledger, before there is anything of it.
//!
//! What the configuration names is the operator's own doing, and only counted. Never makes anything itself.

use std::io;
use std::path::Path;

use nbd_gateway_config::{Backend, Driver, Resolved};
use nbd_gateway_ledger::Change;
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::types::Size;

use super::Registry;
use super::registry::Opener;

impl Registry {
    /// Counts what opening this export makes. Whether it makes anything. Cancel-safe: yes; what was counted is counted until
    /// it is measured.
    pub(super) async fn provision(&self, config: &Resolved, opener: Opener) -> Result<bool, Refusal> {
        let (export, tenant) = (&config.name, &config.tenant);
        let (accounts, cache) = (&self.shared.accounts, &self.shared.ledger_cache);
        if self.config().is_listable(export.as_str()) {
            return Ok(false);
        }
        let size = match (&config.backend, &config.resize.driver) {
            (Backend::File { path, size: Some(size), .. }, _) if is_missing(path).await => {
                // Whatever it was counted at is gone.
                accounts.books(|books| books.settle(export, Size::ZERO));
                *size
            }
            (_, Driver::Window { size })
                if cache.about(export).shown.is_none() && accounts.books(|books| books.size(export)).is_none() =>
            {
                *size
            }
            _ => return Ok(false),
        };
        if opener != Opener::Look {
            accounts.measured(tenant).await;
        }
        let refusal = |reason| Refusal { export: export.clone(), tenant: tenant.clone(), reason };
        accounts.create(export, tenant, size).map_err(refusal)?;
        if let Err(error) = cache.count(export, tenant, size).await {
            tracing::warn!(export = export.as_str(), %error, "the ledger does not take a new disk; it is not made");
            let _ = accounts.books(|books| books.remove(export));
            return Err(refusal(Reason::LedgerUnavailable));
        }
        Ok(true)
    }

    /// Whether an export of the ledger is one that a client's name made up and that is not there any more: a look at it would
    /// make it anew.
    pub(crate) async fn is_unmade(&self, name: &str) -> bool {
        let Ok(config) = self.config().export_for(name) else { return false };
        match &config.backend {
            Backend::File { path, size: Some(_), .. } if !self.config().is_listable(name) => {
                !self.index.contains(name) && is_missing(path).await
            }
            _ => false,
        }
    }

    /// Counts such an export no more. Whether that is so now: what is owed to it, or a client that makes it anew, keeps it on
    /// the books.
    pub(crate) async fn forget_unmade(&self, name: &str) -> bool {
        if !self.is_unmade(name).await {
            return false;
        }
        let Ok(entry) = self.entry(name) else { return false };
        // Nobody makes it meanwhile.
        let mut state = entry.state.lock().await;
        if state.retired || state.export.is_some() {
            return false;
        }
        let config = entry.config();
        let (export, tenant) = (&config.name, &config.tenant);
        let Backend::File { path, .. } = &config.backend else { return false };
        let last = self.shared.accounts.books(|books| books.size(export)).unwrap_or_default();
        let gone = is_missing(path).await && self.shared.ledger_cache.forget(export, tenant, last).await.is_ok();
        if gone {
            let _ = self.shared.accounts.books(|books| books.remove(export));
        }
        self.discard(&entry, &mut state);
        gone
    }

    /// It could not be opened after all. What is there nevertheless stays counted.
    pub(super) async fn unprovision(&self, config: &Resolved) {
        let export = &config.name;
        if let Backend::File { path, .. } = &config.backend
            && !is_missing(path).await
        {
            return;
        }
        // In this order: what the ledger keeps is counted.
        if self.ledger().write(Change::Forget { export: export.clone(), event: None }).await.is_ok() {
            let _ = self.shared.accounts.books(|books| books.remove(export));
        }
    }
}

/// Whether there is nothing of a disk. What can't be looked at may be there, and so may what a link leads to: it is never made.
async fn is_missing(path: &Path) -> bool {
    match tokio::fs::symlink_metadata(path).await {
        Ok(found) => found.is_file() && found.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
