//! What the ledger remembers of exports, for when they are opened: ranges that are not zero yet, how far each window goes, what
//! an operator has not published, and how often a size has changed.
//!
//! Filled from the ledger at the start, and kept by each export's [`Account`](super::account::Account) and by its closing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use nbd_gateway_ledger::{Change, Known, Ledger, LedgerError, NewEvent, RecordSize, Snapshot, UnixMillis, Zeroing};
use nbd_gateway_policy::types::{ByteRange, ExportName, Size, TenantId};
use parking_lot::Mutex;

use super::history::{Kind, event};
use crate::fence::Marks;
use crate::target::Shown;

/// What is remembered of one export.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    /// What is still to be zeroed, from an earlier life or an earlier opening.
    pub owed: Vec<ByteRange>,
    /// How far a window goes; none: nobody has it on record. Of others what was shown last; none: all that there was.
    pub shown: Option<Size>,
    /// The ledger is an older copy: what it says of this export is out of date, and nobody has said yet what it has.
    pub older: bool,
    /// What it was asked to shrink to, where nobody has put the outcome on record: so small it may be found.
    pub lowered: Option<Size>,
    /// What clients saw last. None: nothing is on record.
    pub last: Option<Shown>,
}

/// The ledger, and what it remembers.
#[derive(Debug)]
pub(crate) struct LedgerCache {
    pub(crate) ledger: Ledger,
    exports: Mutex<HashMap<ExportName, Remembered>>,
    /// The marks of exports that change data.
    pub(crate) marks: Arc<Marks>,
}

impl LedgerCache {
    /// Opens the ledger in the state directory, and tells all that it remembers. Blocks.
    ///
    /// # Errors
    /// What [`Ledger::open`] says.
    pub(crate) fn open(state: &Path) -> Result<(Self, Snapshot), LedgerError> {
        let (ledger, snapshot) = Ledger::open(state)?;
        Ok((Self::of(ledger, &snapshot, Some(state)), snapshot))
    }

    /// One that is forgotten with the process.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Result<Self, LedgerError> {
        Ok(Self::of(Ledger::in_memory()?, &Snapshot::default(), None))
    }

    /// What a ledger remembers.
    pub(crate) fn of(ledger: Ledger, snapshot: &Snapshot, state: Option<&Path>) -> Self {
        let marks = Arc::new(Marks::new(ledger.clone(), &snapshot.marks, state));
        let mut exports: HashMap<ExportName, Remembered> = HashMap::new();
        for row in &snapshot.exports {
            // An earlier version wrote the largest size there is where it meant none.
            let shown = row.known.shown.filter(|shown| *shown != Size::MAX);
            let last = Shown { size: shown.unwrap_or(row.known.size).bytes(), generation: row.known.generation };
            let remembered = Remembered { shown, older: row.in_doubt, last: Some(last), ..Remembered::default() };
            if remembered.older {
                tracing::warn!(
                    export = row.name.as_str(),
                    "the ledger is an older copy; what was to be zeroed is not, and the export is not resized, before an \
                     operator says what it has: nbd-gateway ledger settle"
                );
            }
            exports.insert(row.name.clone(), remembered);
        }
        for Zeroing { export, range } in &snapshot.zeroing {
            exports.entry(export.clone()).or_default().owed.push(*range);
        }
        for row in &snapshot.reservations {
            let remembered = exports.entry(row.export.clone()).or_default();
            if let Some(last) = &mut remembered.last {
                // Clients may have seen what came of it.
                last.generation = last.generation.saturating_add(1);
            }
            if row.to < row.from {
                remembered.lowered = Some(remembered.lowered.map_or(row.to, |to| to.min(row.to)));
            }
        }
        Self { ledger, exports: Mutex::new(exports), marks }
    }

    /// What is remembered of an export.
    pub(crate) fn about(&self, export: &ExportName) -> Remembered {
        self.exports.lock().get(export).cloned().unwrap_or_default()
    }

    /// That has changed: the ledger has it, or the export closes.
    pub(crate) fn learn(&self, export: &ExportName, change: impl FnOnce(&mut Remembered)) {
        change(self.exports.lock().entry(export.clone()).or_default());
    }

    pub(super) fn cleared(&self, export: &ExportName, ranges: &[ByteRange]) {
        self.learn(export, |remembered| {
            for cleared in ranges {
                let owed = std::mem::take(&mut remembered.owed);
                remembered.owed.extend(owed.into_iter().flat_map(|owed| {
                    let before = ByteRange::new(owed.start(), owed.end().min(cleared.start()));
                    let after = ByteRange::new(owed.start().max(cleared.end()), owed.end());
                    [before, after].into_iter().flatten()
                }));
            }
        });
    }

    /// Counts a disk that is about to be made; durable when it returns.
    ///
    /// # Errors
    /// The ledger can't be written; it may be counted all the same.
    pub(crate) async fn count(&self, export: &ExportName, tenant: &TenantId, size: Size) -> Result<(), LedgerError> {
        let generation = self.about(export).last.map_or(0, |last| last.generation);
        self.ledger.write(Change::RecordSize(record(export, tenant, measured(size, generation)))).await
    }

    /// Clears a range; durable when it returns.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub(crate) async fn clear(&self, export: &ExportName, range: ByteRange) -> Result<(), LedgerError> {
        self.ledger.write(Change::ClearZeroing(Zeroing { export: export.clone(), range })).await?;
        self.cleared(export, &[range]);
        Ok(())
    }

    /// What an export that opens with `size` shows: its generation is never lower than one that clients have seen.
    pub(crate) fn first_shown(&self, export: &ExportName, size: Size) -> Shown {
        let last = self.about(export).last;
        let generation = last.map_or(0, |last| last.generation.saturating_add(u64::from(last.size != size.bytes())));
        Shown { size: size.bytes(), generation }
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
            for range in self.about(export).owed {
                self.clear(export, range).await?;
            }
            if let Some(row) = snapshot.exports.iter().find(|row| window && row.name == *export) {
                let known = Known { shown: None, at: now(), ..row.known };
                self.ledger.write(Change::RecordSize(record(export, &row.tenant, known))).await?;
                self.learn(export, |remembered| remembered.shown = None);
            }
        }
        let tenant = snapshot.exports.iter().find(|row| row.name == *export).map(|row| &row.tenant);
        let detail =
            format!("an operator says of the older copy of the ledger: {}", if zero { "zero" } else { "keep" });
        let event = event(Kind::Settled, tenant, Some(export), detail, (None, None));
        self.ledger.write(Change::Trust { export: export.clone(), event }).await?;
        self.learn(export, |remembered| remembered.older = false);
        Ok(())
    }

    /// Puts the size of a window on record; durable when it returns.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub(crate) async fn record_window(
        &self,
        export: &ExportName,
        tenant: &TenantId,
        size: Size,
    ) -> Result<(), LedgerError> {
        let known = Known { shown: Some(size), ..measured(size, 0) };
        self.ledger.write(Change::RecordSize(record(export, tenant, known))).await?;
        self.learn(export, |remembered| remembered.shown = Some(size));
        Ok(())
    }

    /// Writes an event that nothing depends on.
    pub(super) async fn log_event(&self, event: NewEvent) {
        if let Err(error) = self.ledger.event(event).await {
            tracing::debug!(%error, "an event was not written");
        }
    }

    /// Lets go of an export that has left the configuration, or is gone itself, whoever's it was, and tells so.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub(crate) async fn forget(&self, export: &ExportName, tenant: &TenantId, last: Size) -> Result<(), LedgerError> {
        let detail = "there is no such export any more".to_owned();
        let event = event(Kind::Forgotten, Some(tenant), Some(export), detail, (Some(last), None));
        self.ledger.write(Change::Forget { export: export.clone(), event: Some(event) }).await?;
        self.exports.lock().remove(export);
        Ok(())
    }

    /// Has the ledger know whose these exports are now, for when the configuration does not say it any more. Cancel-safe: no.
    pub(crate) async fn give_all(self: Arc<Self>, given: Vec<(ExportName, TenantId)>) {
        if let Err(error) = self.ledger.write(Change::Give(given)).await {
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

/// A size that was read, or is shown.
pub(super) fn measured(size: Size, generation: u64) -> Known {
    Known { size, shown: None, generation, at: now() }
}

fn record(export: &ExportName, tenant: &TenantId, known: Known) -> RecordSize {
    RecordSize { export: export.clone(), tenant: tenant.clone(), known }
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

    async fn note(cache: &LedgerCache, export: &ExportName, range: ByteRange) {
        let zeroing = Zeroing { export: export.clone(), range };
        cache.ledger.write(Change::RecordZeroing(zeroing, TenantId::default())).await.unwrap();
        cache.learn(export, |remembered| remembered.owed.push(range));
    }

    /// A range that was noted twice was zeroed once more by the next opening, over what clients had written.
    #[tokio::test]
    async fn what_was_cleared_is_not_owed_however_it_was_noted() {
        let (cache, export) = (LedgerCache::in_memory().unwrap(), ExportName::new("vm1").unwrap());
        for range in [range(10, 20), range(10, 24), range(30, 40)] {
            note(&cache, &export, range).await;
        }
        cache.clear(&export, range(10, 24)).await.unwrap();
        cache.clear(&export, range(32, 34)).await.unwrap();
        assert_eq!(cache.about(&export).owed, [range(30, 32), range(34, 40)]);
    }

    #[tokio::test]
    async fn a_generation_goes_on_and_is_never_another_sizes() {
        let (cache, export) = (LedgerCache::in_memory().unwrap(), ExportName::new("vm1").unwrap());
        assert_eq!(cache.first_shown(&export, size(8)), Shown { size: 8, generation: 0 });
        cache.learn(&export, |remembered| remembered.last = Some(Shown { size: 8, generation: 3 }));
        assert_eq!(cache.first_shown(&export, size(8)), Shown { size: 8, generation: 3 });
        assert_eq!(cache.first_shown(&export, size(9)), Shown { size: 9, generation: 4 });
    }

    #[tokio::test]
    async fn what_is_owed_and_how_far_a_window_goes_outlive_the_process() {
        let state = std::env::temp_dir().join(format!("nbd-gateway-notes-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        let (export, window, tenant) =
            (ExportName::new("vm1").unwrap(), ExportName::new("w").unwrap(), TenantId::default());
        let (notes, _) = LedgerCache::open(&state).unwrap();
        assert_eq!(notes.about(&window).shown, None);
        for range in [range(8192, 9216), range(512, 4096), range(16384, 20480)] {
            note(&notes, &export, range).await;
        }
        notes.record_window(&window, &tenant, size(512)).await.unwrap();
        note(&notes, &window, range(512, 1024)).await;
        notes.clear(&export, range(8192, 9216)).await.unwrap();
        notes.close().await;
        drop(notes);
        let (again, snapshot) = LedgerCache::open(&state).unwrap();
        assert_eq!(snapshot.exports.len(), 2);
        assert_eq!(again.about(&export).owed, [range(512, 4096), range(16384, 20480)]);
        assert_eq!(again.about(&ExportName::new("vm2").unwrap()).owed, []);
        assert_eq!((again.about(&window).shown, again.about(&export).shown), (Some(size(512)), None));
        // A smaller window does not let go of what is owed beyond it.
        again.record_window(&window, &tenant, size(256)).await.unwrap();
        assert_eq!(again.ledger.snapshot().await.unwrap().zeroing.len(), 3);
        again.clear(&export, range(512, 4096)).await.unwrap();
        again.clear(&export, range(16384, 20480)).await.unwrap();
        assert_eq!(again.about(&export).owed, []);
        again.close().await;
        std::fs::remove_dir_all(&state).unwrap();
    }
}
