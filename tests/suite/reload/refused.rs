//! A file that can't be in force leaves everything as it was.

use rustix::process::Signal;

use super::{hang_up, reload, success};
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

fn memory(name: &str, more: &str) -> String {
    export(name, "memory:", &format!("size = \"1MiB\"\n{more}"))
}

/// It is refused, and says all of these.
fn refused(gateway: &Gateway, tables: &str, words: &[&str]) -> Result<(), Trouble> {
    gateway.write_down(tables)?;
    let output = gateway.operator(&["reload"])?.run()?;
    ensure(output.stdout.is_empty(), || output.stdout.clone())?;
    for word in words {
        ensure(output.stderr.contains(word), || format!("no `{word}` in {}", output.stderr))?;
    }
    ensure(!success(gateway)?, || "the metrics say that it went well".into())
}

#[test]
fn every_problem_of_a_bad_file_is_told_and_nothing_changes_until_it_is_mended() -> Result<(), Trouble> {
    let gateway = Gateway::start(&memory("d", ""))?.expecting_errors();
    ensure(success(&gateway)?, || "the file that it was started with is in force".into())?;
    let began = gateway.metric("nbd_gateway_config_last_reload_success_timestamp_seconds", &[])?;
    let (mut client, _) = RawClient::open(gateway.socket(), "d", Framing::Structured)?;
    let bad = [memory("d", "descripton = \"a typing mistake\""), export("new", "file:", "lanes = 0")].concat();
    hang_up(&gateway, &bad)?;
    let log = gateway.whole_log();
    for words in ["export[0].descripton", "did you mean `description`?", "export[1].backend", "export[1].lanes"] {
        ensure(log.contains(words), || format!("no `{words}` in {log}"))?;
    }
    ensure(!success(&gateway)?, || "the metrics say that it went well".into())?;
    assert_eq!(gateway.metric("nbd_gateway_config_last_reload_success_timestamp_seconds", &[])?, began);
    refused(&gateway, "this is not TOML at all", &["this is not TOML", "everything stays as it was"])?;
    client.write(0, &[1; 512])?.success()?;
    let listed = Call::new("nbdinfo").args(["--list", "--json", &gateway.uri("")]).run()?.success()?.stdout;
    ensure(!listed.contains("\"new\""), || listed.clone())?;
    hang_up(&gateway, &[memory("d", ""), memory("new", "")].concat())?;
    ensure(success(&gateway)?, || "the metrics say that it failed".into())?;
    assert_eq!(client.read(0, 512)?, [1; 512]);
    client.leave()?;
    gateway.end()
}

#[test]
fn what_needs_a_restart_refuses_all_of_it() -> Result<(), Trouble> {
    let gateway = Gateway::start(&memory("d", ""))?.expecting_errors();
    let tables =
        ["[runtime]\nthreads = 1\n[log]\nformat = \"json\"\n\n", &memory("d", ""), &memory("new", "")].concat();
    refused(&gateway, &tables, &["[runtime]: threads none -> 1: this needs a restart", "[log]: format human -> json"])?;
    ensure(RawClient::open(gateway.socket(), "new", Framing::Simple).is_err(), || "half of it".into())?;
    gateway.end()
}

#[test]
fn a_disk_that_cannot_be_opened_refuses_all_and_leaves_nothing_of_the_others() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = Gateway::start(&memory("d", ""))?.expecting_errors();
    let file = |name: &str, at: &str| export(name, &format!("file:{}", place.path(at).display()), "size = \"2MiB\"");
    let tables = [memory("d", ""), file("good", "good.img"), file("bad", "folder")].concat();
    std::fs::create_dir(place.path("folder"))?;
    let used = gateway.metric("nbd_gateway_tenant_used_bytes", &[])?;
    refused(&gateway, &tables, &["\"bad\" can't be opened"])?;
    assert_eq!(gateway.metric("nbd_gateway_tenant_used_bytes", &[])?, used, "it is not counted");
    ensure(gateway.metric("nbd_gateway_export_open", &["export=\"good\""]).is_err(), || "it has series".into())?;
    ensure(RawClient::open(gateway.socket(), "good", Framing::Simple).is_err(), || "half of it".into())?;
    let mended = [memory("d", ""), file("good", "good.img"), file("bad", "b.img")].concat();
    assert_eq!(reload(&gateway, &mended)?, "export good added\nexport bad added\n");
    gateway.end()
}

#[test]
fn what_is_in_memory_is_not_thrown_away_by_a_change() -> Result<(), Trouble> {
    let gateway = Gateway::start(&[memory("d", ""), memory("stays", "")].concat())?.expecting_errors();
    let (mut client, _) = RawClient::open(gateway.socket(), "d", Framing::Simple)?;
    client.write(0, &[4; 512])?.success()?;
    let changed = export("d", "memory:", "size = \"2MiB\"");
    refused(&gateway, &[changed, memory("stays", "")].concat(), &["\"d\" is in memory", "its data would be gone"])?;
    assert_eq!(client.read(0, 512)?, [4; 512]);
    client.leave()?;
    // Who takes it out means it.
    assert_eq!(reload(&gateway, &memory("stays", ""))?, "export d removed\n");
    gateway.end()
}

#[test]
fn a_ceiling_is_not_lowered_under_a_client_that_relies_on_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let disk = |most: &str, present: &str| {
        let more = format!("size = 1\nmax-size = {most:?}\n[export.resize]\npresent = {present:?}\nstep = \"1MiB\"\n");
        export("d", &format!("file:{}", place.path("d.img").display()), &more)
    };
    let gateway = Gateway::start(&disk("64GiB", "ceiling"))?.expecting_errors();
    let (mut client, shown) = RawClient::open(gateway.socket(), "d", Framing::Structured)?;
    assert_eq!(shown.size, 64 << 30);
    client.write(8 << 20, &[1; 512])?.success()?;
    for tables in [disk("1GiB", "ceiling"), disk("64GiB", "actual")] {
        refused(&gateway, &tables, &["can't be shown with less than 64 GiB", "end them first"])?;
        assert_eq!(client.read(8 << 20, 512)?, [1; 512]);
    }
    client.leave()?;
    eventually("nobody relies on it", || super::sessions(&gateway).is_ok_and(|list| list.is_empty()))?;
    let told = reload(&gateway, &disk("1GiB", "ceiling"))?;
    ensure(told.starts_with("export d: max-size 64GiB -> 1GiB"), || told.clone())?;
    let shown =
        || RawClient::open(gateway.socket(), "d", Framing::Structured).map(|(client, shown)| (client, shown.size));
    let (client, size) = shown()?;
    assert_eq!(size, 1 << 30);
    client.leave()?;
    // Less than there is: nothing shrinks.
    let length = std::fs::metadata(place.path("d.img"))?.len();
    reload(&gateway, &disk("1MiB", "actual"))?;
    let (client, size) = shown()?;
    assert_eq!(size, length);
    client.leave()?;
    assert_eq!(std::fs::metadata(place.path("d.img"))?.len(), length);
    gateway.end()
}

#[test]
fn without_a_file_there_is_nothing_to_read() -> Result<(), Trouble> {
    let gateway = Gateway::start(&memory("d", ""))?.expecting_errors();
    std::fs::remove_file(gateway.path("config.toml"))?;
    let output = gateway.operator(&["reload"])?.run()?;
    ensure(output.stderr.contains("the file cannot be read"), || output.stderr.clone())?;
    gateway.end()
}

#[test]
fn a_signal_that_comes_when_the_gateway_drains_is_ignored() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("vm", &backend.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Simple)?;
    backend.hold();
    client.send(Ask::read(1, 0, 512), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    gateway.ask_to_end();
    eventually("it drains", || gateway.whole_log().contains("draining"))?;
    gateway.write_down("not TOML")?;
    gateway.signal(Signal::HUP);
    eventually("it says so", || gateway.whole_log().contains("SIGHUP is ignored"))?;
    backend.release();
    client.reply()?;
    client.link().await_close()?;
    gateway.end()
}

#[test]
fn the_level_of_the_log_can_be_another_while_the_gateway_runs() -> Result<(), Trouble> {
    let gateway = Gateway::start(&memory("d", ""))?;
    let debug = |gateway: &Gateway| gateway.whole_log().matches(" DEBUG ").count();
    RawClient::open(gateway.socket(), "d", Framing::Simple)?.0.leave()?;
    assert_eq!(debug(&gateway), 0);
    hang_up(&gateway, &format!("[log]\nlevel = \"debug\"\n\n{}", memory("d", "")))?;
    // A client that only asks is told of at that level.
    Call::new("nbdinfo").args(["--list", &gateway.uri("")]).run()?.success()?;
    eventually("a line", || debug(&gateway) > 0)?;
    gateway.end()
}
