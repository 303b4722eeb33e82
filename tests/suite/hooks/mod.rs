//! Promise: who is to be told of a new size is told the latest one, until it has heard it.

mod exec;
mod http;

use std::fs;
use std::path::Path;

use crate::gateway::{Gateway, binary, export};
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

/// A gateway with a disk `vm` of 1 MiB of its own, and these hooks.
fn gateway(place: &Place, hooks: &str) -> Result<Gateway, Trouble> {
    let disk = format!("file:{}", place.path("disk").display());
    Gateway::start(&export("vm", &disk, &format!("size = \"1MiB\"\n[export.resize]\nshrink = true\n{hooks}")))
}

/// A client resizes `vm`.
fn resize(gateway: &Gateway, size: u64) -> Result<(), Trouble> {
    let program = binary()?.display().to_string();
    Call::new(&program).args(["client", "resize", &gateway.uri("vm"), &size.to_string()]).run()?.success()?;
    Ok(())
}

/// The attempts that ended so.
fn attempts(gateway: &Gateway, result: &str) -> Result<f64, Trouble> {
    gateway.metric("nbd_gateway_hook_attempts_total", &["export=\"vm\"", &format!("result=\"{result}\"")])
}

/// Waits until as many attempts ended well.
fn heard(gateway: &Gateway, times: u32) -> Result<(), Trouble> {
    eventually("the hook hears", || attempts(gateway, "ok").is_ok_and(|n| n >= f64::from(times)))?;
    ensure(attempts(gateway, "ok")? <= f64::from(times), || "the hook was told too often".into())?;
    let behind = gateway.metric("nbd_gateway_hooks_behind", &["export=\"vm\""])?;
    ensure(behind == 0.0, || format!("{behind} hooks are behind"))
}

/// What a hook wrote down, line by line; nothing if it wrote nothing.
fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The JSON that a hook gets.
fn told(old_size: u64, size: u64, generation: u64) -> serde_json::Value {
    serde_json::json!({
        "export": "vm", "tenant": "default", "old_size": old_size, "size": size, "generation": generation,
    })
}

/// Whether these lines are that JSON, in that order.
fn expect_told(lines: &[String], expected: &[serde_json::Value]) -> Result<(), Trouble> {
    let read: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    ensure(read == expected, || format!("the hook was told {read:?}, and not {expected:?}"))
}
