//! NOTIFY, rule by rule, and clients that use it badly.

use std::time::{Duration, Instant};

use super::*;
use crate::scripted::numbers::errno;
use crate::trouble::ensure;

fn gateway() -> Result<Gateway, Trouble> {
    Gateway::start(&export(
        "e",
        "memory:",
        "size = \"1MiB\"\n[export.resize]\nstep = \"64KiB\"\nshrink = true\nshrink-grace = \"0s\"",
    ))
}

/// A watcher and one who resizes.
fn two(gateway: &Gateway) -> Result<(RawClient, RawClient, u64), Trouble> {
    let (watcher, opened) = opted_in(gateway, Framing::Structured)?;
    let (other, _) = opted_in(gateway, Framing::Structured)?;
    Ok((watcher, other, opened.size))
}

fn set(client: &mut RawClient, size: u64) -> Result<(), Trouble> {
    client.ask(resize(0xaaaa, size), &[])?.success().map(drop)
}

#[test]
fn a_notify_tells_the_size_at_once_and_then_each_change() -> Result<(), Trouble> {
    for framing in [Framing::Structured, Framing::Extended] {
        let gateway = gateway()?;
        let (mut watcher, opened) = opted_in(&gateway, framing)?;
        let (mut other, _) = opted_in(&gateway, Framing::Simple)?;
        watcher.send(notify(7, 0, 0), &[])?;
        assert_eq!(watcher.next_size(7)?, opened.size);
        for step in 1..4 {
            set(&mut other, opened.size + step * MIB)?;
            assert_eq!(watcher.next_size(7)?, opened.size + step * MIB);
        }
        // It holds nothing up.
        watcher.read(0, 512)?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_notify_of_length_one_is_one_answer() -> Result<(), Trouble> {
    let gateway = gateway()?;
    let (mut watcher, _, first) = two(&gateway)?;
    assert_eq!(watcher.ask(notify(1, 0, 1), &[])?.success()?.sizes, [first]);
    gateway.end()
}

#[test]
fn a_notify_ends_with_done_in_its_last_chunk_and_no_chunk_follows() -> Result<(), Trouble> {
    let gateway = gateway()?;
    let (mut watcher, mut other, first) = two(&gateway)?;
    watcher.send(notify(1, 0, 2), &[])?;
    assert_eq!(watcher.next_size(1)?, first);
    set(&mut other, first + MIB)?;
    assert_eq!(watcher.reply()?.success()?.sizes, [first + MIB]);
    set(&mut other, first + 2 * MIB)?;
    // A further chunk would be one for a cookie that was never asked.
    watcher.read(0, 512)?;
    gateway.end()
}

#[test]
fn changes_within_the_interval_are_merged_and_the_last_is_told_not_before_its_time() -> Result<(), Trouble> {
    let gateway = gateway()?;
    let (mut watcher, mut other, first) = two(&gateway)?;
    let interval = Duration::from_millis(400);
    // Before the first chunk: a busy machine may let this test read it late.
    let since = Instant::now();
    watcher.send(notify(1, 400, 0), &[])?;
    assert_eq!(watcher.next_size(1)?, first);
    for step in 1..=20 {
        set(&mut other, first + step * 65536)?;
    }
    let mut told = watcher.next_size(1)?;
    ensure(since.elapsed() >= interval, || format!("after {:?}", since.elapsed()))?;
    while told != first + 20 * 65536 {
        told = watcher.next_size(1)?;
    }
    gateway.end()
}

#[test]
fn a_second_notify_takes_the_place_of_the_first_which_ends_empty() -> Result<(), Trouble> {
    let gateway = gateway()?;
    let (mut watcher, mut other, first) = two(&gateway)?;
    watcher.send(notify(1, 60_000, 0), &[])?;
    assert_eq!(watcher.next_size(1)?, first);
    watcher.send(notify(2, 0, 0), &[])?;
    // Exempt from the interval of the one before.
    assert_eq!(watcher.next_size(2)?, first);
    let ended = watcher.reply()?.success()?;
    assert_eq!((ended.cookie, &ended.sizes[..]), (1, &[][..]));
    set(&mut other, first + MIB)?;
    assert_eq!(watcher.next_size(2)?, first + MIB);
    gateway.end()
}

#[test]
fn disc_ends_a_notify_with_an_empty_chunk() -> Result<(), Trouble> {
    let gateway = gateway()?;
    let (mut watcher, _, first) = two(&gateway)?;
    watcher.send(notify(1, 0, 0), &[])?;
    assert_eq!(watcher.next_size(1)?, first);
    let disc = Ask { command: cmd::DISC, ..Ask::default() }.encode(Framing::Structured);
    watcher.link().send(&disc)?;
    let ended = watcher.reply()?.success()?;
    assert_eq!((ended.cookie, &ended.sizes[..]), (1, &[][..]));
    watcher.link().await_close()?;
    gateway.end()
}

#[test]
fn a_draining_gateway_ends_a_notify_with_eshutdown_and_does_not_wait_for_it() -> Result<(), Trouble> {
    let mut gateway = gateway()?;
    let (mut watcher, other, first) = two(&gateway)?;
    drop(other);
    watcher.send(notify(1, 0, 0), &[])?;
    assert_eq!(watcher.next_size(1)?, first);
    gateway.ask_to_end();
    let ended = watcher.reply()?;
    assert_eq!((ended.cookie, ended.error), (1, errno::ESHUTDOWN));
    watcher.link().await_close()?;
    gateway.await_end()
}

#[test]
fn malformed_requests_are_invalid_and_the_session_goes_on() -> Result<(), Trouble> {
    let gateway = gateway()?;
    let (mut client, _, first) = two(&gateway)?;
    let query = |offset, length| Ask { flags: cmd_flag::QUERY, offset, length, ..resize(3, 0) };
    let both = Ask { flags: cmd_flag::QUERY | cmd_flag::NOTIFY, ..resize(4, 0) };
    for wrong in
        [notify(1, 1 << 32, 0), query(1, 0), query(0, 1), both, Ask { flags: cmd_flag::DF, ..resize(5, first) }]
    {
        assert_eq!(client.ask(wrong, &[])?.error, errno::EINVAL, "{wrong:?}");
    }
    assert_eq!(size(&mut client)?, first);
    gateway.end()
}

#[test]
fn nobody_who_did_not_opt_in_is_notified() -> Result<(), Trouble> {
    let gateway = gateway()?;
    for framing in Framing::ALL {
        let (mut stock, _) = RawClient::open(gateway.socket(), "e", framing)?;
        assert_eq!(stock.ask(notify(1, 0, 0), &[])?.error, errno::EINVAL);
        stock.read(0, 512)?;
    }
    // No chunks, no notices: simple replies can't carry a size.
    let (mut simple, _) = opted_in(&gateway, Framing::Simple)?;
    assert_eq!(simple.ask(notify(1, 0, 0), &[])?.error, errno::EINVAL);
    gateway.end()
}

#[test]
fn a_client_that_never_reads_its_notices_costs_no_memory_and_finds_the_last_one_when_it_reads() -> Result<(), Trouble> {
    let mut gateway = gateway()?;
    let (mut watcher, mut other, first) = two(&gateway)?;
    watcher.send(notify(1, 0, 0), &[])?;
    assert_eq!(watcher.next_size(1)?, first);
    let before = gateway.peak_memory()?;
    for round in 0..4000 {
        set(&mut other, first + (round % 2 + 1) * 4096)?;
    }
    set(&mut other, first + 65536)?;
    let grown = gateway.peak_memory()? - before;
    ensure(grown < 8 << 10, || format!("4001 notices that nobody read cost {grown} KiB"))?;
    while watcher.next_size(1)? != first + 65536 {}
    gateway.end()
}
