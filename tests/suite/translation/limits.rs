//! Lengths: what one side may ask in one request and the other may not.

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const GIB: u64 = 1 << 30;

#[test]
fn six_gibibytes_are_zeroed_and_trimmed_in_one_extended_request_to_a_compact_backend() -> Result<(), Trouble> {
    let served = nbdkit(&[], &["memory", "8G"], &Image::sparse(9))?;
    let gateway = Gateway::in_front_of(&served)?;
    for command in [cmd::WRITE_ZEROES, cmd::TRIM] {
        let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Extended)?;
        for offset in [512, 3 * GIB, 6 * GIB - 512, 6 * GIB] {
            client.write(offset, &[0xaa; 512])?.success()?;
        }
        client.ask(Ask { command, cookie: 1, offset: 1024, length: 6 * GIB - 1024, flags: 0 }, &[])?.success()?;
        assert_eq!(client.read(512, 512)?, [0xaa; 512], "before the range");
        assert_eq!(client.read(6 * GIB, 512)?, [0xaa; 512], "after the range");
        // nbdkit's memory reads as zeroes where it was trimmed.
        assert_eq!(client.read(3 * GIB, 512)?, [0; 512]);
        assert_eq!(client.read(6 * GIB - 512, 512)?, [0; 512]);
        client.leave()?;
    }
    gateway.end()
}

#[test]
fn block_status_of_six_gibibytes_covers_a_compact_backend() -> Result<(), Trouble> {
    let served = nbdkit(&[], &["memory", "8G"], &Image::sparse(9))?;
    let gateway = Gateway::in_front_of(&served)?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Extended)?;
    client.contexts("", &["base:allocation"])?;
    client.go("")?;
    let (mut at, end) = (0, 6 * GIB);
    let mut data = 0;
    while at < end {
        let ask = Ask { command: cmd::BLOCK_STATUS, cookie: at, offset: at, length: end - at, flags: 0 };
        let extents = client.ask(ask, &[])?.success()?.extents;
        let extents = &extents.first().ok_or_else(|| Trouble::new("no extents"))?.1;
        ensure(!extents.is_empty() && extents.iter().all(|(length, _)| *length > 0), || format!("{extents:?}"))?;
        data += extents.iter().filter(|(_, flags)| flags & 1 == 0).map(|(length, _)| length).sum::<u64>();
        at += extents.iter().map(|(length, _)| length).sum::<u64>();
    }
    ensure(data > 0 && data <= 8 << 20, || format!("{data} bytes are said to be data"))?;
    gateway.end()
}

#[test]
fn a_payload_over_the_backends_maximum_is_split() -> Result<(), Trouble> {
    let backend = Backend::start(Script { blocks: Some([1, 4096, 1 << 16]), ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let mut expected = Backend::content().bytes().to_vec();
    for framing in Framing::ALL {
        let (mut client, _) = RawClient::open(gateway.socket(), "", framing)?;
        // Neither end at a multiple of the maximum.
        client.write(0x1_2345, &[0x77; 300_001])?.success()?;
        expected[0x1_2345..0x1_2345 + 300_001].fill(0x77);
        ensure(client.read(777, 1 << 20)? == expected[777..777 + (1 << 20)], || format!("{framing:?}: other bytes"))?;
        client.leave()?;
    }
    let longest = backend.story(|story| {
        story.seen.iter().filter(|seen| matches!(seen.command, cmd::READ | cmd::WRITE)).map(|seen| seen.length).max()
    });
    assert_eq!(longest, Some(1 << 16));
    ensure(backend.story(|story| story.disk == expected), || "the backend's disk holds other bytes".into())?;
    gateway.end()
}

#[test]
fn a_request_below_the_backends_minimum_is_bridged_and_neighbours_in_one_block_all_land() -> Result<(), Trouble> {
    let backend = Backend::start(Script { blocks: Some([4096, 4096, 1 << 25]), ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let mut expected = Backend::content().bytes().to_vec();
    let mut clients = Vec::new();
    for sector in 0..8_u64 {
        // Eight sessions, a sector of the same block each, all at once.
        let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Simple)?;
        let offset = 0x2_0000 + sector * 512;
        let write = Ask { command: cmd::WRITE, cookie: sector, offset, length: 512, flags: 0 };
        client.send(write, &[0x80 | sector as u8; 512])?;
        expected[offset as usize..offset as usize + 512].fill(0x80 | sector as u8);
        clients.push(client);
    }
    for client in &mut clients {
        client.reply()?.success()?;
    }
    let client = &mut clients[0];
    // Over three blocks, whole only in the middle.
    client.write(0x10_0e00, &[0x66; 5000])?.success()?;
    expected[0x10_0e00..0x10_0e00 + 5000].fill(0x66);
    let zeroes = Ask { command: cmd::WRITE_ZEROES, cookie: 1, offset: 0x11_0200, length: 6000, flags: 0 };
    client.ask(zeroes, &[])?.success()?;
    expected[0x11_0200..0x11_0200 + 6000].fill(0);
    ensure(client.read(0x1_ff00, 0x300)? == expected[0x1_ff00..0x2_0200], || {
        "an unaligned READ gave other bytes".into()
    })?;
    ensure(backend.story(|story| story.disk == expected), || "the backend's disk holds other bytes".into())?;
    let unaligned = backend.story(|story| {
        story.seen.iter().find(|seen| (seen.offset | seen.length) % 4096 != 0 && seen.command != cmd::DISC).copied()
    });
    assert_eq!(unaligned, None, "the backend was sent what it does not allow");
    gateway.end()
}
