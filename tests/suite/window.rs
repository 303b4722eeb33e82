//! Promise: a window shows part of a disk, grows over what somebody else may have left there without showing it, and goes
//! nowhere when nobody remembers how far it was.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::gateway::{Gateway, binary, export};
use crate::image::{Image, SIZE};
use crate::peer::{Served, nbdkit};
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, Opened, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const KIB: u64 = 1 << 10;
const SHOWN: u64 = 256 * KIB;
const DISK: u64 = SIZE as u64;

/// A window of `size` bytes at first.
fn window(name: &str, backend: &str, size: u64) -> String {
    export(
        name,
        backend,
        &format!("size = {size}\n[export.resize]\ndriver = \"window\"\nshrink = true\nshrink-grace = \"0s\"\n"),
    )
}

fn gateway(served: &Served, size: u64) -> Result<Gateway, Trouble> {
    Gateway::start(&window("w", &served.uri(), size))
}

/// What GO tells, with the bounds of the extension.
fn enter(gateway: &Gateway) -> Result<(RawClient, Opened), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.contexts("w", &["base:allocation"])?;
    let opened = client.learn(opt::GO, "w", &[info::RESIZE])?;
    Ok((client, opened))
}

fn resize(client: &mut RawClient, size: u64) -> Result<crate::scripted::Reply, Trouble> {
    client.ask(Ask { command: cmd::RESIZE, cookie: 7, offset: size, ..Ask::default() }, &[])
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The command line's own word.
fn by_command(gateway: &Gateway, size: &str) -> Result<(), Trouble> {
    let program = binary()?.display().to_string();
    Call::new(&program).args(["client", "resize", &gateway.uri("w"), size]).run()?.success().map(drop)
}

#[test]
fn a_window_over_a_dirty_disk_grows_by_order_only_and_then_shows_zeroes() -> Result<(), Trouble> {
    let image = Image::full(1);
    let served = nbdkit(&[], &["file", "DISK"], &image)?;
    let mut gateway = gateway(&served, SHOWN)?.expecting_warnings();
    let (mut client, opened) = enter(&gateway)?;
    let bounds = opened.resize.ok_or_else(|| Trouble::new("it does not answer NBD_INFO_RESIZE"))?;
    assert_eq!((opened.size, bounds.maximum), (SHOWN, DISK), "it shows its size, and may reach its disk's");
    assert_eq!(client.read(0, SHOWN)?, image.bytes()[..SHOWN as usize]);
    assert_eq!(client.ask(Ask::read(1, SHOWN - 512, 1024), &[])?.error, errno::EINVAL, "a READ past the end");
    // The server's extent goes on to the end of its disk.
    let status = Ask { command: cmd::BLOCK_STATUS, cookie: 2, offset: 4 * KIB, length: 4 * KIB, flags: 0 };
    let told = client.ask(status, &[])?.success()?.extents;
    let covered: u64 = told[0].1.iter().map(|(length, _)| length).sum();
    assert!((4 * KIB..=SHOWN - 4 * KIB).contains(&covered), "extents over {covered} bytes");

    // Nobody knows whose the rest is.
    let refused = resize(&mut client, 2 * SHOWN)?;
    assert_eq!((refused.error, refused.message.contains("nbd-gateway resize w SIZE --adopt")), (errno::EPERM, true));
    gateway.operator(&["resize", "w", "256KiB", "--adopt"])?.run()?.success()?;
    by_command(&gateway, "512KiB")?;
    assert!(all_zero(&client.read(SHOWN, SHOWN)?), "what another left there is shown");
    // By a write: what lies before it is new too.
    client.write(700 * KIB, &[9; 512])?.success()?;
    assert!(all_zero(&client.read(512 * KIB, 188 * KIB)?), "what another left there is shown");
    assert_eq!(client.read(700 * KIB, 512)?, [9; 512]);
    let (last, grown) = enter(&gateway)?;
    assert!(grown.size > 700 * KIB);
    last.leave()?;
    client.leave()?;

    gateway.kill_and_restart()?;
    let (mut client, again) = enter(&gateway)?;
    assert_eq!(again.size, grown.size, "what was shown is shown again");
    assert_eq!(client.read(700 * KIB, 512)?, [9; 512]);
    // What it leaves is another's when it comes back.
    assert_eq!(resize(&mut client, 512 * KIB)?.sizes, [512 * KIB]);
    assert_eq!(resize(&mut client, grown.size)?.sizes, [grown.size]);
    assert!(all_zero(&client.read(512 * KIB, grown.size - 512 * KIB)?), "what it had left came back");
    assert_eq!(resize(&mut client, DISK + 512)?.error, errno::ENOSPC, "more than there is");
    let tenants = gateway.operator(&["tenants", "--json"])?.run()?.success()?.stdout;
    ensure(tenants.contains(&format!("\"used\":{}", grown.size)), || format!("it counts what it shows: {tenants}"))?;
    client.leave()?;
    gateway.end()
}

#[test]
fn a_window_over_holes_grows_without_a_byte_written() -> Result<(), Trouble> {
    let mut image = Image::sparse(2);
    image.put(0, SIZE, 0);
    let served = nbdkit(&[], &["file", "DISK"], &image)?;
    let gateway = gateway(&served, SHOWN)?;
    let blocks = || fs::metadata(served.file().expect("it serves a file")).map(|file| file.blocks());
    let before = blocks()?;
    let (mut client, _) = enter(&gateway)?;
    assert_eq!(resize(&mut client, DISK)?.sizes, [DISK]);
    assert!(all_zero(&client.read(DISK - 512 * KIB, 512 * KIB)?));
    assert_eq!(blocks()?, before, "the file has become larger");
    client.leave()?;
    gateway.end()
}

#[test]
fn a_window_whose_record_is_lost_stays_until_an_operator_says_what_it_was() -> Result<(), Trouble> {
    let mut image = Image::sparse(3);
    image.put(0, SIZE, 0);
    let served = nbdkit(&[], &["file", "DISK"], &image)?;
    let first = gateway(&served, SHOWN)?;
    let (mut client, _) = enter(&first)?;
    resize(&mut client, 2 * SHOWN)?.success()?;
    client.write(2 * SHOWN - 512, &[5; 512])?.success()?;
    client.leave()?;
    first.end()?;

    // Another state directory.
    let second = gateway(&served, SHOWN)?.expecting_warnings();
    let (mut client, opened) = enter(&second)?;
    assert_eq!(opened.size, SHOWN);
    assert_eq!(resize(&mut client, 2 * SHOWN)?.error, errno::EPERM);
    second.operator(&["resize", "w", "512KiB", "--adopt"])?.run()?.success()?;
    assert_eq!(client.read(2 * SHOWN - 512, 512)?, [5; 512], "the tenant's own data is gone");
    resize(&mut client, 3 * SHOWN)?.success()?;
    assert!(all_zero(&client.read(2 * SHOWN, SHOWN)?));
    assert_eq!(client.read(2 * SHOWN - 512, 512)?, [5; 512]);
    client.leave()?;
    second.end()
}

#[test]
fn a_gateway_that_is_killed_while_it_zeroes_shows_the_window_that_was_and_zeroes_again() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let mut gateway = Gateway::start(&window("w", &backend.uri(), SHOWN))?.expecting_warnings();
    let (mut client, _) = enter(&gateway)?;
    gateway.operator(&["resize", "w", "256KiB", "--adopt"])?.run()?.success()?;
    backend.hold();
    client.send(Ask { command: cmd::RESIZE, cookie: 7, offset: 384 * KIB, ..Ask::default() }, &[])?;
    // The map is asked first, or nothing is: it answers when it is let.
    backend.await_that("something to be asked of it", |story| {
        story.count(cmd::BLOCK_STATUS) + story.count(cmd::WRITE_ZEROES) > 1
    })?;
    gateway.kill_and_restart()?;
    backend.release();
    let (mut client, opened) = enter(&gateway)?;
    assert_eq!(opened.size, SHOWN, "a size that nobody was shown");
    assert_eq!(resize(&mut client, 384 * KIB)?.sizes, [384 * KIB]);
    assert!(all_zero(&client.read(SHOWN, 128 * KIB)?), "what another left there is shown");
    client.leave()?;
    gateway.end()
}

#[test]
fn a_disk_that_becomes_larger_behind_a_window_shows_nothing_and_gives_it_room() -> Result<(), Trouble> {
    let served = nbdkit(&[], &["file", "DISK"], &Image::full(4))?;
    let tables = window("w", &served.uri(), DISK).replace("shrink = true", "shrink = true\npoll = \"50ms\"");
    let gateway = Gateway::start(&tables)?;
    let (mut client, opened) = enter(&gateway)?;
    assert_eq!(opened.size, DISK);
    assert_eq!(resize(&mut client, DISK + 512)?.error, errno::ENOSPC);
    let file = served.file().expect("it serves a file");
    fs::OpenOptions::new().write(true).open(file)?.set_len(2 * DISK)?;
    let room = || enter(&gateway).ok().and_then(|(client, opened)| client.leave().ok().map(|()| opened));
    eventually("the room is offered", || {
        room()
            .is_some_and(|opened| opened.size == DISK && opened.resize.is_some_and(|bounds| bounds.maximum == 2 * DISK))
    })?;
    assert_eq!(resize(&mut client, 2 * DISK)?.sizes, [2 * DISK]);
    assert!(all_zero(&client.read(DISK, 1 << 20)?));
    client.leave()?;
    gateway.end()
}

#[test]
fn two_exports_over_one_disk_are_a_problem_when_one_is_a_window() -> Result<(), Trouble> {
    let place = crate::place::Place::fresh()?;
    let uri = "nbd://127.0.0.1:1/disk";
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let tables = format!("{listener}{}{}", export("whole", uri, ""), window("part", uri, SHOWN));
    let config = crate::gateway::configuration(&place, &tables)?;
    let program = binary()?.display().to_string();
    let output = Call::new(&program).args(["check", "--config"]).arg(&config).run()?;
    let said = output.stdout.clone() + &output.stderr;
    ensure(!output.status.success() && said.contains("export[1].backend: this is the backend of export[0] too"), || {
        said
    })
}
