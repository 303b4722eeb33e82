//! Promise: an export with `read-ahead` reads ahead of sequential readers, and no READ gets old data.

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Server, nbdkit};
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const READ_AHEAD: &str = "read-ahead = \"8MiB\"\n[export.resize]\nexclusive = true";
const REQUEST: u64 = 64 << 10;
/// The first two requests of a reader tell that it is one.
const UNFORESEEN: u64 = 2 * REQUEST;

fn bytes(gateway: &Gateway, what: &str) -> Result<u64, Trouble> {
    Ok(gateway.metric(&format!("nbd_gateway_read_ahead_{what}_bytes_total"), &["export=\"vm\""])? as u64)
}

fn open(gateway: &Gateway) -> Result<RawClient, Trouble> {
    RawClient::open(gateway.socket(), "vm", Framing::Structured).map(|(client, _)| client)
}

#[test]
fn a_client_that_reads_a_distant_disk_from_front_to_back_waits_for_two_requests_only() -> Result<(), Trouble> {
    let image = Image::full(8);
    let served = nbdkit(&["--filter=delay"], &["file", "DISK", "rdelay=20ms"], &image)?;
    let gateway = Gateway::start(&export("vm", &served.uri(), READ_AHEAD))?;
    let mut client = open(&gateway)?;
    let size = image.bytes().len() as u64;
    for at in (0..size).step_by(REQUEST as usize) {
        let found = client.read(at, REQUEST)?;
        ensure(found == image.bytes()[at as usize..][..REQUEST as usize], || format!("other bytes at {at}"))?;
    }
    assert_eq!((bytes(&gateway, "served")?, bytes(&gateway, "fetched")?), (size - UNFORESEEN, size - UNFORESEEN));
    gateway.end()
}

#[test]
fn many_clients_that_read_one_image_are_served_by_one_reading_of_it() -> Result<(), Trouble> {
    let backend = Backend::start(Script { framing: Framing::Structured, ..Script::default() })?;
    let gateway = Gateway::start(&export("vm", &backend.uri(), READ_AHEAD))?;
    let mut clients: Vec<RawClient> = (0..8).map(|_| open(&gateway)).collect::<Result<_, _>>()?;
    let content = Backend::content();
    let size = content.bytes().len() as u64;
    for at in (0..size).step_by(REQUEST as usize) {
        for client in &mut clients {
            ensure(client.read(at, REQUEST)? == content.bytes()[at as usize..][..REQUEST as usize], || {
                "other bytes".into()
            })?;
        }
    }
    let served = 8 * (size - UNFORESEEN);
    assert_eq!((bytes(&gateway, "served")?, bytes(&gateway, "fetched")?), (served, size - UNFORESEEN));
    ensure(backend.story(|story| story.count(cmd::READ)) < 100, || "the backend was asked by each".into())?;
    gateway.end()
}

#[test]
fn what_another_client_writes_is_read_at_once_although_it_was_read_ahead() -> Result<(), Trouble> {
    let served = Server::QemuNbdShared.start(&Image::sparse(8))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), READ_AHEAD))?;
    let (mut reader, mut writer) = (open(&gateway)?, open(&gateway)?);
    for round in 0..64u64 {
        let at = round * REQUEST;
        // Some of what comes next, all of it, and what comes after.
        let (offset, length) = [(0, 512), (0, REQUEST as usize), (4096, 8192), (1 << 20, 4096)][round as usize % 4];
        let fresh = vec![round as u8 + 1; length];
        writer.write(at + offset, &fresh)?.success()?;
        let found = reader.read(at + offset, length as u64)?;
        ensure(found == fresh, || format!("round {round}: what was written is not read"))?;
        reader.read(at, REQUEST)?;
    }
    ensure(bytes(&gateway, "served")? > 0, || "nothing was read ahead".into())?;
    gateway.end()
}

#[test]
fn nothing_that_was_read_from_a_server_is_served_once_its_connection_was_lost() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(8))?;
    let tables = export("vm", &served.uri(), READ_AHEAD);
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let mut client = open(&gateway)?;
    for round in 0..4 {
        client.read(round * REQUEST, REQUEST)?;
    }
    served.kill()?;
    let disk = served.file().expect("qemu-nbd has a file").to_owned();
    std::fs::write(disk, vec![7; 8 << 20])?;
    served.start_again()?;
    crate::trouble::eventually("it is connected again", || {
        gateway.metric("nbd_gateway_lane_reconnects_total", &["reason=\"lost\""]).is_ok_and(|n| n == 1.0)
    })?;
    let found = client.read(4 * REQUEST, REQUEST)?;
    ensure(found.iter().all(|byte| *byte == 7), || "the bytes are of before".into())?;
    gateway.end()
}

#[test]
fn fio_finds_what_it_wrote_in_sequence_while_it_is_read_ahead() -> Result<(), Trouble> {
    let served = Server::QemuNbdShared.start(&Image::sparse(8))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), READ_AHEAD))?;
    let place = crate::place::Place::fresh()?;
    Call::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--size=8M", "--bs=16k", "--iodepth=8", "--rw=rw", "--loops=4"])
        .args(["--verify=crc32c", "--verify_backlog=16", "--verify_fatal=1"])
        .arg(format!("--uri=nbd+unix:///vm?socket={}", gateway.socket().display()))
        .inside(place.root())
        .run()?
        .success()?;
    ensure(bytes(&gateway, "served")? > 0, || "nothing was read ahead".into())?;
    gateway.end()
}
