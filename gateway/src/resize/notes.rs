//! What must not be forgotten across a restart: ranges that a grow has exposed and that are not yet zero (promise 5).
//!
//! They are written down, durably, before the backend is asked, and struck out, durably, after zeroing and before anyone is
//! shown the new size. Most gateways never have any, because their backends promise zeroes: so the ledger's file is only
//! made when the first one has to be written down.

use std::path::PathBuf;

use nbd_gateway_policy::types::{ByteRange, ExportName, Size, TenantId};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::ledger::{FILE, Known, Ledger, LedgerError, RecordSize, UnixMillis, Zeroing};

/// The ledger, once it is needed.
#[derive(Debug)]
pub struct Notes {
    state: PathBuf,
    ledger: OnceCell<Ledger>,
    /// What an earlier life left to be zeroed; taken by the exports as they are opened.
    owed: Mutex<Vec<Zeroing>>,
}

impl Notes {
    /// Reads what an earlier life has left in the state directory, if there was one. Blocks.
    pub fn open(state: PathBuf) -> Result<Self, LedgerError> {
        let notes = Self { ledger: OnceCell::new(), owed: Mutex::default(), state };
        if notes.state.join(FILE).exists() {
            let (ledger, snapshot) = Ledger::open(&notes.state)?;
            *notes.owed.lock() = snapshot.zeroing;
            // Nobody else has a hold of it yet.
            let _ = notes.ledger.set(ledger);
        }
        Ok(notes)
    }

    /// The ranges that an export still has to be zeroed at, from an earlier life or an earlier opening.
    pub fn owed(&self, export: &ExportName) -> Vec<ByteRange> {
        self.owed.lock().iter().filter(|owed| owed.export == *export).map(|owed| owed.range).collect()
    }

    /// Writes a range down; durable when it returns.
    pub async fn note(&self, export: &ExportName, tenant: &TenantId, range: ByteRange) -> Result<(), LedgerError> {
        let state = self.state.clone();
        let open = || async {
            let opened = tokio::task::spawn_blocking(move || Ledger::open(&state)).await;
            opened
                .unwrap_or_else(|_| Err(LedgerError::Closed { path: self.state.join(FILE) }))
                .map(|(ledger, _)| ledger)
        };
        let ledger = self.ledger.get_or_try_init(open).await?;
        // The ledger knows an export by its size: what is shown ends where the range begins.
        ledger.record_size(record(export, tenant, range.start(), 0)).await?;
        ledger.record_zeroing(export, range, None).await?;
        self.owed.lock().push(Zeroing { export: export.clone(), range });
        Ok(())
    }

    /// Strikes a range out; durable when it returns.
    pub async fn clear(&self, export: &ExportName, range: ByteRange) -> Result<(), LedgerError> {
        if let Some(ledger) = self.ledger.get() {
            ledger.clear_zeroing(export, range).await?;
        }
        self.owed.lock().retain(|owed| owed.export != *export || owed.range != range);
        Ok(())
    }

    /// Writes a size down, where there is a ledger; a size that is not written is measured at the next start.
    pub async fn size(&self, export: &ExportName, tenant: &TenantId, size: Size, generation: u64) {
        let Some(ledger) = self.ledger.get() else { return };
        if let Err(error) = ledger.record_size(record(export, tenant, size, generation)).await {
            tracing::warn!(export = export.as_str(), %error, "the size was not written to the ledger");
        }
    }

    /// Writes out what is on its way.
    pub async fn close(&self) {
        if let Some(ledger) = self.ledger.get() {
            ledger.close().await;
        }
    }
}

fn record(export: &ExportName, tenant: &TenantId, size: Size, generation: u64) -> RecordSize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let at = UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    // A smaller size would have the ledger drop what is owed beyond it; that is struck out here, range by range.
    let known = Known { size, shown: Some(Size::MAX), generation, at };
    RecordSize { export: export.clone(), tenant: tenant.clone(), known, event: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u64, to: u64) -> ByteRange {
        ByteRange::new(Size::new(from).unwrap(), Size::new(to).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_range_is_owed_until_it_is_struck_out_also_across_a_restart() {
        let state = std::env::temp_dir().join(format!("nbd-gateway-notes-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        let export = ExportName::new("vm1").unwrap();
        let notes = Notes::open(state.clone()).unwrap();
        assert!(!state.exists(), "nothing to remember, nothing written");
        for range in [range(8192, 9216), range(512, 4096), range(16384, 20480)] {
            notes.note(&export, &TenantId::default(), range).await.unwrap();
        }
        notes.size(&export, &TenantId::default(), Size::new(512).unwrap(), 3).await;
        notes.clear(&export, range(8192, 9216)).await.unwrap();
        notes.close().await;
        drop(notes);
        let again = Notes::open(state.clone()).unwrap();
        assert_eq!(again.owed(&export), [range(512, 4096), range(16384, 20480)]);
        assert_eq!(again.owed(&ExportName::new("vm2").unwrap()), []);
        again.clear(&export, range(512, 4096)).await.unwrap();
        again.clear(&export, range(16384, 20480)).await.unwrap();
        assert_eq!(again.owed(&export), []);
        again.close().await;
        std::fs::remove_dir_all(&state).unwrap();
    }
}
