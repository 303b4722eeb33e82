//! The README's recipe, as it is printed there but for the gateway's address.

use std::fs;
use std::path::Path;

use super::Stage;
use crate::trouble::{Trouble, ensure};

const BEGIN: &str = "<!-- kernel -->";
const END: &str = "<!-- /kernel -->";
/// Where the README's gateway is.
const ADDRESS: &str = "10.0.0.5";

/// The fenced blocks of the section.
fn blocks() -> Result<Vec<String>, Trouble> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let section = readme.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(section, _)| section);
    let section = section.ok_or_else(|| Trouble::new(format!("README.md has no section from {BEGIN} to {END}")))?;
    let fenced = section.split("```").skip(1).step_by(2);
    Ok(fenced.map(|block| block.trim_start_matches("sh\n").to_owned()).collect())
}

pub(super) fn works_as_printed(stage: &mut Stage) -> Result<(), Trouble> {
    let blocks = blocks()?;
    let [first, second] = &blocks[..] else {
        return Err(Trouble::new(format!("the recipe should have two terminals; it has {blocks:?}")));
    };
    let here = |line: &str| line.replace(ADDRESS, &format!("10.0.2.2:{}", stage.port));
    let (first, second) = (here(first), here(second));
    // The module is loaded here, and not installed.
    let modprobe = "modprobe() { [ \"$*\" = nbd ] && [ -d /sys/module/nbd ]; }";
    let in_background = format!("set -e\n{modprobe}\n({first}) >/run/recipe.log 2>&1 & echo $! >/run/recipe.pid");
    stage.machine.sh(&in_background)?;
    stage.await_said("recipe", "attached", 1)?;
    let mut grown = 0;
    for line in second.lines().filter(|line| !line.trim().is_empty()) {
        stage.machine.sh(line)?;
        // Somebody who types is slower than the agent.
        if line.contains("client resize") {
            grown += 1;
            stage.await_said("recipe", "grown", grown)?;
        }
    }
    ensure(grown > 0, || format!("the recipe grows nothing: {second}"))?;
    stage.machine.sh("[ $(cat /sys/block/nbd0/size) -gt 131072 ]")?;
    // As Ctrl-C in the first terminal does.
    stage.machine.sh("kill -INT $(ps | awk '/[n]bd-gateway agent --device .dev.nbd0/ { print $1 }')")?;
    stage.await_said("recipe", "stays attached", 1)?;
    let uri = stage.uri("vm1");
    stage.start_agent("again", &format!("--detach --device /dev/nbd0 {uri}"))?;
    stage.await_said("again", "following", 1)?;
    stage.end_agent("again")?;
    stage.await_said("again", "detached", 1)?;
    stage.machine.await_that("the device is free", "[ ! -e /sys/block/nbd0/pid ]")
}
