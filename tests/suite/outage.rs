//! Promise: a server that dies and comes back is a pause for clients, not an error, and no answered write is lost unseen.

use std::thread;
use std::time::{Duration, Instant};

use crate::different::refusal;
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Server, nbdkit};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const DURABLE: &str = "on-backend-loss = { hold = \"30s\", durable = true }";

#[test]
fn fio_verifies_its_data_over_the_death_of_the_server() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), DURABLE))?.expecting_warnings();
    let place = Place::fresh()?;
    let uri = format!("nbd+unix:///vm?socket={}", gateway.socket().display());
    let fio = Call::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--size=8M", "--bs=4k", "--iodepth=16", "--rw=randwrite"])
        .args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--end_fsync=1", "--rate_iops=2000"])
        .arg(format!("--uri={uri}"))
        .inside(place.root());
    let running = thread::spawn(move || fio.run());
    // Three deaths: two while it writes, one while it reads back.
    for (command, count) in [("write", 200.0), ("write", 900.0), ("read", 400.0)] {
        let labels = [format!("command=\"{command}\""), "result=\"ok\"".to_owned()];
        let labels = labels.each_ref().map(String::as_str);
        eventually("fio is at it", || gateway.metric("nbd_gateway_requests_total", &labels).is_ok_and(|n| n >= count))?;
        ensure(!running.is_finished(), || "fio was done before the server died".into())?;
        served.kill()?;
        served.start_again()?;
    }
    running.join().expect("fio's thread does not panic")?.success()?;
    assert_eq!(gateway.metric("nbd_gateway_lane_reconnects_total", &["reason=\"lost\""])?, 3.0);
    assert_eq!(gateway.metric("nbd_gateway_requests_total", &["result=\"eio\""])?, 0.0);
    gateway.end()
}

/// The server may have kept answered writes to itself: each session is told by one failed FLUSH, and by no other.
#[test]
fn each_session_is_told_of_writes_that_may_be_lost_by_exactly_its_next_flush() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let tables = export("vm", &served.uri(), "on-backend-loss = { hold = \"30s\", durable = false }");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let open = || RawClient::open(gateway.socket(), "vm", Framing::Structured).map(|(client, _)| client);
    let (mut writer, mut other) = (open()?, open()?);
    let flush = Ask { command: cmd::FLUSH, cookie: 3, ..Ask::default() };
    // All that is answered is flushed: nothing can be lost, and nobody is told anything.
    writer.write(0, &[1; 4096])?.success()?;
    other.ask(flush, &[])?.success()?;
    served.kill()?;
    served.start_again()?;
    writer.read(0, 512)?;
    writer.ask(flush, &[])?.success()?;
    // Now something is answered and not flushed.
    writer.write(4096, &[2; 4096])?.success()?;
    served.kill()?;
    served.start_again()?;
    for client in [&mut writer, &mut other] {
        client.read(0, 512)?;
        // A FLUSH alone is meant: writes are as good as before.
        client.write(8192, &[3; 4096])?.success()?;
        let told = client.ask(flush, &[])?;
        ensure(told.error == errno::EIO && told.message.contains("lost"), || format!("{told:?}"))?;
        client.ask(flush, &[])?.success()?;
    }
    let mut later = open()?;
    later.ask(flush, &[])?.success()?;
    assert_eq!(later.read(8192, 512)?, [3; 512]);
    gateway.end()
}

#[test]
fn a_flush_that_waits_while_the_server_is_away_fails_too() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let tables = export("vm", &served.uri(), "on-backend-loss = { hold = \"30s\", durable = false }");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let flush = Ask { command: cmd::FLUSH, cookie: 3, ..Ask::default() };
    client.write(0, &[1; 4096])?.success()?;
    served.kill()?;
    eventually("the loss is seen", || gateway.metric("nbd_gateway_lane_up", &["vm"]).is_ok_and(|up| up == 0.0))?;
    client.send(flush, &[])?;
    client.send(Ask { cookie: 4, ..flush }, &[])?;
    served.start_again()?;
    let mut replies = [client.reply()?, client.reply()?];
    replies.sort_by_key(|reply| reply.cookie);
    assert_eq!([replies[0].error, replies[1].error], [errno::EIO, 0]);
    gateway.end()
}

#[test]
fn a_server_that_stays_away_fails_requests_after_the_hold_and_its_return_mends_all() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let tables = export("vm", &served.uri(), "on-backend-loss = { hold = \"2s\", durable = true }");
    let gateway = Gateway::start(&tables)?.expecting_warnings().expecting_error("backend did not come back");
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    client.write(0, &[9; 512])?.success()?;
    // Before the loss, which is when the hold begins: a busy machine lets this test see either of them late.
    let begun = Instant::now();
    served.kill()?;
    let refused = client.ask(Ask::read(1, 0, 512), &[])?;
    // In words, and without a word of what lies behind the gateway.
    let place = served.socket.display().to_string();
    ensure(refused.error == errno::EIO && refused.message.contains("away"), || format!("{refused:?}"))?;
    ensure(!refused.message.contains(&place), || format!("a client is told of the inside: {}", refused.message))?;
    let waited = begun.elapsed();
    ensure(waited >= Duration::from_secs(2), || format!("{waited:?}"))?;
    // From now on they fail at once, and a new client is refused, as by an export that is closed.
    let begun = Instant::now();
    // Each would wait for two seconds again: far more, together, than a busy machine takes.
    for cookie in 2..10 {
        assert_eq!(client.ask(Ask::read(cookie, 0, 512), &[])?.error, errno::EIO);
        let answer = refusal(&gateway, "vm")?;
        ensure(answer.contains("can't be opened now") && !answer.contains(&place), || answer)?;
    }
    ensure(begun.elapsed() < Duration::from_secs(12), || "it waited again".into())?;
    served.start_again()?;
    eventually("its return", || client.ask(Ask::read(2, 0, 512), &[]).is_ok_and(|reply| reply.error == 0))?;
    assert_eq!(client.read(0, 512)?, [9; 512]);
    let (mut other, opened) = RawClient::open(gateway.socket(), "vm", Framing::Simple)?;
    assert_eq!((opened.size, other.read(0, 512)?), (8 << 20, vec![9; 512]));
    gateway.end()
}

/// A size never goes back by itself: clients would see their data cut off, and qemu would abort.
#[test]
fn a_server_that_comes_back_smaller_is_not_used_and_one_line_says_so() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let tables = export("vm", &served.uri(), "on-backend-loss = { hold = \"4s\", durable = true }");
    let gateway = Gateway::start(&tables)?.expecting_warnings().expecting_error("came back different");
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let begun = Instant::now();
    served.kill()?;
    let disk = std::fs::File::options().write(true).open(served.file().expect("it has one"))?;
    disk.set_len(4 << 20)?;
    served.start_again()?;
    let refused = client.ask(Ask::read(1, 0, 512), &[])?;
    ensure(refused.error == errno::EIO && refused.message.contains("4 MiB"), || format!("{refused:?}"))?;
    ensure(begun.elapsed() >= Duration::from_secs(4), || "it did not wait".into())?;
    // It has been dialled again and again meanwhile; the log must not fill with it.
    disk.set_len(8 << 20)?;
    served.kill()?;
    served.start_again()?;
    eventually("the right size again", || client.ask(Ask::read(2, 0, 512), &[]).is_ok_and(|reply| reply.error == 0))?;
    gateway.end()
}

#[test]
fn a_server_that_comes_back_larger_is_used_and_nobody_is_surprised() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), DURABLE))?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    served.kill()?;
    std::fs::File::options().write(true).open(served.file().expect("it has one"))?.set_len(16 << 20)?;
    served.start_again()?;
    client.read(0, 512)?;
    // What its handshake said is what it has.
    assert_eq!(client.ask(Ask::read(2, 8 << 20, 512), &[])?.error, errno::EINVAL);
    gateway.end()
}

#[test]
fn requests_with_payloads_wait_for_the_server_within_the_sessions_budget() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let limits = "[limits]\nlargest-payload = \"64KiB\"\nsession-bytes = \"128KiB\"\n\n";
    let mut gateway = Gateway::start(&(limits.to_owned() + &export("", &backend.uri(), DURABLE)))?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    client.write(0, &[1; 512])?.success()?;
    for round in 0..8_u64 {
        let before = backend.story(|story| story.count(cmd::WRITE));
        backend.hold();
        for cookie in 0..2 {
            let ask =
                Ask { command: cmd::WRITE, cookie, offset: (round * 2 + cookie) << 16, length: 1 << 16, flags: 0 };
            client.send(ask, &[round as u8 + 1; 1 << 16])?;
        }
        backend.await_that("both", |story| story.count(cmd::WRITE) == before + 2)?;
        backend.cut();
        backend.release();
        client.reply()?.success()?;
        client.reply()?.success()?;
    }
    for round in 0..8_u64 {
        ensure(client.read(round << 17, 1 << 16)? == [round as u8 + 1; 1 << 16], || format!("round {round} is lost"))?;
    }
    let peak = gateway.peak_memory()?;
    ensure(peak < 96 << 10, || format!("the gateway's memory went up to {peak} KiB"))?;
    gateway.end()
}

#[test]
fn a_request_that_its_server_does_not_answer_is_shown_by_its_age() -> Result<(), Trouble> {
    let served = nbdkit(&["--filter=delay"], &["memory", "8M", "rdelay=4"], &Image::sparse(1))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let waited = || gateway.metric("nbd_gateway_oldest_request_seconds", &["export=\"vm\""]);
    assert_eq!(waited()?, 0.0);
    client.send(Ask { command: cmd::READ, cookie: 1, length: 512, ..Ask::default() }, &[])?;
    eventually("its age is counted", || waited().is_ok_and(|seconds| seconds >= 1.0))?;
    let shown = gateway.operator(&["exports", "vm"])?.run()?.success()?.stdout;
    ensure(shown.contains("OLDEST"), || shown.clone())?;
    eventually("it is answered", || waited().is_ok_and(|seconds| seconds == 0.0))?;
    drop(client);
    gateway.end()
}
