//! What a coordinator has the ledger remember of its export's size, and the hand that writes it.
//!
//! The order is the coordinator's: held before the backend is asked, committed when the size has been read back. What could
//! not be written is made good by the next entry that can be: until then the ledger counts too much, never too little.

use std::sync::Arc;

use nbd_gateway_policy::types::{Bytes, ExportName, Size, TenantId};

use super::history::Teller;
use super::notes::{Notes, measured, now};
use crate::ledger::{Commit, Known, LedgerError, RecordSize, ReservationId, Reserve, Settle, Zeroes};

/// One line of an export's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
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
}

/// Whether anybody knows how far a window goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The ledger does.
    OnRecord,
    /// Nobody.
    Unrecorded,
}

/// Writes the entries of one export.
#[derive(Debug)]
pub struct Clerk {
    notes: Arc<Notes>,
    export: ExportName,
    tenant: TenantId,
    /// What counts is what is shown, and nobody else knows.
    window: bool,
    /// That is, or is about to be, on record.
    recorded: bool,
    /// The grow in flight.
    held: Option<ReservationId>,
    /// Grows that are over, and not in the ledger.
    over: Vec<ReservationId>,
    /// Grows of unknown outcome.
    unsettled: Vec<ReservationId>,
}

impl Clerk {
    /// For one export.
    pub fn new(notes: Arc<Notes>, export: ExportName, tenant: TenantId, window: Option<Window>) -> Self {
        let recorded = window == Some(Window::OnRecord);
        Self {
            notes,
            export,
            tenant,
            window: window.is_some(),
            recorded,
            held: None,
            over: Vec::new(),
            unsettled: Vec::new(),
        }
    }

    /// Who tells the same export's history.
    pub(super) fn teller(&self) -> Teller {
        Teller::new(Arc::clone(&self.notes), self.export.clone(), self.tenant.clone())
    }

    /// The export has been opened, and its size measured: nothing of an earlier life is held or unknown any more.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn open(&mut self, count: Size) -> Result<(), LedgerError> {
        // Its tenant may be another one now.
        self.record(count, 0).await?;
        self.settle(count, 0).await
    }

    /// Writes one; durable when it returns. Cancel-safe: no.
    ///
    /// # Errors
    /// The ledger's. A hold is not there then; everything else is made good by the next entry that can be written.
    pub async fn write(&mut self, entry: Entry, generation: u64) -> Result<(), LedgerError> {
        match entry {
            Entry::Hold { from, to, bytes } => self.hold(from, to, bytes).await,
            Entry::Commit { count } => self.commit(count, generation).await,
            Entry::RollBack => {
                self.over.extend(self.held.take());
                self.end().await
            }
            Entry::Unsettle => self.unsettle().await,
            Entry::Settle { count } => self.settle(count, generation).await,
            Entry::Measure { count } => {
                self.record(count, generation).await?;
                self.end().await
            }
        }
    }

    async fn hold(&mut self, from: Size, to: Size, bytes: Bytes) -> Result<(), LedgerError> {
        // One that was left would be taken for this one.
        self.end().await?;
        let (export, tenant) = (self.export.clone(), self.tenant.clone());
        let reserve = Reserve { export, tenant, bytes, from, to, zeroes: None, at: now(), event: None };
        self.held = Some(self.notes.ledger().reserve(reserve).await?);
        Ok(())
    }

    async fn commit(&mut self, count: Size, generation: u64) -> Result<(), LedgerError> {
        let before = std::mem::replace(&mut self.recorded, true);
        let committed = self.commit_as_recorded(count, generation).await;
        self.recorded = before || committed.is_ok();
        committed
    }

    async fn commit_as_recorded(&mut self, count: Size, generation: u64) -> Result<(), LedgerError> {
        let Some(id) = self.held.take() else {
            return self.record(count, generation).await;
        };
        let known = self.known(count, generation);
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

    async fn settle(&mut self, count: Size, generation: u64) -> Result<(), LedgerError> {
        self.over.append(&mut self.unsettled);
        self.over.extend(self.held.take());
        let known = self.known(count, generation);
        let settle = Settle { export: self.export.clone(), known, event: None };
        match self.notes.ledger().settle(settle).await {
            Err(LedgerError::NoExport { .. }) => self.record(count, generation).await?,
            outcome => {
                outcome?;
                self.shown(count);
            }
        }
        self.end().await
    }

    async fn record(&mut self, count: Size, generation: u64) -> Result<(), LedgerError> {
        let (export, tenant, known) = (self.export.clone(), self.tenant.clone(), self.known(count, generation));
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
        Ok(())
    }

    fn known(&self, count: Size, generation: u64) -> Known {
        Known { shown: (self.window && self.recorded).then_some(count), ..measured(count, generation) }
    }

    fn shown(&self, count: Size) {
        if self.window && self.recorded {
            self.notes.know_window(&self.export, count);
        }
    }
}
