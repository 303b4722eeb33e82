//! Promise: SIGTERM stops new work, finishes what was admitted, takes leave of backends, and ends in bounded time.

use std::time::{Duration, Instant};

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::{cmd, errno, opt, rep};
use crate::scripted::{Ask, Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

#[test]
fn what_was_admitted_is_answered_and_what_comes_later_is_refused_with_eshutdown() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let mut gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.hold();
    client.send(Ask { command: cmd::WRITE, cookie: 1, offset: 0, length: 512, flags: 0 }, &[0xe1; 512])?;
    backend.await_that("the WRITE", |story| story.count(cmd::WRITE) == 1)?;
    gateway.ask_to_end();
    // It stops to accept when it drains, so this is how to see that it does.
    eventually("no new sessions", || RawClient::connect(gateway.socket()).is_err())?;
    client.send(Ask::read(2, 0, 512), &[])?;
    let refused = client.reply()?;
    assert_eq!((refused.cookie, refused.error), (2, errno::ESHUTDOWN));
    backend.release();
    let finished = client.reply()?.success()?;
    assert_eq!(finished.cookie, 1);
    drop(client);
    gateway.await_end()?;
    backend.await_that("DISC", |story| story.count(cmd::DISC) == 1)?;
    ensure(backend.story(|story| story.disk[..512] == [0xe1; 512]), || "the admitted WRITE was lost".into())
}

#[test]
fn a_backend_that_never_answers_does_not_keep_the_gateway_alive() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = format!("[limits]\ndrain-timeout = \"500ms\"\n\n{}", export("", &backend.uri(), ""));
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.hold();
    client.send(Ask::read(1, 0, 512), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    let told = Instant::now();
    gateway.ask_to_end();
    gateway.await_end()?;
    // drain-timeout and a second, far less than the default, and time enough for a machine that is busy.
    ensure(told.elapsed() < Duration::from_secs(10), || format!("the end took {:?}", told.elapsed()))?;
    client.link().await_close()
}

#[test]
fn idle_sessions_are_closed_and_do_not_keep_the_gateway_alive() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let mut gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut idle, _) = RawClient::open(gateway.socket(), "", Framing::Simple)?;
    let mut negotiating = RawClient::connect(gateway.socket())?;
    gateway.ask_to_end();
    gateway.await_end()?;
    idle.link().await_close()?;
    negotiating.link().await_close()
}

/// It used to wait for the dial, gave up after a while, and then said that a backend had left requests unanswered.
#[test]
fn a_dial_that_is_under_way_does_not_hold_the_end_up_and_its_client_is_told() -> Result<(), Trouble> {
    let backend = Backend::start(Script { fault: Some(Fault::GreetingNever), ..Script::default() })?;
    let mut gateway = Gateway::start(&export("vm", &backend.uri(), "dial-timeout = \"1m\""))?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.option(opt::GO, &go_request("vm", &[]))?;
    backend.await_that("the dial", |story| story.connections == 1)?;
    gateway.ask_to_end();
    assert_eq!(client.answer()?.kind, rep::ERR_SHUTDOWN);
    client.link().await_close()?;
    gateway.await_end()
}
