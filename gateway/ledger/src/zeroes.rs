//! The table of what is still to be zeroed: a set of bytes per export.
//!
//! Owns that set's arithmetic in SQL. Rows may overlap; a range that is cleared is cut out of all of them.

use nbd_gateway_policy::types::{ByteRange, ExportName, Size};
use rusqlite::{Connection, params};

pub(super) fn note(sql: &Connection, export: &ExportName, range: ByteRange) -> rusqlite::Result<()> {
    insert(sql, export.as_str(), size(range.start()), size(range.end()))
}

/// Takes ranges out of all notes of an export.
pub(super) fn clear(sql: &Connection, export: &str, ranges: &[ByteRange]) -> rusqlite::Result<()> {
    for range in ranges {
        let (start, end) = (size(range.start()), size(range.end()));
        let mut touched = sql.prepare_cached(
            "DELETE FROM zeroing WHERE export = ?1 AND offset < ?3 AND offset + length > ?2
             RETURNING offset, offset + length",
        )?;
        let rows =
            touched.query_map(params![export, start, end], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        for (first, last) in rows.collect::<rusqlite::Result<Vec<_>>>()? {
            insert(sql, export, first, start)?;
            insert(sql, export, end, last)?;
        }
    }
    Ok(())
}

fn insert(sql: &Connection, export: &str, start: i64, end: i64) -> rusqlite::Result<()> {
    if start < end {
        sql.prepare_cached("INSERT OR IGNORE INTO zeroing (export, offset, length) VALUES (?1, ?2, ?3)")?
            .execute(params![export, start, end.saturating_sub(start)])?;
    }
    Ok(())
}

/// Never more than 2^63-1, by its type.
pub(super) fn size(size: Size) -> i64 {
    i64::try_from(size.bytes()).unwrap_or(i64::MAX)
}
