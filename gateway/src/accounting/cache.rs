//! What must not be forgotten across a restart: ranges that a grow has exposed and that are not yet zero (promise 5), and
//! how far each window goes and what an operator has not published yet, which nobody but the ledger knows.
//!
//! A range is written down, durably, before the backend is asked, and struck out, durably, after zeroing and before anyone
//! is shown the new size. A window's size is written down before it is shown. Here is what an export finds when it is
//! opened; what a coordinator has written while it runs is the [`Clerk`](super::account::Clerk)'s.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use nbd_gateway_policy::types::{ByteRange, ExportName, Size, TenantId};
use parking_lot::Mutex;

use super::history::Kind;
use crate::fence::Marks;
use crate::ledger::{Known, Ledger, LedgerError, NewEvent, RecordSize, Snapshot, UnixMillis, Zeroing};

/// The ledger, and what it remembers.
#[derive(Debug)]
pub(crate) struct Notes {
    ledger: Ledger,
    /// What is still to be zeroed; taken by the exports as they are opened.
    owed: Mutex<Vec<Zeroing>>,
    /// How far windows go, and what is shown of exports that have more.
    shown: Mutex<HashMap<ExportName, Size>>,
    marks: Arc<Marks>,
    /// What the ledger says of these is out of date: it is an older copy.
    older: Mutex<HashSet<ExportName>>,
    /// What exports were asked to shrink to, where the outcome is not on record.
    lowered: Mutex<HashMap<ExportName, Size>>,
}

impl Notes {
    /// Opens the ledger in the state directory, and tells all that it remembers. Blocks.
    ///
    /// # Errors
    /// What [`Ledger::open`] says.
    pub(crate) fn open(state: &Path) -> Result<(Self, Snapshot), LedgerError> {
        let (ledger, snapshot) = Ledger::open(state)?;
        Ok((Self::of(ledger, &snapshot, Some(state)), snapshot))
    }

    /// Notes that are forgotten with the process.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Result<Self, LedgerError> {
        Ok(Self::of(Ledger::in_memory()?, &Snapshot::default(), None))
    }

    fn of(ledger: Ledger, snapshot: &Snapshot, state: Option<&Path>) -> Self {
        let marks = Arc::new(Marks::new(ledger.clone(), &snapshot.marks, state));
        // An earlier version wrote the largest size there is where it meant none.
        let shown = |known: Known| known.shown.filter(|shown| *shown != Size::MAX);
        let shown = snapshot.exports.iter().filter_map(|row| Some((row.name.clone(), shown(row.known)?))).collect();
        let older = snapshot.exports.iter().filter(|row| row.quarantine.is_some()).map(|row| row.name.clone());
        let older: HashSet<ExportName> = older.collect();
        for export in &older {
            tracing::warn!(
                export = export.as_str(),
                "the ledger is an older copy; what was to be zeroed is not, and the export is not resized, before an operator \
                 says what it has: nbd-gateway ledger settle"
            );
        }
        let mut lowered: HashMap<ExportName, Size> = HashMap::new();
        for row in snapshot.reservations.iter().filter(|row| row.to < row.from) {
            let to = lowered.entry(row.export.clone()).or_insert(row.to);
            *to = row.to.min(*to);
        }
        Self {
            ledger,
            owed: Mutex::new(snapshot.zeroing.clone()),
            shown: Mutex::new(shown),
            older: Mutex::new(older),
            lowered: Mutex::new(lowered),
            marks,
        }
    }

    /// The marks of exports that change data.
    pub(crate) const fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The ranges that an export still has to be zeroed at, from an earlier life or an earlier opening.
    pub(crate) fn owed(&self, export: &ExportName) -> Vec<ByteRange> {
        self.owed.lock().iter().filter(|owed| owed.export == *export).map(|owed| owed.range).collect()
    }

    /// Writes a range down; durable when it returns.
    ///
    /// # Errors
    /// What [`Ledger::record_zeroing`] says; the range may be written all the same.
    pub(crate) async fn note(
        &self,
        export: &ExportName,
        tenant: &TenantId,
        range: ByteRange,
    ) -> Result<(), LedgerError> {
        match self.ledger.record_zeroing(export, range, None).await {
            Err(LedgerError::NoExport { .. }) => {
                // What is shown ends where the range begins.
                self.ledger.record_size(record(export, tenant, measured(range.start(), 0))).await?;
                self.ledger.record_zeroing(export, range, None).await?;
            }
            outcome => outcome?,
        }
        self.owed.lock().push(Zeroing { export: export.clone(), range });
        Ok(())
    }

    /// Counts a disk that is about to be made; durable when it returns.
    ///
    /// # Errors
    /// What [`Ledger::record_size`] says; it may be counted all the same.
    pub(crate) async fn count(&self, export: &ExportName, tenant: &TenantId, size: Size) -> Result<(), LedgerError> {
        self.ledger.record_size(record(export, tenant, measured(size, 0))).await
    }

    /// Strikes a range out; durable when it returns.
    ///
    /// # Errors
    /// What [`Ledger::clear_zeroing`] says.
    pub(crate) async fn clear(&self, export: &ExportName, range: ByteRange) -> Result<(), LedgerError> {
        self.ledger.clear_zeroing(export, range).await?;
        self.owed.lock().retain(|owed| owed.export != *export || owed.range != range);
        Ok(())
    }

    /// How far a window goes; none: nobody has it on record. Of others what was shown last; none: all that there was.
    pub(crate) fn shown(&self, export: &ExportName) -> Option<Size> {
        self.shown.lock().get(export).copied()
    }

    /// Whether what the ledger says of an export is out of date, and nobody has said yet what it has.
    pub(crate) fn is_older(&self, export: &ExportName) -> bool {
        self.older.lock().contains(export)
    }

    /// An operator says what such an export has: with `zero` what the ledger has noted is to be zeroed, and its window ends
    /// where the ledger says; else what is there is its tenant's, and of a `window` nothing is on record any more. What an
    /// operator has not published stays held back. Cancel-safe: no.
    ///
    /// # Errors
    /// The ledger's; then it is in doubt as before.
    pub(crate) async fn settle_older(&self, export: &ExportName, zero: bool, window: bool) -> Result<(), LedgerError> {
        let snapshot = self.ledger.snapshot().await?;
        if !zero {
            for range in self.owed(export) {
                self.clear(export, range).await?;
            }
            if let Some(row) = snapshot.exports.iter().find(|row| window && row.name == *export) {
                let known = Known { shown: None, reach: Some(Size::MAX), at: now(), ..row.known };
                self.ledger.record_size(record(export, &row.tenant, known)).await?;
                self.know_shown(export, None);
            }
        }
        let tenant = snapshot.exports.iter().find(|row| row.name == *export).map(|row| row.tenant.clone());
        let event = NewEvent {
            at: now(),
            kind: Kind::Settled.word(),
            tenant,
            export: Some(export.clone()),
            detail: format!("an operator says of the older copy of the ledger: {}", if zero { "zero" } else { "keep" }),
            old_size: None,
            new_size: None,
        };
        self.ledger.quarantine(export, None, now(), Some(event)).await?;
        self.older.lock().remove(export);
        Ok(())
    }

    /// What an export was asked to shrink to, if nobody has put the outcome on record: so small it may be found.
    pub(crate) fn lowered(&self, export: &ExportName) -> Option<Size> {
        self.lowered.lock().get(export).copied()
    }

    /// It is asked to, or the outcome is on record.
    pub(super) fn know_lowered(&self, export: &ExportName, to: Option<Size>) {
        match to {
            Some(to) => drop(self.lowered.lock().insert(export.clone(), to)),
            None => drop(self.lowered.lock().remove(export)),
        }
    }

    /// That is known now.
    pub(crate) fn know_shown(&self, export: &ExportName, size: Option<Size>) {
        match size {
            Some(size) => drop(self.shown.lock().insert(export.clone(), size)),
            None => drop(self.shown.lock().remove(export)),
        }
    }

    /// Puts the size of a window on record; durable when it returns.
    ///
    /// # Errors
    /// What [`Ledger::record_size`] says.
    pub(crate) async fn record_window(
        &self,
        export: &ExportName,
        tenant: &TenantId,
        size: Size,
    ) -> Result<(), LedgerError> {
        let known = Known { shown: Some(size), ..measured(size, 0) };
        self.ledger.record_size(record(export, tenant, known)).await?;
        self.know_shown(export, Some(size));
        Ok(())
    }

    /// Lets go of an export that has left the configuration, or is gone itself, whoever's it was, and tells so.
    ///
    /// # Errors
    /// What [`Ledger::forget`] says.
    pub(crate) async fn forget(&self, export: &ExportName, tenant: &TenantId, last: Size) -> Result<(), LedgerError> {
        let event = NewEvent {
            at: now(),
            kind: Kind::Forgotten.word(),
            tenant: Some(tenant.clone()),
            export: Some(export.clone()),
            detail: "there is no such export any more".to_owned(),
            old_size: Some(last),
            new_size: None,
        };
        self.ledger.forget(export, Some(event)).await?;
        self.shown.lock().remove(export);
        Ok(())
    }

    /// Has the ledger know whose these exports are now, for when the configuration does not say it any more. Cancel-safe: no.
    pub(crate) async fn give_all(self: Arc<Self>, given: Vec<(ExportName, TenantId)>) {
        if let Err(error) = self.ledger.give(given).await {
            tracing::warn!(%error, "the ledger does not take whose exports are now");
        }
    }

    /// Writes out what is on its way.
    pub(crate) async fn close(&self) {
        self.marks.close();
        self.ledger.close().await;
    }
}

/// The time now, for the ledger.
pub(super) fn now() -> UnixMillis {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A size that was read, or is shown. Notes beyond it are struck out range by range, not by this.
pub(super) fn measured(size: Size, generation: u64) -> Known {
    Known { size, shown: None, reach: Some(Size::MAX), generation, at: now() }
}

fn record(export: &ExportName, tenant: &TenantId, known: Known) -> RecordSize {
    RecordSize { export: export.clone(), tenant: tenant.clone(), known, event: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: u64) -> Size {
        Size::new(bytes).unwrap()
    }

    fn range(from: u64, to: u64) -> ByteRange {
        ByteRange::new(size(from), size(to)).unwrap()
    }

    #[tokio::test]
    async fn what_is_owed_and_how_far_a_window_goes_outlive_the_process() {
        let state = std::env::temp_dir().join(format!("nbd-gateway-notes-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        let (export, window, tenant) =
            (ExportName::new("vm1").unwrap(), ExportName::new("w").unwrap(), TenantId::default());
        let (notes, _) = Notes::open(&state).unwrap();
        assert_eq!(notes.shown(&window), None);
        for range in [range(8192, 9216), range(512, 4096), range(16384, 20480)] {
            notes.note(&export, &tenant, range).await.unwrap();
        }
        notes.record_window(&window, &tenant, size(512)).await.unwrap();
        notes.note(&window, &tenant, range(512, 1024)).await.unwrap();
        notes.clear(&export, range(8192, 9216)).await.unwrap();
        notes.close().await;
        drop(notes);
        let (again, snapshot) = Notes::open(&state).unwrap();
        assert_eq!(snapshot.exports.len(), 2);
        assert_eq!(again.owed(&export), [range(512, 4096), range(16384, 20480)]);
        assert_eq!(again.owed(&ExportName::new("vm2").unwrap()), []);
        assert_eq!((again.shown(&window), again.shown(&export)), (Some(size(512)), None));
        // A smaller window does not let go of what is owed beyond it.
        again.record_window(&window, &tenant, size(256)).await.unwrap();
        assert_eq!(again.ledger().snapshot().await.unwrap().zeroing.len(), 3);
        again.clear(&export, range(512, 4096)).await.unwrap();
        again.clear(&export, range(16384, 20480)).await.unwrap();
        assert_eq!(again.owed(&export), []);
        again.close().await;
        std::fs::remove_dir_all(&state).unwrap();
    }
}
