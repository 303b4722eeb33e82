//! Promise: a client with few requests in flight does not queue behind the hundreds of another.

use crate::gateway::{Gateway, export};
use crate::scripted::backend::Backend;
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// How many requests of busy clients may be at the server before one of a client with few.
const WINDOW: usize = 8;

/// How many requests a busy client sends at a time.
const DEEP: u64 = 64;

/// Small enough that the gateway's sockets take all that is sent in one go.
const LENGTH: u64 = 512;

/// Requests of the client with few begin here, so that the server can tell them apart.
const FEW: u64 = 4 << 20;

/// Sends many requests in one go.
fn flood(client: &mut RawClient, command: u16) -> Result<(), Trouble> {
    let mut bytes = Vec::new();
    for cookie in 0..DEEP {
        let ask = Ask { command, cookie, offset: cookie * LENGTH, length: LENGTH, ..Ask::default() };
        client.expect(ask);
        bytes.extend(ask.encode(client.framing));
        if command == cmd::WRITE {
            bytes.extend([7; LENGTH as usize]);
        }
    }
    client.link().send(&bytes)
}

/// Takes the replies to them.
fn answers(client: &mut RawClient) -> Result<(), Trouble> {
    (0..DEEP).try_for_each(|_| client.reply()?.success().map(drop))
}

#[test]
fn a_request_of_a_client_with_few_finds_few_of_busy_ones_before_it() -> Result<(), Trouble> {
    for command in [cmd::READ, cmd::WRITE] {
        let backend = Backend::start(Default::default())?;
        let gateway = Gateway::start(&format!("[runtime]\nthreads = 1\n{}", export("vm", &backend.uri(), "")))?;
        let open = || RawClient::open(gateway.socket(), "vm", Framing::Structured).map(|(client, _)| client);
        let (mut few, mut busy, mut busier) = (open()?, open()?, open()?);
        let seen = |of_few: bool| {
            backend.story(|story| story.seen.iter().filter(|seen| (seen.offset >= FEW) == of_few).count())
        };
        // Nobody else is there: all of it goes to the server.
        backend.hold();
        flood(&mut busy, command)?;
        backend.await_that("all requests of the only client", |story| story.seen.len() == DEEP as usize)?;
        backend.release();
        answers(&mut busy)?;

        backend.hold();
        let before = seen(false);
        few.send(Ask::read(1, FEW, LENGTH), &[])?;
        backend.await_that("a request", |story| story.seen.iter().any(|seen| seen.offset == FEW))?;
        flood(&mut busy, command)?;
        flood(&mut busier, command)?;
        // The first of them are there; then the next one of the client with few comes.
        backend
            .await_that("a busy client", |story| story.seen.iter().filter(|seen| seen.offset < FEW).count() > before)?;
        few.send(Ask::read(2, FEW + LENGTH, LENGTH), &[])?;
        backend.await_that("another request", |story| story.seen.iter().any(|seen| seen.offset == FEW + LENGTH))?;
        let ahead = seen(false) - before;
        ensure(ahead <= WINDOW, || format!("{ahead} requests of busy clients were before it"))?;
        // And nobody waits for ever.
        backend.release();
        few.reply()?.success()?;
        few.reply()?.success()?;
        answers(&mut busy)?;
        answers(&mut busier)?;
        for client in [few, busy, busier] {
            client.leave()?;
        }
        gateway.end()?;
    }
    Ok(())
}

/// Every request of the client with few is answered by a server that takes one after another: between two of them there
/// are few of the busy clients.
#[test]
fn busy_clients_and_one_with_few_go_on_side_by_side() -> Result<(), Trouble> {
    let backend = Backend::start(Default::default())?;
    let gateway = Gateway::start(&format!("[runtime]\nthreads = 1\n{}", export("vm", &backend.uri(), "")))?;
    let open = || RawClient::open(gateway.socket(), "vm", Framing::Structured).map(|(client, _)| client);
    let (mut few, mut busy, mut busier) = (open()?, open()?, open()?);
    for turn in 0..20 {
        flood(&mut busy, cmd::READ)?;
        flood(&mut busier, cmd::WRITE)?;
        few.read(FEW + turn * LENGTH, LENGTH)?;
        answers(&mut busy)?;
        few.read(FEW + turn * LENGTH, LENGTH)?;
        answers(&mut busier)?;
    }
    let counted = backend.story(|story| story.seen.iter().filter(|seen| seen.command != cmd::DISC).count());
    assert_eq!(counted, 20 * (2 + 2 * DEEP as usize));
    for client in [few, busy, busier] {
        client.leave()?;
    }
    gateway.end()
}
