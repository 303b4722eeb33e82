use std::fs;
use std::sync::mpsc as std_mpsc;

use tokio::task::JoinSet;

use super::*;

/// Stops the ledger's thread until the sender is dropped.
async fn gate(ledger: &Ledger) -> std_mpsc::Sender<()> {
    let (gate, closed) = std_mpsc::channel::<()>();
    let (entered, enters) = oneshot::channel();
    let (reply, _) = oneshot::channel::<()>();
    let wait = move |_: &Store| {
        entered.send(()).unwrap();
        let _ = closed.recv();
        drop(reply);
    };
    ledger.requests.send(Request::Read(Query::Inspect(Look(Box::new(wait))))).await.unwrap();
    enters.await.unwrap();
    gate
}

/// How many commits are in the log: frames that say how large the database is.
pub(super) fn commits(state: &Path) -> usize {
    let log = fs::read(state.join("ledger.sqlite-wal")).unwrap();
    log[32..].chunks_exact(24 + 4096).filter(|frame| frame[4..8] != [0; 4]).count()
}

fn many(ledger: &Ledger, count: usize) -> JoinSet<Result<ReservationId, LedgerError>> {
    let one = |number: usize| {
        let ledger = ledger.clone();
        async move { ledger.reserve(grow(&format!("vm{number}"), 0, 8)).await }
    };
    (0..count).map(one).collect()
}

#[tokio::test]
async fn requests_that_wait_together_share_one_commit() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let before = commits(&scratch.0);
    let gate = gate(&ledger).await;
    let empty = ledger.requests.capacity();
    let mut growing = many(&ledger, 100);
    while ledger.requests.capacity() > empty - 100 {
        tokio::task::yield_now().await;
    }
    drop(gate);
    while let Some(reserved) = growing.join_next().await {
        reserved.unwrap().unwrap();
    }
    assert_eq!(commits(&scratch.0) - before, 1);
    ledger.write(Change::RecordSize(measured("vm1", 1))).await.unwrap();
    assert_eq!(commits(&scratch.0) - before, 2);
    assert_eq!(ledger.snapshot().await.unwrap().reservations.len(), 100);
}

#[tokio::test]
async fn each_start_writes_so_that_what_it_read_is_on_the_disk() {
    let scratch = Scratch::new();
    Ledger::open(&scratch.0).unwrap().0.close().await;
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    assert_eq!(commits(&scratch.0), 1);
    ledger.close().await;
}

#[tokio::test]
async fn one_that_can_not_be_fails_alone_among_those_that_share_its_commit() {
    let (ledger, _) = Ledger::start(Store::in_memory().unwrap(), writer::start).unwrap();
    let gate = gate(&ledger).await;
    let good = ledger.write(Change::RecordSize(measured("vm1", 1)));
    let bad = ledger.write(Change::RollBack { id: ReservationId(77), unexposed: Vec::new() });
    let late = ledger.write(Change::RecordSize(measured("vm2", 2)));
    let open = async { drop(gate) };
    let (good, bad, late, ()) = tokio::join!(good, bad, late, open);
    assert!(matches!(bad, Err(LedgerError::NoReservation { .. })));
    good.unwrap();
    late.unwrap();
    assert_eq!(ledger.snapshot().await.unwrap().exports.len(), 2);
}

#[tokio::test]
async fn more_than_the_queue_holds_waits_with_its_senders_and_is_served() {
    let (ledger, _) = Ledger::start(Store::in_memory().unwrap(), writer::start).unwrap();
    let gate = gate(&ledger).await;
    let room = ledger.requests.capacity();
    let mut growing = many(&ledger, room + 50);
    while ledger.requests.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(growing.try_join_next().is_none());
    drop(gate);
    let mut served = 0;
    while let Some(reserved) = growing.join_next().await {
        reserved.unwrap().unwrap();
        served += 1;
    }
    assert_eq!(served, room + 50);
}

#[tokio::test]
async fn what_was_asked_before_a_close_is_written_and_a_dropped_future_undoes_nothing() {
    let scratch = Scratch::new();
    let (ledger, _) = Ledger::open(&scratch.0).unwrap();
    let gate = gate(&ledger).await;
    let before = ledger.requests.capacity();
    let mut given_up = many(&ledger, 1);
    while ledger.requests.capacity() == before {
        tokio::task::yield_now().await;
    }
    given_up.shutdown().await;
    let closing = ledger.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    drop(gate);
    closing.await.unwrap();
    let (_, snapshot) = Ledger::open(&scratch.0).unwrap();
    assert_eq!(snapshot.reservations.len(), 1);
}
