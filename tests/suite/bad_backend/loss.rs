//! A backend that goes away with requests in flight.

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

#[test]
fn reads_and_writes_in_flight_are_sent_again_when_the_backend_is_back() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = export("", &backend.uri(), "on-backend-loss = { hold = \"20s\", durable = true }");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.hold();
    client.send(Ask::read(1, 0, 4096), &[])?;
    client.send(Ask { command: cmd::WRITE, cookie: 2, offset: 0x1_0000, length: 512, flags: 0 }, &[0xd1; 512])?;
    backend.await_that("both requests", |story| story.seen.len() == 2)?;
    backend.cut();
    backend.release();
    let mut replies = [client.reply()?.success()?, client.reply()?.success()?];
    replies.sort_by_key(|reply| reply.cookie);
    ensure(replies[0].data == Backend::content().bytes()[..4096], || "the READ gave other bytes".into())?;
    ensure(backend.story(|story| story.disk[0x1_0000..0x1_0200] == [0xd1; 512]), || "the WRITE was lost".into())?;
    assert_eq!(backend.story(|story| story.connections), 2);
    gateway.end()
}

#[test]
fn without_a_hold_requests_in_flight_fail_with_eio_in_step() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), "on-backend-loss = \"error\""))?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.hold();
    client.send(Ask::read(1, 0, 4096), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    backend.cut();
    backend.release();
    assert_eq!(client.reply()?.error, errno::EIO);
    gateway.end()
}

/// Answered writes may be gone with the server that answered them: somebody has to be told, once.
#[test]
fn the_flush_after_an_unplanned_loss_fails_once() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = export("", &backend.uri(), "on-backend-loss = { hold = \"20s\", durable = false }");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    client.write(0, &[1; 512])?.success()?;
    backend.cut();
    // A READ is held and sent again, so this one sees the loss and outlives it.
    client.read(0, 512)?;
    let flush = Ask { command: cmd::FLUSH, cookie: 9, ..Ask::default() };
    assert_eq!(client.ask(flush, &[])?.error, errno::EIO);
    client.ask(flush, &[])?.success()?;
    gateway.end()
}
