//! A mounted ext4 under write load over an nbdkit, grown three times, with connections lost in between.

use super::{Stage, grow};
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

/// Writes files that it can check, over and over, until it is told to end. Each is on the disk before the next.
const LOAD: &str = r#"
cat >/run/load <<'END'
n=0
while [ ! -e /run/enough ]; do
    slot=$((n % 12))
    dd if=/dev/urandom of=/run/fresh bs=64k count=4 2>/dev/null
    dd if=/run/fresh of=/mnt/file$slot bs=64k conv=fsync 2>>/run/load.log || echo "$n" >>/run/errors
    sha256sum </run/fresh >/run/sum$slot
    n=$((n + 1))
    echo $n >/run/written
done
END
mount /dev/nbd1 /mnt
: >/run/errors
echo 0 >/run/written
sh /run/load >/dev/null 2>&1 &
echo $! >/run/load.pid
"#;

/// Ends the load, and looks at everything: no error, a clean file system, and each file as it was written.
const CHECKED: &str = r#"
touch /run/enough
while kill -0 $(cat /run/load.pid) 2>/dev/null; do sleep 0.1; done
[ ! -s /run/errors ] || { echo "writes failed: $(cat /run/errors) $(cat /run/load.log)"; exit 1; }
yes grown | head -c 75497472 >/mnt/big && sync || exit 1
umount /mnt || exit 1
e2fsck -fn /dev/nbd1 || exit 1
mount /dev/nbd1 /mnt || exit 1
for sum in /run/sum*; do
    sha256sum </mnt/file${sum#/run/sum} | cmp - $sum || exit 1
done
umount /mnt
"#;

pub(super) fn grows_three_times(stage: &mut Stage) -> Result<(), Trouble> {
    let uri = stage.uri("vm");
    let agent = format!("--device /dev/nbd1 --timeout 3s --metrics 127.0.0.1:9810 {uri}");
    stage.start_agent("agent", &format!("--json {agent}"))?;
    stage.await_said("agent", "\"event\":\"attached\"", 1)?;
    stage.await_said("agent", "\"how\":\"notify\"", 1)?;
    ensure(stage.machine.sh("cat /sys/block/nbd1/backend")?.trim() == uri, || "not attached for the URI".to_owned())?;
    stage.machine.sh("mkfs.ext4 -q -E lazy_itable_init=0 /dev/nbd1")?;
    stage.machine.sh(LOAD)?;

    write_more(stage)?;
    grown_to(stage, 64, 1)?;

    // The server dies and comes back: a pause, and the kernel's connection lives.
    stage.served.kill()?;
    stage.served.start_again()?;
    write_more(stage)?;
    grown_to(stage, 96, 2)?;
    let log = stage.machine.sh("cat /run/agent.log")?;
    ensure(!log.contains("link-dead"), || format!("the loss behind the gateway went through it:\n{log}"))?;

    // The gateway dies: the kernel gets another connection.
    stage.gateway.kill_and_restart()?;
    stage.await_said("agent", "\"event\":\"link-dead\"", 1)?;
    stage.await_said("agent", "\"event\":\"reconnected\"", 1)?;
    write_more(stage)?;

    // The agent ends, nobody follows, and the disk goes on; another one takes over what it missed.
    stage.end_agent("agent")?;
    stage.await_said("agent", "\"event\":\"left-attached\"", 1)?;
    let before = stage.machine.sh("cat /run/agent.log")?;
    grow(&stage.served, 128)?;
    write_more(stage)?;
    other_exports_are_kept_away(stage)?;
    // Nor is anybody there when the connection dies.
    stage.gateway.kill_and_restart()?;
    stage.start_agent("agent", &format!("--json --detach {agent}"))?;
    stage.await_said("agent", "\"event\":\"following\"", 1)?;
    grown_to(stage, 128, 1)?;

    // A mounted disk is not taken away.
    stage.end_agent("agent")?;
    stage.await_said("agent", "stays attached, it is in use", 1)?;
    stage.start_agent("agent", &format!("--json --detach {agent}"))?;
    stage.await_said("agent", "\"event\":\"following\"", 1)?;
    write_more(stage)?;

    stage.machine.sh(CHECKED)?;
    let metrics = stage.machine.sh("wget -q -O - http://127.0.0.1:9810/metrics")?;
    let line = format!("nbd_gateway_agent_size_bytes{{device=\"nbd1\"}} {}", 128 << 20);
    ensure(metrics.lines().any(|found| found == line), || format!("{line} is not in\n{metrics}"))?;
    the_server_has_it_all(stage)?;
    stage.end_agent("agent")?;
    stage.await_said("agent", "\"event\":\"detached\"", 1)?;
    stage.machine.await_that("the device is free", "[ ! -e /sys/block/nbd1/pid ]")?;
    for event in ["\"from\":33554432,\"size\":67108864", "\"from\":67108864,\"size\":100663296"] {
        let found =
            before.lines().any(|line| line.contains("\"grown\"") && event.split(',').all(|part| line.contains(part)));
        ensure(found, || format!("no {event} in\n{before}"))?;
    }
    Ok(())
}

/// Waits until some more files are on the disk.
fn write_more(stage: &mut Stage) -> Result<(), Trouble> {
    let written: u64 = stage.machine.sh("cat /run/written")?.trim().parse().unwrap_or(0);
    stage.machine.await_that("the load goes on", &format!("[ $(cat /run/written) -ge {} ]", written + 3))
}

/// Grows the file behind everything, and the file system once the agent has told the kernel.
fn grown_to(stage: &mut Stage, mib: u64, times: u32) -> Result<(), Trouble> {
    grow(&stage.served, mib)?;
    stage.await_said("agent", "\"event\":\"grown\"", times)?;
    let script = format!(
        "[ $(cat /sys/block/nbd1/size) = {} ] && resize2fs /dev/nbd1 2>&1 && [ $(df -k /mnt | awk 'END {{ print $2 }}') -gt {} ]",
        mib << 11,
        (mib - 30) << 10
    );
    stage.machine.sh(&script)?;
    write_more(stage)
}

/// Neither is the device taken on for another export, nor does it get another's smaller size.
fn other_exports_are_kept_away(stage: &mut Stage) -> Result<(), Trouble> {
    let small = stage.uri("small");
    let (status, said) = stage.machine.try_sh(&format!("nbd-gateway agent --device /dev/nbd1 {small}"))?;
    ensure(status == 1 && said.contains("is attached for") && said.contains("--follow"), || said.clone())?;
    stage.start_agent("other", &format!("--follow --device /dev/nbd1 {small}"))?;
    stage.await_said("other", "it has 1 MiB (1048576 bytes) now, and the device 96 MiB (100663296 bytes)", 1)?;
    stage.end_agent("other")?;
    stage.machine.sh("[ $(cat /sys/block/nbd1/size) = 196608 ]").map(drop)
}

/// What the kernel reads past the end that it was attached with is what nbdkit's file has.
fn the_server_has_it_all(stage: &mut Stage) -> Result<(), Trouble> {
    let range = "bs=1M skip=64 count=32 2>/dev/null";
    let seen = stage.machine.sh(&format!("dd if=/dev/nbd1 {range} | sha256sum"))?;
    let file = stage.served.file().ok_or_else(|| Trouble::new("this nbdkit has no file"))?;
    let kept = format!("dd if='{}' {range} | tee seen | sha256sum; grep -ac grown seen", file.display());
    let place = Place::fresh()?;
    let kept = Call::new("sh").args(["-c", &kept]).inside(place.root()).run()?.success()?.stdout;
    let same = kept.lines().next() == seen.lines().next();
    ensure(same, || format!("the machine reads {seen}, the file has {kept}"))
}
