//! What the agent says where it can do nothing: one sentence each, and exit 1.

use super::Stage;
use crate::trouble::{Trouble, ensure};

fn fails(stage: &mut Stage, command: &str, words: &[&str]) -> Result<(), Trouble> {
    let (status, said) = stage.machine.try_sh(command)?;
    let fits = status == 1 && said.lines().count() == 1 && words.iter().all(|word| said.contains(word));
    ensure(fits, || format!("`{command}` ended with {status} and said {said:?} where {words:?} was expected"))
}

pub(super) fn each_is_a_sentence(stage: &mut Stage) -> Result<(), Trouble> {
    let agent = |device: &str, uri: &str| format!("nbd-gateway agent --device {device} {uri}");
    let uri = stage.uri("vm");
    fails(stage, &agent("/dev/sda", &uri), &["/dev/sda is no nbd device", "/dev/nbd0"])?;
    fails(stage, &agent("/dev/nbd99", &uri), &["there is no /dev/nbd99", "nbds_max"])?;
    fails(stage, &agent("/dev/nbd5 --follow", &uri), &["not attached", "--follow"])?;
    fails(stage, &agent("/dev/nbd5", "nbd://10.0.2.2:1/x"), &["can't connect to 10.0.2.2:1"])?;
    let nowhere = stage.uri("nowhere");
    fails(stage, &agent("/dev/nbd5", &nowhere), &["there is no export \"nowhere\""])?;
    fails(stage, &agent("/dev/nbd5 --metrics 192.0.2.1:9810", &uri), &["192.0.2.1:9810", "--metrics"])?;
    // Somebody else than root.
    stage.machine.sh("echo 'nobody:x:99:99::/:/bin/sh' >/etc/passwd; chmod 755 /host /host/lib")?;
    fails(stage, &format!("su nobody -c '{}'", agent("/dev/nbd5", &uri)), &["run it as root"])?;
    stage.machine.sh("[ ! -e /sys/block/nbd5/pid ]").map(drop)
}

pub(super) fn without_the_module(stage: &mut Stage) -> Result<(), Trouble> {
    stage.machine.sh("rmmod nbd")?;
    let command = format!("nbd-gateway agent --device /dev/nbd0 {}", stage.uri("vm"));
    fails(stage, &command, &["no nbd driver", "modprobe nbd"])
}
