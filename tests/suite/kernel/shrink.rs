//! An export that becomes smaller: the device follows only if that was ordered, and the gateway asks for as much.

use super::Stage;
use crate::trouble::{Trouble, ensure};

pub(super) fn goes_only_with_an_order(stage: &mut Stage) -> Result<(), Trouble> {
    let uri = stage.uri("small");
    let resize = |size: &str| format!("nbd-gateway client resize {uri} {size}");
    stage.start_agent("kept", &format!("--detach --device /dev/nbd3 {uri}"))?;
    stage.await_said("kept", "attached", 1)?;
    // Nobody told the gateway that this session can be shrunk under.
    let (status, said) = stage.machine.try_sh(&resize("512KiB"))?;
    ensure(status == 1 && said.contains("can't shrink"), || format!("{status}: {said}"))?;
    // Sizes that fill no sector are cut.
    stage.machine.sh(&resize("2000000"))?;
    stage.await_said(
        "kept",
        "grown from 1 MiB (1048576 bytes) to 1.90 MiB (1999872 bytes); the export has 1.90 MiB (2000000 bytes)",
        1,
    )?;
    stage.end_agent("kept")?;
    stage.machine.await_that("the device is free", "[ ! -e /sys/block/nbd3/pid ]")?;

    stage.start_agent("cut", &format!("--detach --allow-shrink --device /dev/nbd3 {uri}"))?;
    stage.await_said("cut", "attached", 1)?;
    stage.await_said("cut", "sizes are", 1)?;
    stage.machine.sh(&resize("512KiB"))?;
    stage.await_said("cut", "shrunk from 1.90 MiB (1999872 bytes) to 512 KiB", 1)?;
    stage.machine.sh("[ $(cat /sys/block/nbd3/size) = 1024 ]")?;
    stage.end_agent("cut")?;
    stage.machine.await_that("the device is free", "[ ! -e /sys/block/nbd3/pid ]")
}
