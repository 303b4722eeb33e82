use std::fs;
use std::time::Duration;

use rusqlite::Connection;

use super::*;

/// Sets how many pages the database may have, and tells how many it has.
async fn most_pages(ledger: &Ledger, most: impl Fn(i64) -> i64 + Send + 'static) {
    let set = move |store: &Store| {
        let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        store.connection.pragma_update_and_check(None, "max_page_count", most(pages), |_| Ok(())).unwrap();
    };
    look(ledger, set).await;
}

fn open_error(state: &Path) -> LedgerError {
    Ledger::open(state).map(|_| "opened").unwrap_err()
}

#[tokio::test]
async fn a_full_disk_fails_growth_with_the_reason_and_nothing_else_until_there_is_room() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let kept = ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
    most_pages(&ledger, |pages| pages).await;

    let mut reserved = 1;
    let error = loop {
        match ledger.reserve(grow(&"x".repeat(1000), 0, 8)).await {
            Ok(_) => reserved += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LedgerError::Database { .. }));
    let text = error.to_string();
    assert!(text.contains("ledger.sqlite can't reserve 8 bytes for export `xxx"), "{text}");
    assert!(text.contains("full; free space on its disk"), "{text}");
    assert!(!ledger.is_up());
    assert!(!ledger.clone().is_up(), "a clone is the same ledger");

    let snapshot = ledger.snapshot().await.unwrap();
    assert_eq!(snapshot.reservations.len(), reserved, "what failed left nothing, what succeeded is there");
    assert!(ledger.reserve(grow(&"x".repeat(1000), 0, 8)).await.is_err());
    assert_eq!(ledger.snapshot().await.unwrap(), snapshot);
    ledger.write(Change::Forget { export: export("unknown"), event: None }).await.unwrap();
    assert!(!ledger.is_up(), "what changes nothing proves nothing");
    ledger.write(Change::RollBack { id: kept, unexposed: Vec::new() }).await.unwrap();
    assert!(ledger.is_up(), "what needs no room is written");

    while ledger.reserve(grow(&"x".repeat(1000), 0, 8)).await.is_ok() {}
    assert!(!ledger.is_up());
    most_pages(&ledger, |pages| pages + 100).await;
    ledger.reserve(grow("vm2", 0, 8)).await.unwrap();
    assert!(ledger.is_up());
    let before = ledger.snapshot().await.unwrap();
    ledger.close().await;
    let (_, after) = Ledger::open(&scratch.0).unwrap();
    assert_eq!((after.exports, after.zeroing), (before.exports, before.zeroing));
}

#[tokio::test]
async fn a_ledger_that_can_not_be_written_at_the_start_is_read_and_tried_again() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
    ledger.close().await;

    let store = Store::open(&scratch.0).unwrap();
    store.connection.pragma_update(None, "query_only", true).unwrap();
    let (ledger, snapshot) = Ledger::start(store, writer::start).unwrap();
    assert!(!ledger.is_up());
    assert_eq!(snapshot.reservations[0].state, State::Unsettled);
    let error = ledger.reserve(grow("vm2", 0, 8)).await.unwrap_err().to_string();
    assert!(error.contains("make it, its directory and the files beside it writable"), "{error}");
    assert_eq!(ledger.snapshot().await.unwrap(), snapshot);

    look(&ledger, |store| store.connection.pragma_update(None, "query_only", false).unwrap()).await;
    ledger.write(Change::Settle(measured("vm1", 20))).await.unwrap();
    assert!(ledger.is_up());
    assert_eq!(ledger.snapshot().await.unwrap().reservations, []);
}

#[tokio::test]
async fn without_room_for_the_index_of_the_log_the_ledger_works_alone() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    ledger.close().await;
    // Whatever keeps that file from being made: a full disk can't be had everywhere.
    std::os::unix::fs::symlink("ledger.sqlite-shm", scratch.0.join("ledger.sqlite-shm")).unwrap();
    let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
    assert_eq!(snapshot.exports[0].known, known(10));
    ledger.write(Change::RecordSize(measured("vm1", 11))).await.unwrap();
    assert!(ledger.is_up());
    let crashed = Scratch::of_a_crash(&scratch.0);
    assert_eq!(Ledger::open(&crashed.0).unwrap().1.exports[0].known, known(11));
}

#[tokio::test]
async fn one_process_has_the_ledger_and_the_next_is_told_which() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let error = open_error(&scratch.0);
    assert!(matches!(&error, LedgerError::InUse { by: Some(pid), .. } if *pid == std::process::id()), "{error}");
    let text = error.to_string();
    assert!(text.contains("ledger.sqlite is in use by process "), "{text}");
    assert!(text.contains("stop that gateway, or give this one another `state` directory"), "{text}");
    // Somebody takes it for one that a crash has left.
    std::fs::remove_file(scratch.0.join("ledger.lock")).unwrap();
    let error = open_error(&scratch.0);
    assert!(matches!(&error, LedgerError::InUse { by: None, .. }), "{error}");
    ledger.close().await;
    Ledger::open(&scratch.0).unwrap();
}

#[tokio::test]
async fn a_person_reads_and_even_writes_while_the_gateway_runs() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    let person = Connection::open(scratch.0.join("ledger.sqlite")).unwrap();
    let read = |sql: &str| person.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(read("SELECT size FROM export WHERE name = 'vm1'"), 10);
    person.execute_batch("BEGIN").unwrap();
    assert_eq!(read("SELECT size FROM export WHERE name = 'vm1'"), 10);
    ledger.write(Change::RecordSize(measured("vm1", 11))).await.unwrap();
    person.execute_batch("COMMIT; BEGIN IMMEDIATE; UPDATE export SET size = size + 1").unwrap();
    look(&ledger, |store| store.connection.busy_timeout(Duration::ZERO).unwrap()).await;
    let error = ledger.write(Change::RecordSize(measured("vm2", 1))).await.unwrap_err().to_string();
    assert!(error.contains("end the program that holds a lock on it"), "{error}");
    assert!(!ledger.is_up());
    person.execute_batch("COMMIT").unwrap();
    ledger.write(Change::RecordSize(measured("vm2", 1))).await.unwrap();
    assert!(ledger.is_up());
    assert_eq!(ledger.snapshot().await.unwrap().exports[0].known.size, size(12));
}

#[test]
fn a_directory_that_can_not_be_used_is_named_with_what_to_do() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    fs::write(&file, "").unwrap();
    for state in [file.join("state"), file, PathBuf::from("/proc")] {
        let error = open_error(&state);
        assert!(matches!(error, LedgerError::Place { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(state.to_str().unwrap()), "{text}");
        assert!(text.ends_with("; give a `state` directory that this user can write to"), "{text}");
    }
    let database = scratch.0.join("ledger.sqlite");
    fs::create_dir(&database).unwrap();
    let text = open_error(&scratch.0).to_string();
    assert!(text.contains("ledger.sqlite can't be opened: ") && text.contains("writable to this user"), "{text}");
}

#[test]
fn a_file_that_is_not_a_ledger_of_this_program_is_left_alone() {
    let scratch = Scratch::new();
    let database = scratch.0.join("ledger.sqlite");
    let connection = Connection::open(&database).unwrap();
    connection.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(connection);
    let before = fs::read(&database).unwrap();
    let error = open_error(&scratch.0);
    assert!(matches!(error, LedgerError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&database).unwrap(), before);

    fs::write(&database, "no database at all, but long enough to look at".repeat(100)).unwrap();
    let text = open_error(&scratch.0).to_string();
    assert!(text.contains("file is not a database; move it away, or restore a copy"), "{text}");
}

#[tokio::test]
async fn a_ledger_of_a_newer_program_is_refused() {
    let scratch = Scratch::new();
    Ledger::open(&scratch.0).unwrap().0.close().await;
    Connection::open(scratch.0.join("ledger.sqlite")).unwrap().pragma_update(None, "user_version", 5).unwrap();
    let text = open_error(&scratch.0).to_string();
    assert!(text.contains("has version 5, this program knows versions up to 4; run the newer program"), "{text}");
}

/// As version 1 left it: no tables of orders and marks.
fn make_older(scratch: &Scratch) {
    let older = Connection::open(scratch.0.join("ledger.sqlite")).unwrap();
    older.execute_batch("DROP TABLE quota_order; DROP TABLE changed; VACUUM; PRAGMA user_version = 1").unwrap();
}

#[tokio::test]
async fn a_ledger_of_an_older_program_is_brought_up_and_keeps_what_it_has() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    ledger.close().await;
    make_older(&scratch);
    let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
    assert_eq!((snapshot.exports[0].known, snapshot.orders.len()), (known(10), 0));
    let order = order("blue", Some(20), None);
    ledger.write(Change::OrderQuota { order: order.clone(), event: NewEvent::default() }).await.unwrap();
    ledger.close().await;
    let version: i64 = Connection::open(scratch.0.join("ledger.sqlite"))
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 4);
    assert_eq!(Ledger::open(&scratch.0).unwrap().1.orders, [order]);
}

/// What a ledger of version 3 has, which could name a reservation with each range to be zeroed.
#[tokio::test]
async fn a_ledger_of_version_3_keeps_its_sizes_its_reservations_and_what_is_to_be_zeroed() {
    let scratch = Scratch::new();
    let file = scratch.0.join("ledger.sqlite");
    Connection::open(&file).unwrap().execute_batch(include_str!("version3.sql")).unwrap();
    let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
    let sizes: Vec<_> =
        snapshot.exports.iter().map(|row| (row.name.as_str(), row.known.size, row.known.shown)).collect();
    assert_eq!(sizes, [("vm1", size(3 << 20), None), ("w", size(4096), Some(size(4096)))]);
    assert_eq!(owed(&snapshot), [("w", 4096, 8192), ("w", 16384, 16896)]);
    assert_eq!(snapshot.reservations[0].state, State::Unsettled);
    assert_eq!(ledger.events(EventFilter { limit: 9, ..EventFilter::default() }).await.unwrap().len(), 2);
    let written = ledger.reserve(grow("w", 8192, 16384)).await.unwrap();
    assert!(written > snapshot.reservations[0].id);
    ledger.write(Change::ClearZeroing(note("w", range(4096, 16384)))).await.unwrap();
    ledger.close().await;
    let person = Connection::open(&file).unwrap();
    let tables = "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'table' AND name LIKE 'zeroing%'";
    assert_eq!(person.query_row(tables, [], |row| row.get::<_, String>(0)).unwrap(), "zeroing");
    drop(person);
    let (_, again) = Ledger::open(&scratch.0).unwrap();
    assert_eq!(owed(&again), [("w", 16384, 16896)]);
    assert_eq!(again.exports, snapshot.exports);
}

/// What can't be written can be read, also where it is older.
#[tokio::test]
async fn a_ledger_of_an_older_program_on_a_disk_that_is_full_is_read_all_the_same() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    ledger.close().await;
    make_older(&scratch);
    let mut store = Store::open(&scratch.0).unwrap();
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    assert!(store.begin().unwrap_err().is_trouble());
    let snapshot = store.snapshot().unwrap();
    assert_eq!((snapshot.exports[0].known, snapshot.orders.len()), (known(10), 0));
}

#[test]
fn a_filesystem_without_a_write_ahead_log_is_refused() {
    let mut connection = Connection::open_in_memory().unwrap();
    let error = schema::prepare(&mut connection, Path::new("x"), "wal").unwrap_err();
    assert!(error.to_string().contains("journal mode `memory` there; put `state` on a local disk"), "{error}");
}

#[tokio::test]
async fn a_row_that_can_not_be_is_named() {
    let scratch = Scratch::new();
    Ledger::open(&scratch.0).unwrap().0.close().await;
    let damage = |sql: &str| Connection::open(scratch.0.join("ledger.sqlite")).unwrap().execute_batch(sql).unwrap();
    damage("INSERT INTO export VALUES ('vm1', 'blue', -5, NULL, 1, NULL, 0)");
    let error = open_error(&scratch.0);
    assert!(matches!(error, LedgerError::Damaged { table: "export", .. }), "{error}");
    assert!(error.to_string().contains("column `size`: -5 is out of range; stop the gateway"), "{error}");
    damage("UPDATE export SET size = 5, tenant = ''");
    assert!(open_error(&scratch.0).to_string().contains("column `tenant`: the name is empty"));
    damage("UPDATE export SET tenant = 'blue'; INSERT INTO zeroing VALUES ('vm1', 4, 0)");
    assert!(open_error(&scratch.0).to_string().contains("column `length`: it is empty"));
    damage("UPDATE zeroing SET length = 9223372036854775807");
    assert!(open_error(&scratch.0).to_string().contains("9223372036854775811 is out of range"));
    damage("DELETE FROM zeroing");
    assert_eq!(Ledger::open(&scratch.0).unwrap().1.exports[0].known.size, size(5));
}

/// SQLite reads a page when it needs it: what was damaged in the history used to be found by the first who asked for that.
#[tokio::test]
async fn a_damaged_page_is_found_at_the_start_and_refused_with_what_to_do() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    for _ in 0..100 {
        let detail = "x".repeat(1000);
        let event = NewEvent { at: UnixMillis(1), kind: "resized", detail, ..NewEvent::default() };
        ledger.event(event).await.unwrap();
    }
    ledger.close().await;
    let database = scratch.0.join("ledger.sqlite");
    let mut bytes = fs::read(&database).unwrap();
    let whole = bytes.clone();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 64].fill(0xff);
    fs::write(&database, &bytes).unwrap();
    let error = open_error(&scratch.0);
    assert!(matches!(error, LedgerError::Broken { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("ledger.sqlite is damaged: ") && text.contains("; restore a copy, or move it"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    fs::write(&database, whole).unwrap();
    Ledger::open(&scratch.0).unwrap();
}

/// Of what a person did to it, and of no first start.
#[tokio::test]
async fn a_place_that_was_used_before_is_known_from_one_that_is_new() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.0.join("lost+found")).unwrap();
    let used = || place::Place::take(&scratch.0).unwrap().used;
    assert!(!used());
    assert!(used());
    fs::remove_file(scratch.0.join("ledger.lock")).unwrap();
    assert!(!used());
    fs::remove_file(scratch.0.join("ledger.lock")).unwrap();
    fs::write(scratch.0.join("ledger.sqlite"), "").unwrap();
    assert!(used());
}

#[tokio::test]
async fn a_closed_ledger_says_so() {
    let ledger = Ledger::in_memory().unwrap();
    let clone = ledger.clone();
    ledger.close().await;
    ledger.close().await;
    assert!(!clone.is_up());
    let error = clone.write(Change::RecordSize(measured("vm1", 1))).await.unwrap_err();
    assert_eq!(error.to_string(), "the ledger (in memory) is closed");
    assert!(matches!(clone.snapshot().await, Err(LedgerError::Closed { .. })));
}

#[tokio::test]
async fn other_users_read_nothing_of_a_new_ledger_and_no_more_of_an_old_one() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let scratch = Scratch::new();
    let modes = || {
        let files = fs::read_dir(&scratch.0).unwrap().map(|file| file.unwrap().metadata().unwrap());
        files.map(|about| about.mode() & 0o777).collect::<Vec<_>>()
    };
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    assert!(modes().len() >= 3 && modes().iter().all(|mode| *mode == 0o600), "{:?}", modes());
    ledger.close().await;
    drop(ledger);
    for file in fs::read_dir(&scratch.0).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let _ledger = Ledger::open(&scratch.0).unwrap();
    assert!(modes().iter().all(|mode| mode & 0o007 == 0), "{:?}", modes());
}

#[test]
fn a_directory_without_write_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere; /proc, above, is the directory that even root can't write to.
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o555)).unwrap();
    assert!(matches!(open_error(&scratch.0), LedgerError::Place { doing: "open the lock file", .. }));
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
}

/// It went on into a file without a name, and all of it was forgotten at the next start.
#[tokio::test]
async fn a_file_that_was_moved_away_or_replaced_takes_no_more_until_it_is_back() {
    for file in ["ledger.sqlite", "ledger.sqlite-wal"] {
        let scratch = Scratch::new();
        let (ledger, _) = Ledger::open(&scratch.0).unwrap();
        let record = |bytes| RecordSize {
            export: export("a"),
            tenant: TenantId::default(),
            known: Known { size: size(bytes), ..Known::default() },
        };
        ledger.write(Change::RecordSize(record(1))).await.unwrap();
        let (path, aside) = (scratch.0.join(file), scratch.0.join("aside"));
        fs::rename(&path, &aside).unwrap();
        assert!(!ledger.is_up(), "{file}");
        let error = ledger.write(Change::RecordSize(record(2))).await.unwrap_err();
        assert!(error.is_trouble() && error.to_string().contains(file), "{error}");
        fs::copy(&aside, &path).unwrap();
        ledger.write(Change::RecordSize(record(2))).await.unwrap_err();
        fs::rename(&aside, &path).unwrap();
        assert!(ledger.is_up());
        ledger.write(Change::RecordSize(record(3))).await.unwrap();
        ledger.close().await;
        let (_, snapshot) = Ledger::open(&scratch.0).unwrap();
        assert_eq!(snapshot.exports[0].known.size, size(3));
    }
}

/// A copy's notes of what is to be zeroed would zero what clients have written since, and its windows hide what they showed.
#[tokio::test]
async fn an_older_copy_is_known_by_its_count_and_what_it_says_of_windows_and_zeroes_is_in_doubt() {
    let scratch = Scratch::new();
    let record = |name: &str, bytes, shown| RecordSize {
        export: export(name),
        tenant: TenantId::default(),
        known: Known { size: size(bytes), shown, ..Known::default() },
    };
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(record("plain", 8, None))).await.unwrap();
    ledger.write(Change::RecordSize(record("window", 4, Some(size(4))))).await.unwrap();
    ledger.write(Change::RecordSize(record("grown", 8, None))).await.unwrap();
    ledger.write(Change::RecordZeroing(note("grown", range(4, 8)), blue())).await.unwrap();
    ledger.close().await;
    let doubtful = |snapshot: &Snapshot| -> Vec<String> {
        let doubtful = snapshot.exports.iter().filter(|row| row.in_doubt);
        doubtful.map(|row| row.name.as_str().to_owned()).collect()
    };
    let copy = scratch.0.join("copy");
    fs::copy(scratch.0.join("ledger.sqlite"), &copy).unwrap();
    let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
    assert!(doubtful(&snapshot).is_empty(), "it is the one that was here last");
    ledger.write(Change::RecordSize(record("window", 6, Some(size(6))))).await.unwrap();
    ledger.close().await;
    fs::copy(&copy, scratch.0.join("ledger.sqlite")).unwrap();
    for _ in 0..2 {
        let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
        assert_eq!(doubtful(&snapshot), ["grown", "window"], "until somebody says otherwise");
        ledger.close().await;
    }
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::Trust { export: export("window"), event: NewEvent::default() }).await.unwrap();
    ledger.close().await;
    // A count that is behind accuses nobody, nor does one that is gone.
    for lock in ["1\n00000000000000000000\n", "1\n", ""] {
        fs::write(scratch.0.join("ledger.lock"), lock).unwrap();
        let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
        assert_eq!(doubtful(&snapshot), ["grown"]);
        ledger.close().await;
    }
}
