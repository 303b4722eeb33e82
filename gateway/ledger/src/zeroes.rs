//! The table of what is still to be zeroed: a set of bytes per export, each with the grow that exposes it.
//!
//! Owns that set's arithmetic in SQL. A note is never lost to an overlap: rows may overlap, and what is cleared is cut
//! out of all of them.

use nbd_gateway_policy::types::{ByteRange, ExportName, Size};
use rusqlite::{Connection, params};

/// In place of a reservation: the grow is over, the zeroing is not.
pub(super) const OWED: i64 = 0;

pub(super) fn note(sql: &Connection, export: &ExportName, range: ByteRange, owner: i64) -> rusqlite::Result<()> {
    insert(sql, export.as_str(), bytes(range.start()), bytes(range.end()), owner)
}

/// Takes away the notes of one grow.
pub(super) fn drop_of(sql: &Connection, owner: i64) -> rusqlite::Result<()> {
    sql.prepare_cached("DELETE FROM zeroing WHERE reservation = ?1")?.execute([owner])?;
    Ok(())
}

/// Keeps the notes of a grow that is over.
pub(super) fn owe(sql: &Connection, owner: i64) -> rusqlite::Result<()> {
    sql.prepare_cached("UPDATE OR REPLACE zeroing SET reservation = ?2 WHERE reservation = ?1")?
        .execute([owner, OWED])?;
    Ok(())
}

/// Takes a range out of all notes of an export.
pub(super) fn clear(sql: &Connection, export: &ExportName, range: ByteRange) -> rusqlite::Result<()> {
    let (start, end) = (bytes(range.start()), bytes(range.end()));
    let mut touched = sql.prepare_cached(
        "DELETE FROM zeroing WHERE export = ?1 AND offset < ?3 AND offset + length > ?2
         RETURNING offset, offset + length, reservation",
    )?;
    let rows = touched.query_map(params![export.as_str(), start, end], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    })?;
    for (first, last, owner) in rows.collect::<rusqlite::Result<Vec<_>>>()? {
        insert(sql, export.as_str(), first, start, owner)?;
        insert(sql, export.as_str(), end, last, owner)?;
    }
    Ok(())
}

/// Takes away what is owed beyond an end. Notes of grows that are not over stay: their bytes may come yet.
pub(super) fn cut(sql: &Connection, export: &str, end: Size) -> rusqlite::Result<()> {
    let end = bytes(end);
    sql.prepare_cached("DELETE FROM zeroing WHERE export = ?1 AND reservation = ?2 AND offset >= ?3")?
        .execute(params![export, OWED, end])?;
    sql.prepare_cached(
        "UPDATE OR REPLACE zeroing SET length = ?3 - offset
         WHERE export = ?1 AND reservation = ?2 AND offset + length > ?3",
    )?
    .execute(params![export, OWED, end])?;
    Ok(())
}

fn insert(sql: &Connection, export: &str, start: i64, end: i64, owner: i64) -> rusqlite::Result<()> {
    if start < end {
        sql.prepare_cached(
            "INSERT OR IGNORE INTO zeroing (export, offset, length, reservation) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![export, start, end.saturating_sub(start), owner])?;
    }
    Ok(())
}

/// Never more than 2^63-1, by its type.
fn bytes(size: Size) -> i64 {
    i64::try_from(size.bytes()).unwrap_or(i64::MAX)
}
