//! libnbd: nbdinfo, nbdcopy, and its Python binding for what no tool does.

use serde_json::Value;

use super::Scene;
use crate::image::Image;
use crate::process::{Call, Output};
use crate::route::Target;
use crate::trouble::Trouble;

/// What `nbdinfo --json` may show otherwise than the server behind the gateway would, and why. Nothing else may differ.
pub(crate) const GATEWAY_CHANGES: &[(&str, &str)] = &[
    ("uri", "it names the gateway's socket"),
    ("can_multi_conn", "sessions share the export's lanes, so a FLUSH on one holds for all of them"),
];

/// Everything that nbdinfo can say.
pub(super) fn info(target: &Target) -> Result<String, Trouble> {
    let mut said = Vec::new();
    for options in [&["--json"][..], &["--json", "--list"]] {
        let output = Call::new("nbdinfo").args(options).arg(target.uri()).run()?.success()?;
        let mut info: Value = serde_json::from_str(&output.stdout)?;
        for export in info["exports"].as_array_mut().into_iter().flatten() {
            let Value::Object(export) = export else { continue };
            export.retain(|key, _| !GATEWAY_CHANGES.iter().any(|(changed, _)| changed == key));
        }
        said.push(format!("{info:#}"));
    }
    said.push(Call::new("nbdinfo").arg("--size").arg(target.uri()).run()?.success()?.stdout);
    Ok(said.join("\n"))
}

pub(super) fn map(target: &Target) -> Result<String, Trouble> {
    map_of(target, "base:allocation")
}

/// The map of any context.
pub(crate) fn map_of(target: &Target, context: &str) -> Result<String, Trouble> {
    let output = Call::new("nbdinfo").arg(format!("--map={context}")).arg("--json").arg(target.uri()).run()?;
    Ok(output.success()?.stdout)
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
    run_python(include_str!("every_command.py"), &words)?.success()?;
    Ok(after)
}

/// Runs a script that imports `nbd`.
pub(crate) fn run_python(script: &str, arguments: &[String]) -> Result<Output, Trouble> {
    // Debian's own interpreter: another one on the path would not see Debian's module.
    let output = Call::new("/usr/bin/python3").args(["-c", script]).args(arguments).run()?;
    if output.stderr.contains("No module named 'nbd'") {
        return Err(Trouble::new("Python's `nbd` module is not installed; run: apt-get install --yes python3-libnbd"));
    }
    Ok(output)
}
