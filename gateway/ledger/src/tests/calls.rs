use super::*;

#[tokio::test]
async fn an_empty_ledger_is_made_with_its_directory_and_remembers_nothing() {
    let scratch = Scratch::new();
    let state = scratch.0.join("a/b");
    let (ledger, snapshot) = Ledger::open(&state).unwrap();
    assert_eq!(snapshot, Snapshot::default());
    assert!(ledger.is_up());
    assert_eq!(ledger.events(EventFilter { limit: 9, ..EventFilter::default() }).await.unwrap(), []);
    ledger.close().await;
    assert!(state.join("ledger.sqlite").is_file());
    assert!(!state.join("ledger.sqlite-wal").exists(), "closing leaves one file");
}

#[tokio::test]
async fn a_commit_is_on_the_disk_when_it_returns() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let setting = async |name: &'static str| {
        let read = move |store: &Store| store.connection.pragma_query_value(None, name, |row| row.get(0)).unwrap();
        look::<rusqlite::types::Value>(&ledger, read).await
    };
    assert_eq!(setting("synchronous").await, 2.into(), "FULL");
    assert_eq!(setting("journal_mode").await, "wal".to_owned().into());
}

#[tokio::test]
async fn a_grow_is_held_then_counted_and_all_of_it_outlives_the_process() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    let id = ledger.reserve(grow("vm1", 10, 30)).await.unwrap();
    let held = ledger.snapshot().await.unwrap();
    let reservation = ReservationRow {
        id,
        export: export("vm1"),
        tenant: blue(),
        bytes: Bytes(20),
        from: size(10),
        to: size(30),
        state: State::Reserved,
        created_at: UnixMillis(1_000),
    };
    assert_eq!(held.reservations, [reservation]);
    assert_eq!(owed(&held), [("vm1", 10, 30)]);

    ledger.write(Change::Commit(grown(id, 30))).await.unwrap();
    let event = NewEvent {
        at: UnixMillis(7),
        kind: "grew",
        tenant: Some(blue()),
        export: Some(export("vm1")),
        detail: "{}".to_owned(),
        old_size: Some(size(10)),
        new_size: Some(size(30)),
    };
    ledger.event(event).await.unwrap();
    ledger.close().await;

    let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
    let row = ExportRow { name: export("vm1"), tenant: blue(), known: known(30), in_doubt: false };
    assert_eq!(snapshot, Snapshot { exports: vec![row], ..Snapshot::default() });
    let told = ledger.events(EventFilter { limit: 9, ..EventFilter::default() }).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].id, told[0].at, told[0].kind.as_str(), told[0].detail.as_str()),
        (1, UnixMillis(7), "grew", "{}")
    );
    assert_eq!((told[0].old_size, told[0].new_size), (Some(size(10)), Some(size(30))));
    assert_eq!((told[0].tenant.clone(), told[0].export.clone()), (Some(blue()), Some(export("vm1"))));
}

#[tokio::test]
async fn what_was_reserved_before_a_restart_is_unsettled_and_a_measurement_ends_it() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let old = ledger.reserve(grow("vm1", 10, 30)).await.unwrap();
    ledger.close().await;

    let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
    assert_eq!(snapshot.reservations[0].state, State::Unsettled);
    let new = ledger.reserve(grow("vm2", 30, 40)).await.unwrap();
    assert!(new > old);
    ledger.write(Change::Settle(measured("vm1", 25))).await.unwrap();
    let settled = ledger.snapshot().await.unwrap();
    assert_eq!(settled.reservations.iter().map(|row| row.id).collect::<Vec<_>>(), [new], "another export's stays");
    assert_eq!(owed(&settled), [("vm1", 10, 30), ("vm2", 30, 40)], "what was noted stays until it is cleared");
    assert_eq!(settled.exports[0].known.size, size(25));
}

#[tokio::test]
async fn a_grow_that_zeroes_takes_two_commits() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let before = group::commits(&scratch.0);
    let id = ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
    assert_eq!(owed(&ledger.snapshot().await.unwrap()), [("vm1", 10, 20)], "noted with the reservation");
    ledger.write(Change::Commit(grown(id, 20))).await.unwrap();
    let after = ledger.snapshot().await.unwrap();
    assert_eq!((owed(&after), after.exports[0].known.size), (vec![], size(20)), "cleared with the commit");
    assert_eq!(group::commits(&scratch.0) - before, 2);
}

#[tokio::test]
async fn notes_stay_until_they_are_cleared_with_the_end_of_a_grow_or_later() {
    let ledger = Ledger::in_memory().unwrap();
    let notes = async || ledger.snapshot().await.unwrap();

    let id = ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
    ledger.write(Change::RecordZeroing(note("vm1", range(20, 24)), blue())).await.unwrap();
    assert_eq!(owed(&notes().await), [("vm1", 10, 24)]);
    ledger.write(Change::RollBack { id, unexposed: vec![range(10, 20), range(20, 24)] }).await.unwrap();
    assert_eq!(owed(&notes().await), [], "a grow that was not asked for exposes nothing");

    let id = ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    ledger.write(Change::Unsettle(id)).await.unwrap();
    ledger.write(Change::Settle(measured("vm1", 18))).await.unwrap();
    assert_eq!(owed(&notes().await), [("vm1", 10, 20)], "no size clears what was noted");
    ledger.write(Change::ClearZeroing(note("vm1", range(12, 14)))).await.unwrap();
    assert_eq!(owed(&notes().await), [("vm1", 10, 12), ("vm1", 14, 20)]);
    ledger.write(Change::ClearZeroing(note("vm1", range(0, 99)))).await.unwrap();
    assert_eq!(owed(&notes().await), []);
}

#[tokio::test]
async fn the_same_bytes_noted_twice_are_zeroed_once() {
    let ledger = Ledger::in_memory().unwrap();
    for _ in 0..2 {
        let id = ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
        ledger.write(Change::RollBack { id, unexposed: Vec::new() }).await.unwrap();
    }
    assert_eq!(owed(&ledger.snapshot().await.unwrap()), [("vm1", 10, 20)]);
    ledger.write(Change::ClearZeroing(note("vm1", range(10, 20)))).await.unwrap();
    assert_eq!(owed(&ledger.snapshot().await.unwrap()), []);
}

#[tokio::test]
async fn an_export_may_change_its_tenant() {
    let ledger = Ledger::in_memory().unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    let red = TenantId::new("red").unwrap();
    ledger.write(Change::RecordSize(RecordSize { tenant: red.clone(), ..measured("vm1", 11) })).await.unwrap();
    assert_eq!(ledger.snapshot().await.unwrap().exports[0].tenant, red);
}

#[tokio::test]
async fn a_change_that_can_not_be_is_refused_and_neither_written_nor_told() {
    let ledger = Ledger::in_memory().unwrap();
    let vm1 = export("vm1");
    let id = ledger.reserve(grow("vm1", 10, 20)).await.unwrap();
    let told = || Some(NewEvent { kind: "never", ..NewEvent::default() });
    let unfinished = ledger.write(Change::Forget { export: vm1.clone(), event: told() }).await.unwrap_err();
    assert!(matches!(unfinished, LedgerError::Unfinished { .. }), "{unfinished}");
    ledger.write(Change::RollBack { id, unexposed: vec![range(10, 20)] }).await.unwrap();

    for gone in [
        ledger.write(Change::RollBack { id, unexposed: Vec::new() }).await.unwrap_err(),
        ledger.write(Change::Unsettle(id)).await.unwrap_err(),
        ledger.write(Change::Commit(grown(id, 20))).await.unwrap_err(),
    ] {
        assert_eq!(gone.to_string(), "the ledger has no reservation 1; it is over");
    }
    assert_eq!(ledger.events(EventFilter { limit: 9, ..EventFilter::default() }).await.unwrap(), []);
    assert_eq!(ledger.snapshot().await.unwrap().exports[0].known.size, size(10));
    assert!(ledger.is_up(), "none of it is the disk's fault");
    ledger.write(Change::Forget { export: vm1.clone(), event: None }).await.unwrap();
    ledger.write(Change::Forget { export: vm1.clone(), event: None }).await.unwrap();
    assert_eq!(ledger.snapshot().await.unwrap(), Snapshot::default());
}

#[tokio::test]
async fn events_are_found_by_tenant_export_kind_and_id() {
    let ledger = Ledger::in_memory().unwrap();
    for (kind, tenant, name) in
        [("grew", "blue", "a"), ("shrank", "blue", "b"), ("grew", "red", "a"), ("grew", "blue", "a")]
    {
        let (tenant, export) = (Some(TenantId::new(tenant).unwrap()), Some(export(name)));
        ledger.event(NewEvent { kind, tenant, export, ..NewEvent::default() }).await.unwrap();
    }
    let ids = async |filter| ledger.events(filter).await.unwrap().iter().map(|event| event.id).collect::<Vec<_>>();
    let all = EventFilter { limit: 99, ..EventFilter::default() };
    assert_eq!(ids(all.clone()).await, [1, 2, 3, 4]);
    assert_eq!(ids(EventFilter { limit: 2, ..all.clone() }).await, [3, 4], "the newest");
    assert_eq!(ids(EventFilter { limit: 2, since: Some(1), ..all.clone() }).await, [2, 3], "the next");
    assert_eq!(ids(EventFilter { limit: 0, ..all.clone() }).await, [0; 0]);
    assert_eq!(ids(EventFilter { since: Some(u64::MAX), ..all.clone() }).await, [0; 0]);
    assert_eq!(ids(EventFilter { tenant: Some(blue()), ..all.clone() }).await, [1, 2, 4]);
    assert_eq!(ids(EventFilter { export: Some(export("a")), ..all.clone() }).await, [1, 3, 4]);
    assert_eq!(ids(EventFilter { kind: Some("shrank".to_owned()), ..all.clone() }).await, [2]);
    let narrow = EventFilter { tenant: Some(blue()), export: Some(export("a")), kind: Some("grew".to_owned()), ..all };
    assert_eq!(ids(EventFilter { since: Some(1), ..narrow }).await, [4]);
}

#[tokio::test]
async fn events_are_found_by_time_and_from_the_newest_back() {
    let ledger = Ledger::in_memory().unwrap();
    // The clock was set back after the third.
    for at in [100, 200, 300, 250] {
        ledger.event(NewEvent { kind: "grew", at: UnixMillis(at), ..NewEvent::default() }).await.unwrap();
    }
    let ids = async |filter| ledger.events(filter).await.unwrap().iter().map(|event| event.id).collect::<Vec<_>>();
    let all = EventFilter { limit: 99, ..EventFilter::default() };
    let from = |at| EventFilter { after: Some(UnixMillis(at)), ..all.clone() };
    assert_eq!(ids(from(200)).await, [2, 3, 4], "its own moment is in");
    assert_eq!(ids(EventFilter { before: Some(UnixMillis(300)), ..from(200) }).await, [2, 4], "and the end is not");
    assert_eq!(ids(EventFilter { limit: 1, ..from(260) }).await, [3]);
    assert_eq!(ids(EventFilter { since: Some(2), ..from(0) }).await, [3, 4]);
    assert_eq!(ids(from(u64::MAX)).await, [0; 0]);
    let before = async |filter| ledger.before_newest(filter).await.unwrap();
    assert_eq!(before(all.clone()).await, 0);
    assert_eq!(before(EventFilter { limit: 2, since: Some(4), ..all.clone() }).await, 2);
    assert_eq!(before(EventFilter { limit: 0, ..all.clone() }).await, 4);
    assert_eq!(before(from(260)).await, 2);
    assert_eq!(before(from(1_000)).await, 4, "none");
}

#[tokio::test]
async fn it_is_told_how_far_the_history_goes_until_the_end() {
    let ledger = Ledger::in_memory().unwrap();
    let mut told = ledger.told();
    assert_eq!(*told.borrow_and_update(), 0);
    ledger.event(NewEvent::default()).await.unwrap();
    // Told before who recorded it knows: what is told is on the disk, and nothing later is missed.
    assert_eq!((told.has_changed().unwrap(), *told.borrow_and_update()), (true, 1));
    ledger.write(Change::RecordSize(measured("a", 1))).await.unwrap();
    assert!(!told.has_changed().unwrap(), "no event");
    ledger.write(Change::Forget { export: export("a"), event: Some(NewEvent::default()) }).await.unwrap();
    assert_eq!((told.has_changed().unwrap(), *told.borrow_and_update()), (true, 2));
    ledger.close().await;
    assert!(told.changed().await.is_err());
}

#[tokio::test]
async fn only_the_newest_events_are_kept_and_long_ones_are_cut_between_characters() {
    let mut store = Store::in_memory().unwrap();
    assert_eq!(store.history, 100_000);
    store.history = 3;
    let (ledger, _) = Ledger::start(store, writer::start).unwrap();
    for _ in 0..5 {
        ledger.event(NewEvent { detail: "ü".repeat(8193), ..NewEvent::default() }).await.unwrap();
    }
    let all = ledger.events(EventFilter { limit: u32::MAX, ..EventFilter::default() }).await.unwrap();
    assert_eq!(all.iter().map(|event| event.id).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(all[0].detail, "ü".repeat(8192));
    ledger.event(NewEvent { detail: format!("x{}", "ü".repeat(8192)), ..NewEvent::default() }).await.unwrap();
    let cut = ledger.events(EventFilter { limit: 1, ..EventFilter::default() }).await.unwrap();
    assert_eq!(cut[0].detail, format!("x{}", "ü".repeat(8191)));
}

#[tokio::test]
async fn the_largest_numbers_and_the_longest_names_come_back() {
    let ledger = Ledger::in_memory().unwrap();
    let name = "é".repeat(2048);
    let known = Known { size: Size::MAX, shown: Some(Size::ZERO), generation: u64::MAX, at: UnixMillis(u64::MAX) };
    ledger.write(Change::RecordSize(RecordSize { known, ..measured(&name, 0) })).await.unwrap();
    ledger.write(Change::RecordSize(measured("", 0))).await.unwrap();
    let all = ByteRange::new(Size::ZERO, Size::MAX).unwrap();
    ledger.write(Change::RecordZeroing(note(&name, all), blue())).await.unwrap();
    let snapshot = ledger.snapshot().await.unwrap();
    assert_eq!(snapshot.exports[0].name, export(""));
    assert_eq!(snapshot.exports[1].name, export(&name));
    let most = u64::MAX >> 1;
    assert_eq!(snapshot.exports[1].known, Known { generation: most, at: UnixMillis(most), ..known });
    assert_eq!(snapshot.zeroing, [Zeroing { export: export(&name), range: all }]);
}

#[tokio::test]
async fn an_export_is_given_to_another_tenant_and_one_that_is_not_known_is_not_made() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    ledger.write(Change::RecordSize(measured("vm1", 10))).await.unwrap();
    let red = TenantId::new("red").unwrap();
    ledger.write(Change::Give(vec![(export("vm1"), red.clone()), (export("vm2"), red.clone())])).await.unwrap();
    let rows = ledger.snapshot().await.unwrap().exports;
    assert_eq!(rows.iter().map(|row| (row.name.as_str(), &row.tenant)).collect::<Vec<_>>(), [("vm1", &red)]);
}
