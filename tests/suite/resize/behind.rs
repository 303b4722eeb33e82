//! Promise: a client that is behind the times never truncates what another wrote, and no look at the backend from before
//! a resize is taken for news after it.

use std::collections::BTreeSet;

use super::backend::NAME;
use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Resizing, Script, Story};
use crate::scripted::numbers::{cmd, cmd_flag, errno, flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

fn enter(gateway: &Gateway, framing: Framing, asks: &[u16]) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(framing)?;
    client.learn(opt::GO, NAME, asks)?;
    Ok(client)
}

fn resize(to: u64) -> Ask {
    Ask { command: cmd::RESIZE, cookie: 1, offset: to, ..Ask::default() }
}

#[test]
fn a_client_whose_replies_tell_no_size_grows_step_by_step_below_what_another_made_of_it() -> Result<(), Trouble> {
    for (framing, asks) in [
        (Framing::Simple, &[info::RESIZE][..]),
        (Framing::Simple, &[]),
        (Framing::Structured, &[]),
        (Framing::Extended, &[]),
    ] {
        let gateway = Gateway::start(&export(NAME, "memory:", "size = \"1MiB\"\n[export.resize]\nshrink = true\n"))?;
        let mut behind = enter(&gateway, framing, asks)?;
        let mut ahead = enter(&gateway, Framing::Structured, &[info::RESIZE])?;
        ahead.ask(resize(8 * MIB), &[])?.success()?;
        ahead.write(8 * MIB - 512, &[0xab; 512])?.success()?;
        // Each of these is more than it knows of, so none is a shrink, whatever is there already.
        for to in [2 * MIB, 4 * MIB, 6 * MIB] {
            let done = behind.ask(resize(to), &[])?.success()?;
            ensure(done.sizes.is_empty(), || format!("{framing:?} {asks:?} was told {:?}", done.sizes))?;
        }
        ensure(ahead.read(8 * MIB - 512, 512)? == [0xab; 512], || format!("{framing:?} {asks:?} cut it off"))?;
        behind.leave()?;
        ahead.leave()?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_shrink_waits_for_nobody_who_opted_in_and_is_refused_under_one_who_did_not() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export(NAME, "memory:", "size = \"4MiB\"\n[export.resize]\nshrink = true\n"))?;
    let mut asker = enter(&gateway, Framing::Structured, &[info::RESIZE])?;
    let opted_in = enter(&gateway, Framing::Extended, &[info::RESIZE])?;
    for (framing, words) in [(Framing::Structured, "did not opt in"), (Framing::Simple, "without structured replies")] {
        let stock = enter(&gateway, framing, &[])?;
        let refused = asker.ask(resize(2 * MIB), &[])?;
        ensure(refused.error == errno::EPERM && refused.message.contains(words), || format!("{refused:?}"))?;
        stock.leave()?;
    }
    assert_eq!(asker.ask(resize(2 * MIB), &[])?.success()?.sizes, [2 * MIB]);
    opted_in.leave()?;
    asker.leave()?;
    gateway.end()
}

#[test]
fn a_look_at_the_backend_from_before_a_resize_is_no_news_after_it() -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let more = "[export.resize]\nshrink = true\npoll = \"10ms\"\n";
    let gateway = Gateway::start(&export(NAME, &backend.uri(), more))?;
    let mut client = enter(&gateway, Framing::Structured, &[info::RESIZE])?;
    // A look from before a grow shows too little, and one from before a shrink too much.
    for to in [9 * MIB, 10 * MIB, 9 * MIB, 8 * MIB] {
        backend.hold_info();
        backend.await_that("a look at the size", |story| story.info_waits)?;
        assert_eq!(client.ask(resize(to), &[])?.success()?.sizes, [to]);
        let connections = backend.story(|story| story.connections);
        backend.release_info();
        // Not before the gateway has gone on to look again, twice, has it surely taken note of what came late.
        backend.await_that("the next looks", |story| story.connections >= connections + 3)?;
        let query = Ask { command: cmd::RESIZE, flags: cmd_flag::QUERY, cookie: 2, ..Ask::default() };
        assert_eq!(client.ask(query, &[])?.success()?.sizes, [to]);
    }
    client.leave()?;
    gateway.end()
}

#[test]
fn every_lane_may_use_a_new_size_where_a_backend_shows_it_to_new_connections_only() -> Result<(), Trouble> {
    for by_us in [true, false] {
        let resizing = if by_us { Resizing::Explicit { exposes: 0 } } else { Resizing::No };
        let mut script = Script { resizing, pins: true, ..Script::default() };
        script.flags |= flag::MULTI_CONN | if by_us { flag::SEND_RESIZE } else { 0 };
        let backend = Backend::start(script)?;
        let more = "lanes = 3\n[export.resize]\npoll = \"10ms\"\n";
        let gateway = Gateway::start(&export(NAME, &backend.uri(), more))?;
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(enter(&gateway, Framing::Structured, &[info::RESIZE])?);
        }
        if by_us {
            clients[0].ask(resize(9 * MIB), &[])?.success()?;
        } else {
            let notify = Ask { command: cmd::RESIZE, flags: cmd_flag::NOTIFY, cookie: 7, ..Ask::default() };
            clients[0].send(notify, &[])?;
            assert_eq!(clients[0].next_size(7)?, 8 * MIB);
            backend.meddle(|disk| disk.resize(9 << 20, 0));
            assert_eq!(clients[0].next_size(7)?, 9 * MIB);
        }
        for (number, client) in (0..).zip(&mut clients) {
            let at = 8 * MIB + number * 4096;
            client.write(at, &[number as u8 | 1; 4096])?.success()?;
            assert_eq!(client.read(at, 4096)?, [number as u8 | 1; 4096], "by us: {by_us}, client {number}");
        }
        let writes =
            |story: &Story| story.seen.iter().filter(|seen| seen.command == cmd::WRITE).map(|s| s.connection).collect();
        let used: BTreeSet<u32> = backend.story(writes);
        ensure(used.len() > 1, || format!("only one lane was used: {used:?}"))?;
        for client in clients {
            client.leave()?;
        }
        gateway.end()?;
    }
    Ok(())
}

/// A lane that shook hands anew was refused for being smaller, before the smaller size was shown.
#[test]
fn lanes_shake_hands_anew_for_a_shrink_too() -> Result<(), Trouble> {
    let script = Script { resizing: Resizing::Explicit { exposes: 0 }, pins: true, ..Script::default() };
    let flags = script.flags | flag::MULTI_CONN | flag::SEND_RESIZE;
    let backend = Backend::start(Script { flags, ..script })?;
    let more = "lanes = 2\n[export.resize]\nshrink = true\npoll = \"off\"\n";
    let gateway = Gateway::start(&export(NAME, &backend.uri(), more))?;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(enter(&gateway, Framing::Structured, &[info::RESIZE])?);
    }
    for to in [9 * MIB, 7 * MIB] {
        assert_eq!(clients[0].ask(resize(to), &[])?.success()?.sizes, [to]);
        for client in &mut clients {
            client.write(to - 512, &[to as u8 | 3; 512])?.success()?;
        }
    }
    for client in clients {
        client.leave()?;
    }
    gateway.end()
}

#[test]
fn a_client_that_comes_while_a_shrink_drains_is_told_where_it_will_end() -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let more = "[export.resize]\nshrink = true\npoll = \"off\"\n";
    let gateway = Gateway::start(&export(NAME, &backend.uri(), more))?;
    let mut asker = enter(&gateway, Framing::Structured, &[info::RESIZE])?;
    // A backend that only claims to resize is believed after a grow.
    asker.ask(resize(9 * MIB), &[])?.success()?;
    let mut writer = enter(&gateway, Framing::Structured, &[info::RESIZE])?;
    backend.hold();
    let write = Ask { command: cmd::WRITE, cookie: 3, offset: 8 * MIB, length: 4096, flags: 0 };
    writer.send(write, &[0x99; 4096])?;
    backend.await_that("the WRITE past the new end", |story| story.count(cmd::WRITE) == 1)?;
    asker.send(resize(8 * MIB), &[])?;
    let mut looker = RawClient::connect(gateway.socket())?;
    eventually("the lowered end", || looker.learn(opt::INFO, NAME, &[]).is_ok_and(|told| told.size == 8 * MIB))?;
    let (stock, told) = RawClient::open(gateway.socket(), NAME, Framing::Structured)?;
    assert_eq!(told.size, 8 * MIB, "more would be cut off under a client that cannot know");
    backend.release();
    writer.reply()?.success()?;
    assert_eq!(asker.reply()?.success()?.sizes, [8 * MIB]);
    assert_eq!(backend.story(|story| story.disk.len() as u64), 8 * MIB);
    for client in [asker, writer, stock] {
        client.leave()?;
    }
    gateway.end()
}
