//! A ledger that a test serves, in place of its thread: each change succeeds, fails, or ends the process.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::change::Change;
use super::store::Store;
use super::writer::{self, Request};
use super::{Ledger, LedgerError, Snapshot};

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is written.
    Written,
    /// It is not, and the answer says so.
    Failed,
    /// It is written, and the answer says that it is not.
    Lied,
    /// It is not, and the process ends before the answer.
    Lost,
    /// It is written, and the process ends before the answer.
    Unanswered,
}

/// The requests of a [`Ledger`] and its database, which is in memory.
#[derive(Debug)]
pub struct Mailbox {
    store: Store,
    requests: mpsc::Receiver<Request>,
    /// What nobody answers any more: an error would tell the asker that the process goes on.
    buried: Vec<Request>,
}

impl Ledger {
    /// A ledger and what serves it.
    ///
    /// # Errors
    /// No memory.
    pub fn by_hand() -> Result<(Self, Mailbox), LedgerError> {
        let mut store = Store::in_memory()?;
        store.begin()?;
        let (ledger, requests) = connect(&store)?;
        Ok((ledger, Mailbox { store, requests, buried: Vec::new() }))
    }
}

fn connect(store: &Store) -> Result<(Ledger, mpsc::Receiver<Request>), LedgerError> {
    let (shown, _) = writer::shown(store, true)?;
    let (sender, requests) = writer::mailbox();
    Ok((Ledger { requests: sender, shown: Arc::new(shown) }, requests))
}

impl Mailbox {
    /// Serves what waits, each change as `judge` says. Whether there was anything.
    pub fn serve(&mut self, mut judge: impl FnMut(&Change) -> Fate) -> bool {
        let mut served = false;
        while let Ok(request) = self.requests.try_recv() {
            served = true;
            self.take(request, &mut judge);
        }
        served
    }

    /// Waits for the next request, and serves it. False: nobody is left to ask.
    pub async fn serve_next(&mut self, mut judge: impl FnMut(&Change) -> Fate) -> bool {
        let Some(request) = self.requests.recv().await else { return false };
        self.take(request, &mut judge);
        true
    }

    /// All that is on record.
    ///
    /// # Errors
    /// What [`Ledger::snapshot`] says.
    pub fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        self.store.snapshot()
    }

    /// The next process opens the same database.
    ///
    /// # Errors
    /// No memory.
    pub fn restart(&mut self) -> Result<Ledger, LedgerError> {
        self.store.restart();
        self.store.begin()?;
        let (ledger, requests) = connect(&self.store)?;
        (self.requests, self.buried) = (requests, Vec::new());
        Ok(ledger)
    }

    fn take(&mut self, request: Request, judge: &mut impl FnMut(&Change) -> Fate) {
        match request {
            Request::Write { change, reply } => {
                let fate = judge(&change);
                let failed = || {
                    let (path, doing) = (Path::new("(by hand)").to_owned(), change.to_string());
                    Err(LedgerError::Database { path, doing, cause: "a test says so".into(), advice: "go on" })
                };
                let mut answer = match fate {
                    Fate::Written | Fate::Lied | Fate::Unanswered => self.store.write(&[&change]).answers.pop(),
                    Fate::Failed | Fate::Lost => None,
                };
                if matches!(fate, Fate::Failed | Fate::Lied) {
                    answer = Some(failed());
                }
                match answer.filter(|_| !matches!(fate, Fate::Lost | Fate::Unanswered)) {
                    Some(answer) => drop(reply.send(answer)),
                    None => self.buried.push(Request::Write { change, reply }),
                }
            }
            Request::Read(query) => query.answer(&self.store),
            Request::Close(done) => drop(done.send(())),
        }
    }
}
