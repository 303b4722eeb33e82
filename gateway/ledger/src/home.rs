//! Whether the ledger's files are still where they were opened.
//!
//! A file that was moved away, removed or replaced goes on taking writes, and nobody finds them at the next start. So
//! device and inode are compared, before each write and whenever somebody asks how the ledger is.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::LedgerError;

/// Device and inode.
type Identity = (u64, u64);

/// The database and its log.
#[derive(Debug)]
pub(super) struct Home {
    /// Those that were there, and which they were. A database in memory has none.
    files: Vec<(PathBuf, Identity)>,
    /// One of them is not where it was.
    lost: AtomicBool,
}

impl Home {
    /// Of a database that is open, and was written.
    pub(super) fn of(database: &Path) -> Self {
        let mut log = OsString::from(database);
        log.push("-wal");
        let there = |path: PathBuf| identity(&path).map(|identity| (path, identity));
        let files = [database.to_owned(), PathBuf::from(log)].into_iter().filter_map(there).collect();
        Self { files, lost: AtomicBool::new(false) }
    }

    /// Tells the log, once, when one of the files is not there any more, and when all are again.
    ///
    /// # Errors
    /// The first that is missing, or another file by now.
    pub(super) fn look(&self) -> Result<(), LedgerError> {
        let lost = self.files.iter().find(|(path, was)| identity(path) != Some(*was));
        let Some((path, _)) = lost else {
            if self.lost.swap(false, Ordering::Relaxed) {
                tracing::info!("the ledger's files are where they were again");
            }
            return Ok(());
        };
        let error = LedgerError::Lost { path: path.clone() };
        if !self.lost.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the ledger can't be written; nothing grows until it can");
        }
        Err(error)
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
