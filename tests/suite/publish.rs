//! Promise: where an operator says when clients see a larger size, they see it then and not before; what is there is
//! counted all the while.

use serde_json::Value;

use crate::gateway::{Gateway, export};
use crate::process::Call;
use crate::scripted::backend::{Backend, Resizing, Script};
use crate::scripted::numbers::{cmd, cmd_flag, errno, info, opt};
use crate::scripted::{Ask, Framing, Opened, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;
const EXPLICIT_QUERY_ZEROED: u16 = 1 | 1 << 2 | 1 << 5;

fn said(gateway: &Gateway, words: &[&str]) -> Result<String, Trouble> {
    Ok(gateway.operator(words)?.run()?.success()?.stdout)
}

fn json(gateway: &Gateway, words: &[&str]) -> Result<Value, Trouble> {
    Ok(serde_json::from_str(&said(gateway, &[words, &["--json"]].concat())?)?)
}

fn refused(gateway: &Gateway, words: &[&str], because: &str) -> Result<(), Trouble> {
    let call: Call = gateway.operator(words)?;
    let output = call.run()?;
    ensure(output.stderr.contains(because), || format!("{words:?}: {}{}", output.stdout, output.stderr))
}

fn opted_in(gateway: &Gateway) -> Result<(RawClient, Opened), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let opened = client.learn(opt::GO, "vm", &[info::RESIZE])?;
    Ok((client, opened))
}

fn resize(cookie: u64, size: u64, flags: u16) -> Ask {
    Ask { command: cmd::RESIZE, cookie, offset: size, length: 0, flags }
}

/// A disk of 8 MiB, whose sizes clients see as `publish` says.
fn gateway(publish: &str) -> Result<Gateway, Trouble> {
    let more = format!(
        "tenant = \"blue\"\nsize = \"8MiB\"\n[export.resize]\nshrink = true\nshrink-grace = \"0s\"\npublish = {publish:?}\n"
    );
    Gateway::start(&format!("[[tenant]]\nname = \"blue\"\nquota = \"64MiB\"\n{}", export("vm", "memory:", &more)))
}

#[test]
fn what_an_operator_grows_is_seen_by_clients_when_it_is_published() -> Result<(), Trouble> {
    let gateway = gateway("manual")?;
    let (mut watcher, told) = opted_in(&gateway)?;
    assert_eq!(told.size, 8 * MIB);
    watcher.send(resize(7, 0, cmd_flag::NOTIFY), &[])?;
    assert_eq!(watcher.next_size(7)?, 8 * MIB);
    let grown = "vm has 16 MiB now; clients are shown 8 MiB until that is published\n";
    assert_eq!(said(&gateway, &["resize", "vm", "16MiB"])?, grown);
    assert_eq!(json(&gateway, &["tenants"])?[0]["used"], 16 * MIB, "it is counted at once");
    let held = json(&gateway, &["exports", "vm"])?;
    assert_eq!((held["size"].as_u64(), held["disk"].as_u64()), (Some(8 * MIB), Some(16 * MIB)));
    // Nobody sees it: not by asking, not by opening, not by writing.
    assert_eq!(watcher.ask(resize(1, 0, cmd_flag::QUERY), &[])?.success()?.sizes, [8 * MIB]);
    let (mut other, told) = opted_in(&gateway)?;
    assert_eq!(told.size, 8 * MIB);
    let past = Ask { command: cmd::WRITE, cookie: 2, offset: 8 * MIB, length: 512, flags: 0 };
    assert_eq!(other.ask(past, &[1; 512])?.error, errno::ENOSPC);
    // More on top of what is there, not of what is shown.
    let more = json(&gateway, &["resize", "vm", "+8MiB"])?;
    assert_eq!((more["size"].as_u64(), more["unpublished"].as_u64()), (Some(8 * MIB), Some(24 * MIB)));
    assert_eq!(said(&gateway, &["publish", "vm"])?, "vm is now 24 MiB\n");
    assert_eq!(watcher.next_size(7)?, 24 * MIB, "the first notice since then");
    assert_eq!(other.read(24 * MIB - 512, 512)?, [0; 512]);
    // A smaller size is seen at once.
    assert_eq!(said(&gateway, &["resize", "vm", "8MiB"])?, "vm is now 8 MiB\n");
    assert_eq!(watcher.next_size(7)?, 8 * MIB);
    gateway.end()
}

#[test]
fn a_clients_own_resize_is_refused_with_a_reason_where_somebody_else_publishes() -> Result<(), Trouble> {
    for (publish, why) in [("manual", "until its operator publishes"), ("never", "until it is opened again")] {
        let gateway = gateway(publish)?;
        let (mut client, told) = opted_in(&gateway)?;
        let features = told.resize.map_or(0, |resize| resize.features);
        ensure(features & 2 == 0, || format!("automatic growth is offered: {features:#x}"))?;
        let reply = client.ask(resize(1, 16 * MIB, 0), &[])?;
        assert_eq!(reply.error, errno::EPERM);
        ensure(reply.message.contains(why), || reply.message.clone())?;
        // What is shown can be confirmed.
        assert_eq!(client.ask(resize(2, 8 * MIB, 0), &[])?.success()?.sizes, [8 * MIB]);
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_size_that_is_never_published_is_seen_by_those_who_open_the_export_again() -> Result<(), Trouble> {
    let resizing = Resizing::Native { features: EXPLICIT_QUERY_ZEROED };
    let backend = Backend::start(Script { resizing, ..Script::default() })?;
    let more = "idle-timeout = \"0s\"\n[export.resize]\npublish = \"never\"\nshrink = true\n";
    let gateway = Gateway::start(&export("vm", &backend.uri(), more))?;
    let (mut client, told) = opted_in(&gateway)?;
    said(&gateway, &["resize", "vm", "16MiB"])?;
    refused(&gateway, &["publish", "vm"], "stays at 8 MiB until it is opened again")?;
    refused(&gateway, &["resize", "vm", "4MiB"], "stays at 8 MiB until it is opened again")?;
    assert_eq!(client.ask(resize(1, 0, cmd_flag::QUERY), &[])?.success()?.sizes, [told.size]);
    let (other, again) = opted_in(&gateway)?;
    assert_eq!(again.size, told.size, "it is open all the while");
    client.leave()?;
    other.leave()?;
    eventually("the export is closed", || json(&gateway, &["exports"]).is_ok_and(|list| list == Value::Array(vec![])))?;
    let (client, again) = opted_in(&gateway)?;
    assert_eq!(again.size, 16 * MIB);
    client.leave()?;
    gateway.end()
}

#[test]
fn what_waits_to_be_published_waits_also_when_the_export_is_closed_meanwhile() -> Result<(), Trouble> {
    let backend = Backend::start(Script { resizing: Resizing::No, ..Script::default() })?;
    let more = "idle-timeout = \"0s\"\n[export.resize]\npublish = \"manual\"\npoll = \"20ms\"\n";
    let gateway = Gateway::start(&export("vm", &backend.uri(), more))?;
    let (client, told) = opted_in(&gateway)?;
    backend.meddle(|disk| disk.resize(9 << 20, 7));
    eventually("the poll", || json(&gateway, &["exports", "vm"]).is_ok_and(|export| export["disk"] == 9 * MIB))?;
    client.leave()?;
    eventually("the export is closed", || json(&gateway, &["exports"]).is_ok_and(|list| list == Value::Array(vec![])))?;
    let (mut client, again) = opted_in(&gateway)?;
    assert_eq!(again.size, told.size);
    assert_eq!(said(&gateway, &["publish", "vm"])?, "vm is now 9 MiB\n");
    assert_eq!(client.read(8 * MIB, 512)?, [7; 512]);
    client.leave()?;
    gateway.end()
}

/// A kill must not publish for the operator, and must not take back what was published.
#[test]
fn what_waits_to_be_published_waits_also_when_the_gateway_is_killed_meanwhile() -> Result<(), Trouble> {
    let backend = Backend::start(Script { resizing: Resizing::No, ..Script::default() })?;
    let more = "[export.resize]\npublish = \"manual\"\npoll = \"20ms\"\n";
    let mut gateway = Gateway::start(&export("vm", &backend.uri(), more))?;
    let grown = |gateway: &Gateway, to: u64| {
        backend.meddle(|disk| disk.resize(usize::try_from(to).unwrap(), 7));
        eventually("the poll", || json(gateway, &["exports", "vm"]).is_ok_and(|export| export["disk"] == to))
    };
    let (client, told) = opted_in(&gateway)?;
    grown(&gateway, 9 * MIB)?;
    gateway.kill_and_restart()?;
    drop(client);
    let (client, again) = opted_in(&gateway)?;
    assert_eq!((again.size, json(&gateway, &["exports", "vm"])?["disk"].as_u64()), (told.size, Some(9 * MIB)));
    assert_eq!(said(&gateway, &["publish", "vm"])?, "vm is now 9 MiB\n");
    gateway.kill_and_restart()?;
    drop(client);
    let (client, again) = opted_in(&gateway)?;
    assert_eq!(again.size, 9 * MIB);
    grown(&gateway, 10 * MIB)?;
    gateway.kill_and_restart()?;
    drop(client);
    let (client, again) = opted_in(&gateway)?;
    assert_eq!(again.size, 9 * MIB);
    client.leave()?;
    gateway.end()
}

#[test]
fn what_the_ledger_does_not_take_is_not_published() -> Result<(), Trouble> {
    let backend = Backend::start(Script { resizing: Resizing::No, ..Script::default() })?;
    let more = "[export.resize]\npublish = \"manual\"\npoll = \"20ms\"\n";
    let mut gateway = Gateway::start(&export("vm", &backend.uri(), more))?.expecting_errors();
    let (client, told) = opted_in(&gateway)?;
    backend.meddle(|disk| disk.resize(9 << 20, 7));
    eventually("the poll", || json(&gateway, &["exports", "vm"]).is_ok_and(|export| export["disk"] == 9 * MIB))?;
    gateway.may_write(Some(0))?;
    refused(&gateway, &["publish", "vm"], "the ledger can't record it")?;
    assert_eq!(json(&gateway, &["exports", "vm"])?["size"], told.size);
    gateway.may_write(None)?;
    assert_eq!(said(&gateway, &["publish", "vm"])?, "vm is now 9 MiB\n");
    client.leave()?;
    gateway.end()
}
