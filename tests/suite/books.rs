//! Promise: what a tenant has is counted from the start, whatever was killed when, and nothing grows that can't be written
//! down.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::place::Place;
use crate::process::{Call, Running};
use crate::scripted::backend::Backend;
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient, Reply};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;
const DISK: u64 = 8 * MIB;

fn size_of(backend: &Backend) -> u64 {
    backend.story(|story| story.disk.len() as u64)
}

fn tenant(quota: u64) -> String {
    format!("[[tenant]]\nname = \"blue\"\nquota = {quota}\n\n")
}

fn of_blue(name: &str, backend: &str, more: &str) -> String {
    export(name, backend, &format!("tenant = \"blue\"\n{more}"))
}

fn enter(gateway: &Gateway, name: &str) -> Result<(RawClient, u64), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let opened = client.learn(opt::GO, name, &[info::RESIZE])?;
    Ok((client, opened.size))
}

fn resize(client: &mut RawClient, size: u64) -> Result<Reply, Trouble> {
    client.ask(Ask { command: cmd::RESIZE, cookie: 7, offset: size, ..Ask::default() }, &[])
}

/// What the tenant uses, holds and does not know.
fn used(gateway: &Gateway) -> Result<(u64, u64, u64), Trouble> {
    let said = gateway.operator(&["tenants", "--json"])?.run()?.success()?.stdout;
    let tenants: serde_json::Value = serde_json::from_str(&said).map_err(|e| Trouble::new(format!("{e}: {said}")))?;
    let of = |key: &str| tenants[0][key].as_u64().ok_or_else(|| Trouble::new(format!("no {key}: {said}")));
    Ok((of("used")?, of("reserved")?, of("unsettled")?))
}

#[test]
fn an_export_that_nobody_has_opened_yet_counts_at_its_last_size() -> Result<(), Trouble> {
    let (one, two) = (Backend::growing()?, Backend::growing()?);
    let tables = tenant(20 * MIB) + &of_blue("one", &one.uri(), "") + &of_blue("two", &two.uri(), "");
    let mut gateway = Gateway::start(&tables)?;
    let (mut client, _) = enter(&gateway, "one")?;
    resize(&mut client, 12 * MIB)?.success()?;
    let all = (12 * MIB + DISK, 0, 0);
    assert_eq!(used(&gateway)?, all);
    gateway.kill_and_restart()?;
    assert_eq!(used(&gateway)?, all, "forgotten by the restart");
    let (mut other, size) = enter(&gateway, "two")?;
    assert_eq!(size, DISK);
    let refused = resize(&mut other, DISK + MIB)?;
    assert_eq!(refused.error, errno::ENOSPC);
    ensure(refused.message.contains("0 bytes left") || refused.message.contains("left of 20 MiB"), || refused.message)?;
    other.leave()?;
    gateway.end()
}

#[test]
fn a_generation_goes_on_after_a_kill_a_restart_and_a_size_that_another_hand_changed() -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let mut gateway = Gateway::start(&of_blue("disk", &backend.uri(), "").replace("tenant = \"blue\"\n", ""))?;
    let generation = |gateway: &Gateway| gateway.metric("nbd_gateway_export_generation", &[]);
    let (mut client, _) = enter(&gateway, "disk")?;
    for times in 2..4 {
        resize(&mut client, times * DISK)?.success()?;
    }
    assert_eq!(generation(&gateway)?, 2.0);
    gateway.kill_and_restart()?;
    let (mut client, size) = enter(&gateway, "disk")?;
    assert_eq!((size, generation(&gateway)?), (3 * DISK, 2.0), "the same size is the same generation");
    resize(&mut client, 4 * DISK)?.success()?;
    assert_eq!(generation(&gateway)?, 3.0);
    gateway.kill()?;
    backend.meddle(|disk| disk.resize(usize::try_from(5 * DISK).unwrap_or(0), 0));
    gateway.start_again()?;
    let (client, size) = enter(&gateway, "disk")?;
    assert_eq!((size, generation(&gateway)?), (5 * DISK, 4.0), "another size is another generation");
    client.leave()?;
    gateway.end()
}

#[test]
fn a_grow_that_a_kill_left_unknown_counts_until_it_is_measured() -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let tables = tenant(100 * MIB) + &of_blue("disk", &backend.uri(), "");
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, _) = enter(&gateway, "disk")?;
    backend.hold();
    client.send(Ask { command: cmd::RESIZE, cookie: 7, offset: 2 * DISK, ..Ask::default() }, &[])?;
    backend.await_that("the RESIZE", |story| story.count(cmd::RESIZE) == 1)?;
    assert_eq!(used(&gateway)?, (DISK, DISK, 0));
    gateway.kill()?;
    // What the dead one had asked for is done before the next one looks, so that there is one truth to find.
    backend.release();
    backend.await_that("the grow", |story| story.disk.len() as u64 == 2 * DISK)?;
    gateway.start_again()?;
    // It is looked at without a client's asking.
    eventually("it is settled", || used(&gateway).is_ok_and(|used| used.1 == 0 && used.2 == 0))?;
    assert_eq!(used(&gateway)?, (2 * DISK, 0, 0));
    let (mut client, _) = enter(&gateway, "disk")?;
    resize(&mut client, 3 * DISK)?.success()?;
    assert_eq!(used(&gateway)?, (3 * DISK, 0, 0));
    client.leave()?;
    gateway.end()
}

/// Somebody with sqlite3 who has begun to write and does not end.
const BUSY: &str = "
import sqlite3, sys
ledger = sqlite3.connect(sys.argv[1], isolation_level=None)
ledger.execute('BEGIN IMMEDIATE')
print('held', flush=True)
sys.stdin.readline()
ledger.execute('ROLLBACK')
print('free', flush=True)
sys.stdin.readline()
";

#[test]
fn what_cannot_be_written_down_is_not_grown_and_everything_else_goes_on() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let ledger: PathBuf = place.path("state/ledger.sqlite");
    let log = place.path("python");
    let backend = Backend::growing()?;
    let listener = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[admin]\naddress = \"127.0.0.1:0\"\n\n",
        place.path("g").display()
    );
    let mut gateway = Gateway::start_in(place, &(listener + &export("disk", &backend.uri(), "")))?.expecting_errors();
    let (mut client, _) = enter(&gateway, "disk")?;
    let up = |gateway: &Gateway| gateway.metric("nbd_gateway_ledger_up", &[]);
    assert_eq!(up(&gateway)?, 1.0);

    let arguments = [Path::new("-c"), Path::new(BUSY), &ledger];
    let python = Path::new("/usr/bin/python3");
    let mut busy = Running::start_with(python, arguments, log, Stdio::piped(), Stdio::piped())?;
    let mut said = BufReader::new(busy.child().stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure(line == "held\n", || busy.last_words())?;
    let refused = resize(&mut client, 2 * DISK)?;
    assert_eq!((refused.error, refused.message.contains("the ledger can't record it")), (errno::ENOSPC, true));
    assert_eq!(size_of(&backend), DISK, "the backend was asked");
    client.write(0, &[1; 512])?.success()?;
    assert_eq!(client.read(0, 512)?, [1; 512]);
    assert_eq!(up(&gateway)?, 0.0);

    busy.child().stdin.as_mut().expect("a pipe").write_all(b"\n")?;
    line.clear();
    said.read_line(&mut line)?;
    assert_eq!(resize(&mut client, 2 * DISK)?.sizes, [2 * DISK]);
    assert_eq!(up(&gateway)?, 1.0);
    client.leave()?;
    gateway.ask_to_end();
    gateway.await_end()
}

#[test]
fn an_operator_can_read_what_became_of_sizes_with_sqlite() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let ledger = place.path("state/ledger.sqlite");
    let listener = format!("[[listener]]\naddress = \"unix:{}\"\n\n", place.path("g").display());
    let tables =
        listener + "[admin]\naddress = \"off\"\n\n" + &export("own", "memory:", "size = \"1MiB\"\nmax-size = \"4MiB\"");
    let gateway = Gateway::start_in(place, &tables)?;
    let (mut client, _) = enter(&gateway, "own")?;
    resize(&mut client, 2 * MIB)?.success()?;
    assert_eq!(resize(&mut client, 8 * MIB)?.error, errno::ENOSPC);
    client.leave()?;
    gateway.end_with(|| {
        ensure(fs::metadata(&ledger).is_ok(), || "no ledger".into())?;
        let query = "SELECT kind, export, tenant, old_size, new_size FROM event ORDER BY id";
        let script = "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(*row)";
        let said = Call::new("/usr/bin/python3").args(["-c", script]).arg(&ledger).arg(query).run()?.success()?.stdout;
        let grown = 2 * MIB;
        let expected = format!("resized own default {MIB} {grown}\nrefused own default {grown} {grown}\n");
        ensure(said == expected, || format!("{said:?} where {expected:?} was expected"))
    })
}

#[test]
fn an_operator_sees_what_has_become_of_sizes_and_by_whom() -> Result<(), Trouble> {
    let more = "size = \"1MiB\"\nmax-size = \"4MiB\"";
    let tables = tenant(20 * MIB) + &of_blue("a&b", "memory:", more);
    let red = format!("tenant = \"red\"\n{more}");
    let tables = tables + "[[tenant]]\nname = \"red\"\n\n" + &export("other", "memory:", &red);
    let mut gateway = Gateway::start(&tables)?;
    let said = |gateway: &Gateway, words: &[&str]| -> Result<String, Trouble> {
        Ok(gateway.operator(&[&["events"], words].concat())?.run()?.success()?.stdout)
    };
    assert_eq!(said(&gateway, &[])?, "nothing has happened to a size\n");
    let (mut client, _) = enter(&gateway, "a&b")?;
    resize(&mut client, 2 * MIB)?.success()?;
    assert_eq!(resize(&mut client, 8 * MIB)?.error, errno::ENOSPC);
    client.leave()?;
    gateway.order_size("other", 3 * MIB)?;
    // They are written behind what they tell of.
    let numbers = |gateway: &Gateway, words: &[&str]| -> Result<Vec<(String, u64, u64)>, Trouble> {
        let events: Vec<serde_json::Value> = serde_json::from_str(&said(gateway, &[words, &["--json"]].concat())?)?;
        let number = |event: &serde_json::Value, key: &str| event[key].as_u64().unwrap_or(0);
        let kind = |event: &serde_json::Value| event["kind"].as_str().unwrap_or_default().to_owned();
        Ok(events.iter().map(|event| (kind(event), number(event, "old_size"), number(event, "new_size"))).collect())
    };
    eventually("all are told", || numbers(&gateway, &[]).is_ok_and(|events| events.len() == 3))?;
    gateway.kill_and_restart()?;
    let event = |kind: &str, from: u64, to: u64| (kind.to_owned(), from * MIB, to * MIB);
    let all = [event("resized", 1, 2), event("refused", 2, 2), event("resized", 1, 3)];
    assert_eq!(numbers(&gateway, &[])?, all);
    assert_eq!(numbers(&gateway, &["--export", "a&b"])?, all[..2]);
    assert_eq!(numbers(&gateway, &["--tenant", "red"])?, all[2..]);
    assert_eq!(numbers(&gateway, &["--kind", "refused"])?, all[1..2]);
    assert_eq!(numbers(&gateway, &["--limit", "1"])?, all[2..]);
    assert_eq!(numbers(&gateway, &["--export", "other", "--kind", "refused"])?, []);
    let refusals = said(&gateway, &["--kind", "refused"])?;
    for words in [
        "WHEN (UTC)           WHAT     EXPORT  TENANT  FROM    TO  WHY\n",
        "refused  a&b     blue    2MiB  2MiB  a client asks for 8 MiB: ",
        "its max-size is 4 MiB",
    ] {
        ensure(refusals.contains(words), || refusals.clone())?;
    }
    let unknown = gateway.operator(&["events", "--kind", "grown"])?.run()?;
    ensure(unknown.status.code() == Some(1) && unknown.stderr.contains("ask for resized, refused, "), || {
        unknown.stderr
    })?;
    gateway.end()
}

/// It counted as what its server showed, and others got the room that it has taken.
#[test]
fn a_file_that_has_grown_counts_although_its_server_was_not_restarted() -> Result<(), Trouble> {
    let served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let file = served.file().expect("it has one");
    let more = format!("[export.resize]\ndriver = \"restart\"\npath = {file:?}\ncommand = [\"false\"]\n");
    let tables = tenant(20 * MIB) + &of_blue("disk", &served.uri(), &more);
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let (client, size) = enter(&gateway, "disk")?;
    assert_eq!(size, DISK);
    ensure(gateway.order_size("disk", DISK + 4 * MIB).is_err(), || "a restart that failed".into())?;
    assert_eq!(fs::metadata(file)?.len(), DISK + 4 * MIB);
    assert_eq!(used(&gateway)?, (DISK + 4 * MIB, 0, 0));
    client.leave()?;
    gateway.kill_and_restart()?;
    let (client, size) = enter(&gateway, "disk")?;
    assert_eq!((size, used(&gateway)?), (DISK, (DISK + 4 * MIB, 0, 0)));
    client.leave()?;
    gateway.end()
}

#[test]
fn a_ledger_that_is_gone_or_empty_is_told_at_the_start_with_what_that_means_and_a_first_one_is_not()
-> Result<(), Trouble> {
    for empty in [false, true] {
        let mut gateway = Gateway::start(&export("disk", "memory:", "size = \"1MiB\""))?.expecting_warnings();
        let told = |gateway: &Gateway| gateway.whole_log().contains("nothing is remembered");
        gateway.kill_and_restart()?;
        ensure(!told(&gateway), || gateway.log_tail(9))?;
        gateway.kill()?;
        for file in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
            fs::remove_file(gateway.path(&format!("state/{file}")))?;
        }
        if empty {
            fs::write(gateway.path("state/ledger.sqlite"), "")?;
        }
        gateway.start_again()?;
        ensure(told(&gateway), || gateway.log_tail(9))?;
        gateway.end()?;
    }
    Ok(())
}
