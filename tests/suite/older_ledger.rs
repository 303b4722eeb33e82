//! Promise: a copy of the ledger that is older than what was here last zeroes nothing and shows nothing past what it knows
//! before an operator says so, and a ledger that is gone gives nobody more than a quota.

use std::fs;

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient, Reply};
use crate::trouble::{Trouble, ensure};

const KIB: u64 = 1 << 10;
const SHOWN: u64 = 256 * KIB;
/// Past what the copy knows, and no hole of the backend's.
const WRITTEN: u64 = 330 * KIB;
const FILES: [&str; 2] = ["ledger.sqlite", "ledger.sqlite-wal"];

fn window(backend: &Backend) -> Result<Gateway, Trouble> {
    let more = format!("size = {SHOWN}\n[export.resize]\ndriver = \"window\"\nshrink = true\nshrink-grace = \"0s\"\n");
    Ok(Gateway::start(&export("w", &backend.uri(), &more))?.expecting_errors())
}

fn enter(gateway: &Gateway) -> Result<(RawClient, u64), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let opened = client.learn(opt::GO, "w", &[info::RESIZE])?;
    Ok((client, opened.size))
}

fn resize(client: &mut RawClient, size: u64) -> Result<Reply, Trouble> {
    client.ask(Ask { command: cmd::RESIZE, cookie: 7, offset: size, ..Ask::default() }, &[])
}

fn flush(client: &mut RawClient) -> Result<(), Trouble> {
    client.ask(Ask { command: cmd::FLUSH, cookie: 8, ..Ask::default() }, &[])?.success().map(drop)
}

fn operate(gateway: &Gateway, words: &[&str]) -> Result<(), Trouble> {
    gateway.operator(words)?.run()?.success().map(drop)
}

/// Of a gateway that was killed.
fn copy(gateway: &Gateway) -> Result<(), Trouble> {
    for file in FILES {
        fs::copy(gateway.path(&format!("state/{file}")), gateway.path(file))?;
    }
    Ok(())
}

/// Puts the copy back, and has the gateway begin with it.
fn start_with_the_copy(gateway: &mut Gateway) -> Result<(), Trouble> {
    gateway.kill()?;
    fs::remove_file(gateway.path("state/ledger.sqlite-shm"))?;
    for file in FILES {
        fs::copy(gateway.path(file), gateway.path(&format!("state/{file}")))?;
    }
    gateway.start_again()
}

/// What the copy does not know of.
fn grow_and_write(gateway: &Gateway) -> Result<(), Trouble> {
    let (mut client, _) = enter(gateway)?;
    resize(&mut client, 2 * SHOWN)?.success()?;
    client.write(WRITTEN, &[5; 512])?.success()?;
    flush(&mut client)
}

#[test]
fn an_older_copy_of_a_window_shows_no_more_than_it_knows_until_an_operator_says_what_there_is() -> Result<(), Trouble> {
    for answer in ["--keep", "--zero"] {
        let backend = Backend::start(Script::default())?;
        let mut gateway = window(&backend)?;
        let (client, _) = enter(&gateway)?;
        operate(&gateway, &["resize", "w", "256KiB", "--adopt"])?;
        ensure(operate(&gateway, &["ledger", "settle", "w", answer]).is_err(), || "nothing is in doubt".into())?;
        drop(client);
        gateway.kill()?;
        copy(&gateway)?;
        gateway.start_again()?;
        grow_and_write(&gateway)?;

        start_with_the_copy(&mut gateway)?;
        // What was found is written down: the next life does not forget it.
        for _ in 0..2 {
            let (mut client, size) = enter(&gateway)?;
            assert_eq!(size, SHOWN);
            let refused = resize(&mut client, 2 * SHOWN)?;
            assert_eq!((refused.error, refused.message.contains("nbd-gateway ledger settle w")), (errno::EPERM, true));
            ensure(client.read(WRITTEN, 512).is_err(), || "it shows what the copy does not know of".into())?;
            ensure(operate(&gateway, &["resize", "w", "512KiB", "--adopt"]).is_err(), || "it was adopted".into())?;
            drop(client);
            gateway.kill_and_restart()?;
        }
        operate(&gateway, &["ledger", "settle", "w", answer])?;
        let (mut client, size) = enter(&gateway)?;
        assert_eq!(size, SHOWN);
        if answer == "--keep" {
            // Only the operator knows how far it went.
            assert_eq!(resize(&mut client, 2 * SHOWN)?.error, errno::EPERM);
            operate(&gateway, &["resize", "w", "512KiB", "--adopt"])?;
            assert_eq!(client.read(WRITTEN, 512)?, [5; 512], "what the tenant wrote is gone");
        } else {
            resize(&mut client, 2 * SHOWN)?.success()?;
            assert_eq!(client.read(WRITTEN, 512)?, [0; 512], "what is nobody's is shown");
        }
        drop(client);
        gateway.kill_and_restart()?;
        assert_eq!(enter(&gateway)?.1, 2 * SHOWN, "it is settled for good");
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn what_an_older_copy_has_noted_to_be_zeroed_is_zeroed_only_when_an_operator_says_so() -> Result<(), Trouble> {
    for answer in ["--keep", "--zero"] {
        let backend = Backend::start(Script::default())?;
        let mut gateway = window(&backend)?;
        let (mut client, _) = enter(&gateway)?;
        operate(&gateway, &["resize", "w", "256KiB", "--adopt"])?;
        backend.hold();
        client.send(Ask { command: cmd::RESIZE, cookie: 7, offset: 2 * SHOWN, ..Ask::default() }, &[])?;
        backend.await_that("something to be asked of it", |story| {
            story.count(cmd::BLOCK_STATUS) + story.count(cmd::WRITE_ZEROES) > 1
        })?;
        gateway.kill()?;
        copy(&gateway)?;
        backend.release();
        gateway.start_again()?;
        grow_and_write(&gateway)?;

        let there = || backend.story(|story| story.disk.get(330 << 10).copied());
        let zeroed = || backend.story(|story| story.count(cmd::WRITE_ZEROES));
        let before = zeroed();
        start_with_the_copy(&mut gateway)?;
        let (mut client, size) = enter(&gateway)?;
        assert_eq!(size, SHOWN);
        // Refused after whatever an opening does by itself.
        assert_eq!(resize(&mut client, 2 * SHOWN)?.error, errno::EPERM);
        assert_eq!((there(), zeroed()), (Some(5), before), "it was zeroed though nobody has said so");
        drop(client);
        operate(&gateway, &["ledger", "settle", "w", answer])?;
        let (mut client, _) = enter(&gateway)?;
        if answer == "--keep" {
            operate(&gateway, &["resize", "w", "512KiB", "--adopt"])?;
            assert_eq!((there(), client.read(WRITTEN, 512)?), (Some(5), vec![5; 512]), "what the tenant wrote is gone");
        } else {
            resize(&mut client, 2 * SHOWN)?.success()?;
            assert_eq!((there(), client.read(WRITTEN, 512)?), (Some(0), vec![0; 512]), "what is nobody's is shown");
        }
        drop(client);
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn files_of_a_template_count_towards_the_quota_when_the_ledger_is_gone() -> Result<(), Trouble> {
    let tables = "[[tenant]]\nname = \"blue\"\nquota = \"3MiB\"\n\n".to_owned()
        + &export("d/*", "file:disks/{}.img", "tenant = \"blue\"\nsize = \"1MiB\"");
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    for name in ["d/a", "d/b"] {
        RawClient::open(gateway.socket(), name, Framing::Simple)?;
    }
    gateway.kill()?;
    for file in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.lock"] {
        fs::remove_file(gateway.path(&format!("state/{file}")))?;
    }
    gateway.start_again()?;
    let tenants = gateway.operator(&["tenants", "--json"])?.run()?.success()?.stdout;
    ensure(tenants.contains(&format!("\"used\":{}", 2 << 20)), || tenants.clone())?;
    RawClient::open(gateway.socket(), "d/c", Framing::Simple)?;
    ensure(RawClient::open(gateway.socket(), "d/d", Framing::Simple).is_err(), || "more than the quota".into())?;
    gateway.end()
}
