//! Promise: a client that knows nothing of sizes and comes back finds no less than it left, also if its export, or the
//! gateway, was closed meanwhile.

use std::fs;

use serde_json::Value;

use crate::gateway::{Gateway, export};
use crate::peer::nbdkit_as_it_is;
use crate::place::Place;
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient, Reply};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

/// A client that opted in asks for half of what there is.
fn shrink(gateway: &Gateway, name: &str) -> Result<Reply, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let told = client.learn(opt::GO, name, &[info::RESIZE])?.size;
    let reply = client.ask(Ask { command: cmd::RESIZE, cookie: 1, offset: told / 2, ..Ask::default() }, &[])?;
    client.leave()?;
    Ok(reply)
}

fn refused(reply: &Reply) -> Result<(), Trouble> {
    let refused = reply.error == errno::EPERM && reply.message.contains("shrink-grace");
    ensure(refused, || format!("error {}: {}", reply.error, reply.message))
}

/// Breaks off, as a client that lost its network does.
fn break_off(gateway: &Gateway, name: &str) -> Result<(), Trouble> {
    let (mut client, opened) = RawClient::open(gateway.socket(), name, Framing::Structured)?;
    client.read(opened.size - 512, 512)?;
    Ok(())
}

fn closed(gateway: &Gateway) -> Result<(), Trouble> {
    let none = || {
        let said = gateway.operator(&["exports", "--json"])?.run()?.success()?.stdout;
        Ok::<_, Trouble>(serde_json::from_str::<Value>(&said)? == Value::Array(Vec::new()))
    };
    eventually("the export is closed", || none().unwrap_or_default())
}

#[test]
fn who_broke_off_is_waited_for_though_the_export_was_closed_meanwhile() -> Result<(), Trouble> {
    let disk = Place::fresh()?;
    let file = disk.path("disk");
    fs::File::create(&file)?.set_len(4 * MIB)?;
    let served = nbdkit_as_it_is(&[], &["file", &file.display().to_string()])?;
    let more = |grace: &str| {
        format!(
            "idle-timeout = \"0s\"\n[export.resize]\ndriver = \"file\"\npath = {:?}\nshrink = true\nshrink-grace = {grace:?}\n",
            file.display().to_string()
        )
    };
    let backend = format!("nbd+unix:///?socket={}", served.socket.display());
    let gateway = Gateway::start(&(export("vm", &backend, &more("1h")) + &export("hasty", &backend, &more("0s"))))?;
    break_off(&gateway, "vm")?;
    closed(&gateway)?;
    refused(&shrink(&gateway, "vm")?)?;
    closed(&gateway)?;
    // It is the grace that keeps it, and nothing else.
    break_off(&gateway, "hasty")?;
    closed(&gateway)?;
    shrink(&gateway, "hasty")?.success()?;
    gateway.end()
}

#[test]
fn who_was_there_before_the_gateway_was_started_again_is_waited_for() -> Result<(), Trouble> {
    let own = |name: &str, grace: &str| {
        let more = format!("size = \"4MiB\"\n[export.resize]\nshrink = true\nshrink-grace = {grace:?}\n");
        export(name, &format!("file:{name}.img"), &more)
    };
    let mut gateway = Gateway::start(&(own("vm", "1h") + &own("hasty", "0s")))?;
    shrink(&gateway, "vm")?.success()?;
    gateway.kill_and_restart()?;
    refused(&shrink(&gateway, "vm")?)?;
    shrink(&gateway, "hasty")?.success()?;
    gateway.end()
}
