//! libnbd: nbdinfo, nbdcopy, and its Python binding for what no tool does.

use std::path::Path;

use serde_json::{Value, json};

use super::Scene;
use crate::image::Image;
use crate::process::{Call, Output, installed};
use crate::route::Target;
use crate::trouble::Trouble;

/// Everything that nbdinfo can say.
pub(super) fn info(target: &Target) -> Result<Value, Trouble> {
    // It has `file` tell what the content is; where there is none, it prints whatever its memory holds (libnbd 1.14).
    installed("file")?;
    let nbdinfo = |option: &str| Call::new("nbdinfo").args([option, "--json"]).arg(target.uri()).run()?.success();
    let size = Call::new("nbdinfo").arg("--size").arg(target.uri()).run()?.success()?.stdout;
    let (one, list): (Value, Value) =
        (serde_json::from_str(&nbdinfo("--json")?.stdout)?, serde_json::from_str(&nbdinfo("--list")?.stdout)?);
    Ok(json!({"info": one, "list": list, "size": size}))
}

pub(super) fn map(target: &Target) -> Result<Value, Trouble> {
    map_of(target, "base:allocation")
}

/// The map of any context.
pub(crate) fn map_of(target: &Target, context: &str) -> Result<Value, Trouble> {
    let output = Call::new("nbdinfo").arg(format!("--map={context}")).arg("--json").arg(target.uri()).run()?;
    Ok(serde_json::from_str(&output.success()?.stdout)?)
}

/// The whole export to a file, and a file over the whole export, over several connections where that is allowed.
pub(super) fn copy(target: &Target, scene: &Scene) -> Result<Image, Trouble> {
    let read = fetch(target, scene, "before.raw")?;
    scene.before.expect_same(&read, "what nbdcopy read")?;
    if !scene.writable {
        return Ok(read);
    }
    let after = Image::sparse(3);
    let file = scene.file("after.raw", &after)?;
    nbdcopy().arg(file).arg(target.tcp_uri()).run()?.success()?;
    Ok(after)
}

/// The whole export as nbdcopy sees it.
pub(super) fn fetch(target: &Target, scene: &Scene, name: &str) -> Result<Image, Trouble> {
    let file = scene.place.path(name);
    nbdcopy().arg(target.tcp_uri()).arg(&file).run()?.success()?;
    Image::read_from(&file)
}

fn nbdcopy() -> Call {
    Call::new("nbdcopy").args(["--connections=4", "--requests=16", "--flush"])
}

/// Every command in every way that the server allows, many at once, by a script of `libnbd`'s Python binding.
pub(super) fn python(target: &Target, scene: &Scene) -> Result<Image, Trouble> {
    let mut after = scene.before.clone();
    if scene.writable {
        // The script takes the disk from one file's content to the other's.
        after = Image::full(4);
        after.put(0x20_0000, 0x8_0000, 0);
        after.put(0x30_0000, 0x8_0000, 0);
    }
    let (old, new) = (scene.file("old.raw", &scene.before)?, scene.file("new.raw", &after)?);
    let words = [target.uri(), old.display().to_string(), new.display().to_string()];
    run_python("client/every_command.py", &words)?.success()?;
    Ok(after)
}

/// Runs a script of the suite that imports `nbd`.
pub(crate) fn run_python(script: &str, arguments: &[String]) -> Result<Output, Trouble> {
    // Debian's own interpreter: another one on the path would not see Debian's module.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite").join(script);
    let output = Call::new("/usr/bin/python3").arg(script).args(arguments).run()?;
    if output.stderr.contains("No module named 'nbd'") {
        return Err(Trouble::new("Python's `nbd` module is not installed; run: apt-get install --yes python3-libnbd"));
    }
    Ok(output)
}
