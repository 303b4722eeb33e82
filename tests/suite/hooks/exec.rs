//! Hooks that are programs.

use std::fs;
use std::path::Path;

use super::{MIB, attempts, expect_told, gateway, heard, lines, resize, told};
use crate::place::Place;
use crate::recipe::Recipe;
use crate::trouble::{Trouble, ensure, eventually};

/// A hook that is this script, run by sh, with the place of its files as its argument.
fn hook(place: &Place, script: &str) -> Result<String, Trouble> {
    let path = place.path("hook");
    fs::write(&path, script)?;
    Ok(format!("[[export.notify]]\nexec = [\"/bin/sh\", {path:?}, {:?}]\n", place.root()))
}

/// One line of JSON for each run.
fn input(place: &Place) -> Vec<String> {
    lines(&place.path("input"))
}

#[test]
fn a_program_is_told_each_size_by_its_environment_and_its_input() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    // Not NBD_GATEWAY_BIN, which is this suite's.
    let script = "cd \"$1\" && { cat; echo; } >>input && env | grep -E '^NBD_GATEWAY_([A-Z]+_SIZE|[EGT][A-Z]+)=' | sort >environment";
    let gateway = gateway(&place, &hook(&place, script)?)?;
    for (times, size) in [(1, 3 * MIB), (2, 4 * MIB), (3, 2 * MIB)] {
        resize(&gateway, size)?;
        heard(&gateway, times)?;
    }
    expect_told(&input(&place), &[told(MIB, 3 * MIB, 1), told(3 * MIB, 4 * MIB, 2), told(4 * MIB, 2 * MIB, 3)])?;
    let environment = lines(&place.path("environment"));
    assert_eq!(
        environment,
        [
            "NBD_GATEWAY_EXPORT=vm",
            "NBD_GATEWAY_GENERATION=3",
            "NBD_GATEWAY_NEW_SIZE=2097152",
            "NBD_GATEWAY_OLD_SIZE=4194304",
            "NBD_GATEWAY_TENANT=default",
        ]
    );
    // What changes nothing is no news.
    resize(&gateway, 2 * MIB)?;
    assert_eq!(attempts(&gateway, "ok")?, 3.0);
    gateway.end()
}

#[test]
fn a_program_that_fails_twice_is_run_again_until_it_works() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let script = "cd \"$1\" && { cat; echo; } >>input && [ $(wc -l <input) -gt 2 ] || { echo not yet >&2; exit 3; }";
    let gateway = gateway(&place, &hook(&place, script)?)?.expecting_warnings();
    resize(&gateway, 2 * MIB)?;
    heard(&gateway, 1)?;
    assert_eq!(attempts(&gateway, "failed")?, 2.0);
    expect_told(&input(&place), &vec![told(MIB, 2 * MIB, 1); 3])?;
    let log = gateway.log();
    ensure(log.contains("`/bin/sh` failed with exit code 3: not yet"), || format!("the log does not say why:\n{log}"))?;
    gateway.end()
}

#[test]
fn a_program_that_missed_two_sizes_gets_the_last() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    // The first run is held until it may fail.
    let script = "cd \"$1\" && { cat; echo; } >>input\n[ -e go ] && exit\nread -r line <gate\nexit 1";
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("gate"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )?;
    let gateway = gateway(&place, &hook(&place, script)?)?.expecting_warnings();
    resize(&gateway, 2 * MIB)?;
    eventually("the hook runs", || input(&place).len() == 1)?;
    resize(&gateway, 3 * MIB)?;
    resize(&gateway, 4 * MIB)?;
    fs::write(place.path("go"), "")?;
    fs::write(place.path("gate"), "on\n")?;
    heard(&gateway, 1)?;
    expect_told(&input(&place), &[told(MIB, 2 * MIB, 1), told(MIB, 4 * MIB, 3)])?;
    gateway.end()
}

#[test]
fn a_program_that_hangs_is_ended_after_its_timeout_and_nobody_else_waits_for_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let script =
        "cd \"$1\" && { cat; echo; } >>input && [ $(wc -l <input) -gt 1 ] || { echo $$ >pid; sleep 1000 & wait; }";
    let hooks = hook(&place, script)? + "timeout = \"2s\"\n";
    let gateway = gateway(&place, &hooks)?.expecting_warnings();
    resize(&gateway, 2 * MIB)?;
    heard(&gateway, 1)?;
    let log = gateway.log();
    ensure(log.contains("did not end within 2s and was killed"), || format!("the log does not say why:\n{log}"))?;
    let pid = fs::read_to_string(place.path("pid")).unwrap_or_default();
    let process = Path::new("/proc").join(pid.trim());
    ensure(pid.is_empty() || !process.exists(), || format!("{} is still there", process.display()))?;
    gateway.end()
}

#[test]
fn a_program_that_runs_when_the_gateway_ends_is_ended_with_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let script = "cd \"$1\" && echo $$ >pid.new && mv pid.new pid && trap '' TERM && while :; do sleep 1000; done";
    let gateway = gateway(&place, &hook(&place, script)?)?;
    resize(&gateway, 2 * MIB)?;
    let pid = place.path("pid");
    eventually("the hook runs", || pid.exists())?;
    let process = Path::new("/proc").join(fs::read_to_string(&pid)?.trim());
    gateway.end()?;
    let alive = || fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    eventually("the hook is gone", || !alive())
}

#[test]
fn the_hook_in_the_readme_is_told_as_the_readme_says() -> Result<(), Trouble> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let said = Recipe::named("hooks")?.run("/tmp/nbd-hooks")?;
    let told = said.lines().last().unwrap_or_default();
    ensure(told.starts_with('{'), || format!("nobody was told: {said}"))?;
    ensure(readme.contains(&format!("prints `{told}`.")), || format!("the README does not say that it prints {told}"))
}
