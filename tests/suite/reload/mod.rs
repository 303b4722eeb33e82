//! Promise: the configuration is read anew as a whole or not at all; what changed is told; whoever uses what did not
//! change never notices.

mod bystanders;
mod exports;
mod listeners;
mod refused;
mod rules;

use rustix::process::Signal;

use crate::gateway::Gateway;
use crate::trouble::{Trouble, eventually};

/// Writes `tables` down and has them read by an operator's word; what that prints.
fn reload(gateway: &Gateway, tables: &str) -> Result<String, Trouble> {
    gateway.write_down(tables)?;
    Ok(gateway.operator(&["reload"])?.run()?.success()?.stdout)
}

/// The same by a signal, until there is an outcome in the log.
fn hang_up(gateway: &Gateway, tables: &str) -> Result<(), Trouble> {
    gateway.write_down(tables)?;
    let outcomes = |log: &str| log.matches("the configuration is ").count();
    let before = outcomes(&gateway.whole_log());
    gateway.signal(Signal::HUP);
    eventually("an outcome", || outcomes(&gateway.whole_log()) > before)
}

/// Whether the metrics say that the file is in force.
fn success(gateway: &Gateway) -> Result<bool, Trouble> {
    Ok(gateway.metric("nbd_gateway_config_reload_success", &[])? == 1.0)
}

/// The names of the sessions' exports and their ids, as an operator sees them.
fn sessions(gateway: &Gateway) -> Result<Vec<(String, u64)>, Trouble> {
    let told = gateway.operator(&["sessions", "--json"])?.run()?.success()?.stdout;
    let list: Vec<serde_json::Value> = serde_json::from_str(&told)?;
    let one = |session: &serde_json::Value| {
        (session["export"].as_str().expect("a name").to_owned(), session["id"].as_u64().expect("an id"))
    };
    Ok(list.iter().map(one).collect())
}
