//! Promise: a tenant has no more open at once than it may have, its clients come and are told no faster than they may, and
//! who is refused is told why and when to try again.

use crate::gateway::{Gateway, export};
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, cmd_flag, errno, info, opt, rep};
use crate::scripted::{Ask, Framing, Opened, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

/// Disks `a`, `b`, `c` of a tenant with these keys; `resize` is their `[export.resize]`.
fn gateway(tenant: &str, resize: &str) -> Result<Gateway, Trouble> {
    let more = format!("tenant = \"blue\"\nsize = \"1MiB\"\n{resize}");
    let disks: String = ["a", "b", "c"].iter().map(|name| export(name, "memory:", &more)).collect();
    Gateway::start(&format!("[[tenant]]\nname = \"blue\"\n{tenant}\n{disks}"))
}

fn opened(gateway: &Gateway, name: &str) -> Result<(RawClient, Opened), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let opened = client.learn(opt::GO, name, &[info::RESIZE])?;
    Ok((client, opened))
}

/// GO is refused by policy, in these words; the client may go on asking.
fn turned_away(gateway: &Gateway, name: &str, why: &str) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    let answers = client.negotiate(opt::GO, &go_request(name, &[]))?;
    let last = answers.last().expect("there is one");
    let words = String::from_utf8_lossy(&last.data).into_owned();
    ensure(last.kind == rep::ERR_POLICY && words.contains(why), || format!("{:#x} {words}", last.kind))?;
    Ok(client)
}

fn resize(cookie: u64, size: u64) -> Ask {
    Ask { command: cmd::RESIZE, cookie, offset: size, length: 0, flags: 0 }
}

#[test]
fn a_tenant_has_no_more_exports_open_than_it_may_have() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let more = "tenant = \"blue\"\nidle-timeout = \"0s\"\n";
    let disks: String = ["a", "b", "c"].iter().map(|name| export(name, &backend.uri(), more)).collect();
    let gateway =
        Gateway::start(&format!("[[tenant]]\nname = \"blue\"\nmax-exports = 2\n{disks}"))?.expecting_warnings();
    let (first, _) = opened(&gateway, "a")?;
    let (second, _) = opened(&gateway, "b")?;
    let (again, _) = opened(&gateway, "a")?;
    let mut client = turned_away(&gateway, "c", "tenant `blue` may have 2 open at once")?;
    assert_eq!(gateway.metric("nbd_gateway_quota_denials_total", &["blue", "\"exports\""])?, 1.0);
    second.leave()?;
    // It has said goodbye; the gateway has yet to close the export.
    eventually("there is room", || client.go("c").is_ok())?;
    first.leave()?;
    again.leave()?;
    gateway.end()
}

#[test]
fn a_tenant_has_no_more_sessions_than_it_may_have_and_asking_is_not_one() -> Result<(), Trouble> {
    let gateway = gateway("max-sessions = 2", "")?;
    let (first, _) = opened(&gateway, "a")?;
    let (second, _) = opened(&gateway, "b")?;
    let mut client = turned_away(&gateway, "a", "tenant `blue` may have 2 sessions at once")?;
    assert_eq!(client.learn(opt::INFO, "a", &[])?.size, MIB);
    assert_eq!(gateway.metric("nbd_gateway_quota_denials_total", &["blue", "\"sessions\""])?, 1.0);
    second.leave()?;
    eventually("there is room", || client.go("a").is_ok())?;
    first.leave()?;
    gateway.end()
}

#[test]
fn a_tenants_clients_come_no_faster_than_they_may() -> Result<(), Trouble> {
    let gateway = gateway("session-rate = \"2/d\"", "")?;
    for name in ["a", "b"] {
        opened(&gateway, name)?.0.leave()?;
    }
    turned_away(&gateway, "c", "tenant `blue` is at its session-rate; try again in 12h")?;
    gateway.end()
}

#[test]
fn what_is_not_enforced_is_reported_and_refuses_nobody() -> Result<(), Trouble> {
    let gateway = gateway("max-exports = 1\nmax-sessions = 1\nsession-rate = \"1/d\"\nenforce = false", "")?;
    let clients = ["a", "b", "c"].map(|name| opened(&gateway, name));
    for client in clients {
        client?.0.leave()?;
    }
    ensure(gateway.log().contains("a limit that is not enforced would have refused this"), || gateway.log())?;
    gateway.end()
}

#[test]
fn an_export_becomes_no_larger_than_the_largest_that_its_tenant_may_have() -> Result<(), Trouble> {
    let gateway = gateway("largest-export = \"2MiB\"", "[export.resize]\nstep = 0")?;
    let (mut client, _) = opened(&gateway, "a")?;
    client.ask(resize(1, 2 * MIB), &[])?.success()?;
    let reply = client.ask(resize(2, 2 * MIB + 1), &[])?;
    assert_eq!(reply.error, errno::ENOSPC);
    ensure(reply.message.contains("the largest export of tenant `blue` is 2 MiB"), || reply.message.clone())?;
    client.leave()?;
    gateway.end()
}

#[test]
fn a_resize_over_the_rate_is_refused_with_eperm_and_when_to_try_again() -> Result<(), Trouble> {
    let gateway = gateway("resize-rate = \"2/d\"", "")?;
    let (mut client, _) = opened(&gateway, "a")?;
    for step in 2..4 {
        client.ask(resize(step, step * MIB), &[])?.success()?;
    }
    let reply = client.ask(resize(4, 4 * MIB), &[])?;
    assert_eq!(reply.error, errno::EPERM);
    ensure(reply.message.contains("at its resize-rate; try again in 12h"), || reply.message.clone())?;
    // As told as any other refusal; who hammers does not fill the log and the history.
    let again = client.ask(resize(6, 4 * MIB), &[])?;
    assert_eq!(again.error, errno::EPERM);
    eventually("it is told", || {
        let events = gateway.operator(&["events", "--export", "a", "--kind", "refused", "--json"]).and_then(Call::run);
        events.is_ok_and(|events| events.stdout.contains("at its resize-rate"))
    })?;
    ensure(gateway.whole_log().contains("at its resize-rate"), || gateway.log_tail(20))?;
    assert_eq!(gateway.metric("nbd_gateway_quota_denials_total", &["reason=\"rate\""])?, 2.0);
    // A write that would need one more has the same bound.
    let write = Ask { command: cmd::WRITE, cookie: 5, offset: 3 * MIB, length: 512, flags: 0 };
    let reply = client.ask(write, &[1; 512])?;
    assert_eq!(reply.error, errno::ENOSPC);
    ensure(reply.message.contains("at its resize-rate"), || reply.message.clone())?;
    client.leave()?;
    gateway.end()
}

#[test]
fn a_write_over_the_rate_waits_for_it_as_long_as_growth_wait_says() -> Result<(), Trouble> {
    for (wait, answered) in [("10s", 0), ("0s", errno::ENOSPC)] {
        let keys = format!("[export.resize]\nstep = 0\ngrowth-wait = {wait:?}");
        let gateway = gateway("growth-rate = \"1MiB/s\"", &keys)?;
        let (mut client, _) = opened(&gateway, "a")?;
        let write = |n: u64| Ask { command: cmd::WRITE, cookie: n, offset: n * MIB, length: MIB, flags: 0 };
        client.ask(write(1), &vec![1; MIB as usize])?.success()?;
        assert_eq!(client.ask(write(2), &vec![2; MIB as usize])?.error, answered, "{wait}");
        client.leave()?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn one_stray_write_eats_no_quota() -> Result<(), Trouble> {
    let gateway = gateway("quota = \"4EiB\"", "")?;
    let (mut client, _) = opened(&gateway, "a")?;
    let stray = Ask { command: cmd::WRITE, cookie: 1, offset: (1 << 61) + 512, length: 512, flags: 0 };
    let reply = client.ask(stray, &[1; 512])?;
    assert_eq!(reply.error, errno::ENOSPC);
    ensure(reply.message.contains("one write may grow it by 64 GiB"), || reply.message.clone())?;
    assert_eq!(gateway.metric("nbd_gateway_tenant_used_bytes", &["blue"])?, 3.0 * MIB as f64);
    client.leave()?;
    gateway.end()
}

#[test]
fn the_metrics_say_what_a_tenant_may_have_and_has() -> Result<(), Trouble> {
    let gateway = gateway("quota = \"8MiB\"\nsoft-quota = \"4MiB\"", "")?.expecting_warnings();
    let of = |name: &str| gateway.metric(&format!("nbd_gateway_tenant_{name}_bytes"), &["tenant=\"blue\""]);
    assert_eq!((of("quota")?, of("used")?), (8.0 * MIB as f64, 3.0 * MIB as f64));
    let (mut client, _) = opened(&gateway, "a")?;
    client.ask(resize(1, 5 * MIB), &[])?.success()?;
    assert_eq!((of("used")?, of("reserved")?, of("unsettled")?), (7.0 * MIB as f64, 0.0, 0.0));
    ensure(
        gateway.log().contains("over its soft-quota")
            || gateway.log().contains("over their soft-quota")
            || gateway.log().contains("soft-quota"),
        || gateway.log(),
    )?;
    client.leave()?;
    gateway.end()
}

#[test]
fn notices_over_a_rate_are_merged_and_the_last_is_told() -> Result<(), Trouble> {
    for keys in ["[export.limits]\nsession-notice-rate = \"2/s\"", "[export.limits]\nnotice-rate = \"2/s\""] {
        let gateway = gateway("", keys)?;
        let (mut watcher, told) = opened(&gateway, "a")?;
        let (mut other, _) = opened(&gateway, "a")?;
        watcher.send(Ask { flags: cmd_flag::NOTIFY, ..resize(1, 0) }, &[])?;
        assert_eq!(watcher.next_size(1)?, told.size);
        for step in 1..=50 {
            other.ask(resize(2, told.size + step * 4096), &[])?.success()?;
        }
        let mut notices = 0;
        while watcher.next_size(1)? != told.size + 50 * 4096 {
            notices += 1;
        }
        ensure(notices < 40, || format!("{keys}: {notices} notices and the last"))?;
        ensure(gateway.metric("nbd_gateway_notices_merged_total", &["\"a\""])? >= 10.0, || {
            "nothing was merged".into()
        })?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_notify_that_is_too_soon_is_refused_with_when_to_try_again() -> Result<(), Trouble> {
    let gateway = gateway("limits.session-notice-rate = \"1/d\"", "")?;
    let (mut client, told) = opened(&gateway, "a")?;
    let once = |cookie| Ask { flags: cmd_flag::NOTIFY, length: 1, ..resize(cookie, 0) };
    assert_eq!(client.ask(once(1), &[])?.success()?.sizes, [told.size]);
    let reply = client.ask(once(2), &[])?;
    assert_eq!(reply.error, errno::EPERM);
    ensure(reply.message.contains("at its session-notice-rate; try again in 24h"), || reply.message.clone())?;
    // It is the session's own.
    let (mut other, _) = opened(&gateway, "a")?;
    assert_eq!(other.ask(once(1), &[])?.success()?.sizes, [told.size]);
    gateway.end()
}
