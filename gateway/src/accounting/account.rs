//! What a coordinator has the ledger remember of its export's size, and the hand that writes it.
//!
//! The order is the coordinator's: held before the backend is asked, committed when the size has been read back. What could
//! not be written is made good by the next entry that can be: until then the ledger counts too much, never too little.

use std::sync::Arc;

use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};

use super::cache::{self, Notes, measured};
use super::history::Teller;
use crate::ledger::{Commit, Known, LedgerError, RecordSize, ReservationId, Reserve, Settle, Zeroes};
use crate::target::Shown;

/// One line of an export's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Quota is held for a grow; nothing has been asked yet.
    Hold {
        /// The size that counts.
        from: Size,
        /// The size to ask for.
        to: Size,
        /// How much is held.
        bytes: Bytes,
    },
    /// The grow is done; a window's size is on record from now on.
    Commit {
        /// What counts from now on.
        count: Size,
    },
    /// The grow was not done.
    RollBack,
    /// Nobody knows whether it was done.
    Unsettle,
    /// Somebody does; nothing is held any more.
    Settle {
        /// What counts from now on.
        count: Size,
    },
    /// A size was read, or given up by a shrink.
    Measure {
        /// What counts from now on.
        count: Size,
    },
    /// More is about to be shown of what was held back.
    Show {
        /// What counts, as before.
        count: Size,
        /// What is shown from now on.
        shown: Size,
    },
}

/// What clients see of an export, and who knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// All that there is.
    All,
    /// What an operator has published: the ledger has it where that is less than there is.
    HeldBack,
    /// A part, and only the ledger knows which.
    Window { recorded: bool },
}

/// Writes the entries of one export.
#[derive(Debug)]
pub(crate) struct Clerk {
    notes: Arc<Notes>,
    export: ExportName,
    tenant: TenantId,
    /// What is on record of that; a window's is, too, when it is about to be.
    shows: Shows,
    /// The grow in flight.
    held: Option<ReservationId>,
    /// Grows that are over, and not in the ledger.
    over: Vec<ReservationId>,
    /// Grows of unknown outcome.
    unsettled: Vec<ReservationId>,
}

impl Shows {
    /// What there is to record of an export that is no window.
    pub(crate) const fn of(publish: Publish) -> Self {
        match publish {
            Publish::Manual => Self::HeldBack,
            Publish::Auto | Publish::Never => Self::All,
        }
    }
}

impl Clerk {
    pub(crate) const fn new(notes: Arc<Notes>, export: ExportName, tenant: TenantId, shows: Shows) -> Self {
        Self { notes, export, tenant, shows, held: None, over: Vec::new(), unsettled: Vec::new() }
    }

    /// Sizes are published so from now on; of a window that changes nothing.
    pub(crate) fn published_by(&mut self, publish: Publish) {
        if !matches!(self.shows, Shows::Window { .. }) {
            self.shows = Shows::of(publish);
        }
    }

    /// Who tells the same export's history.
    pub(crate) fn teller(&self) -> Teller {
        Teller::new(Arc::clone(&self.notes), self.export.clone(), self.tenant.clone())
    }

    /// Notes, durably, a range to be zeroed.
    ///
    /// # Errors
    /// The ledger's; the range may be noted all the same.
    pub(crate) async fn note_zeroes(&self, range: ByteRange) -> Result<(), LedgerError> {
        self.notes.note(&self.export, &self.tenant, range).await
    }

    /// Notes, durably, that it is zero.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn clear_zeroes(&self, range: ByteRange) -> Result<(), LedgerError> {
        self.notes.clear(&self.export, range).await
    }

    /// The export has been opened, and its size measured: nothing of an earlier life is held or unknown any more.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn open(&mut self, count: Size, shown: Shown) -> Result<(), LedgerError> {
        // Its tenant may be another one now.
        self.record(count, shown).await?;
        self.settle(count, shown).await
    }

    /// Writes one, with what clients see now; durable when it returns. Cancel-safe: no.
    ///
    /// # Errors
    /// The ledger's. A hold is not there then; everything else is made good by the next entry that can be written.
    pub(crate) async fn write(&mut self, entry: Entry, now: Shown) -> Result<(), LedgerError> {
        match entry {
            Entry::Hold { from, to, bytes } => self.hold(from, to, bytes).await,
            Entry::Commit { count } => self.commit(count, now).await,
            Entry::RollBack => {
                self.over.extend(self.held.take());
                self.end().await
            }
            Entry::Unsettle => self.unsettle().await,
            Entry::Settle { count } => self.settle(count, now).await,
            Entry::Measure { count } => {
                self.record(count, now).await?;
                self.end().await
            }
            Entry::Show { count, shown } => self.record(count, Shown { size: shown.bytes(), ..now }).await,
        }
    }

    async fn hold(&mut self, from: Size, to: Size, bytes: Bytes) -> Result<(), LedgerError> {
        // One that was left would be taken for this one.
        self.end().await?;
        let (export, tenant) = (self.export.clone(), self.tenant.clone());
        let reserve = Reserve { export, tenant, bytes, from, to, zeroes: None, at: cache::now(), event: None };
        self.held = Some(self.notes.ledger().reserve(reserve).await?);
        if to < from {
            self.notes.know_lowered(&self.export, Some(to));
        }
        Ok(())
    }

    async fn commit(&mut self, count: Size, now: Shown) -> Result<(), LedgerError> {
        let before = self.shows;
        if let Shows::Window { recorded } = &mut self.shows {
            *recorded = true;
        }
        let committed = self.commit_as_recorded(count, now).await;
        if committed.is_err() {
            self.shows = before;
        }
        committed
    }

    async fn commit_as_recorded(&mut self, count: Size, now: Shown) -> Result<(), LedgerError> {
        let Some(id) = self.held.take() else {
            return self.record(count, now).await;
        };
        let known = self.known(count, now);
        let committed = self.notes.ledger().commit(Commit { id, known, zeroes: Zeroes::Done, event: None }).await;
        match committed {
            Ok(()) => self.shown(count),
            Err(_) => self.over.push(id),
        }
        committed
    }

    async fn unsettle(&mut self) -> Result<(), LedgerError> {
        let Some(id) = self.held.take() else { return Ok(()) };
        // Whatever comes of this, it is held until it is settled, and unsettled after a restart.
        self.unsettled.push(id);
        self.notes.ledger().unsettle(id, None).await
    }

    async fn settle(&mut self, count: Size, now: Shown) -> Result<(), LedgerError> {
        self.over.append(&mut self.unsettled);
        self.over.extend(self.held.take());
        let known = self.known(count, now);
        let settle = Settle { export: self.export.clone(), known, event: None };
        match self.notes.ledger().settle(settle).await {
            Err(LedgerError::NoExport { .. }) => self.record(count, now).await?,
            outcome => {
                outcome?;
                self.shown(count);
            }
        }
        self.end().await
    }

    async fn record(&mut self, count: Size, now: Shown) -> Result<(), LedgerError> {
        let (export, tenant, known) = (self.export.clone(), self.tenant.clone(), self.known(count, now));
        self.notes.ledger().record_size(RecordSize { export, tenant, known, event: None }).await?;
        self.shown(count);
        Ok(())
    }

    /// Takes what is over off the ledger.
    async fn end(&mut self) -> Result<(), LedgerError> {
        while let Some(id) = self.over.last().copied() {
            match self.notes.ledger().rollback(id, None).await {
                Ok(()) | Err(LedgerError::NoReservation { .. }) => self.over.pop(),
                Err(error) => return Err(error),
            };
        }
        if self.held.is_none() && self.unsettled.is_empty() {
            self.notes.know_lowered(&self.export, None);
        }
        Ok(())
    }

    fn known(&self, count: Size, now: Shown) -> Known {
        let shown = match self.shows {
            Shows::Window { recorded } => recorded.then_some(count),
            Shows::HeldBack => Size::new(now.size).ok().filter(|shown| *shown < count),
            Shows::All => None,
        };
        Known { shown, ..measured(count, now.generation) }
    }

    /// The ledger has it. What others than windows show is noted when they close.
    fn shown(&self, count: Size) {
        match self.shows {
            Shows::Window { recorded: true } => self.notes.know_shown(&self.export, Some(count)),
            Shows::All => self.notes.know_shown(&self.export, None),
            Shows::Window { recorded: false } | Shows::HeldBack => {}
        }
    }
}
