//! The account of one open export: what it counts in its tenant's sums and what the ledger has of it, by one call for each
//! step of a resize.
//!
//! The order of the steps is the coordinator's. The ledger knows of a resize before the backend does, and of a window's size
//! before anyone sees it. If it fails to record anything else, the sums in memory go on, the account is *behind*, and the
//! next call that succeeds makes that good. Until then the ledger counts too much, never too little.

use std::sync::Arc;

use nbd_gateway_ledger::{Change, Commit, Known, LedgerError, RecordSize, ReservationId, Reserve, Zeroing};
use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::quota::{Headroom, Reservation};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};

use super::cache::{LedgerCache, measured, now};
use super::tenants::TenantAccounts;
use crate::target::Shown;

#[cfg(test)]
mod suspend;

/// What clients see of an export, and who knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// All that there is.
    All,
    /// What an operator has published. The ledger has it where that is less than there is.
    HeldBack,
    /// A part, and only the ledger knows which.
    Window { recorded: bool },
}

impl Shows {
    /// What there is to record of an export that is not a window.
    pub(crate) const fn of(publish: Publish) -> Self {
        match publish {
            Publish::Manual => Self::HeldBack,
            Publish::Auto | Publish::Never => Self::All,
        }
    }
}

/// A resize that the backend may be asked for.
#[derive(Debug)]
struct Held {
    row: ReservationId,
    /// None for a shrink.
    quota: Option<Reservation>,
}

#[derive(Debug)]
pub(crate) struct Account {
    /// The sums of all tenants.
    pub(crate) tenants: Arc<TenantAccounts>,
    cache: Arc<LedgerCache>,
    export: ExportName,
    tenant: TenantId,
    shows: Shows,
    /// The ledger has not taken what counts.
    pub(crate) behind: bool,
    held: Option<Held>,
    /// Resizes that are over, and still in the ledger.
    over: Vec<ReservationId>,
    /// The ledger has resizes of unknown outcome.
    unsettled: bool,
}

impl Account {
    /// For an export that is being opened.
    pub(crate) fn new(
        tenants: Arc<TenantAccounts>,
        cache: Arc<LedgerCache>,
        export: ExportName,
        tenant: TenantId,
        shows: Shows,
    ) -> Self {
        let over = Vec::new();
        Self { tenants, cache, export, tenant, shows, behind: false, held: None, over, unsettled: false }
    }

    /// Sizes are published so from now on. For a window that changes nothing.
    pub(crate) const fn published_by(&mut self, publish: Publish) {
        if !self.is_window() {
            self.shows = Shows::of(publish);
        }
    }

    pub(crate) const fn is_window(&self) -> bool {
        matches!(self.shows, Shows::Window { .. })
    }

    /// A window that has no size on record, over a disk that does not read as zeroes past it.
    pub(crate) const fn is_unrecorded(&self) -> bool {
        matches!(self.shows, Shows::Window { recorded: false })
    }

    /// Whether more is shown only once the ledger has it.
    pub(crate) const fn is_held_back(&self) -> bool {
        matches!(self.shows, Shows::HeldBack)
    }

    /// What counts of the export.
    pub(crate) fn counted(&self) -> Option<Size> {
        self.tenants.books(|books| books.size(&self.export))
    }

    /// What the export's tenant may still grow.
    pub(crate) fn headroom(&self) -> Option<Headroom> {
        self.tenants.books(|books| books.headroom(&self.export))
    }

    /// The export has been opened and measured. Nothing of an earlier life is held or unknown any more, unless it is
    /// `in_doubt`: the server may still carry a resize out.
    pub(crate) async fn open(&mut self, count: Size, shown: Shown, in_doubt: bool) {
        self.unsettled = in_doubt;
        self.put(count, shown, !in_doubt).await;
    }

    /// Holds quota for a grow and notes what it exposes, before the backend is asked. Whether the tenant is over its soft
    /// quota by that, and was not before. `size` is what is shown.
    ///
    /// # Errors
    /// There is no room, or the ledger has not taken it. Then nothing is held; what it was to note may be there.
    pub(crate) async fn hold(
        &mut self,
        size: Size,
        to: Size,
        bytes: Bytes,
        zeroes: Option<ByteRange>,
    ) -> Result<bool, Reason> {
        let (quota, crosses_soft_quota) = self.tenants.reserve(&self.export, &self.tenant, to, bytes).await?;
        match self.reserve(size, to, bytes, zeroes).await {
            Ok(row) => {
                self.held = Some(Held { row, quota: Some(quota) });
                Ok(crosses_soft_quota)
            }
            // The ledger has said why. A client that is refused may ask often.
            Err(_) => {
                self.tenants.roll_back(Some(quota));
                Err(Reason::LedgerUnavailable)
            }
        }
    }

    /// The backend has grown, and what it exposes is being zeroed: from now on it counts at that, in memory.
    pub(crate) fn grew(&self, count: Size) {
        self.tenants.books(|books| books.measure(&self.export, count));
    }

    /// The grow is done, and `zeroed` reads as zeroes or was not exposed. `shown` is what clients are to see then. Whether
    /// the ledger has it; if not, a window has not grown.
    pub(crate) async fn commit(&mut self, count: Size, shown: Shown, zeroed: Vec<ByteRange>) -> bool {
        let before = self.shows;
        if self.is_window() {
            self.shows = Shows::Window { recorded: true };
        }
        let known = self.known(count, shown);
        let (quota, committed) = match self.held.take() {
            Some(Held { row, quota }) => {
                let commit = Commit { id: row, known, zeroed: zeroed.clone() };
                let committed = self.cache.ledger.write(Change::Commit(commit)).await;
                if committed.is_err() {
                    self.over.push(row);
                }
                (quota, committed)
            }
            None => (None, self.cache.ledger.write(Change::RecordSize(self.record(known))).await),
        };
        let taken = self.took(committed);
        if taken {
            self.cache.cleared(&self.export, &zeroed);
            self.has(count);
        } else {
            self.shows = before;
        }
        if !taken && self.is_window() {
            // It may be there after a crash all the same.
            self.tenants.unsettle(quota);
        } else {
            self.tenants.commit(quota, &self.export, count);
        }
        taken
    }

    /// The grow was not done. Whether the notes of what it would have exposed are gone.
    pub(crate) async fn roll_back(&mut self, unexposed: Vec<ByteRange>) -> bool {
        let Some(Held { row, quota }) = self.held.take() else { return unexposed.is_empty() };
        self.tenants.roll_back(quota);
        let rolled_back = self.cache.ledger.write(Change::RollBack { id: row, unexposed: unexposed.clone() }).await;
        if rolled_back.is_ok() {
            self.cache.cleared(&self.export, &unexposed);
            self.ended();
        } else {
            self.over.push(row);
        }
        self.noted(rolled_back)
    }

    /// Nobody knows whether it was done: it stays counted.
    pub(crate) async fn unsettle(&mut self) {
        let Some(Held { row, quota }) = self.held.take() else { return };
        self.tenants.unsettle(quota);
        // Whatever comes of this: after a restart it is unsettled.
        self.unsettled = true;
        let unsettled = self.cache.ledger.write(Change::Unsettle(row)).await;
        self.noted(unsettled);
    }

    /// Nothing is held or unknown any more. Whether the ledger has it.
    pub(crate) async fn settle(&mut self, count: Size, shown: Shown) -> bool {
        let settled = self.settle_record(count, shown).await;
        self.tenants.books(|books| books.settle(&self.export, count));
        self.took(settled)
    }

    /// A size was read.
    pub(crate) async fn measure(&mut self, count: Size, shown: Shown) {
        if self.counted() != Some(count) || self.behind {
            self.tenants.books(|books| books.measure(&self.export, count));
            self.give_up(count, shown).await;
        }
    }

    /// A window is to show less. Whether the ledger has it.
    pub(crate) async fn give_up(&mut self, count: Size, shown: Shown) -> bool {
        self.put(count, shown, false).await
    }

    async fn put(&mut self, count: Size, shown: Shown, settles: bool) -> bool {
        let written =
            if settles { self.settle_record(count, shown).await } else { self.record_and_end(count, shown).await };
        self.took(written)
    }

    /// A window shows what an operator says that it has, or what it gave up at last. Whether the ledger has it.
    pub(crate) async fn show_window(&mut self, count: Size, shown: Shown) -> bool {
        let taken = self.commit(count, shown, Vec::new()).await;
        if taken {
            self.tenants.books(|books| books.settle(&self.export, count));
        }
        taken
    }

    /// More is about to be shown of what was held back. Whether the ledger has it.
    pub(crate) async fn show_more(&mut self, count: Size, shown: Shown) -> bool {
        let recorded = self.cache.ledger.write(Change::RecordSize(self.record(self.known(count, shown)))).await;
        self.noted(recorded)
    }

    /// A shrink begins: if the gateway ends before its outcome is on record, the smaller size that is found then is this
    /// gateway's own doing. Whether the ledger has it.
    pub(crate) async fn lower(&mut self, size: Size, to: Size) -> bool {
        match self.reserve(size, to, Bytes(0), None).await {
            Ok(row) => {
                self.held = Some(Held { row, quota: None });
                self.cache.learn(&self.export, |remembered| remembered.lowered = Some(to));
                true
            }
            Err(_) => false,
        }
    }

    /// It is over; `unknown`: its outcome is not known. If the ledger is behind, that is written with what makes it good.
    pub(crate) async fn lowered(&mut self, unknown: bool) {
        if self.behind {
            let row = self.held.take().map(|held| held.row);
            self.unsettled |= unknown && row.is_some();
            self.over.extend(row.filter(|_| !unknown));
        } else if unknown {
            self.unsettle().await;
        } else {
            self.roll_back(Vec::new()).await;
        }
    }

    /// Writes what the ledger did not take before; `ready`: nothing is unknown. Whether it has it now.
    pub(crate) async fn make_good(&mut self, shown: Shown, ready: bool) -> bool {
        let Some(count) = self.counted() else { return true };
        self.put(count, shown, ready).await
    }

    /// Notes a range that is to be zeroed before anyone sees it.
    ///
    /// # Errors
    /// The ledger's; the range may be noted all the same.
    pub(crate) async fn note(&self, range: ByteRange) -> Result<(), LedgerError> {
        let zeroing = Zeroing { export: self.export.clone(), range };
        self.cache.ledger.write(Change::RecordZeroing(zeroing, self.tenant.clone())).await?;
        self.cache.learn(&self.export, |remembered| remembered.owed.push(range));
        Ok(())
    }

    /// A range reads as zeroes, or was not exposed.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn clear(&self, range: ByteRange) -> Result<(), LedgerError> {
        self.cache.clear(&self.export, range).await
    }

    async fn reserve(
        &mut self,
        size: Size,
        to: Size,
        bytes: Bytes,
        zeroes: Option<ByteRange>,
    ) -> Result<ReservationId, LedgerError> {
        // One that was left would be taken for this one.
        self.end().await?;
        let from = self.counted().unwrap_or(size);
        let (export, tenant) = (self.export.clone(), self.tenant.clone());
        let reserve = Reserve { export, tenant, bytes, from, to, zeroes, at: now() };
        let row = self.cache.ledger.reserve(reserve).await?;
        zeroes.into_iter().for_each(|range| self.cache.learn(&self.export, |remembered| remembered.owed.push(range)));
        Ok(row)
    }

    async fn settle_record(&mut self, count: Size, shown: Shown) -> Result<(), LedgerError> {
        self.cache.ledger.write(Change::Settle(self.record(self.known(count, shown)))).await?;
        (self.held, self.over, self.unsettled) = (None, Vec::new(), false);
        self.has(count);
        self.ended();
        Ok(())
    }

    async fn record_and_end(&mut self, count: Size, shown: Shown) -> Result<(), LedgerError> {
        self.cache.ledger.write(Change::RecordSize(self.record(self.known(count, shown)))).await?;
        self.has(count);
        self.end().await
    }

    /// Takes what is over off the ledger.
    async fn end(&mut self) -> Result<(), LedgerError> {
        while let Some(row) = self.over.last().copied() {
            match self.cache.ledger.write(Change::RollBack { id: row, unexposed: Vec::new() }).await {
                Ok(()) | Err(LedgerError::NoReservation { .. }) => self.over.pop(),
                Err(error) => return Err(error),
            };
        }
        self.ended();
        Ok(())
    }

    /// No shrink is on record any more, if nothing is.
    fn ended(&self) {
        if self.is_settled() {
            self.cache.learn(&self.export, |remembered| remembered.lowered = None);
        }
    }

    /// Whether the ledger has no resize of the export that is not over.
    const fn is_settled(&self) -> bool {
        self.held.is_none() && !self.unsettled && self.over.is_empty()
    }

    fn record(&self, known: Known) -> RecordSize {
        RecordSize { export: self.export.clone(), tenant: self.tenant.clone(), known }
    }

    fn known(&self, count: Size, now: Shown) -> Known {
        let shown = match self.shows {
            Shows::Window { recorded } => recorded.then_some(count),
            Shows::HeldBack => Size::new(now.size).ok().filter(|shown| *shown < count),
            Shows::All => None,
        };
        // Opened at what is on record, it is another size than clients see now.
        let another = u64::from(shown.unwrap_or(count).bytes() != now.size);
        Known { shown, ..measured(count, now.generation.saturating_add(another)) }
    }

    /// The ledger has it. What others than windows show is noted when they close.
    fn has(&self, count: Size) {
        match self.shows {
            Shows::Window { recorded: true } => {
                self.cache.learn(&self.export, |remembered| remembered.shown = Some(count))
            }
            Shows::All => self.cache.learn(&self.export, |remembered| remembered.shown = None),
            Shows::Window { recorded: false } | Shows::HeldBack => {}
        }
    }

    /// What counts was written, or not. If it was, a grow that the ledger did not take before holds no quota any more.
    fn took(&mut self, written: Result<(), LedgerError>) -> bool {
        let taken = self.noted(written);
        if taken {
            self.behind = false;
        }
        if taken
            && self.is_settled()
            && let Some(counted) = self.counted()
        {
            self.tenants.books(|books| books.settle(&self.export, counted));
        }
        taken
    }

    /// Something else was written, or not.
    fn noted(&mut self, written: Result<(), LedgerError>) -> bool {
        let Err(error) = written else { return true };
        if !std::mem::replace(&mut self.behind, true) {
            tracing::error!(export = self.export.as_str(), %error, "the ledger does not take what became of a size; nothing of the export grows until it does");
        }
        false
    }
}
