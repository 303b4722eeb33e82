//! The durable ledger: what each export counts, what is held for resizes, what is to be zeroed, and the history. It is kept in
//! `ledger.sqlite` in the state directory, on a local disk.
//!
//! This crate is the only one that knows the database. Its seam is a mailbox: [`Change`]s and questions are data, and one
//! thread answers them in order, many changes in one commit. It stores and never decides: the rule of a quota is the policy
//! crate's, the order of a grow is its plan's.
//!
//! If a call returns, its change is on the disk. If a call fails, this process sees no change. After a crash the change may
//! turn out to be written all the same, and every order of steps bears that: a measurement ends a reservation or a note too
//! many, and a size or a clearing was true when it was asked for.
//!
//! If the file is moved, removed or replaced, nothing more is written. If the disk is full or fails, each call fails with
//! the reason, [`Ledger::is_up`] is false, and the next call tries again; reading goes on. Every future may be dropped, but
//! its change may be done: a reservation whose number nobody took stays held until the export is settled.

mod apply;
mod by_hand;
mod change;
mod error;
mod home;
mod place;
mod read;
mod row;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;
mod zeroes;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nbd_gateway_policy::types::{ByteRange, ExportName, TenantId};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::by_hand::{Fate, Mailbox};
pub use self::change::{Change, Commit, RecordSize, Reserve};
pub use self::error::LedgerError;
pub use self::place::DATABASE as FILE;
pub use self::row::{
    Event, EventFilter, ExportRow, Known, Mark, NewEvent, QuotaOrder, Quotas, ReservationId, ReservationRow, Snapshot,
    State, UnixMillis, Zeroing,
};

use self::store::Store;
use self::writer::{Query, Reply, Request, Shown};

/// The ledger. Cloning shares it; when the last clone is gone, its thread ends.
#[derive(Clone, Debug)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    shown: Arc<Shown>,
}

/// How its writer is started.
type Start = fn(Store, bool) -> Result<(mpsc::Sender<Request>, Arc<Shown>), LedgerError>;

impl Ledger {
    /// Opens the ledger of a state directory, both created if need be, and tells what was remembered. Blocks: for the
    /// start of the process. Reservations of earlier processes come back unsettled.
    ///
    /// A disk that can be read but not written is no error; [`Ledger::is_up`] is false then.
    ///
    /// # Errors
    /// The directory or the file can't be used, another process has it, or it is not one that this program knows.
    pub fn open(state: &Path) -> Result<(Self, Snapshot), LedgerError> {
        Self::start(Store::open(state)?, writer::start)
    }

    /// A ledger for tests: it remembers nothing after the process, and its writer is a task of the caller's runtime.
    ///
    /// # Errors
    /// No memory.
    #[cfg(any(test, feature = "in-memory"))]
    pub fn in_memory() -> Result<Self, LedgerError> {
        Ok(Self::start(Store::in_memory()?, writer::start_here)?.0)
    }

    fn start(mut store: Store, start: Start) -> Result<(Self, Snapshot), LedgerError> {
        let begun = store.begin();
        if let Err(error) = &begun {
            tracing::error!(%error, "the ledger can't be written; nothing grows until it can");
        }
        let snapshot = store.snapshot()?;
        let (requests, shown) = start(store, begun.is_ok())?;
        Ok((Self { requests, shown }, snapshot))
    }

    /// The last write succeeded, the ledger is open, and its files are where they were.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shown.up.load(Ordering::Relaxed) && self.shown.home.look().is_ok()
    }

    /// Puts a grow or a shrink on record, with what it will expose, before the backend is asked. An export that is new to
    /// the ledger is added with the size `from`.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; then nothing is held.
    pub async fn reserve(&self, reserve: Reserve) -> Result<ReservationId, LedgerError> {
        self.write(Change::Reserve(reserve)).await.map(ReservationId)
    }

    /// Ends a grow with the size that was read back, and clears what reads as zeroes. The export stays with its tenant.
    ///
    /// # Errors
    /// [`LedgerError::NoReservation`], [`LedgerError::Database`].
    pub async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        self.write(Change::Commit(commit)).await.map(drop)
    }

    /// Ends a grow that did not happen, or a shrink: the backend was not asked, or its answer is known by now. What was noted
    /// for zeroing and is not exposed is cleared with it.
    ///
    /// # Errors
    /// [`LedgerError::NoReservation`], [`LedgerError::Database`].
    pub async fn roll_back(&self, id: ReservationId, unexposed: Vec<ByteRange>) -> Result<(), LedgerError> {
        self.write(Change::RollBack { id, unexposed }).await.map(drop)
    }

    /// Keeps a reservation whose outcome nobody knows, until [`Ledger::settle`].
    ///
    /// # Errors
    /// [`LedgerError::NoReservation`], [`LedgerError::Database`].
    pub async fn unsettle(&self, id: ReservationId) -> Result<(), LedgerError> {
        self.write(Change::Unsettle(id)).await.map(drop)
    }

    /// Records a size that was measured when every request to resize the export was over: its reservations end. What is
    /// noted for zeroing stays.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn settle(&self, record: RecordSize) -> Result<(), LedgerError> {
        self.write(Change::Settle(record)).await.map(drop)
    }

    /// Records a measured size, or one that a shrink has freed. Reservations stay.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn record_size(&self, record: RecordSize) -> Result<(), LedgerError> {
        self.write(Change::RecordSize(record)).await.map(drop)
    }

    /// Notes bytes to zero before anyone sees them, until they are cleared. An export that is new to the ledger is added for
    /// `tenant`.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn record_zeroing(&self, zeroing: Zeroing, tenant: TenantId) -> Result<(), LedgerError> {
        self.write(Change::RecordZeroing(zeroing, tenant)).await.map(drop)
    }

    /// Takes a range out of all notes of an export: it reads as zeroes, durably.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn clear_zeroing(&self, zeroing: Zeroing) -> Result<(), LedgerError> {
        self.write(Change::ClearZeroing(zeroing)).await.map(drop)
    }

    /// An operator has said what an export has, although the ledger is an older copy.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn trust(&self, export: ExportName, event: NewEvent) -> Result<(), LedgerError> {
        self.write(Change::Trust { export, event }).await.map(drop)
    }

    /// Writes an event, and answers its id. The newest 100 000 are kept.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn event(&self, event: NewEvent) -> Result<u64, LedgerError> {
        self.write(Change::Event(event)).await.map(i64::unsigned_abs)
    }

    /// Keeps an order about a tenant's quota; the one before it goes.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; then the one before it stands.
    pub async fn order_quota(&self, order: QuotaOrder, event: NewEvent) -> Result<(), LedgerError> {
        self.write(Change::OrderQuota { order, event }).await.map(drop)
    }

    /// Drops the order about a tenant's quota. None is fine.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn drop_quota_order(&self, tenant: &TenantId, event: Option<NewEvent>) -> Result<(), LedgerError> {
        self.write(Change::DropQuotaOrder { tenant: tenant.clone(), event }).await.map(drop)
    }

    /// Notes whose exports are from now on. Those that are not known are fine.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn give(&self, given: Vec<(ExportName, TenantId)>) -> Result<(), LedgerError> {
        self.write(Change::Give(given)).await.map(drop)
    }

    /// Marks that an export has changed data since it was opened.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn mark(&self, mark: Mark) -> Result<(), LedgerError> {
        self.write(Change::Mark(mark)).await.map(drop)
    }

    /// Takes marks off. Those that are not there are fine.
    ///
    /// # Errors
    /// [`LedgerError::Database`]; then they stay, and requests wait for nothing after the next start.
    pub async fn unmark(&self, exports: Vec<ExportName>) -> Result<(), LedgerError> {
        self.write(Change::Unmark(exports)).await.map(drop)
    }

    /// Removes an export that is no longer this gateway's to count. One that is not known is fine.
    ///
    /// # Errors
    /// [`LedgerError::Unfinished`] while a grow of it is not over or bytes of it are to be zeroed, [`LedgerError::Database`].
    pub async fn forget(&self, export: &ExportName, event: Option<NewEvent>) -> Result<(), LedgerError> {
        self.write(Change::Forget { export: export.clone(), event }).await.map(drop)
    }

    /// Events in the order of their ids, each write that was asked for before included.
    ///
    /// # Errors
    /// [`LedgerError::Database`], [`LedgerError::Damaged`].
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, LedgerError> {
        self.read(|reply| Query::Events(filter, reply)).await
    }

    /// The number after which the newest [`limit`](EventFilter::limit) events of a filter come; where there are none, that
    /// of the newest event. `since` does not count.
    ///
    /// # Errors
    /// [`LedgerError::Database`], [`LedgerError::Damaged`].
    pub async fn before_newest(&self, filter: EventFilter) -> Result<u64, LedgerError> {
        self.read(|reply| Query::BeforeNewest(EventFilter { since: None, ..filter }, reply)).await
    }

    /// Follows the number of the newest event that is on the disk; 0 before the first. Ends when the ledger is closed.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<u64> {
        self.shown.told.clone()
    }

    /// All that is remembered now, each write that was asked for before included.
    ///
    /// # Errors
    /// [`LedgerError::Database`], [`LedgerError::Damaged`].
    pub async fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        self.read(Query::Snapshot).await
    }

    /// Writes what was asked for so far, closes the file and gives back the lock. All clones fail from now on.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.requests.send(Request::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn write(&self, change: Change) -> Result<i64, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Write { change, reply }, answer).await
    }

    async fn read<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Read(query(reply)), answer).await
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let closed = || LedgerError::Closed { path: self.shown.path.clone() };
        self.requests.send(request).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}
