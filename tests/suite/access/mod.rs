//! Promise: a client may do what the first entry of `clients` that fits it says, and nothing else; what it may not list
//! does not exist for it.

mod explain;
mod hidden;
mod identity;
mod verbs;

use std::path::Path;

use crate::gateway::Gateway;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::Trouble;

/// A gateway with these listeners, an admin interface, and `tables` below.
fn gateway(place: Place, listeners: &[String], tables: &str) -> Result<Gateway, Trouble> {
    let listeners: String = listeners.iter().map(|l| format!("[[listener]]\naddress = {l:?}\n")).collect();
    Gateway::start_in(place, &format!("{listeners}[admin]\naddress = \"127.0.0.1:0\"\n{tables}"))
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A tenant `blue` with these entries of `clients`, one a line.
fn blue(clients: &[&str]) -> String {
    format!(
        "[[tenant]]\nname = \"blue\"\nclients = [\n{}]\n",
        clients.iter().map(|c| format!("  {c},\n")).collect::<String>()
    )
}

/// A disk of blue's in memory, with more keys.
fn disk(name: &str, more: &str) -> String {
    crate::gateway::export(name, "memory:", &format!("tenant = \"blue\"\nsize = \"1MiB\"\n{more}"))
}

/// What a page of the admin interface says.
fn page(gateway: &Gateway, path: &str) -> Result<serde_json::Value, Trouble> {
    let call =
        Call::new("curl").args(["--silent", "--show-error", "--fail"]).arg(gateway.told("admin on ").to_owned() + path);
    Ok(serde_json::from_str(&call.run()?.success()?.stdout)?)
}
