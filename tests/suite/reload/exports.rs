//! Exports that come, go and change.

use std::thread;
use std::time::{Duration, Instant};

use super::{hang_up, reload, success};
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno, opt, rep};
use crate::scripted::{Ask, Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

fn memory(name: &str) -> String {
    export(name, "memory:", "size = \"1MiB\"")
}

/// Whether there is an export of this name for whoever comes now.
fn is_there(gateway: &Gateway, name: &str) -> Result<bool, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    Ok(client.verdict(opt::INFO, &go_request(name, &[]))? != rep::ERR_UNKNOWN)
}

fn held_write(cookie: u64) -> Ask {
    Ask { command: cmd::WRITE, cookie, offset: 0, length: 512, flags: 0 }
}

#[test]
fn an_export_that_is_added_is_there_at_once() -> Result<(), Trouble> {
    let (place, backend) = (Place::fresh()?, Backend::start(Script::default())?);
    let file = place.path("new.img");
    let gateway = Gateway::start(&memory("old"))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "old", Framing::Structured)?;
    client.write(0, &[7; 512])?.success()?;
    let disk = export("new", &format!("file:{}", file.display()), "size = \"3MiB\"");
    let tables = [memory("old"), disk, export("served", &backend.uri(), "")].concat();
    assert_eq!(reload(&gateway, &tables)?, "export new added\nexport served added\n");
    // As at the start: the gateway's own is open, and all have their series.
    assert_eq!(std::fs::metadata(&file)?.len(), 3 * MIB);
    assert_eq!(gateway.metric("nbd_gateway_export_open", &["export=\"new\""])?, 1.0);
    assert_eq!(gateway.metric("nbd_gateway_lane_up", &["export=\"served\""])?, 0.0);
    for name in ["new", "served", "old"] {
        ensure(is_there(&gateway, name)?, || format!("no {name}"))?;
    }
    let listed = Call::new("nbdinfo").args(["--list", "--json", &gateway.uri("")]).run()?.success()?.stdout;
    ensure(listed.contains("\"new\"") && listed.contains("\"served\""), || listed.clone())?;
    assert_eq!(client.read(0, 512)?, [7; 512], "it is in memory, and its session goes on");
    assert_eq!(reload(&gateway, &tables)?, "nothing has changed\n");
    client.leave()?;
    gateway.end()
}

#[test]
fn what_a_session_of_a_removed_export_was_admitted_is_answered_and_then_it_ends() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&[memory("stays"), export("goes", &backend.uri(), "")].concat())?;
    let (mut client, _) = RawClient::open(gateway.socket(), "goes", Framing::Structured)?;
    backend.hold();
    client.send(held_write(1), &[0xe1; 512])?;
    backend.await_that("the WRITE", |story| story.count(cmd::WRITE) == 1)?;
    hang_up(&gateway, &memory("stays"))?;
    ensure(!is_there(&gateway, "goes")?, || "who comes now still finds it".into())?;
    client.send(Ask::read(2, 0, 512), &[])?;
    let refused = client.reply()?;
    assert_eq!((refused.cookie, refused.error), (2, errno::ESHUTDOWN));
    backend.release();
    assert_eq!(client.reply()?.success()?.cookie, 1);
    client.link().await_close()?;
    backend.await_that("DISC", |story| story.count(cmd::DISC) == 1)?;
    ensure(backend.story(|story| story.disk[..512] == [0xe1; 512]), || "the admitted WRITE was lost".into())?;
    eventually("its series are gone", || gateway.metric("nbd_gateway_lane_up", &["export=\"goes\""]).is_err())?;
    // It counts against its tenant all the same: its bytes are still there.
    let used = gateway.metric("nbd_gateway_tenant_used_bytes", &[])?;
    ensure(used > MIB as f64, || format!("only {used} bytes are counted"))?;
    gateway.end()
}

#[test]
fn an_export_that_comes_back_is_opened_when_it_is_closed_and_not_before() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let both = [memory("stays"), export("vm", &backend.uri(), "")].concat();
    let gateway = Gateway::start(&both)?;
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    backend.hold();
    client.send(held_write(1), &[1; 512])?;
    backend.await_that("the WRITE", |story| story.count(cmd::WRITE) == 1)?;
    assert_eq!(reload(&gateway, &memory("stays"))?, "export vm removed\n");
    assert_eq!(reload(&gateway, &both)?, "export vm added\n");
    let socket = gateway.socket().to_owned();
    let next = thread::spawn(move || RawClient::open(&socket, "vm", Framing::Structured).map(|(client, _)| client));
    // It waits: its backend is not dialled beside what is still in flight.
    let waits = || gateway.metric("nbd_gateway_sessions", &["listener=\"unix:"]).is_ok_and(|n| n == 2.0);
    eventually("it has come", waits)?;
    gateway.operator(&["tenants"])?.run()?.success()?;
    assert_eq!(backend.story(|story| story.connections), 1);
    backend.release();
    client.reply()?.success()?;
    client.link().await_close()?;
    let mut next = next.join().expect("it does not panic")?;
    assert_eq!(next.read(0, 512)?, [1; 512]);
    assert_eq!(backend.story(|story| story.connections), 2);
    assert_eq!(gateway.metric("nbd_gateway_lane_up", &["export=\"vm\""])?, 1.0);
    next.leave()?;
    gateway.end()
}

#[test]
fn sessions_of_a_changed_export_end_between_two_messages_and_find_it_changed() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let vm = |more: &str| export("vm", &backend.uri(), more);
    let gateway = Gateway::start(&vm(""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    backend.hold();
    client.send(held_write(1), &[1; 512])?;
    backend.await_that("the WRITE", |story| story.count(cmd::WRITE) == 1)?;
    assert_eq!(reload(&gateway, &vm("read-only = true"))?, "export vm: read-only false -> true\n");
    backend.release();
    // The admitted one is answered, and nothing else said: who comes back sends again what was not.
    assert_eq!(client.reply()?.success()?.cookie, 1);
    client.link().await_close()?;
    let (mut client, shown) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    assert_ne!(shown.flags & 2, 0, "NBD_FLAG_READ_ONLY");
    assert_eq!(client.write(0, &[2; 512])?.error, errno::EPERM);
    client.leave()?;
    gateway.end()
}

/// A client that knows nothing of sizes is ended for a change, and may come back to the size that it knew: for a while the
/// export does not shrink, although it has been closed and opened in between.
#[test]
fn a_stock_client_that_was_ended_comes_back_to_the_size_that_it_knew() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let disk = |largest: &str| {
        let more = format!(
            "size = \"4MiB\"\nlimits = {{ largest-payload = {largest:?} }}\n[export.resize]\nshrink = true\nshrink-grace = \"1h\""
        );
        export("d", &format!("file:{}", place.path("d.img").display()), &more)
    };
    let gateway = Gateway::start(&disk("1MiB"))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "d", Framing::Simple)?;
    reload(&gateway, &disk("2MiB"))?;
    client.link().await_close()?;
    eventually("it is open again", || {
        gateway.operator(&["exports", "d"]).is_ok_and(|call| call.run().is_ok_and(|o| o.success().is_ok()))
    })?;
    let refused = gateway.operator(&["resize", "d", "1MiB"])?.run()?;
    ensure(refused.stderr.contains("may come back; wait for shrink-grace"), || {
        format!("{}{}", refused.stdout, refused.stderr)
    })?;
    assert_eq!(std::fs::metadata(place.path("d.img"))?.len(), 4 * MIB);
    gateway.end()
}

#[test]
fn bounds_of_an_open_export_change_under_its_sessions_which_never_notice() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let disk = |more: &str| {
        export("d", &format!("file:{}", place.path("d.img").display()), &format!("size = \"1MiB\"\n{more}"))
    };
    let gateway = Gateway::start(&disk("max-size = \"2MiB\""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "d", Framing::Structured)?;
    client.write(0, &[9; 512])?.success()?;
    ensure(gateway.order_size("d", 3 * MIB).is_err(), || "it is past its max-size".into())?;
    let told =
        reload(&gateway, &disk("max-size = \"4MiB\"\ndescription = \"larger\"\n[export.resize]\nshrink = true"))?;
    assert_eq!(told, "export d: description none -> \"larger\", max-size 2MiB -> 4MiB, resize.shrink false -> true\n");
    gateway.order_size("d", 3 * MIB)?;
    let info = Call::new("nbdinfo").arg(gateway.uri("d")).run()?.success()?.stdout;
    ensure(info.contains("larger"), || info.clone())?;
    // Below what there is: it does not shrink by that, and does not grow.
    reload(&gateway, &disk("max-size = \"2MiB\""))?;
    ensure(gateway.order_size("d", 4 * MIB).is_err(), || "it is past its max-size".into())?;
    assert_eq!(std::fs::metadata(place.path("d.img"))?.len(), 3 * MIB);
    assert_eq!(client.read(0, 512)?, [9; 512], "the same session as before");
    client.leave()?;
    gateway.end()
}

#[test]
fn a_backend_that_never_answers_holds_no_session_longer_than_drain_timeout() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let limits = "[limits]\ndrain-timeout = \"500ms\"\n\n";
    let gateway = Gateway::start(&[limits, &memory("stays"), &export("goes", &backend.uri(), "")].concat())?;
    let gateway = gateway.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "goes", Framing::Structured)?;
    let (mut other, _) = RawClient::open(gateway.socket(), "stays", Framing::Structured)?;
    backend.hold();
    client.send(Ask::read(1, 0, 512), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    let told = Instant::now();
    reload(&gateway, &[limits, &memory("stays")].concat())?;
    client.link().await_close()?;
    // The default is half a minute.
    ensure(told.elapsed() < Duration::from_secs(15), || format!("it took {:?}", told.elapsed()))?;
    other.write(0, &[1; 512])?.success()?;
    backend.release();
    other.leave()?;
    gateway.end()
}

#[test]
fn a_disk_of_the_gateways_own_can_be_renamed_with_its_data() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let disk = |name: &str| export(name, &format!("file:{}", place.path("d.img").display()), "size = \"1MiB\"");
    let gateway = Gateway::start(&disk("before"))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "before", Framing::Simple)?;
    client.write(0, &[5; 512])?.success()?;
    assert_eq!(reload(&gateway, &disk("after"))?, "export after added\nexport before removed\n");
    client.link().await_close()?;
    eventually("it is open", || {
        gateway.metric("nbd_gateway_export_open", &["export=\"after\""]).is_ok_and(|n| n > 0.0)
    })?;
    let (mut client, _) = RawClient::open(gateway.socket(), "after", Framing::Simple)?;
    assert_eq!(client.read(0, 512)?, [5; 512]);
    client.leave()?;
    gateway.end()
}

#[test]
fn a_quota_that_is_raised_is_there_for_the_next_resize() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let tables = |quota: &str| {
        let disk =
            export("d", &format!("file:{}", place.path("d.img").display()), "tenant = \"blue\"\nsize = \"1MiB\"");
        format!("[[tenant]]\nname = \"blue\"\nquota = {quota:?}\n\n{disk}")
    };
    let gateway = Gateway::start(&tables("2MiB"))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "d", Framing::Structured)?;
    ensure(gateway.order_size("d", 3 * MIB).is_err(), || "there is no room for that".into())?;
    hang_up(&gateway, &tables("4MiB"))?;
    ensure(gateway.whole_log().contains("tenant blue: quota 2MiB -> 4MiB"), || gateway.log_tail(5))?;
    assert_eq!(gateway.metric("nbd_gateway_tenant_quota_bytes", &[])?, (4 * MIB) as f64);
    gateway.order_size("d", 3 * MIB)?;
    client.write(0, &[1; 512])?.success()?;
    ensure(success(&gateway)?, || "the metrics say that it failed".into())?;
    // Less than there is shrinks nothing, and nothing grows.
    assert_eq!(reload(&gateway, &tables("2MiB"))?, "tenant blue: quota 4MiB -> 2MiB\n");
    assert_eq!(std::fs::metadata(place.path("d.img"))?.len(), 3 * MIB);
    ensure(gateway.order_size("d", 3 * MIB + 1).is_err(), || "it is over its quota".into())?;
    client.leave()?;
    gateway.end()
}

#[test]
fn tenants_that_come_and_go_take_their_series_along() -> Result<(), Trouble> {
    let tables = |names: &[&str]| -> String {
        let one = |name: &&str| {
            let disk = export(name, "memory:", &format!("tenant = {name:?}\nsize = \"1MiB\""));
            format!("[[tenant]]\nname = {name:?}\nquota = \"8MiB\"\n\n{disk}\n")
        };
        names.iter().map(one).collect()
    };
    let gateway = Gateway::start(&tables(&["blue"]))?;
    let quota = |tenant: &str| gateway.metric("nbd_gateway_tenant_quota_bytes", &[&format!("tenant={tenant:?}")]);
    reload(&gateway, &tables(&["blue", "red"]))?;
    assert_eq!(quota("red")?, (8 * MIB) as f64);
    let gone = "tenant blue removed\nexport blue removed\n";
    assert_eq!(reload(&gateway, &tables(&["red"]))?, gone);
    eventually("blue's series are gone", || quota("blue").is_err())?;
    assert_eq!(quota("red")?, (8 * MIB) as f64);
    gateway.end()
}

#[test]
fn names_that_a_template_does_not_fit_any_more_are_closed_and_the_others_stay() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let backend = format!("file:{}/{{}}.img", place.path("").display());
    let template = |name: &str| export(name, &backend.replace("//", "/"), "size = \"1MiB\"");
    let gateway = Gateway::start(&[template("t/*"), memory("stays")].concat())?;
    let (mut one, _) = RawClient::open(gateway.socket(), "t/one", Framing::Simple)?;
    let (mut two, _) = RawClient::open(gateway.socket(), "stays", Framing::Simple)?;
    let told = reload(&gateway, &[template("u/*"), memory("stays")].concat())?;
    assert_eq!(told, "export u/* added\nexport t/* removed\n");
    one.link().await_close()?;
    two.write(0, &[1; 512])?.success()?;
    ensure(!is_there(&gateway, "t/one")?, || "the template is gone".into())?;
    // Its file is let go a moment after its last session: the opening waits for that.
    let (next, _) = RawClient::open(gateway.socket(), "u/one", Framing::Simple)?;
    next.leave()?;
    two.leave()?;
    gateway.end()
}
