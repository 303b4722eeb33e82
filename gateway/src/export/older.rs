//! An operator says what an export has whose ledger is an older copy; then it is opened anew.

use std::sync::Arc;

use nbd_gateway_config::Driver;
use nbd_gateway_ledger::LedgerError;
use nbd_gateway_policy::types::ExportName;
use tokio::time::Instant;

use super::{Registry, Teardown};

/// Why nothing was settled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    /// The ledger is right about it, as far as anybody knows.
    #[error("what the ledger says of export {0:?} is not in doubt; nothing is to be settled")]
    NotInDoubt(String),
    /// The ledger does not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Registry {
    /// With `zero`, what the ledger has noted is zeroed and its window ends where the ledger says; else what is there is kept.
    /// Its sessions part, and come back to what it is then. Cancel-safe: no; in a task of its own.
    ///
    /// # Errors
    /// It is not in doubt, or the ledger can't be written.
    pub(crate) async fn settle_older(self: Arc<Self>, name: String, zero: bool) -> Result<(), SettleError> {
        let cache = &self.shared.ledger_cache;
        let Some(export) = ExportName::new(&name).ok().filter(|export| cache.about(export).older) else {
            return Err(SettleError::NotInDoubt(name));
        };
        let window =
            self.config().export_for(&name).is_ok_and(|own| matches!(own.resize.driver, Driver::Window { .. }));
        cache.settle_older(&export, zero, window).await?;
        tracing::info!(export = name, zero, "an operator has said what an export has whose ledger is an older copy");
        let entry = self.index.get(&name);
        if let Some(entry) = entry.filter(|entry| self.index.leaves(entry)) {
            if let Some(open) = entry.now_open() {
                open.end_sessions(Teardown::Parted);
            }
            let over = Instant::now() + self.config().limits.drain_timeout;
            self.see_off(entry, Teardown::Parted, over).await;
        }
        Ok(())
    }
}
