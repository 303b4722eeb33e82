//! Promise: growth by writes costs one resize per step, loses and reorders nothing, and is all or nothing.

use super::backend::NAME;
use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Resizing, Script};
use crate::scripted::numbers::{cmd, errno, flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const MIB: u64 = 1 << 20;
const WRITES: u64 = 200;
const LENGTH: u64 = 64 << 10;

/// Two gateways in a row, the second of which grows the first by steps of 1 MiB, or more if no `bound` keeps it to them.
fn in_a_row(bound: &str) -> Result<(Gateway, Gateway), Trouble> {
    let first = Gateway::start(&export(NAME, "memory:", "size = \"1MiB\"\n"))?;
    let resize = format!("[export.resize]\nstep = \"1MiB\"\n{bound}\n");
    let second = Gateway::start(&export(NAME, &first.uri(NAME), &resize))?;
    Ok((first, second))
}

fn opted_in(gateway: &Gateway) -> Result<(RawClient, u64), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let size = client.learn(opt::GO, NAME, &[info::RESIZE])?.size;
    Ok((client, size))
}

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8 | 1; LENGTH as usize]
}

fn write_of(number: u64) -> Ask {
    Ask { command: cmd::WRITE, cookie: number, offset: MIB + number * LENGTH, length: LENGTH, flags: 0 }
}

fn all_is_there(client: &mut RawClient) -> Result<(), Trouble> {
    for number in 0..WRITES {
        let found = client.read(MIB + number * LENGTH, LENGTH)?;
        ensure(found == payload(number), || format!("the bytes of write {number} are not there"))?;
    }
    Ok(())
}

#[test]
fn two_hundred_writes_past_the_end_one_after_another_cost_one_resize_per_step() -> Result<(), Trouble> {
    // Otherwise the steps of a stream of writes get larger.
    let (first, second) = in_a_row("max-step = \"1MiB\"")?;
    let (mut client, _) = opted_in(&second)?;
    for number in 0..WRITES {
        client.ask(write_of(number), &payload(number))?.success()?;
    }
    // 200 * 64 KiB are 12.5 steps.
    assert_eq!(second.metric("nbd_gateway_export_generation", &[])?, 13.0);
    assert_eq!(first.metric("nbd_gateway_resize_requests_total", &[])?, 13.0);
    assert_eq!(second.metric("nbd_gateway_export_size_bytes", &[])?, 14.0 * MIB as f64);
    all_is_there(&mut client)?;
    client.leave()?;
    second.end()?;
    first.end()
}

/// Each of its writes past what it had been told asked for a resize, with the room there.
#[test]
fn a_stock_clients_writes_into_room_that_is_there_ask_for_nothing() -> Result<(), Trouble> {
    let gateway =
        Gateway::start(&export(NAME, "memory:", "size = \"1MiB\"\n[export.resize]\nautomatic = \"always\"\n"))?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.learn(opt::GO, NAME, &[])?;
    for number in 0..WRITES {
        client.ask(write_of(number), &payload(number))?.success()?;
        // What it wrote it may read, and no more.
        let past = MIB + (number + 1) * LENGTH;
        let beyond = Ask { command: cmd::READ, cookie: 1, offset: past, length: 512, flags: 0 };
        assert_eq!(client.ask(beyond, &[])?.error, errno::EINVAL);
    }
    assert_eq!(gateway.metric("nbd_gateway_resize_duration_seconds_count", &["result=\"ok\""])?, 1.0);
    all_is_there(&mut client)?;
    client.leave()?;
    gateway.end()
}

#[test]
fn two_hundred_writes_past_the_end_at_once_cost_no_more_and_all_land() -> Result<(), Trouble> {
    let (first, second) = in_a_row("")?;
    let (mut client, _) = opted_in(&second)?;
    for number in 0..WRITES {
        client.send(write_of(number), &payload(number))?;
    }
    for _ in 0..WRITES {
        client.reply()?.success()?;
    }
    let steps = second.metric("nbd_gateway_export_generation", &[])?;
    // Fewer if a write from far ahead comes first.
    ensure((1.0..=13.0).contains(&steps), || format!("{steps} resizes for 13 steps"))?;
    assert_eq!(first.metric("nbd_gateway_resize_requests_total", &[])?, steps);
    all_is_there(&mut client)?;
    client.leave()?;
    second.end()?;
    first.end()
}

fn draft(refuses: Option<(u16, u32)>) -> Result<(Backend, Gateway), Trouble> {
    let script = Script { resizing: Resizing::Explicit { exposes: 0 }, refuses, ..Script::default() };
    let backend = Backend::start(Script { flags: script.flags | flag::SEND_RESIZE, ..script })?;
    let gateway = Gateway::start(&export(NAME, &backend.uri(), "[export.resize]\nstep = \"1MiB\"\npoll = \"off\"\n"))?;
    Ok((backend, gateway))
}

#[test]
fn writes_in_flight_before_over_and_after_an_end_that_grows_keep_their_data() -> Result<(), Trouble> {
    let (backend, gateway) = draft(None)?;
    let (mut client, size) = opted_in(&gateway)?;
    let mut expected = Backend::content().bytes().to_vec();
    backend.hold();
    let mut write = |cookie: u64, offset: u64, byte: u8| {
        let end = (offset + 4096) as usize;
        expected.resize(expected.len().max(end), 0);
        expected[offset as usize..end].fill(byte);
        client.send(Ask { command: cmd::WRITE, cookie, offset, length: 4096, flags: 0 }, &[byte; 4096])
    };
    write(1, size - 8192, 0x11)?;
    backend.await_that("the WRITE before the end", |story| story.count(cmd::WRITE) == 1)?;
    write(2, size, 0x22)?;
    backend.await_that("the resize", |story| story.count(cmd::RESIZE) == 1)?;
    // While nobody knows the new end.
    write(3, size - 2048 + 8192, 0x33)?;
    write(4, size - 4096, 0x44)?;
    backend.release();
    for _ in 0..4 {
        client.reply()?.success()?;
    }
    expected.resize((size + MIB) as usize, 0);
    ensure(backend.story(|story| story.disk == expected), || "the backend's disk holds other bytes".into())?;
    assert_eq!(backend.story(|story| story.count(cmd::RESIZE)), 1);
    client.leave()?;
    gateway.end()
}

#[test]
fn a_write_whose_growth_the_backend_has_no_room_for_gets_enospc_and_writes_nothing() -> Result<(), Trouble> {
    let (backend, gateway) = draft(Some((cmd::RESIZE, errno::ENOSPC)))?;
    let (mut client, size) = opted_in(&gateway)?;
    for length in [1024, 5 * MIB] {
        let ask = Ask { command: cmd::WRITE, cookie: 1, offset: size - 512, length, flags: 0 };
        let refused = client.ask(ask, &vec![0x66; length as usize])?;
        assert_eq!(refused.error, errno::ENOSPC);
        ensure(refused.message.contains("no room"), || refused.message.clone())?;
    }
    let explicit = client.ask(Ask { command: cmd::RESIZE, cookie: 2, offset: size + MIB, ..Ask::default() }, &[])?;
    assert_eq!(explicit.error, errno::ENOSPC);
    // The payloads were consumed: the stream is in step.
    ensure(client.read(size - 512, 512)? == Backend::content().bytes()[size as usize - 512..], || "torn".into())?;
    ensure(backend.story(|story| story.disk == Backend::content().bytes()), || "something was written".into())?;
    assert_eq!(backend.story(|story| story.count(cmd::WRITE)), 0);
    client.leave()?;
    gateway.end()
}

#[test]
fn a_read_or_a_trim_past_the_end_never_grows_an_export() -> Result<(), Trouble> {
    let (backend, gateway) = draft(None)?;
    let (mut client, size) = opted_in(&gateway)?;
    for command in [cmd::READ, cmd::TRIM, cmd::CACHE] {
        let refused = client.ask(Ask { command, cookie: 1, offset: size, length: 512, flags: 0 }, &[])?;
        assert_eq!(refused.error, errno::EINVAL, "command {command}");
    }
    assert_eq!(backend.story(|story| story.count(cmd::RESIZE)), 0);
    client.leave()?;
    gateway.end()
}
