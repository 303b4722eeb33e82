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
mod change;
mod error;
mod home;
mod place;
mod read;
mod row;
mod schema;
mod store;
#[cfg(any(test, feature = "in-memory"))]
mod testing;
#[cfg(test)]
mod tests;
mod writer;
mod zeroes;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot, watch};

pub use self::change::{Change, Commit, RecordSize, Reserve};
pub use self::error::LedgerError;
pub use self::place::DATABASE as FILE;
pub use self::row::{
    Event, EventFilter, ExportRow, Known, Mark, NewEvent, QuotaOrder, Quotas, ReservationId, ReservationRow, Snapshot,
    State, UnixMillis, Zeroing,
};
#[cfg(any(test, feature = "in-memory"))]
pub use self::testing::{Fate, Mailbox};

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
        self.write_for(Change::Reserve(reserve)).await.map(ReservationId)
    }

    /// Writes an event, and answers its id. The newest 100 000 are kept.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn event(&self, event: NewEvent) -> Result<u64, LedgerError> {
        self.write_for(Change::Event(event)).await.map(i64::unsigned_abs)
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

    /// Writes a change; durable when it returns.
    ///
    /// # Errors
    /// [`LedgerError::Database`], and what [`Change`] says.
    pub async fn write(&self, change: Change) -> Result<(), LedgerError> {
        self.write_for(change).await.map(drop)
    }

    /// Answers the number of the row that was added.
    async fn write_for(&self, change: Change) -> Result<i64, LedgerError> {
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
