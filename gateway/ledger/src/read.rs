//! Rows into values. A row that can't be is an error that names it: a person may have written it.

use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};
use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};

use super::store::Store;
use super::{
    Event, EventFilter, ExportRow, Known, LedgerError, Mark, QuotaOrder, Quotas, ReservationId, ReservationRow,
    Snapshot, State, UnixMillis, Zeroing,
};

/// One row of one table.
struct Reading<'a> {
    store: &'a Store,
    table: &'static str,
    row: &'a Row<'a>,
}

impl Store {
    pub(super) fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        let exports = self.rows(
            "export",
            "SELECT name, tenant, size, shown, generation, quarantine, updated_at FROM export ORDER BY name",
            &[],
            |row| {
                Ok(ExportRow {
                    name: row.export(0)?,
                    tenant: row.tenant(1)?,
                    known: Known {
                        size: row.size(2)?,
                        shown: row.optional(3, Reading::size)?,
                        generation: row.number(4)?,
                        at: UnixMillis(row.number(6)?),
                    },
                    // Of an older copy that can't be written now, all of them.
                    in_doubt: self.older || row.raw::<Option<String>>(5)?.is_some(),
                })
            },
        )?;
        let reservations = self.rows(
            "reservation",
            "SELECT id, export, tenant, bytes, from_size, to_size, state, created_at FROM reservation ORDER BY id",
            &[],
            |row| {
                let reserved = row.raw::<String>(6)? == "reserved";
                Ok(ReservationRow {
                    id: ReservationId(row.raw(0)?),
                    export: row.export(1)?,
                    tenant: row.tenant(2)?,
                    bytes: Bytes(row.number(3)?),
                    from: row.size(4)?,
                    to: row.size(5)?,
                    // Those of an earlier process are unsettled, be it in the table or not.
                    state: if reserved && !self.is_fresh() { State::Reserved } else { State::Unsettled },
                    created_at: UnixMillis(row.number(7)?),
                })
            },
        )?;
        let zeroing =
            self.rows("zeroing", "SELECT export, offset, length FROM zeroing ORDER BY export, offset", &[], |row| {
                let (start, length) = (row.size(1)?, row.number(2)?);
                let end = row.fits(2, start.bytes().saturating_add(length), Size::new)?;
                let range = ByteRange::new(start, end).ok_or_else(|| row.damaged(2, "it is empty"))?;
                Ok(Zeroing { export: row.export(0)?, range })
            })?;
        Ok(Snapshot { exports, zeroing: merged(zeroing), reservations, orders: self.orders()?, marks: self.marks()? })
    }

    fn marks(&self) -> Result<Vec<Mark>, LedgerError> {
        if !self.has("changed")? {
            return Ok(Vec::new());
        }
        self.rows("changed", "SELECT export, backend, server FROM changed ORDER BY export", &[], |row| {
            Ok(Mark { export: row.export(0)?, backend: row.raw(1)?, server: row.raw(2)? })
        })
    }

    fn orders(&self) -> Result<Vec<QuotaOrder>, LedgerError> {
        // An older ledger gets the table with the first write, and that may have to wait for room on its disk.
        if !self.has("quota_order")? {
            return Ok(Vec::new());
        }
        self.rows(
            "quota_order",
            "SELECT tenant, quota, soft_quota, configured, configured_soft, ordered_at FROM quota_order ORDER BY tenant",
            &[],
            |row| {
                let size = |column| row.optional(column, Reading::size);
                Ok(QuotaOrder {
                    tenant: row.tenant(0)?,
                    ordered: Quotas { quota: size(1)?, soft: size(2)? },
                    configured: Quotas { quota: size(3)?, soft: size(4)? },
                    at: UnixMillis(row.number(5)?),
                })
            },
        )
    }

    /// How many commits the database counts.
    pub(super) fn tally(&self) -> Result<u64, LedgerError> {
        if !self.has("tally")? {
            return Ok(0);
        }
        let commits = "SELECT coalesce((SELECT commits FROM tally), 0)";
        let read = self.connection.query_row(commits, [], |row| row.get::<_, i64>(0));
        read.map(i64::unsigned_abs).map_err(|cause| self.trouble("read how many commits there were", cause))
    }

    fn has(&self, table: &str) -> Result<bool, LedgerError> {
        let tables = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
        let found = self.connection.query_row(tables, [table], |row| row.get(0));
        found.map_err(|cause| self.trouble("read what tables there are", cause))
    }

    pub(super) fn events(&self, filter: &EventFilter) -> Result<Vec<Event>, LedgerError> {
        let (conditions, mut values) = conditions(filter);
        let newest_first = filter.since.is_none();
        let order = if newest_first { "id DESC" } else { "id" };
        let columns = "id, at, kind, tenant, export, detail, old_size, new_size";
        let sql = format!("SELECT {columns} FROM event WHERE true{conditions} ORDER BY {order} LIMIT ?");
        values.push(Value::Integer(filter.limit.min(EventFilter::MOST).into()));
        let mut events = self.rows("event", &sql, &values, |row| {
            Ok(Event {
                id: row.number(0)?,
                at: UnixMillis(row.number(1)?),
                kind: row.raw(2)?,
                tenant: row.optional(3, Reading::tenant)?,
                export: row.optional(4, Reading::export)?,
                detail: row.raw(5)?,
                old_size: row.optional(6, Reading::size)?,
                new_size: row.optional(7, Reading::size)?,
            })
        })?;
        if newest_first {
            events.reverse();
        }
        Ok(events)
    }

    pub(super) fn before_newest(&self, filter: &EventFilter) -> Result<u64, LedgerError> {
        let (conditions, mut values) = conditions(filter);
        let newest = format!("SELECT id FROM event WHERE true{conditions} ORDER BY id DESC LIMIT ?");
        let sql = format!("SELECT coalesce((SELECT min(id) - 1 FROM ({newest})), (SELECT max(id) FROM event), 0)");
        values.push(Value::Integer(filter.limit.min(EventFilter::MOST).into()));
        let found = self.rows("event", &sql, &values, |row| row.number(0))?;
        Ok(found.first().copied().unwrap_or(0))
    }

    /// The number of the newest event; 0: there is none.
    pub(super) fn newest(&self) -> Result<u64, LedgerError> {
        let found = self.rows("event", "SELECT coalesce(max(id), 0) FROM event", &[], |row| row.number(0))?;
        Ok(found.first().copied().unwrap_or(0))
    }

    fn rows<T>(
        &self,
        table: &'static str,
        sql: &str,
        values: &[Value],
        build: impl Fn(Reading<'_>) -> Result<T, LedgerError>,
    ) -> Result<Vec<T>, LedgerError> {
        let fail = |cause| self.trouble(&format!("read table `{table}`"), cause);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let mut rows = statement.query(params_from_iter(values)).map_err(fail)?;
        let mut built = Vec::new();
        while let Some(row) = rows.next().map_err(fail)? {
            built.push(build(Reading { store: self, table, row })?);
        }
        Ok(built)
    }
}

impl Reading<'_> {
    fn raw<T: rusqlite::types::FromSql>(&self, column: usize) -> Result<T, LedgerError> {
        self.row.get(column).map_err(|cause| self.store.trouble(&format!("read table `{}`", self.table), cause))
    }

    fn number(&self, column: usize) -> Result<u64, LedgerError> {
        self.fits(column, self.raw::<i64>(column)?, u64::try_from)
    }

    fn size(&self, column: usize) -> Result<Size, LedgerError> {
        self.fits(column, self.number(column)?, Size::new)
    }

    fn export(&self, column: usize) -> Result<ExportName, LedgerError> {
        ExportName::new(&self.raw::<String>(column)?).map_err(|why| self.damaged(column, &why.to_string()))
    }

    fn tenant(&self, column: usize) -> Result<TenantId, LedgerError> {
        TenantId::new(&self.raw::<String>(column)?).map_err(|why| self.damaged(column, &why.to_string()))
    }

    fn optional<T>(
        &self,
        column: usize,
        read: impl Fn(&Self, usize) -> Result<T, LedgerError>,
    ) -> Result<Option<T>, LedgerError> {
        let null = matches!(self.raw::<Value>(column)?, Value::Null);
        if null { Ok(None) } else { read(self, column).map(Some) }
    }

    fn fits<N: Copy + std::fmt::Display, T, E>(
        &self,
        column: usize,
        number: N,
        fit: impl Fn(N) -> Result<T, E>,
    ) -> Result<T, LedgerError> {
        fit(number).map_err(|_| self.damaged(column, &format!("{number} is out of range")))
    }

    fn damaged(&self, column: usize, why: &str) -> LedgerError {
        let column = self.row.as_ref().column_name(column).unwrap_or("?").to_owned();
        let path = self.store.path.clone();
        LedgerError::Damaged { path, table: self.table, why: format!("column `{column}`: {why}") }
    }
}

/// What stands behind `WHERE true`, and its values. The history is short and in the order of time but for a clock that was
/// set: what no index narrows down is looked through.
fn conditions(filter: &EventFilter) -> (String, Vec<Value>) {
    let (mut sql, mut values) = (String::new(), Vec::new());
    let mut only = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(value);
        }
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    only(" AND tenant = ?", filter.tenant.as_ref().map(|tenant| text(tenant.as_str())));
    only(" AND export = ?", filter.export.as_ref().map(|export| text(export.as_str())));
    only(" AND kind = ?", filter.kind.as_deref().map(text));
    only(" AND at >= ?", filter.after.map(|at| number(at.0)));
    only(" AND at < ?", filter.before.map(|at| number(at.0)));
    only(" AND id > ?", filter.since.map(number));
    (sql, values)
}

/// Joins ranges that overlap or touch. They come ordered by export and offset.
fn merged(notes: Vec<Zeroing>) -> Vec<Zeroing> {
    let mut joined: Vec<Zeroing> = Vec::with_capacity(notes.len());
    for note in notes {
        if let Some(last) = joined.last_mut()
            && last.export == note.export
            && note.range.start() <= last.range.end()
        {
            last.range = last.range.cover(note.range);
        } else {
            joined.push(note);
        }
    }
    joined
}
