//! A device with several connections: all die, and all are replaced.

use super::Stage;
use crate::trouble::Trouble;

pub(super) fn are_replaced_one_by_one(stage: &mut Stage) -> Result<(), Trouble> {
    let uri = stage.uri("vm1");
    stage.start_agent("several", &format!("--detach --timeout 2s --connections 3 --device /dev/nbd6 {uri}"))?;
    stage.await_said("several", "sizes are", 1)?;
    stage.machine.sh("dd if=/dev/zero of=/dev/nbd6 bs=1M count=4 conv=fsync 2>&1")?;
    stage.gateway.kill_and_restart()?;
    stage.await_said("several", "reconnected", 3)?;
    stage.machine.sh("dd if=/dev/zero of=/dev/nbd6 bs=1M count=4 conv=fsync 2>&1")?;
    stage.machine.sh(&format!("nbd-gateway client resize {uri} +1MiB"))?;
    stage.await_said("several", "grown from 64 MiB (67108864 bytes) to 65 MiB", 1)?;
    stage.machine.sh("dd if=/dev/zero of=/dev/nbd6 bs=1M seek=64 count=1 conv=fsync 2>&1")?;
    stage.end_agent("several")?;
    stage.machine.await_that("the device is free", "[ ! -e /sys/block/nbd6/pid ]")
}
