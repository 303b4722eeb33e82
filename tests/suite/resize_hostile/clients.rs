//! Clients that ask for what can't be, for too much at once, or leave in the middle of it.

use super::*;
use crate::scripted::backend::Story;
use crate::scripted::numbers::errno;
use crate::trouble::{ensure, eventually};

/// An export in memory, 1 MiB long.
fn memory() -> Result<Gateway, Trouble> {
    Gateway::start(&export(
        "e",
        "memory:",
        "size = \"1MiB\"\nmax-size = \"1GiB\"\n[export.resize]\nstep = \"64KiB\"\nshrink = true\nshrink-grace = \"0s\"\ntimeout = \"30s\"",
    ))
}

#[test]
fn sizes_that_can_not_be_are_refused_as_invalid() -> Result<(), Trouble> {
    let gateway = memory()?;
    for framing in Framing::ALL {
        let (mut client, opened) = opted_in(&gateway, framing)?;
        for (cookie, impossible) in (1..).zip([0, 1 << 63, u64::MAX]) {
            assert_eq!(client.ask(resize(cookie, impossible), &[])?.error, errno::EINVAL, "{impossible}");
        }
        let with_length = client.ask(Ask { length: 1, ..resize(9, opened.size) }, &[])?;
        assert_eq!(with_length.error, errno::EINVAL);
        client.read(0, 512)?;
    }
    gateway.end()
}

#[test]
fn a_byte_written_at_eight_exbibytes_is_refused_and_nothing_grows() -> Result<(), Trouble> {
    let gateway = memory()?;
    for framing in [Framing::Structured, Framing::Extended] {
        let mut client = RawClient::connect(gateway.socket())?;
        client.upgrade(framing)?;
        client.contexts("e", &["x-resize:automatic"])?;
        let opened = client.go("e")?;
        for offset in [(1 << 63) - 2, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            let reply = client.write(offset, &[1])?;
            ensure(matches!(reply.error, errno::ENOSPC | errno::EINVAL), || format!("at {offset:#x}: {reply:?}"))?;
        }
        let (mut other, now) = opted_in(&gateway, framing)?;
        assert_eq!(now.size, opened.size);
        other.read(0, 512)?;
        client.read(0, 512)?;
    }
    gateway.end()
}

#[test]
fn a_thousand_resizes_in_one_breath_are_each_answered_once_and_in_order() -> Result<(), Trouble> {
    let gateway = memory()?;
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let mut bytes = Vec::new();
    for cookie in 0..1000 {
        let ask = resize(cookie, opened.size + (cookie + 1) * 512);
        client.expect(ask);
        bytes.extend(ask.encode(Framing::Structured));
    }
    client.link().send(&bytes)?;
    let mut told = opened.size;
    for _ in 0..1000 {
        let reply = client.reply()?.success()?;
        ensure(reply.sizes.len() == 1 && reply.sizes[0] >= opened.size + (reply.cookie + 1) * 512, || {
            format!("{reply:?} after {told}")
        })?;
        told = told.max(reply.sizes[0]);
    }
    assert_eq!(size(&mut client)?, opened.size + 1000 * 512);
    gateway.end()
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_grow_leaves_a_whole_one() -> Result<(), Trouble> {
    let backend = backend(None)?;
    let gateway = Gateway::start(&table(&backend.uri()))?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let (mut witness, _) = opted_in(&gateway, Framing::Structured)?;
    backend.hold();
    client.send(resize(1, opened.size + MIB), &[])?;
    drop(client);
    // What is held is the QUERY before the RESIZE, or the RESIZE.
    backend.await_that("a request held", |story| story.count(cmd::RESIZE) > 0)?;
    backend.release();
    eventually("the grow as a whole, or none", || {
        let disk = backend.story(|story| story.disk.len() as u64);
        size(&mut witness).is_ok_and(|now| now == disk)
    })?;
    let now = size(&mut witness)?;
    ensure(now == opened.size || now == opened.size + MIB, || format!("half a resize: {now}"))?;
    assert_eq!(witness.ask(resize(2, now + MIB), &[])?.success()?.sizes, [now + MIB]);
    gateway.end()
}

#[test]
fn a_shrink_waits_for_requests_of_others_past_its_end() -> Result<(), Trouble> {
    let backend = backend(None)?;
    let gateway = Gateway::start(&table(&backend.uri()))?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let (mut other, _) = opted_in(&gateway, Framing::Structured)?;
    backend.hold();
    other.send(Ask::read(1, opened.size - 4096, 4096), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    client.send(resize(1, opened.size - MIB), &[])?;
    let (mut third, _) = opted_in(&gateway, Framing::Structured)?;
    assert_eq!(size(&mut third)?, opened.size);
    let asked = |story: &Story| story.seen.iter().any(|seen| seen.command == cmd::RESIZE && seen.flags == 0);
    ensure(!backend.story(asked), || "the backend was asked to shrink under a READ".into())?;
    backend.release();
    other.reply()?.success()?;
    assert_eq!(client.reply()?.success()?.sizes, [opened.size - MIB]);
    assert_eq!(size(&mut client)?, opened.size - MIB);
    gateway.end()
}

#[test]
fn a_shrink_that_can_not_wait_any_longer_fails_with_eio_and_the_end_is_back() -> Result<(), Trouble> {
    let backend = backend(None)?;
    let gateway = Gateway::start(&patient(&backend.uri(), "1s"))?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let (mut other, _) = opted_in(&gateway, Framing::Structured)?;
    backend.hold();
    other.send(Ask::read(1, opened.size - 4096, 4096), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    let reply = client.ask(resize(1, opened.size - MIB), &[])?;
    assert_eq!(reply.error, errno::EIO, "{reply:?}");
    backend.release();
    other.reply()?.success()?;
    assert_eq!(size(&mut client)?, opened.size);
    client.write(opened.size - 512, &[3; 512])?.success()?;
    assert_eq!(
        backend.story(|story| story.seen.iter().filter(|s| s.command == cmd::RESIZE && s.flags == 0).count()),
        0
    );
    gateway.end()
}

#[test]
fn a_shrink_under_a_client_that_never_opted_in_is_refused() -> Result<(), Trouble> {
    let gateway = memory()?;
    let (stock, _) = RawClient::open(gateway.socket(), "e", Framing::Structured)?;
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    assert_eq!(client.ask(resize(1, opened.size / 2), &[])?.error, errno::EPERM);
    stock.leave()?;
    eventually("a shrink once it is gone", || {
        client.ask(resize(2, opened.size / 2), &[]).is_ok_and(|reply| reply.error == 0)
    })?;
    gateway.end()
}

#[test]
fn a_goodbye_does_not_wait_for_a_long_poll() -> Result<(), Trouble> {
    let backend = backend(None)?;
    let gateway = Gateway::start(&table(&backend.uri()))?;
    for framing in [Framing::Structured, Framing::Extended] {
        let mut client = RawClient::connect(gateway.socket())?;
        client.upgrade(framing)?;
        let given = client.contexts("e", &["x-resize:watch"])?;
        assert_eq!(given.len(), 1, "{given:?}");
        client.go("e")?;
        let poll = Ask { command: cmd::BLOCK_STATUS, cookie: 5, offset: 0, length: 512, flags: 0 };
        let goodbye = Ask { command: cmd::DISC, ..Ask::default() };
        client.send(poll, &[])?;
        client.send(goodbye, &[])?;
        // It is answered, and then the connection ends.
        assert_eq!(client.reply()?.success()?.cookie, 5, "{framing:?}");
        client.link().await_close()?;
    }
    gateway.end()
}
