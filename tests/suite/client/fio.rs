//! fio's nbd engine: random writes at depth, each block with a checksum that is verified when it is read back.

use super::{Scene, libnbd};
use crate::image::Image;
use crate::process::Call;
use crate::route::Target;
use crate::trouble::Trouble;

pub(super) fn verify(target: &Target, scene: &Scene) -> Result<Image, Trouble> {
    let fio = Call::new("fio")
        .args(["--name=verify", "--ioengine=nbd", "--size=8M", "--bs=4k", "--iodepth=16", "--randrepeat=1"])
        .arg(format!("--uri={}", target.tcp_uri()))
        .inside(scene.place.root());
    if scene.writable {
        fio.args(["--rw=randwrite", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--end_fsync=1"])
    } else {
        fio.arg("--rw=randread")
    }
    .run()?
    .success()?;
    // Only fio knows what it wrote, so what the disk must hold is what another client sees.
    libnbd::fetch(target, scene, "after-fio")
}
