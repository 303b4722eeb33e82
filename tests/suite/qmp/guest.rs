//! The hook, with a guest: the disk of a running Linux grows while it writes.

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::trouble::{Trouble, ensure};
use crate::vm::Machine;

const MIB: u64 = 1 << 20;

/// In the guest: writes, reads back and compares, until there is `/tmp/stop`; what fails is told in `/tmp/failed`.
const LOAD: &str = "
cat >/tmp/load <<'END'
n=0
while [ ! -e /tmp/stop ]; do
    n=$((n + 1)) at=$((n % 8 * 4))
    dd if=/dev/urandom of=/tmp/block bs=64k count=4 2>/dev/null
    dd if=/tmp/block of=/dev/vda bs=64k seek=$at oflag=direct 2>/tmp/said || cat /tmp/said >>/tmp/failed
    dd if=/dev/vda of=/tmp/back bs=64k skip=$at count=4 iflag=direct 2>/tmp/said || cat /tmp/said >>/tmp/failed
    cmp /tmp/block /tmp/back >>/tmp/failed 2>&1 || true
    echo $n >/tmp/rounds
done
touch /tmp/stopped
END
echo 0 >/tmp/rounds
sh /tmp/load >/dev/null 2>&1 &
";

#[test]
fn the_disk_of_a_running_guest_grows_twice_while_it_writes() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let hook = format!("size = \"16MiB\"\n[[export.notify]]\nqmp = {:?}\nnode = \"disk0\"\n", place.path("qmp"));
    let gateway = Gateway::start(&export("disk", "memory:", &hook))?;
    let disk = "driver=nbd,node-name=disk0,export=disk,reconnect-delay=30,server.type=unix,server.path=";
    let mut machine = Machine::boot_with(&[
        "-blockdev".to_owned(),
        format!("{disk}{}", gateway.socket().display()),
        "-device".to_owned(),
        "virtio-blk-pci,drive=disk0,werror=report,rerror=report".to_owned(),
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", place.path("qmp").display()),
    ])?;
    machine.sh(LOAD)?;
    for mib in [32, 48] {
        let rounds = machine.sh("cat /tmp/rounds")?;
        machine.await_that("its load goes on", &format!("[ $(cat /tmp/rounds) -gt $(({} + 2)) ]", rounds.trim()))?;
        gateway.order_size("disk", mib * MIB)?;
        machine.await_that("a larger disk", &format!("[ $(cat /sys/block/vda/size) = {} ]", mib * 2048))?;
        let end = mib * 16 - 1;
        machine.sh(&format!(
            "set -e; dd if=/dev/urandom of=/tmp/end bs=64k count=1; dd if=/tmp/end of=/dev/vda bs=64k seek={end} oflag=direct
            dd if=/dev/vda of=/tmp/again bs=64k skip={end} count=1 iflag=direct; cmp /tmp/end /tmp/again"
        ))?;
    }
    let rounds = machine.sh("cat /tmp/rounds")?;
    machine.await_that("its load goes on", &format!("[ $(cat /tmp/rounds) -gt $(({} + 2)) ]", rounds.trim()))?;
    machine.sh("touch /tmp/stop")?;
    machine.await_that("the end of its load", "[ -e /tmp/stopped ]")?;
    let failed = machine.sh("cat /tmp/failed; dmesg | grep -i 'i/o error' || true")?;
    ensure(failed.is_empty(), || format!("the guest met errors:\n{failed}"))?;
    drop(machine);
    gateway.end()
}
