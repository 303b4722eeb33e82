//! One change, in SQL, inside somebody's transaction. What can't be is refused before anything is written.

use nbd_gateway_policy::types::{ExportName, Size};
use rusqlite::{Connection, OptionalExtension, params};

use super::change::{Change, Commit, RecordSize, Reserve};
use super::zeroes::{self, size};
use super::{Known, LedgerError, Mark, NewEvent, QuotaOrder, ReservationId, Zeroing};

/// What is kept of an event's detail, in bytes.
const DETAIL: usize = 0x4000;

pub(super) enum Refused {
    Sqlite(rusqlite::Error),
    Because(LedgerError),
}

impl From<rusqlite::Error> for Refused {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Sqlite(cause)
    }
}

/// Answers the number of the row that was added, 0 for changes that add none.
pub(super) fn apply(sql: &Connection, change: &Change, history: i64) -> Result<i64, Refused> {
    match change {
        Change::Reserve(reserve) => return hold(sql, reserve),
        Change::Event(event) => return tell(sql, event, history),
        Change::Commit(Commit { id, known, zeroed }) => {
            let export = release(sql, *id)?;
            zeroes::clear(sql, &export, zeroed)?;
            learn(sql, &export, known)?;
        }
        Change::RollBack { id, unexposed } => {
            let export = release(sql, *id)?;
            zeroes::clear(sql, &export, unexposed)?;
        }
        Change::Unsettle(id) => {
            if sql.prepare_cached("UPDATE reservation SET state = 'unsettled' WHERE id = ?1")?.execute([id.0])? == 0 {
                return Err(Refused::Because(LedgerError::NoReservation { id: *id }));
            }
        }
        Change::Settle(record) => {
            sql.prepare_cached("DELETE FROM reservation WHERE export = ?1")?.execute([record.export.as_str()])?;
            record_size(sql, record)?;
        }
        Change::RecordSize(record) => record_size(sql, record)?,
        Change::RecordZeroing(Zeroing { export, range }, tenant) => {
            // What counts ends where the range begins.
            add(sql, export.as_str(), tenant.as_str(), range.start(), 0)?;
            zeroes::note(sql, export, *range)?;
        }
        Change::ClearZeroing(Zeroing { export, range }) => zeroes::clear(sql, export.as_str(), &[*range])?,
        Change::Trust { export, event } => {
            sql.prepare_cached("UPDATE export SET quarantine = NULL, updated_at = ?2 WHERE name = ?1")?
                .execute(params![export.as_str(), signed(event.at.0)])?;
        }
        Change::Give(given) => {
            let mut give = sql.prepare_cached("UPDATE export SET tenant = ?2 WHERE name = ?1 AND tenant <> ?2")?;
            for (export, tenant) in given {
                give.execute([export.as_str(), tenant.as_str()])?;
            }
        }
        Change::Mark(Mark { export, backend, server }) => {
            sql.prepare_cached("INSERT OR REPLACE INTO changed (export, backend, server) VALUES (?1, ?2, ?3)")?
                .execute(params![export.as_str(), backend, server])?;
        }
        Change::Unmark(exports) => {
            let mut unmark = sql.prepare_cached("DELETE FROM changed WHERE export = ?1")?;
            for export in exports {
                unmark.execute([export.as_str()])?;
            }
        }
        Change::Forget { export, .. } => forget(sql, export)?,
        Change::OrderQuota { order, .. } => keep_order(sql, order)?,
        Change::DropQuotaOrder { tenant, .. } => {
            sql.prepare_cached("DELETE FROM quota_order WHERE tenant = ?1")?.execute([tenant.as_str()])?;
        }
    }
    if let Some(event) = change.event() {
        tell(sql, event, history)?;
    }
    Ok(0)
}

/// Adds an export that is new to the ledger.
fn add(sql: &Connection, name: &str, tenant: &str, counted: Size, at: i64) -> rusqlite::Result<()> {
    sql.prepare_cached(
        "INSERT INTO export (name, tenant, size, generation, updated_at) VALUES (?1, ?2, ?3, 0, ?4)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![name, tenant, size(counted), at])?;
    Ok(())
}

fn hold(sql: &Connection, reserve: &Reserve) -> Result<i64, Refused> {
    let Reserve { export, tenant, bytes, from, to, zeroes, at } = reserve;
    let (name, tenant, at) = (export.as_str(), tenant.as_str(), signed(at.0));
    add(sql, name, tenant, *from, at)?;
    if let Some(range) = zeroes {
        zeroes::note(sql, export, *range)?;
    }
    let id = sql
        .prepare_cached(
            "INSERT INTO reservation (export, tenant, bytes, from_size, to_size, state, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'reserved', ?6)",
        )?
        .insert(params![name, tenant, signed(bytes.0), size(*from), size(*to), at])?;
    Ok(id)
}

/// Takes a reservation away and tells its export, as it is in the table.
fn release(sql: &Connection, id: ReservationId) -> Result<String, Refused> {
    sql.prepare_cached("DELETE FROM reservation WHERE id = ?1 RETURNING export")?
        .query_row([id.0], |row| row.get(0))
        .optional()?
        .ok_or(Refused::Because(LedgerError::NoReservation { id }))
}

fn record_size(sql: &Connection, record: &RecordSize) -> Result<(), Refused> {
    let export = record.export.as_str();
    sql.prepare_cached(
        "INSERT INTO export (name, tenant, size, generation, updated_at) VALUES (?1, ?2, 0, 0, 0)
         ON CONFLICT DO UPDATE SET tenant = ?2 WHERE tenant <> ?2",
    )?
    .execute([export, record.tenant.as_str()])?;
    learn(sql, export, &record.known)
}

/// Writes what is known of an export that is there.
fn learn(sql: &Connection, export: &str, known: &Known) -> Result<(), Refused> {
    let Known { size: counted, shown, generation, at } = *known;
    sql.prepare_cached("UPDATE export SET size = ?2, shown = ?3, generation = ?4, updated_at = ?5 WHERE name = ?1")?
        .execute(params![export, size(counted), shown.map(size), signed(generation), signed(at.0)])?;
    Ok(())
}

fn forget(sql: &Connection, export: &ExportName) -> Result<(), Refused> {
    let pending: bool = sql
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM reservation WHERE export = ?1)
                 OR EXISTS (SELECT 1 FROM zeroing WHERE export = ?1)",
        )?
        .query_row([export.as_str()], |row| row.get(0))?;
    if pending {
        return Err(Refused::Because(LedgerError::Unfinished { export: export.clone() }));
    }
    sql.prepare_cached("DELETE FROM export WHERE name = ?1")?.execute([export.as_str()])?;
    Ok(())
}

fn keep_order(sql: &Connection, order: &QuotaOrder) -> Result<(), Refused> {
    let QuotaOrder { tenant, ordered, configured, at } = order;
    sql.prepare_cached(
        "INSERT OR REPLACE INTO quota_order (tenant, quota, soft_quota, configured, configured_soft, ordered_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        tenant.as_str(),
        ordered.quota.map(size),
        ordered.soft.map(size),
        configured.quota.map(size),
        configured.soft.map(size),
        signed(at.0),
    ])?;
    Ok(())
}

fn tell(sql: &Connection, event: &NewEvent, history: i64) -> Result<i64, Refused> {
    let NewEvent { at, kind, tenant, export, detail, old_size, new_size } = event;
    let detail = detail.get(..detail.floor_char_boundary(DETAIL)).unwrap_or_default();
    let id = sql
        .prepare_cached(
            "INSERT INTO event (at, kind, tenant, export, detail, old_size, new_size)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .insert(params![
            signed(at.0),
            kind,
            tenant.as_ref().map(|tenant| tenant.as_str()),
            export.as_ref().map(ExportName::as_str),
            detail,
            old_size.map(size),
            new_size.map(size),
        ])?;
    sql.prepare_cached("DELETE FROM event WHERE id <= ?1")?.execute([id.saturating_sub(history)])?;
    Ok(id)
}

/// SQLite's integers are signed. Only a time or a generation that can't be is saturated.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
