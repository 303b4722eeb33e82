//! Where the ledger is: the state directory, and the lock that makes one process its only writer.
//!
//! The lock is a file of its own. SQLite takes locks on the database (POSIX ones, which end when any descriptor of
//! the file is closed), and those have to stay free for a person who looks into it with sqlite3 while the gateway runs.
//! The directory is locked too: a lock file looks like one that may be removed, and then the next process makes its own.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LedgerError;

/// The database, in the state directory.
pub const DATABASE: &str = "ledger.sqlite";
/// Locked while a process has the ledger; its number is in it, and how many commits there have been.
const LOCK: &str = "ledger.lock";

/// The mode of new files.
const PRIVATE: u32 = 0o600;
/// What other users may do with a file.
const STRANGERS: u32 = 0o007;

/// A state directory that is this process's until the value is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) database: PathBuf,
    /// How many commits the last process that was here had counted; none: it did not say.
    pub(super) counted: Option<u64>,
    /// A gateway has been here before, or something else has made the database's file.
    pub(super) used: bool,
    lock: File,
    directory: File,
}

impl Place {
    /// Creates the directory if need be, and takes the lock.
    pub(super) fn take(state: &Path) -> Result<Self, LedgerError> {
        let at = |path: &Path, doing| {
            let path = path.to_owned();
            move |cause| LedgerError::Place { path, doing, cause: Arc::new(cause) }
        };
        create(state).map_err(at(state, "create the state directory"))?;
        // Absolute: to SQLite, a name that begins with `file:` is a URI.
        let state = fs::canonicalize(state).map_err(at(state, "find the state directory"))?;
        let (database, lock) = (state.join(DATABASE), state.join(LOCK));
        let used = lock.exists() || database.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(&lock)
            .map_err(at(&lock, "open the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let by = written(&lock, 0);
                return Err(LedgerError::InUse { path: database, by });
            }
            Err(TryLockError::Error(cause)) => return Err(at(&lock, "lock")(cause)),
        }
        let directory = File::open(&state).map_err(at(&state, "open the state directory"))?;
        match directory.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse { path: database, by: None }),
            // Not every file system locks directories; then the file has to do.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let counted = written(&lock, 1);
        let place = Self { database, counted, used, lock: file, directory };
        place.count(counted.unwrap_or_default());
        Ok(place)
    }

    /// Notes how many commits there have been, beside the database: an older copy of that has fewer. Not synced: a count that is
    /// behind finds less and accuses nobody. So a full disk is no reason to stop either.
    pub(super) fn count(&self, commits: u64) {
        let _ = self.lock.write_all_at(format!("{:<10}\n{commits:020}\n", std::process::id()).as_bytes(), 0);
    }
}

impl Drop for Place {
    /// A child process that is just being started has the descriptors until it executes its program, and by them the locks.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
        let _ = self.directory.unlock();
    }
}

/// The number in a line of the lock file.
fn written<T: std::str::FromStr>(lock: &Path, line: usize) -> Option<T> {
    fs::read_to_string(lock).ok()?.lines().nth(line)?.trim().parse().ok()
}

/// Names, sizes and quotas of all tenants are in the ledger: its owner alone reads a new one (SQLite gives the files beside
/// it the same mode), and one of an older program is closed to strangers. What can't be done here is found when it is opened.
pub(super) fn make_private(database: &Path) {
    let _ = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(database);
    let beside = ["-wal", "-shm"].map(|end| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    });
    for file in beside.iter().map(PathBuf::as_path).chain([database, &database.with_file_name(LOCK)]) {
        if let Ok(about) = fs::metadata(file)
            && about.mode() & STRANGERS != 0
        {
            let _ = fs::set_permissions(file, Permissions::from_mode(about.mode() & !STRANGERS));
        }
    }
}

/// Creates a directory and those above it, each durably: SQLite syncs only the one that holds its files.
fn create(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(Path::new(""));
    create(parent)?;
    match DirBuilder::new().mode(0o750).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        outcome => outcome?,
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Scratch;

    #[test]
    fn a_ledger_that_was_let_go_is_free_while_a_child_process_still_has_its_descriptors() {
        let scratch = Scratch::new();
        let place = Place::take(&scratch.0).unwrap();
        let inherited = (place.lock.try_clone().unwrap(), place.directory.try_clone().unwrap());
        drop(place);
        Place::take(&scratch.0).unwrap();
        drop(inherited);
    }
}
