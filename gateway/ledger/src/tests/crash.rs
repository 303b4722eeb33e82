//! The process killed in the middle of what it does. The child is this test program, run again for one test.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Where the child has its ledger.
const STATE: &str = "NBD_GATEWAY_TEST_LEDGER";
/// Exports of the child that grow at once, without end.
const EXPORTS: usize = 4;

#[test]
#[ignore = "the child of `a_process_killed_at_any_moment_has_kept_all_it_was_told_is_kept`: it runs until it is killed"]
fn child_that_grows_until_it_is_killed() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (ledger, _) = Ledger::open(Path::new(&state)).unwrap();
        let (a, b, c, d) =
            (grow_forever(&ledger, 0), grow_forever(&ledger, 1), grow_forever(&ledger, 2), grow_forever(&ledger, 3));
        tokio::join!(a, b, c, d)
    });
}

async fn grow_forever(ledger: &Ledger, number: usize) {
    let name = format!("vm{number}");
    let tell = |what: &str, size: u64| writeln!(std::io::stdout(), "\nack {number} {what} {size}").unwrap();
    for from in 0.. {
        let id = ledger.reserve(grow(&name, from, from + 1)).await.unwrap();
        tell("reserved", from + 1);
        ledger.write(Change::Commit(grown(id, from + 1))).await.unwrap();
        tell("committed", from + 1);
    }
}

/// What the child was told for one export: the sizes that it reserved and committed last.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    reserved: u64,
    committed: u64,
}

/// Runs the child until it has been told so many things.
fn killed_after(count: usize, state: &Path) -> [Told; EXPORTS] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crash::child_that_grows_until_it_is_killed", "--ignored", "--nocapture"])
        .env(STATE, state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = [Told::default(); EXPORTS];
    let mut left = count;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let &["ack", number, what, size] = words.as_slice() else { continue };
        let told = &mut told[number.parse::<usize>().unwrap()];
        match what {
            "reserved" => told.reserved = size.parse().unwrap(),
            _ => told.committed = size.parse().unwrap(),
        }
        left = left.saturating_sub(1);
        if left == 0 {
            // What it still writes, or has in the pipe, is read to the end.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert_eq!(left, 0, "the child ended by itself");
    told
}

#[tokio::test]
async fn a_process_killed_at_any_moment_has_kept_all_it_was_told_is_kept() {
    for count in [1, 2, 5, 30, 101] {
        let scratch = Scratch::new();
        let told = killed_after(count, &scratch.0);
        let (ledger, snapshot) = Ledger::open(&scratch.0).unwrap();
        for (number, told) in told.into_iter().enumerate() {
            let name = export(&format!("vm{number}"));
            let size_now = snapshot.exports.iter().find(|row| row.name == name).map_or(0, |row| row.known.size.bytes());
            let held = snapshot.reservations.iter().filter(|row| row.export == name).collect::<Vec<_>>();
            let why = format!("killed after {count}, {name}: {told:?}, {size_now}, {held:?}");

            // All that was told is there, and at most the one step after it.
            assert!(size_now == told.committed || size_now == told.committed + 1 && told.reserved == size_now, "{why}");
            let reserved = held.first().map_or(size_now, |row| row.to.bytes());
            assert!(reserved == told.reserved || reserved == told.reserved + 1, "{why}");
            // Each step whole: a commit clears its note, a reservation has one.
            let notes: Vec<_> = owed(&snapshot).into_iter().filter(|note| note.0 == name.as_str()).collect();
            let expected: Vec<_> = held.iter().map(|row| (name.as_str(), row.from.bytes(), row.to.bytes())).collect();
            assert_eq!(notes, expected, "{why}");
            assert!(held.iter().all(|row| row.state == State::Unsettled && row.from.bytes() == size_now), "{why}");
            assert!(held.len() <= 1, "{why}");
        }
        ledger.close().await;
    }
}
