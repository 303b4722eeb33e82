//! Those who use what did not change, under load.

use super::{hang_up, sessions};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// Writes for a while with a checksum in each block, and reads them back.
fn fio(place: &Place, uri: &str) -> Result<Running, Trouble> {
    let folder = format!("--aux-path={}", place.path("").display());
    let words = [
        "--name=load",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--size=8M",
        "--bs=4k",
        "--iodepth=16",
        "--loops=1000",
        "--time_based",
        "--runtime=4",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        &folder,
    ];
    let uri = format!("--uri={uri}");
    Running::start(&installed("fio")?, words.into_iter().chain([uri.as_str()]), place.path("fio.log"))
}

#[test]
fn sessions_of_what_did_not_change_never_notice() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let mut served = Server::NbdkitFile.start(&Image::of_zeroes())?;
    let tables = |round: u32| {
        let other = place.path(&format!("{}.img", round % 2));
        let other = export("other", &format!("file:{}", other.display()), "size = \"1MiB\"");
        let more = format!("[limits]\nsessions-per-listener = {}\ndrain-timeout = \"{}s\"\n\n", 50 + round, 5 + round);
        let third = if round.is_multiple_of(3) { export("third", "memory:", "size = \"1MiB\"") } else { String::new() };
        [more, export("vm", &served.uri(), ""), other, third].concat()
    };
    let gateway = Gateway::start(&tables(0))?;
    let mut load = fio(&place, &gateway.uri("vm"))?;
    let (mut idle, _) = RawClient::open(gateway.socket(), "vm", Framing::Extended)?;
    let mut before = Vec::new();
    crate::trouble::eventually("both are there, and the load is under way", || {
        // fio's first connection, which only asks for the size and leaves, writes nothing.
        let written = gateway.metric("nbd_gateway_bytes_total", &["export=\"vm\"", "direction=\"write\""]);
        before = sessions(&gateway).unwrap_or_default();
        written.is_ok_and(|written| written > 0.0) && before.iter().filter(|(export, _)| export == "vm").count() == 2
    })?;
    for round in 1..=12 {
        let (mut other, _) = RawClient::open(gateway.socket(), "other", Framing::Simple)?;
        other.write(0, &[1; 512])?.success()?;
        hang_up(&gateway, &tables(round))?;
        other.link().await_close()?;
        let now: Vec<_> = sessions(&gateway)?.into_iter().filter(|(export, _)| export == "vm").collect();
        assert_eq!(now, before, "the same sessions as before");
    }
    let failed = gateway.whole_log().contains("is not reloaded");
    ensure(!failed, || gateway.log_tail(20))?;
    let status = load.await_end(crate::process::DEADLINE)?;
    ensure(status.success(), || format!("fio ended with {status}: {}", load.last_words()))?;
    idle.read(0, 512)?;
    idle.leave()?;
    assert_eq!(gateway.metric("nbd_gateway_lane_reconnects_total", &["export=\"vm\""])?, 0.0);
    gateway.end()?;
    served.content()?;
    Ok(())
}

/// libnbd's and qemu's own clients, each in one go beside a reload.
#[test]
fn clients_of_others_make_work_copy_through_a_reload() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let image = Image::full(9);
    let mut served = Server::NbdkitFile.start(&image)?;
    let tables = |n: u32| [export("vm", &served.uri(), ""), export("n", "memory:", &format!("size = {n}"))].concat();
    let gateway = Gateway::start(&tables(512))?;
    let copy = place.path("copy");
    for round in 1..4 {
        let words = ["--connections=4".to_owned(), gateway.uri("vm"), copy.display().to_string()];
        let mut copying = Running::start(&installed("nbdcopy")?, &words, place.path("nbdcopy.log"))?;
        hang_up(&gateway, &tables(512 * round))?;
        let status = copying.await_end(crate::process::DEADLINE)?;
        ensure(status.success(), || copying.last_words())?;
        ensure(std::fs::read(&copy)? == std::fs::read(served.file().expect("a file"))?, || "another image".into())?;
    }
    let (uri, file) = (gateway.uri("vm"), served.file().expect("a file").display().to_string());
    Call::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", &uri, &file]).run()?.success()?;
    gateway.end()?;
    served.content()?;
    Ok(())
}
