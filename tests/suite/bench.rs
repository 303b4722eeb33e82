//! Promise: `tests/bench` compares what it was asked to compare, names the peer that fails, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::gateway::binary;
use crate::place::Place;
use crate::process::{Call, DEADLINE, Running};
use crate::trouble::{Trouble, ensure};

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench")
}

/// Two jobs with runs of 50 ms, a directory in which nothing may stay, and the file that has all that was measured.
fn arguments(place: &Place) -> Result<Vec<String>, Trouble> {
    let scratch = place.path("scratch");
    fs::create_dir(&scratch)?;
    let files = [
        ("--binary", binary()?),
        ("--load", env!("CARGO_BIN_EXE_nbd-load").into()),
        ("--dir", scratch),
        ("--json", place.path("measured.json")),
    ];
    let files = files.iter().flat_map(|(option, path)| [(*option).to_owned(), path.display().to_string()]);
    let others = "--quick --seconds 0.05 --sessions 20 --jobs r4k-qd1,w256k-qd8".split(' ').map(str::to_owned);
    Ok(others.chain(files).collect())
}

fn left_in_scratch(place: &Place) -> Result<usize, Trouble> {
    Ok(fs::read_dir(place.path("scratch"))?.count())
}

/// Command lines of processes that name a file of this place, without the benchmark's.
fn servers(place: &Place) -> Result<Vec<String>, Trouble> {
    let scratch = format!("{}/", place.path("scratch").display());
    let processes = fs::read_dir("/proc")?.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    Ok(processes
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(&scratch))
        .collect())
}

#[test]
fn each_path_is_measured_in_each_round_and_nothing_stays() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let parts = ["proxies", "growth", "idle", "--only", "direct,gateway,nbdkit"];
    let told = Call::new("python3").arg(program()).args(parts).args(arguments(&place)?).run()?.success()?;
    let measured: Value = serde_json::from_slice(&fs::read(place.path("measured.json"))?)?;
    ensure(measured["failures"].as_array().is_some_and(Vec::is_empty), || measured.to_string())?;
    let samples = |part: &str| measured["parts"][part]["samples"].as_array().cloned().unwrap_or_default();
    let proxies = samples("proxies");
    // Two jobs, three paths, two rounds.
    ensure(proxies.len() == 12, || format!("{} samples: {measured}", proxies.len()))?;
    for sample in &proxies {
        let proxied = sample["path"] != "direct";
        let positive = |field: &str| sample[field].as_f64().is_some_and(|value| value > 0.0);
        ensure(positive("iops") && positive("server") && positive("proxy") == proxied, || sample.to_string())?;
    }
    ensure(samples("growth").len() == 24 && samples("idle").len() == 2, || measured.to_string())?;
    ensure(told.stdout.contains("gateway / nbdkit") && told.stdout.contains("20 sessions"), || told.stdout.clone())?;
    ensure(left_in_scratch(&place)? == 0, || "it left files".to_owned())
}

#[test]
fn a_peer_that_does_not_run_is_named_and_the_others_are_measured() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let broken = place.path("haproxy");
    fs::write(&broken, "#!/bin/sh\necho out of order\nexit 3\n")?;
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755))?;
    let path = format!("PATH={}:{}", place.root().display(), std::env::var("PATH").unwrap_or_default());
    let call = Call::new("env").arg(path).arg("python3").arg(program());
    let told = call.args(["proxies", "--only", "gateway,haproxy"]).args(arguments(&place)?).run()?;
    ensure(told.status.code() == Some(1), || format!("{} {}", told.status, told.stderr))?;
    ensure(told.stderr.contains("failed: proxies: haproxy ended with exit code 3"), || told.stderr.clone())?;
    ensure(told.stderr.contains("out of order") && told.stdout.contains("gateway"), || told.stderr.clone())?;
    ensure(left_in_scratch(&place)? == 0, || "it left files".to_owned())
}

#[test]
fn an_interrupted_benchmark_takes_its_servers_along() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let log = place.path("log");
    let words = [program().display().to_string(), "disks".to_owned(), "--only".to_owned(), "gateway-file".to_owned()];
    let words = words.into_iter().chain(arguments(&place)?).chain(["--rounds".to_owned(), "10000".to_owned()]);
    let mut bench = Running::start(&crate::process::installed("python3")?, words, log.clone())?;
    bench.await_ready("its third round", || fs::read_to_string(&log).is_ok_and(|log| log.contains("round 3 of")))?;
    ensure(!servers(&place)?.is_empty(), || "it has no servers".to_owned())?;
    // To it alone, not to its group.
    kill_process(Pid::from_child(bench.child()), Signal::INT)?;
    let status = bench.await_end(DEADLINE)?;
    ensure(status.code() == Some(130), || format!("{status}"))?;
    let left = servers(&place)?;
    ensure(left.is_empty() && left_in_scratch(&place)? == 0, || format!("left behind: {left:?}"))
}
