//! A stock server, without a gateway: it serves a new size to new connections only, so the kernel gets one.

use std::fs;

use super::Stage;
use crate::place::Place;
use crate::process::{Running, installed};
use crate::trouble::Trouble;

pub(super) fn is_reached_past_its_old_end_by_another_connection(stage: &mut Stage) -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (disk, pidfile) = (place.path("disk"), place.path("pid"));
    let file = fs::File::create(&disk)?;
    file.set_len(32 << 20)?;
    let port = super::free_port()?;
    let arguments = ["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "-P", &pidfile.display().to_string(), "file"]
        .map(str::to_owned)
        .into_iter()
        .chain([disk.display().to_string()]);
    let mut nbdkit = Running::start(&installed("nbdkit")?, arguments, place.path("log"))?;
    nbdkit.await_ready("its pid file", || pidfile.exists())?;

    let uri = format!("nbd://10.0.2.2:{port}/");
    stage.start_agent("stock", &format!("--detach --timeout 2s --poll 100ms --device /dev/nbd4 {uri}"))?;
    stage.await_said("stock", "sizes are told by the handshake", 1)?;
    stage.machine.sh("dd if=/dev/zero of=/dev/nbd4 bs=1M seek=30 count=2 conv=fsync 2>&1")?;
    file.set_len(64 << 20)?;
    stage.await_said("stock", "grown from 32 MiB (33554432 bytes) to 64 MiB", 1)?;
    stage.machine.sh("dd if=/dev/urandom of=/dev/nbd4 bs=1M seek=60 count=4 conv=fsync 2>&1")?;
    stage.end_agent("stock")?;
    stage.machine.await_that("the device is free", "[ ! -e /sys/block/nbd4/pid ]")
}
