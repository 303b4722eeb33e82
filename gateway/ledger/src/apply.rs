//! One change, in SQL, inside somebody's transaction. What can't be is refused before anything is written.

use nbd_gateway_policy::types::{ExportName, Size};
use rusqlite::{Connection, OptionalExtension, params};

use super::change::{Change, Commit, RecordSize, Reserve, Settle, Zeroes};
use super::zeroes::{self, OWED};
use super::{Known, LedgerError, Mark, NewEvent, QuotaOrder, ReservationId};

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
    let (added, event) = match change {
        Change::Reserve(reserve) => (hold(sql, reserve)?, &reserve.event),
        Change::Commit(commit) => (end(sql, commit)?, &commit.event),
        Change::Rollback { id, event } => {
            release(sql, *id)?;
            zeroes::drop_of(sql, id.0)?;
            (0, event)
        }
        Change::Unsettle { id, event } => {
            let changed =
                sql.prepare_cached("UPDATE reservation SET state = 'unsettled' WHERE id = ?1")?.execute([id.0])?;
            found(changed, *id)?;
            (0, event)
        }
        Change::Settle(settle) => (settle_at(sql, settle)?, &settle.event),
        Change::RecordSize(record) => (record_size(sql, record)?, &record.event),
        Change::RecordZeroing { export, range, of } => {
            let owner = of.map_or(OWED, |id| id.0);
            if let Some(id) = of {
                let known: bool = sql
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM reservation WHERE id = ?1 AND export = ?2)")?
                    .query_row(params![id.0, export.as_str()], |row| row.get(0))?;
                found(usize::from(known), *id)?;
            }
            known(sql, export)?;
            zeroes::note(sql, export, *range, owner)?;
            return Ok(0);
        }
        Change::ClearZeroing { export, range } => {
            zeroes::clear(sql, export, *range)?;
            return Ok(0);
        }
        Change::Quarantine { export, why, at, event } => {
            let changed = sql
                .prepare_cached("UPDATE export SET quarantine = ?2, updated_at = ?3 WHERE name = ?1")?
                .execute(params![export.as_str(), why, signed(at.0)])?;
            exists(changed, export)?;
            (0, event)
        }
        Change::Event(event) => return tell(sql, event, history),
        Change::Give(given) => {
            let mut give = sql.prepare_cached("UPDATE export SET tenant = ?2 WHERE name = ?1 AND tenant <> ?2")?;
            for (export, tenant) in given {
                give.execute([export.as_str(), tenant.as_str()])?;
            }
            return Ok(0);
        }
        Change::Mark(Mark { export, backend, server }) => {
            sql.prepare_cached("INSERT OR REPLACE INTO changed (export, backend, server) VALUES (?1, ?2, ?3)")?
                .execute(params![export.as_str(), backend, server])?;
            return Ok(0);
        }
        Change::Unmark(exports) => {
            let mut unmark = sql.prepare_cached("DELETE FROM changed WHERE export = ?1")?;
            for export in exports {
                unmark.execute([export.as_str()])?;
            }
            return Ok(0);
        }
        Change::Forget { export, event } => (forget(sql, export)?, event),
        Change::OrderQuota { order, event } => (keep_order(sql, order)?, event),
        Change::DropQuotaOrder { tenant, event } => {
            sql.prepare_cached("DELETE FROM quota_order WHERE tenant = ?1")?.execute([tenant.as_str()])?;
            (0, event)
        }
    };
    if let Some(event) = event {
        tell(sql, event, history)?;
    }
    Ok(added)
}

fn hold(sql: &Connection, reserve: &Reserve) -> Result<i64, Refused> {
    let Reserve { export, tenant, bytes, from, to, zeroes, at, .. } = reserve;
    let (name, tenant, at) = (export.as_str(), tenant.as_str(), signed(at.0));
    sql.prepare_cached(
        "INSERT INTO export (name, tenant, size, generation, updated_at) VALUES (?1, ?2, ?3, 0, ?4)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![name, tenant, size(*from), at])?;
    let id = sql
        .prepare_cached(
            "INSERT INTO reservation (export, tenant, bytes, from_size, to_size, state, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'reserved', ?6)",
        )?
        .insert(params![name, tenant, signed(bytes.0), size(*from), size(*to), at])?;
    if let Some(range) = zeroes {
        zeroes::note(sql, export, *range, id)?;
    }
    Ok(id)
}

fn end(sql: &Connection, commit: &Commit) -> Result<i64, Refused> {
    let export = release(sql, commit.id)?;
    match commit.zeroes {
        Zeroes::Done => zeroes::drop_of(sql, commit.id.0)?,
        Zeroes::Owed => zeroes::owe(sql, commit.id.0)?,
    }
    learn(sql, &export, &commit.known)?;
    Ok(0)
}

/// Takes a reservation away and tells its export, as it is in the table.
fn release(sql: &Connection, id: ReservationId) -> Result<String, Refused> {
    sql.prepare_cached("DELETE FROM reservation WHERE id = ?1 RETURNING export")?
        .query_row([id.0], |row| row.get(0))
        .optional()?
        .ok_or(Refused::Because(LedgerError::NoReservation { id }))
}

fn settle_at(sql: &Connection, settle: &Settle) -> Result<i64, Refused> {
    let export = settle.export.as_str();
    known(sql, &settle.export)?;
    let mut unsettled = sql.prepare_cached("SELECT id FROM reservation WHERE export = ?1 AND state = 'unsettled'")?;
    for id in unsettled.query_map([export], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()? {
        zeroes::owe(sql, id)?;
        sql.prepare_cached("DELETE FROM reservation WHERE id = ?1")?.execute([id])?;
    }
    learn(sql, export, &settle.known)?;
    Ok(0)
}

fn record_size(sql: &Connection, record: &RecordSize) -> Result<i64, Refused> {
    let export = record.export.as_str();
    sql.prepare_cached(
        "INSERT INTO export (name, tenant, size, generation, updated_at) VALUES (?1, ?2, 0, 0, 0)
         ON CONFLICT DO UPDATE SET tenant = ?2 WHERE tenant <> ?2",
    )?
    .execute([export, record.tenant.as_str()])?;
    learn(sql, export, &record.known)?;
    Ok(0)
}

/// Writes what is known of an export that is there. Bytes beyond its end are gone, and with them the notes that they are
/// to be zeroed: were the export to grow again, somebody else's data could be there.
fn learn(sql: &Connection, export: &str, known: &Known) -> Result<(), Refused> {
    let Known { size: counted, shown, reach, generation, at } = *known;
    sql.prepare_cached("UPDATE export SET size = ?2, shown = ?3, generation = ?4, updated_at = ?5 WHERE name = ?1")?
        .execute(params![export, size(counted), shown.map(size), signed(generation), signed(at.0)])?;
    let end = counted.max(shown.unwrap_or_default()).max(reach.unwrap_or_default());
    zeroes::cut(sql, export, end)?;
    Ok(())
}

fn forget(sql: &Connection, export: &ExportName) -> Result<i64, Refused> {
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
    Ok(0)
}

fn keep_order(sql: &Connection, order: &QuotaOrder) -> Result<i64, Refused> {
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
    Ok(0)
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

fn known(sql: &Connection, export: &ExportName) -> Result<(), Refused> {
    let there: bool = sql
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM export WHERE name = ?1)")?
        .query_row([export.as_str()], |row| row.get(0))?;
    exists(usize::from(there), export)
}

fn exists(rows: usize, export: &ExportName) -> Result<(), Refused> {
    if rows == 0 { Err(Refused::Because(LedgerError::NoExport { export: export.clone() })) } else { Ok(()) }
}

fn found(rows: usize, id: ReservationId) -> Result<(), Refused> {
    if rows == 0 { Err(Refused::Because(LedgerError::NoReservation { id })) } else { Ok(()) }
}

/// Never more than 2^63-1, by its type.
fn size(size: Size) -> i64 {
    signed(size.bytes())
}

/// SQLite's integers are signed. Only a time or a generation that can't be is saturated.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
