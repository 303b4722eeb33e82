//! The database and its transactions: several changes in one, each whole or not at all.
//!
//! Used by one thread, and by tests directly. It never decides whether a change is allowed to a tenant.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::apply::{Refused, apply};
use super::change::Change;
use super::place::Place;
use super::{LedgerError, place, schema};

/// How many events are kept: the newest so many.
pub(super) const HISTORY: i64 = 100_000;
/// Of what an older copy says, a size is measured again before it is used; this is not.
const DOUBT: &str = "UPDATE export SET quarantine = 'the ledger is an older copy' WHERE quarantine IS NULL
    AND (shown IS NOT NULL OR EXISTS (SELECT 1 FROM zeroing WHERE zeroing.export = export.name))";
const COUNT: &str = "INSERT INTO tally (one, commits) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET commits = ?1";
/// Where a database is that is nowhere.
#[cfg(any(test, feature = "in-memory"))]
const NOWHERE: &str = "(in memory)";

#[derive(Debug)]
pub(super) struct Store {
    // Before the place: closed before the lock is given back.
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) history: i64,
    /// The first write of this process has yet to come: what earlier ones reserved is unsettled, and the table says
    /// otherwise.
    fresh: bool,
    /// How many commits there have been, of earlier processes too.
    commits: u64,
    /// The database is an older copy than the one that was here last, and that is not written down yet.
    pub(super) older: bool,
    place: Option<Place>,
}

/// What became of several changes.
#[derive(Debug)]
pub(super) struct Written {
    /// Of each, in order: the number of the row it added, 0 if it adds none.
    pub(super) answers: Vec<Result<i64, LedgerError>>,
    /// Something reached the disk.
    pub(super) reached: bool,
}

impl Store {
    pub(super) fn open(state: &Path) -> Result<Self, LedgerError> {
        let place = Place::take(state)?;
        let path = place.database.clone();
        place::make_private(&path);
        let (connection, new) = match connect(&path, Sharing::Readers) {
            Err(error) if error.is_trouble() => {
                let alone = connect(&path, Sharing::Nobody).map_err(|_| error.clone())?;
                tracing::warn!(%error, "the ledger is open, but nobody else can look into it until the next start");
                alone
            }
            outcome => outcome?,
        };
        if new && place.used {
            tracing::warn!(
                ledger = %path.display(),
                "the ledger was gone or empty, and a new one is begun: nothing is remembered. Exports count when they are \
                 measured; quotas that operators ordered, sizes that were held back and ranges that had to be zeroed are \
                 forgotten"
            );
        }
        let mut store = Self::new(connection, path, Some(place));
        store.look_for_an_older_copy(new)?;
        Ok(store)
    }

    #[cfg(any(test, feature = "in-memory"))]
    pub(super) fn in_memory() -> Result<Self, LedgerError> {
        let path = PathBuf::from(NOWHERE);
        let mut connection = Connection::open_in_memory().map_err(|cause| trouble(&path, "be opened", cause))?;
        schema::prepare(&mut connection, &path, "memory")?;
        Ok(Self::new(connection, path, None))
    }

    const fn new(connection: Connection, path: PathBuf, place: Option<Place>) -> Self {
        Self { connection, path, history: HISTORY, fresh: true, commits: 0, older: false, place }
    }

    /// Whether the database counts fewer commits than the last process that was here.
    fn look_for_an_older_copy(&mut self, new: bool) -> Result<(), LedgerError> {
        let inside = self.tally()?;
        let beside = self.place.as_ref().and_then(|place| place.counted).unwrap_or_default();
        self.commits = inside.max(beside);
        self.older = !new && beside > inside;
        if self.older {
            tracing::error!(
                ledger = %self.path.display(),
                commits = inside,
                expected = beside,
                "the ledger is an older copy of the one that was here last; what it says of windows, of sizes that are held back \
                 and of ranges to be zeroed is not used before an operator has said what these exports have: nbd-gateway \
                 ledger settle EXPORT"
            );
        }
        Ok(())
    }

    /// Does what a new process does first. It shows whether anything can be written, and makes durable what there is:
    /// the end of the log may be from a process that was killed before its fsync.
    pub(super) fn begin(&mut self) -> Result<(), LedgerError> {
        self.write(&[]).answers.pop().map_or(Ok(()), |answer| answer.map(drop))
    }

    /// Writes changes in one transaction. One that can't be done fails alone; a disk that fails fails all.
    pub(super) fn write(&mut self, changes: &[&Change]) -> Written {
        let before = self.connection.total_changes();
        match self.transact(changes) {
            Ok(answers) => Written { answers, reached: self.connection.total_changes() > before },
            Err(cause) => {
                let fail = |doing: String| Err(LedgerError::sqlite(&self.path, doing, &cause));
                let mut answers: Vec<_> = changes.iter().map(|change| fail(change.to_string())).collect();
                if answers.is_empty() {
                    answers.push(fail("be written".to_owned()));
                }
                Written { answers, reached: false }
            }
        }
    }

    fn transact(&mut self, changes: &[&Change]) -> rusqlite::Result<Vec<Result<i64, LedgerError>>> {
        let before = self.connection.total_changes();
        let mut transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.fresh {
            transaction.execute("UPDATE reservation SET state = 'unsettled'", [])?;
            // Always a write, where the line above may find nothing to change.
            schema::bring_up(&transaction)?;
        }
        if self.older {
            transaction.execute(DOUBT, [])?;
        }
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            let savepoint = transaction.savepoint()?;
            match apply(&savepoint, change, self.history) {
                Ok(number) => {
                    savepoint.commit()?;
                    answers.push(Ok(number));
                }
                Err(Refused::Because(why)) => answers.push(Err(why)),
                // Without a transaction, SQLite has undone all of it.
                Err(Refused::Sqlite(cause)) if savepoint.is_autocommit() => return Err(cause),
                Err(Refused::Sqlite(cause)) => {
                    answers.push(Err(LedgerError::sqlite(&self.path, change.to_string(), &cause)));
                }
            }
        }
        let commits = self.commits.saturating_add(1);
        let counts = self.fresh || transaction.total_changes() > before;
        if counts {
            transaction.execute(COUNT, [i64::try_from(commits).unwrap_or(i64::MAX)])?;
        }
        transaction.commit()?;
        if counts {
            self.commits = commits;
            self.place.iter().for_each(|place| place.count(commits));
        }
        (self.fresh, self.older) = (false, false);
        Ok(answers)
    }

    /// An error about this database.
    pub(super) fn trouble(&self, doing: &str, cause: rusqlite::Error) -> LedgerError {
        trouble(&self.path, doing, cause)
    }

    /// What is written from now on is another process's.
    #[cfg(any(test, feature = "in-memory"))]
    pub(super) const fn restart(&mut self) {
        self.fresh = true;
    }

    /// True until this process has written.
    pub(super) const fn is_fresh(&self) -> bool {
        self.fresh
    }
}

/// Who else may look into the database while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Everybody. The log has an index, 32 KiB in a file beside it, and a disk that was full at the start has no room
    /// for that.
    Readers,
    /// Nobody; the index is in memory.
    Nobody,
}

/// The connection, and whether the database is new.
fn connect(path: &Path, sharing: Sharing) -> Result<(Connection, bool), LedgerError> {
    let fail = |cause| trouble(path, "be opened", cause);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    if sharing == Sharing::Nobody {
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(())).map_err(fail)?;
    }
    let new = schema::prepare(&mut connection, path, "wal")?;
    Ok((connection, new))
}

fn trouble(path: &Path, doing: &str, cause: rusqlite::Error) -> LedgerError {
    LedgerError::sqlite(path, doing.to_owned(), &cause)
}
