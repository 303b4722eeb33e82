//! qemu-img and qemu-io.

use serde_json::Value;

use super::Scene;
use crate::image::Image;
use crate::process::Call;
use crate::route::Target;
use crate::trouble::{Trouble, ensure};

pub(super) fn info(target: &Target) -> Result<Value, Trouble> {
    let output =
        Call::new("qemu-img").args(["info", "-f", "raw", "--output=json"]).arg(target.uri()).run()?.success()?;
    let mut info: Value = serde_json::from_str(&output.stdout)?;
    // The names of sockets are all that may differ.
    forget(&mut info, &["filename", "children"]);
    Ok(info)
}

pub(super) fn map(target: &Target) -> Result<Value, Trouble> {
    let output =
        Call::new("qemu-img").args(["map", "-f", "raw", "--output=json"]).arg(target.uri()).run()?.success()?;
    Ok(serde_json::from_str(&output.stdout)?)
}

/// A VM's qcow2 image onto the export, back into another, and compared on the way.
pub(super) fn convert(target: &Target, scene: &Scene) -> Result<Image, Trouble> {
    let after = if scene.writable { Image::sparse(2) } else { scene.before.clone() };
    let raw = scene.file("vm.raw", &after)?;
    let (vm, back) = (scene.place.path("vm.qcow2"), scene.place.path("back.qcow2"));
    let convert = || Call::new("qemu-img").arg("convert");
    convert().args(["-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&vm).run()?.success()?;
    if scene.writable {
        convert().args(["-n", "-f", "qcow2", "-O", "raw"]).arg(&vm).arg(target.uri()).run()?.success()?;
    }
    convert().args(["-f", "raw", "-O", "qcow2"]).arg(target.uri()).arg(&back).run()?.success()?;
    Call::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "qcow2"]).arg(&vm).arg(&back).run()?.success()?;
    Ok(after)
}

/// Equal is seen as equal, and one changed byte is seen.
pub(super) fn compare(target: &Target, scene: &Scene) -> Result<Image, Trouble> {
    let same = scene.file("same.raw", &scene.before)?;
    let mut other = scene.before.clone();
    other.put(0x50_0123, 1, 0xee);
    let other = scene.file("other.raw", &other)?;
    let compare = || Call::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(target.uri());
    compare().arg(same).run()?.success()?;
    let differs = compare().arg(other).run()?;
    ensure(differs.status.code() == Some(1), || differs.trouble("should have seen a difference").to_string())?;
    Ok(scene.before.clone())
}

/// Patterns, many at once, zeroes, discards and flushes, each read back and checked by qemu-io itself.
pub(super) fn io(target: &Target, scene: &Scene) -> Result<Image, Trouble> {
    let mut after = scene.before.clone();
    let mut commands = vec!["read -P 0 0x60000 0xa0000".to_owned()];
    if scene.writable {
        for (offset, length, byte) in [(0, 0x1000, 0xa1), (0x1_f000, 0x3_0000, 0xa2), (0x7f_f000, 0x1000, 0xa3)] {
            commands.push(format!("write -P {byte} {offset} {length}"));
            after.put(offset, length, byte);
        }
        commands.push("write -f -P 0xa4 0x300000 1M".into());
        after.put(0x30_0000, 1 << 20, 0xa4);
        commands.push("write -z 0x340000 256k".into());
        after.put(0x34_0000, 0x4_0000, 0);
        commands.push("write -z -u 0x3c0000 64k".into());
        after.put(0x3c_0000, 0x1_0000, 0);
        // What a discarded range holds is the server's choice, so it is written again.
        commands.extend(["discard 0x500000 1M".into(), "write -P 0xa5 0x500000 1M".into()]);
        after.put(0x50_0000, 1 << 20, 0xa5);
        for index in 0..16_usize {
            let (offset, byte) = (0x60_0000 + index * 0x3000, 0xb0 + index as u8);
            commands.push(format!("aio_write -q -P {byte} {offset} 4k"));
            after.put(offset, 0x1000, byte);
        }
        commands.extend(["aio_flush".into(), "flush".into()]);
        commands.extend(["read -P 0xa1 0 4k".into(), "read -P 0 0x340000 256k".into(), "read -P 0xa5 5M 1M".into()]);
    }
    let mut call = Call::new("qemu-io").args(["-f", "raw"]);
    if !scene.writable {
        call = call.arg("-r");
    }
    for command in &commands {
        call = call.args(["-c", command]);
    }
    let output = call.arg(target.uri()).run()?.success()?;
    // A pattern that does not match is told in words.
    ensure(!output.stdout.contains("failed"), || output.trouble("did not find what it wrote").to_string())?;
    Ok(after)
}

fn forget(value: &mut Value, keys: &[&str]) {
    if let Value::Object(map) = value {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
}
