//! Why the ledger can't do something: which file, what was being done, the cause, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nbd_gateway_policy::types::ExportName;
use rusqlite::ErrorCode;

use super::ReservationId;

/// Why something could not be read or written. Cloning shares the cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state directory, or a file in it.
    #[error("can't {doing} {}: {cause}; give a `state` directory that this user can write to", path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// A verb.
        doing: &'static str,
        /// What the system said.
        cause: Arc<io::Error>,
    },
    /// The system has no thread left.
    #[error("the ledger {} can't have its thread: {cause}; raise the limit of tasks", path.display())]
    Thread {
        /// The database.
        path: PathBuf,
        /// What the system said.
        cause: Arc<io::Error>,
    },
    /// Another process has it.
    #[error(
        "the ledger {} is in use{}; stop that gateway, or give this one another `state` directory",
        path.display(),
        by.as_ref().map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    InUse {
        /// The database.
        path: PathBuf,
        /// The process, if it says.
        by: Option<u32>,
    },
    /// A later version of this program wrote it.
    #[error(
        "the ledger {} has version {found}, this program knows versions up to {known}; run the newer program, or give \
         another `state` directory",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// A database of something else.
    #[error("{} is a database, but not a ledger of this program; move it away", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// A filesystem on which SQLite has no write-ahead log.
    #[error(
        "the ledger {} needs a write-ahead log, SQLite gives it the journal mode `{mode}` there; put `state` on a \
         local disk",
        path.display()
    )]
    Journal {
        /// The database.
        path: PathBuf,
        /// What there is instead.
        mode: String,
    },
    /// The database, or the disk below it.
    #[error("the ledger {} can't {doing}: {cause}; {advice}", path.display())]
    Database {
        /// Where it is.
        path: PathBuf,
        /// A verb and what it was about.
        doing: String,
        /// What it said.
        cause: Arc<str>,
        /// What a person can do.
        advice: &'static str,
    },
    /// A file that was moved, removed or replaced while the ledger was open.
    #[error(
        "{} is not the ledger's file any more: it was moved, removed or replaced; what is written now would be gone after the \
         next start; put it back, or restart the gateway to go on with what is there",
        path.display()
    )]
    Lost {
        /// Which.
        path: PathBuf,
    },
    /// A file of which a part is not what SQLite wrote.
    #[error(
        "the ledger {} is damaged: {why}; restore a copy, or move it and the files beside it away: then exports count when \
         they are measured, and what operators ordered, sizes that are held back and what has to be zeroed is forgotten",
        path.display()
    )]
    Broken {
        /// The database.
        path: PathBuf,
        /// What SQLite says of it.
        why: String,
    },
    /// A row that this program did not write.
    #[error(
        "the ledger {} has a row in table `{table}` that can't be: {why}; stop the gateway and correct it with sqlite3, \
         or restore a copy",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// The column, its value, and what is wrong with it.
        why: String,
    },
    /// A reservation that is over, or of another ledger.
    #[error("the ledger has no reservation {}; it is over", .id.0)]
    NoReservation {
        /// Its number.
        id: ReservationId,
    },
    /// An export that can't be forgotten yet.
    #[error("export `{export}` has a grow that is not over, or bytes to zero; settle it before it is forgotten")]
    Unfinished {
        /// Its name.
        export: ExportName,
    },
    /// After [`super::Ledger::close`].
    #[error("the ledger {} is closed", path.display())]
    Closed {
        /// The database.
        path: PathBuf,
    },
}

impl LedgerError {
    pub(super) fn sqlite(path: &Path, doing: String, cause: &rusqlite::Error) -> Self {
        Self::Database { path: path.to_owned(), doing, cause: cause.to_string().into(), advice: advice(cause) }
    }

    /// The disk or the database, not what was asked: nothing can be written now, and it may be tried again later.
    #[must_use]
    pub(crate) const fn is_trouble(&self) -> bool {
        matches!(self, Self::Database { .. } | Self::Lost { .. })
    }
}

fn advice(cause: &rusqlite::Error) -> &'static str {
    match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "free space on its disk; it is tried again with the next request",
        Some(ErrorCode::SystemIoFailure) => "look at its disk; it is tried again with the next request",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "make it, its directory and the files beside it writable to this user"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "end the program that holds a lock on it",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "move it away, or restore a copy",
        _ => "see what SQLite says of it",
    }
}
