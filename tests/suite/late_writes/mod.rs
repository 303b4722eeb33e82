//! Promise: a write that a server goes on with after its connection was lost lands over nothing that was written later,
//! whatever cut the connection, and whatever became of the gateway.

mod cable;
mod fences;
mod slow;

use std::path::Path;
use std::time::{Duration, Instant};

use cable::Cable;
use slow::Slow;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::place::Place;
use crate::process::{Running, installed};
use crate::scripted::numbers::{cmd, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const OLD: [u8; 512] = [0x0d; 512];
const NEW: [u8; 512] = [0xee; 512];

/// Longer than any test takes: who waits for it fails.
const LONG: &str = "late-write-guard = \"10m\"\non-backend-loss = { hold = \"30s\", durable = true }\n";

fn at(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

fn open(gateway: &Gateway) -> Result<RawClient, Trouble> {
    RawClient::open(gateway.socket(), "vm", Framing::Structured).map(|(client, _)| client)
}

fn send_write(client: &mut RawClient, cookie: u64, data: &[u8; 512]) -> Result<(), Trouble> {
    client.send(Ask { command: cmd::WRITE, cookie, offset: 0, length: 512, flags: 0 }, data)
}

/// A cable to the server at `far`, and a gateway at its near end; `more` are the export's other keys.
fn wired(far: &Path, more: &str) -> Result<(Cable, Gateway), Trouble> {
    let cable = Cable::to(far)?;
    let gateway = Gateway::start(&export("vm", &at(&cable.near()), more))?.expecting_warnings();
    Ok((cable, gateway))
}

/// A client that has sent [`OLD`], which the server now has and lands only when the test says so.
fn send_held(gateway: &Gateway, slow: &Slow) -> Result<RawClient, Trouble> {
    let mut client = open(gateway)?;
    send_write(&mut client, 1, &OLD)?;
    slow.await_first()?;
    Ok(client)
}

fn waited(since: Instant, seconds: u64) -> Result<(), Trouble> {
    ensure(since.elapsed() >= Duration::from_secs(seconds), || "it did not wait".into())
}

/// What the client reads and what is on the disk.
fn is_new(client: &mut RawClient, slow: &Slow) -> Result<(), Trouble> {
    assert_eq!((client.read(0, 512)?, slow.disk()?), (NEW.to_vec(), NEW.to_vec()));
    Ok(())
}

fn flush(client: &mut RawClient) -> Result<(), Trouble> {
    client.ask(Ask { command: cmd::FLUSH, cookie: 99, ..Ask::default() }, &[])?.success().map(drop)
}

/// Whether a server answers a READ while it still has a write that takes long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Answered,
    /// By a qemu-nbd whose disk is itself on an NBD server: it keeps the bytes that it was sent until that write is answered,
    /// also where neither a gateway nor a lost connection is involved (seen with 10.0.2). It answers writes.
    Stuck,
}

/// The client writes over its own write, which was sent again and answered; then the first copy lands.
fn cut_before(far: &Path, slow: &Slow, reads: Reads) -> Result<(), Trouble> {
    let more = "late-write-guard = \"3s\"\non-backend-loss = { hold = \"30s\", durable = true }";
    let (cable, gateway) = wired(far, more)?;
    let mut client = send_held(&gateway, slow)?;
    let lost = Instant::now();
    cable.cut();
    // The same bytes may be sent again at once, and read.
    assert_eq!((client.reply()?.success()?.cookie, slow.disk()?), (1, OLD.to_vec()));
    if reads == Reads::Answered {
        assert_eq!(client.read(0, 512)?, OLD);
    }
    send_write(&mut client, 2, &NEW)?;
    // What does not overlap goes its way, and shows that the one before it was looked at.
    client.write(4096, &NEW)?.success()?;
    if reads == Reads::Answered {
        assert_eq!(client.read(0, 512)?, OLD);
    }
    assert_eq!(slow.disk()?, OLD);
    slow.land()?;
    assert_eq!(client.reply()?.success()?.cookie, 2);
    waited(lost, 3)?;
    flush(&mut client)?;
    is_new(&mut client, slow)?;
    gateway.end()
}

#[test]
fn what_nbdkit_lands_after_a_cut_is_written_over() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    cut_before(&slow.served.socket, &slow, Reads::Answered)
}

#[test]
fn what_qemu_nbd_lands_after_a_cut_is_written_over() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let place = Place::fresh()?;
    let socket = place.path("s");
    let words =
        ["-t", "-e", "16", "-f", "raw", "-k", socket.to_str().expect("a path of the suite's"), &slow.served.uri()];
    let mut process = Running::start(&installed("qemu-nbd")?, words, place.path("log"))?;
    process.await_ready("its socket", || socket.exists())?;
    cut_before(&socket, &slow, Reads::Stuck)
}

/// Nobody told the client what became of its write: a READ that showed the old bytes would be wrong a moment later.
#[test]
fn after_a_write_that_failed_a_read_waits_until_it_can_not_land_any_more() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let more = "late-write-guard = \"3s\"\non-backend-loss = \"error\"";
    let (cable, gateway) = wired(&slow.served.socket, more)?;
    let mut client = send_held(&gateway, &slow)?;
    let lost = Instant::now();
    cable.cut();
    assert_eq!(client.reply()?.error, errno::EIO);
    eventually("it is back", || client.ask(Ask::read(2, 4096, 512), &[]).is_ok_and(|reply| reply.error == 0))?;
    client.send(Ask::read(3, 0, 512), &[])?;
    slow.land()?;
    assert_eq!(client.reply()?.success()?.data, OLD);
    waited(lost, 3)?;
    gateway.end()
}

#[test]
fn a_server_that_died_is_over_its_writes_and_nobody_waits() -> Result<(), Trouble> {
    let mut served = nbdkit(&["--filter=delay"], &["file", "DISK", "wdelay=1"], &Image::sparse(1))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), LONG))?.expecting_warnings();
    let mut client = open(&gateway)?;
    send_write(&mut client, 1, &OLD)?;
    eventually("it is on its way", || {
        gateway.metric("nbd_gateway_in_flight_requests", &["vm"]).is_ok_and(|n| n == 1.0)
    })?;
    served.kill()?;
    served.start_again()?;
    client.reply()?.success()?;
    client.write(0, &NEW)?.success()?;
    assert_eq!(client.read(0, 512)?, NEW);
    gateway.end()
}

#[test]
fn a_guard_of_zero_holds_nothing_back() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let more = "late-write-guard = \"0s\"\non-backend-loss = { hold = \"30s\", durable = true }";
    let (cable, gateway) = wired(&slow.served.socket, more)?;
    let mut client = send_held(&gateway, &slow)?;
    cable.cut();
    client.reply()?.success()?;
    client.write(0, &NEW)?.success()?;
    assert_eq!(client.read(0, 512)?, NEW);
    // That is what an operator answers for who says so.
    slow.land()?;
    assert_eq!(slow.disk()?, OLD);
    gateway.end()
}

/// Nobody is left who knows of the write, but for the ledger's mark.
#[test]
fn after_a_crash_of_the_gateway_writes_wait_until_what_was_in_flight_can_not_land_any_more() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let more = "late-write-guard = \"3s\"";
    let mut gateway = Gateway::start(&export("vm", &slow.served.uri(), more))?.expecting_warnings();
    let _client = send_held(&gateway, &slow)?;
    let lost = Instant::now();
    gateway.kill_and_restart()?;
    let mut client = open(&gateway)?;
    assert_eq!(client.read(0, 512)?, [0; 512], "a READ need not wait");
    send_write(&mut client, 2, &NEW)?;
    client.read(4096, 512)?;
    slow.land()?;
    client.reply()?.success()?;
    waited(lost, 3)?;
    flush(&mut client)?;
    is_new(&mut client, &slow)?;
    gateway.end()
}

#[test]
fn after_an_end_in_order_nothing_waits_and_after_a_crash_with_the_server_neither() -> Result<(), Trouble> {
    let mut served = nbdkit(&[], &["file", "DISK"], &Image::sparse(1))?;
    let mut gateway = Gateway::start(&export("vm", &served.uri(), LONG))?.expecting_warnings();
    open(&gateway)?.write(0, &OLD)?.success()?;
    gateway.ask_to_end();
    gateway.await_end()?;
    gateway.start_again()?;
    open(&gateway)?.write(0, &NEW)?.success()?;
    gateway.kill()?;
    served.kill()?;
    served.start_again()?;
    gateway.start_again()?;
    let mut client = open(&gateway)?;
    client.write(0, &OLD)?.success()?;
    assert_eq!(client.read(0, 512)?, OLD);
    gateway.end()
}

/// One that only read before the crash has nothing in flight.
#[test]
fn after_a_crash_an_export_that_changed_nothing_waits_for_nothing() -> Result<(), Trouble> {
    let served = nbdkit(&[], &["file", "DISK"], &Image::sparse(1))?;
    let mut gateway = Gateway::start(&export("vm", &served.uri(), LONG))?.expecting_warnings();
    open(&gateway)?.read(0, 512)?;
    gateway.kill_and_restart()?;
    open(&gateway)?.write(0, &NEW)?.success()?;
    gateway.end()
}

/// The export was closed while its server still had a write; whoever opens it again has to wait too.
#[test]
fn an_export_that_was_closed_meanwhile_remembers() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let more = "late-write-guard = \"5s\"\non-backend-loss = \"error\"\nidle-timeout = \"0s\"";
    let (cable, gateway) = wired(&slow.served.socket, more)?;
    let mut client = send_held(&gateway, &slow)?;
    let lost = Instant::now();
    cable.cut();
    assert_eq!(client.reply()?.error, errno::EIO);
    client.leave()?;
    eventually("it is closed", || gateway.metric("nbd_gateway_export_open", &["vm"]).is_ok_and(|open| open == 0.0))?;
    let mut client = open(&gateway)?;
    send_write(&mut client, 2, &NEW)?;
    client.read(4096, 512)?;
    slow.land()?;
    client.reply()?.success()?;
    waited(lost, 5)?;
    assert_eq!(slow.disk()?, NEW);
    gateway.end()
}
