//! A backend that is told to end: it refuses with ESHUTDOWN, and waits for its clients to leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Served, Server};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::{cmd, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const WRITE: Ask = Ask { command: cmd::WRITE, cookie: 2, offset: 0x1_0000, length: 512, flags: 0 };
const FLUSH: Ask = Ask { command: cmd::FLUSH, cookie: 9, offset: 0, length: 0, flags: 0 };

fn in_front_of(script: Script, on_loss: &str) -> Result<(Backend, Gateway, RawClient), Trouble> {
    let backend = Backend::start(script)?;
    let tables = export("", &backend.uri(), &format!("on-backend-loss = {on_loss}"));
    let gateway = Gateway::start(&tables)?;
    let (client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    Ok((backend, gateway.expecting_warnings(), client))
}

/// The replies to a READ and a WRITE that were with the backend when it answered.
fn read_and_write(backend: &Backend, client: &mut RawClient) -> Result<[u32; 2], Trouble> {
    backend.hold();
    client.send(Ask::read(1, 0, 4096), &[])?;
    client.send(WRITE, &[0xd1; 512])?;
    backend.await_that("both requests", |story| story.seen.len() == 2)?;
    backend.release();
    let mut replies = [client.reply()?, client.reply()?];
    replies.sort_by_key(|reply| reply.cookie);
    let [read, write] = replies;
    ensure(read.error != 0 || read.data == Backend::content().bytes()[..4096], || "the READ gave other bytes".into())?;
    Ok([read.error, write.error])
}

#[test]
fn what_it_refuses_is_sent_to_the_next_and_what_it_still_answers_is_not() -> Result<(), Trouble> {
    for framing in Framing::ALL {
        let script = Script { fault: Some(Fault::ShuttingDown(cmd::READ)), struck: 1, framing, ..Script::default() };
        let (backend, gateway, mut client) = in_front_of(script, "{ hold = \"20s\", durable = true }")?;
        assert_eq!(read_and_write(&backend, &mut client)?, [0, 0], "{framing:?}");
        let seen = |connection, command| {
            backend.story(|s| s.seen.iter().filter(|s| (s.connection, s.command) == (connection, command)).count())
        };
        assert_eq!((seen(0, cmd::READ), seen(1, cmd::READ)), (1, 1), "{framing:?}");
        assert_eq!((seen(0, cmd::WRITE), seen(1, cmd::WRITE)), (1, 0), "{framing:?}");
        assert_eq!(seen(0, cmd::DISC), 1, "{framing:?}");
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn without_a_hold_what_it_refuses_fails_with_eio() -> Result<(), Trouble> {
    let script = Script { fault: Some(Fault::ShuttingDown(cmd::READ)), struck: 1, ..Script::default() };
    let (backend, gateway, mut client) = in_front_of(script, "\"error\"")?;
    assert_eq!(read_and_write(&backend, &mut client)?, [errno::EIO, 0]);
    eventually("the next connection", || client.read(0, 512).is_ok())?;
    gateway.end()
}

#[test]
fn it_is_left_when_the_hold_is_over_before_it_has_answered_the_rest() -> Result<(), Trouble> {
    let script = Script { fault: Some(Fault::ShuttingDownSilently(cmd::READ)), struck: 1, ..Script::default() };
    let backend = Backend::start(script)?;
    let tables = export("", &backend.uri(), "on-backend-loss = { hold = \"500ms\", durable = true }");
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    assert_eq!(read_and_write(&backend, &mut client)?, [errno::EIO, errno::EIO]);
    eventually("the next connection", || client.read(0, 512).is_ok())?;
    gateway.ask_to_end();
    gateway.await_end_whatever_it_logged()
}

#[test]
fn one_that_refuses_on_every_connection_is_asked_seldom_and_not_longer_than_the_hold() -> Result<(), Trouble> {
    let script = Script { fault: Some(Fault::ShuttingDown(cmd::READ)), ..Script::default() };
    let backend = Backend::start(script)?;
    let tables = export("", &backend.uri(), "on-backend-loss = { hold = \"1s\", durable = true }");
    let mut gateway = Gateway::start(&tables)?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    assert_eq!(client.ask(Ask::read(1, 0, 512), &[])?.error, errno::EIO);
    let connections = backend.story(|story| story.connections);
    ensure(connections < 12, || format!("{connections} connections in a second"))?;
    gateway.ask_to_end();
    gateway.await_end_whatever_it_logged()
}

/// Writes, and flushes if told to, while nbdkit is replaced by another on the same socket; nothing of it may fail.
fn written_while_nbdkit_is_replaced(
    served: &mut Served,
    client: &mut RawClient,
    flushes: bool,
) -> Result<u64, Trouble> {
    let over = AtomicBool::new(false);
    let under_way = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut written: u64 = 0;
            while !over.load(Ordering::Acquire) || written < 64 {
                let block = [written as u8 | 1; 512];
                client.write(written % 1024 * 512, &block)?.success()?;
                if flushes {
                    client.ask(FLUSH, &[])?.success()?;
                }
                written += 1;
                under_way.store(true, Ordering::Release);
            }
            Ok::<u64, Trouble>(written)
        });
        let replaced = eventually("the load", || under_way.load(Ordering::Acquire) || load.is_finished())
            .and_then(|()| served.replace_nbdkit());
        over.store(true, Ordering::Release);
        let written = load.join().expect("the load does not panic");
        replaced.and(written)
    })
}

fn behind_a_gateway(durable: bool) -> Result<(Served, Gateway, RawClient), Trouble> {
    let served = Server::NbdkitFile.start(&Image::sparse(7))?;
    let more = format!("on-backend-loss = {{ hold = \"30s\", durable = {durable} }}");
    let gateway = Gateway::start(&export("", &served.uri(), &more))?.expecting_warnings();
    let (client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    Ok((served, gateway, client))
}

#[test]
fn nobody_notices_that_an_nbdkit_whose_writes_are_durable_is_replaced() -> Result<(), Trouble> {
    let (mut served, gateway, mut client) = behind_a_gateway(true)?;
    let written = written_while_nbdkit_is_replaced(&mut served, &mut client, true)?;
    let last = written - 1;
    ensure(client.read(last % 1024 * 512, 512)? == [last as u8 | 1; 512], || "the last WRITE was lost".into())?;
    gateway.end()
}

#[test]
fn exactly_one_flush_fails_when_an_nbdkit_is_replaced_whose_writes_may_not_be_durable() -> Result<(), Trouble> {
    let (mut served, gateway, mut client) = behind_a_gateway(false)?;
    written_while_nbdkit_is_replaced(&mut served, &mut client, false)?;
    assert_eq!(client.ask(FLUSH, &[])?.error, errno::EIO);
    client.ask(FLUSH, &[])?.success()?;
    gateway.end()
}

#[test]
fn fio_verifies_what_it_wrote_while_nbdkit_was_replaced() -> Result<(), Trouble> {
    let (mut served, gateway, mut witness) = behind_a_gateway(true)?;
    let place = Place::fresh()?;
    let uri = format!("nbd+unix:///?socket={}", gateway.socket().display());
    thread::scope(|scope| {
        let fio = scope.spawn(|| {
            Call::new("fio")
                .args(["--name=load", "--ioengine=nbd", "--size=8M", "--bs=4k", "--iodepth=16", "--randrepeat=1"])
                .args(["--rw=randwrite", "--rate_iops=1000", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"])
                .arg(format!("--uri={uri}"))
                .inside(place.root())
                .run()?
                .success()
        });
        let before = witness.read(0, 8 << 20)?;
        let begun = eventually("fio's first writes", || {
            fio.is_finished() || witness.read(0, 8 << 20).is_ok_and(|now| now != before)
        });
        let replaced = begun.and_then(|()| ensure(!fio.is_finished(), || "fio was too fast".into()));
        let replaced = replaced.and_then(|()| served.replace_nbdkit());
        let verified = fio.join().expect("fio's thread does not panic").map(|_| ());
        replaced.and(verified)
    })?;
    gateway.end()
}
