//! The tables, made to be read by a person with sqlite3, and the settings that make a commit durable.
//!
//! Write-ahead log with `synchronous = FULL`: a commit is one append to one file and one fsync, and it is on the disk
//! when it returns (with NORMAL it would be after the next checkpoint; a rollback journal takes three fsyncs or more for
//! the same). Readers neither wait nor make anybody wait, so a person may look while the gateway runs.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::LedgerError;

/// In `PRAGMA user_version`. One more with each change of the tables.
const VERSION: i64 = 4;
/// The oldest that [`bring_up`] makes the newest of.
const OLDEST: i64 = 1;
/// In `PRAGMA application_id`, for file(1) and for us: "nbdg".
const APPLICATION: i64 = 0x6e62_6467;
/// How long a commit waits for a person's own transaction.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the log is cut back to after a checkpoint, in bytes.
const LOG: i64 = 0x80_0000;

/// The comments are kept by SQLite: `.schema` shows them.
const TABLES: &str = "
CREATE TABLE export (
    name       TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    size       INTEGER NOT NULL, -- bytes that count against the quota
    shown      INTEGER,          -- bytes that clients see: of a window, or where more is not published yet; null: all
    generation INTEGER NOT NULL,
    quarantine TEXT,             -- why nobody knows what it has; null: what is on record holds
    updated_at INTEGER NOT NULL  -- milliseconds since 1970
) STRICT;
CREATE TABLE reservation (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    export     TEXT NOT NULL REFERENCES export (name),
    tenant     TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    from_size  INTEGER NOT NULL,
    to_size    INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('reserved', 'unsettled')),
    created_at INTEGER NOT NULL  -- milliseconds since 1970
) STRICT;
CREATE INDEX reservation_export ON reservation (export);
CREATE TABLE event (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,   -- milliseconds since 1970
    kind     TEXT NOT NULL,
    tenant   TEXT,
    export   TEXT,
    detail   TEXT NOT NULL,
    old_size INTEGER,
    new_size INTEGER
) STRICT;
CREATE INDEX event_tenant ON event (tenant, id);
CREATE INDEX event_export ON event (export, id);
";

/// What came with version 2.
const ORDERS: &str = "
CREATE TABLE IF NOT EXISTS quota_order (
    tenant          TEXT NOT NULL PRIMARY KEY,
    quota           INTEGER,          -- bytes that an operator ordered; null: no quota
    soft_quota      INTEGER,
    configured      INTEGER,          -- what the configuration said then; the order is void once it says something else
    configured_soft INTEGER,
    ordered_at      INTEGER NOT NULL  -- milliseconds since 1970
) STRICT;
";

/// What came with version 3.
const MARKS: &str = "
CREATE TABLE IF NOT EXISTS changed (
    export  TEXT NOT NULL PRIMARY KEY, -- has changed data since it was opened, and was not closed in order yet
    backend TEXT NOT NULL,             -- where its server listens, and the export's name there
    server  TEXT                       -- the server's process: boot, number, start; null: not known
) STRICT;
";

/// Bytes to zero before anyone sees them. In version 3 each row could name a reservation.
const ZEROING: &str = "
CREATE TABLE IF NOT EXISTS zeroing (
    export TEXT NOT NULL REFERENCES export (name),
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (export, offset, length)
) STRICT, WITHOUT ROWID;
";
const KEEP_ZEROING_OF_3: &str = "ALTER TABLE zeroing RENAME TO zeroing_of_3";
const TAKE_ZEROING_OF_3: &str = "
INSERT OR IGNORE INTO zeroing SELECT export, offset, length FROM zeroing_of_3;
DROP TABLE zeroing_of_3;
";

/// How many commits there have been. An older version of this program does not count its own.
const TALLY: &str = "
CREATE TABLE IF NOT EXISTS tally (
    one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    commits INTEGER NOT NULL
) STRICT;
";

/// Makes a connection ready: its settings, and the tables if the database is new. Whether it is.
pub(super) fn prepare(connection: &mut Connection, path: &Path, journal: &str) -> Result<bool, LedgerError> {
    let version = settle_in(connection, journal).map_err(|cause| sqlite(path, cause))?;
    match version {
        Found::Journal(mode) => Err(LedgerError::Journal { path: path.to_owned(), mode }),
        // What is older is brought up by the first write, which may have to wait for room on the disk.
        Found::Ours(OLDEST..=VERSION) => look_through(connection, path).map(|()| false),
        Found::Ours(found) => Err(LedgerError::Newer { path: path.to_owned(), found, known: VERSION }),
        Found::Foreign => Err(LedgerError::Foreign { path: path.to_owned() }),
        Found::Nothing => create(connection).map(|()| true).map_err(|cause| sqlite(path, cause)),
    }
}

/// Reads every page once, so that a damaged one is found now and not in the middle of a grow. With as many events as are
/// kept (24 MB) it takes a tenth of a second.
fn look_through(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let said: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|cause| sqlite(path, cause))?;
    // Some of it is of several lines.
    let why = said.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    if why == "ok" { Ok(()) } else { Err(LedgerError::Broken { path: path.to_owned(), why }) }
}

enum Found {
    Journal(String),
    Nothing,
    Foreign,
    Ours(i64),
}

fn settle_in(connection: &Connection, journal: &str) -> rusqlite::Result<Found> {
    connection.busy_timeout(PATIENCE)?;
    // Before the journal mode, which writes: what is somebody else's stays as it is.
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let found = match (tables, number("application_id")?) {
        (0, 0) => Found::Nothing,
        (_, APPLICATION) => Found::Ours(number("user_version")?),
        _ => return Ok(Found::Foreign),
    };
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", journal, |row| row.get(0))?;
    if mode != journal {
        return Ok(Found::Journal(mode));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(found)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    bring_up(&transaction)?;
    transaction.commit()
}

/// Brings the tables of an older version up to this one, and writes the version in any case. Part of a transaction.
pub(super) fn bring_up(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let up_to_3 = (OLDEST..=3).contains(&version);
    if up_to_3 {
        connection.execute_batch(KEEP_ZEROING_OF_3)?;
    }
    for tables in [ZEROING, ORDERS, MARKS, TALLY] {
        connection.execute_batch(tables)?;
    }
    if up_to_3 {
        connection.execute_batch(TAKE_ZEROING_OF_3)?;
    }
    connection.pragma_update(None, "user_version", VERSION)
}

fn sqlite(path: &Path, cause: rusqlite::Error) -> LedgerError {
    LedgerError::sqlite(path, "be opened".to_owned(), &cause)
}
