//! Promise: one entry makes any number of exports, each opened when it is asked for, and no name reaches further than the
//! place that the entry gives it.

use std::fs;
use std::path::PathBuf;

use crate::gateway::{Gateway, export, token};
use crate::peer::{Served, nbdkit_as_it_is};
use crate::place::Place;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{opt, rep};
use crate::scripted::{Framing, RawClient, go_request, meta_request};
use crate::trouble::{Trouble, ensure, eventually};

/// A server whose disks hold their own names.
fn named_disks() -> Result<Served, Trouble> {
    nbdkit_as_it_is(&[], &["info", "mode=exportname"])
}

/// The kind of error that GO is refused with, and its words.
fn refusal(client: &mut RawClient, name: &str) -> Result<(u32, String), Trouble> {
    let answers = client.negotiate(opt::GO, &go_request(name, &[]))?;
    let last = answers.last().expect("negotiate gives at least one");
    ensure(last.kind != rep::ACK, || format!("{name:?} was opened"))?;
    Ok((last.kind, String::from_utf8_lossy(&last.data).into_owned()))
}

#[test]
fn two_hundred_names_of_one_entry_are_two_hundred_disks_opened_when_asked_for() -> Result<(), Trouble> {
    let served = named_disks()?;
    let uri = format!("nbd+unix:///disk-{{}}?socket={}", served.socket.display());
    let mut gateway = Gateway::start(&export("disks/*", &uri, "idle-timeout = \"0s\""))?;
    let up = |gateway: &Gateway| gateway.metric("nbd_gateway_lane_up", &["export=\"disks/"]).unwrap_or(0.0);
    // None exists before somebody asks.
    let before = gateway.peak_memory()?;
    assert_eq!(up(&gateway), 0.0);
    let mut clients = Vec::new();
    for number in 0..200 {
        let (client, opened) = RawClient::open(gateway.socket(), &format!("disks/{number}"), Framing::Structured)?;
        let name = format!("disk-{number}");
        assert_eq!(opened.size, name.len() as u64);
        clients.push((client, name));
    }
    assert_eq!(up(&gateway), 200.0);
    for (client, name) in &mut clients {
        assert_eq!(client.read(0, name.len() as u64)?, name.as_bytes());
    }
    let grown = gateway.peak_memory()?.saturating_sub(before);
    ensure(grown < 64 << 10, || format!("two hundred idle exports took {grown} KiB"))?;
    for (client, _) in clients {
        client.leave()?;
    }
    eventually("all are let go", || up(&gateway) == 0.0)?;
    gateway.end()
}

#[test]
fn a_name_is_one_part_of_the_backends_export_name_whatever_it_holds() -> Result<(), Trouble> {
    let served = named_disks()?;
    let uri = format!("nbd+unix:///in/{{}}?socket={}", served.socket.display());
    let gateway = Gateway::start(&export("t/*", &uri, ""))?;
    for star in [
        "",
        "../x",
        "a/b?socket=/etc/passwd",
        "%2f..%2f",
        "x&tls=off",
        "#",
        "{}",
        "*",
        "a b",
        "ä€\u{1f5b4}",
        "'\";|`$(x)",
    ] {
        let (mut client, opened) = RawClient::open(gateway.socket(), &format!("t/{star}"), Framing::Structured)?;
        let expected = format!("in/{star}");
        assert_eq!(String::from_utf8_lossy(&client.read(0, opened.size)?), expected);
        client.leave()?;
    }
    let mut client = RawClient::connect(gateway.socket())?;
    for other in ["", "t", "u/x", "T/x", "/t/x", " t/x"] {
        assert_eq!(refusal(&mut client, other)?.0, rep::ERR_UNKNOWN, "{other:?}");
    }
    gateway.end()
}

#[test]
fn a_name_that_would_leave_its_directory_is_no_export() -> Result<(), Trouble> {
    let inside = Backend::start(Script::default())?;
    let outside = Backend::start(Script::default())?;
    let (name, other) = (inside.place_name()?, outside.place_name()?);
    let temporary = std::env::temp_dir().display().to_string();
    let tables = export("s/*", &format!("nbd+unix:///?socket={temporary}/{name}/{{}}"), "")
        + &export("f/*", "file:disks/{}.img", "size = \"64KiB\"");
    let place = Place::fresh()?;
    let (state, listener) = (place.path("state"), format!("unix:{}", place.path("g").display()));
    let listeners = format!("[[listener]]\naddress = {listener:?}\n[admin]\naddress = \"off\"\n");
    let gateway = Gateway::start_in(place, &(listeners + &tables))?;
    let mut client = RawClient::connect(gateway.socket())?;
    let escape = format!("../{other}/b");
    for star in [&*escape, "..", ".", "", "/etc/passwd", "b/", "b/../b", "x\0y", "a\\..\\b/.."] {
        for template in ["s/", "f/"] {
            let (kind, words) = refusal(&mut client, &format!("{template}{star}"))?;
            ensure([rep::ERR_UNKNOWN, rep::ERR_INVALID].contains(&kind), || format!("{template}{star:?}: {kind:#x}"))?;
            ensure(!words.contains(&temporary), || format!("a client is told of the inside: {words}"))?;
        }
    }
    assert_eq!(outside.story(|story| story.connections), 0);
    ensure(!state.join("disks").exists(), || "a name that is no export made a directory".into())?;
    // Percent-encoded in a name is no slash: each name is one file, in an alphabet that every file system keeps.
    drop(client);
    RawClient::open(gateway.socket(), "f/%2fetc é", Framing::Simple)?.0.leave()?;
    RawClient::open(gateway.socket(), "f/plain", Framing::Simple)?.0.leave()?;
    let mut made: Vec<_> = fs::read_dir(state.join("disks"))?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    made.sort();
    assert_eq!(made, ["%252fetc%20%C3%A9.img", "plain.img"]);
    RawClient::open(gateway.socket(), "s/b", Framing::Simple)?.0.leave()?;
    assert_eq!(inside.story(|story| story.connections), 1);
    gateway.end()
}

#[test]
fn a_name_that_would_make_a_file_over_the_quota_makes_none() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (state, listener) = (place.path("state"), format!("unix:{}", place.path("g").display()));
    let tables = format!(
        "[[listener]]\naddress = {listener:?}\n[admin]\naddress = \"off\"\n[[tenant]]\nname = \"blue\"\nquota = \"10MiB\"\n{}",
        export("d/*", "file:disks/{}.img", "tenant = \"blue\"\nsize = \"4MiB\"")
    );
    let gateway = Gateway::start_in(place, &tables)?;
    for name in ["one", "two", "one"] {
        RawClient::open(gateway.socket(), &format!("d/{name}"), Framing::Structured)?.0.leave()?;
    }
    let mut client = RawClient::connect(gateway.socket())?;
    let (kind, words) = refusal(&mut client, "d/three")?;
    assert_eq!(kind, rep::ERR_POLICY);
    ensure(words.contains("2 MiB left of 10 MiB"), || words)?;
    ensure(!state.join("disks/three.img").exists(), || "a file was made that nobody has room for".into())?;
    drop(client);
    gateway.end()
}

/// The tenant blue with files of 4 MiB, one for each name.
fn files_of_blue(bounds: &str, more: &str) -> Result<(Gateway, PathBuf), Trouble> {
    let place = Place::fresh()?;
    let state = place.path("state");
    let tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {:?}\n[[tenant]]\nname = \"blue\"\n{bounds}\n{}",
        place.path("g").display(),
        token(&place)?,
        export("d/*", "file:disks/{}.img", &format!("tenant = \"blue\"\nsize = \"4MiB\"\n{more}"))
    );
    Ok((Gateway::start_in(place, &tables)?, state))
}

fn used(gateway: &Gateway) -> Result<u64, Trouble> {
    let said = gateway.operator(&["tenants", "--json"])?.run()?.success()?.stdout;
    let tenants: serde_json::Value = serde_json::from_str(&said)?;
    tenants[0]["used"].as_u64().ok_or_else(|| Trouble::new(said))
}

/// They were in no ledger before their first resize: each restart gave the whole quota anew.
#[test]
fn files_that_names_have_made_are_counted_after_a_restart() -> Result<(), Trouble> {
    let (mut gateway, state) = files_of_blue("quota = \"10MiB\"", "")?;
    for name in ["d/one", "d/two"] {
        RawClient::open(gateway.socket(), name, Framing::Structured)?.0.leave()?;
    }
    gateway.kill_and_restart()?;
    assert_eq!(used(&gateway)?, 8 << 20);
    let mut client = RawClient::connect(gateway.socket())?;
    assert_eq!(refusal(&mut client, "d/three")?.0, rep::ERR_POLICY);
    ensure(!state.join("disks/three.img").exists(), || "a file was made that nobody has room for".into())?;
    drop(client);
    // One that is gone frees its room, and a look does not make it anew.
    gateway.kill()?;
    fs::remove_file(state.join("disks/one.img"))?;
    gateway.start_again()?;
    eventually("the other is all that counts", || used(&gateway).is_ok_and(|used| used == 4 << 20))?;
    ensure(!state.join("disks/one.img").exists(), || "a look has made a file".into())?;
    RawClient::open(gateway.socket(), "d/three", Framing::Structured)?.0.leave()?;
    assert_eq!(used(&gateway)?, 8 << 20);
    gateway.end()
}

#[test]
fn a_file_that_was_smaller_at_last_is_made_anew_only_if_there_is_room() -> Result<(), Trouble> {
    let (gateway, state) =
        files_of_blue("quota = \"10MiB\"", "idle-timeout = \"0s\"\n[export.resize]\nshrink = true\n")?;
    RawClient::open(gateway.socket(), "d/one", Framing::Structured)?.0.leave()?;
    gateway.operator(&["resize", "d/one", "1MiB"])?.run()?.success()?;
    RawClient::open(gateway.socket(), "d/two", Framing::Structured)?.0.leave()?;
    gateway.operator(&["resize", "d/two", "9MiB"])?.run()?.success()?;
    eventually("nothing is open", || gateway.metric("nbd_gateway_export_open", &[]).unwrap_or(0.0) == 0.0)?;
    assert_eq!(used(&gateway)?, 10 << 20);
    fs::remove_file(state.join("disks/one.img"))?;
    let mut client = RawClient::connect(gateway.socket())?;
    let (kind, words) = refusal(&mut client, "d/one")?;
    ensure(kind == rep::ERR_POLICY && words.contains("1 MiB left of 10 MiB"), || words)?;
    ensure(!state.join("disks/one.img").exists(), || "a file was made that nobody has room for".into())?;
    drop(client);
    gateway.end()
}

/// Four were open for their idle time after a start that had measured them: nobody could open another.
#[test]
fn an_export_that_nobody_uses_takes_no_place_of_those_that_a_tenant_may_have_open() -> Result<(), Trouble> {
    let (mut gateway, _) = files_of_blue("max-exports = 2", "")?;
    for name in ["d/one", "d/two", "d/three", "d/four"] {
        RawClient::open(gateway.socket(), name, Framing::Structured)?.0.leave()?;
    }
    gateway.kill_and_restart()?;
    let (one, _) = RawClient::open(gateway.socket(), "d/one", Framing::Structured)?;
    let (five, _) = RawClient::open(gateway.socket(), "d/five", Framing::Structured)?;
    let mut client = RawClient::connect(gateway.socket())?;
    assert_eq!(refusal(&mut client, "d/six")?.0, rep::ERR_POLICY, "those that are used keep theirs");
    five.leave()?;
    eventually("a place is free", || RawClient::open(gateway.socket(), "d/six", Framing::Structured).is_ok())?;
    one.leave()?;
    drop(client);
    gateway.end()
}

#[test]
fn the_default_export_is_one_of_its_own() -> Result<(), Trouble> {
    let (default, others) = (Backend::start(Script::default())?, named_disks()?);
    let uri = format!("nbd+unix:///{{}}?socket={}", others.socket.display());
    let gateway = Gateway::start(&(export("*", &uri, "") + &export("", &default.uri(), "")))?;
    let (mut client, opened) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    assert_eq!(opened.size, Backend::content().bytes().len() as u64);
    client.read(0, 512)?;
    let (mut named, _) = RawClient::open(gateway.socket(), "x", Framing::Structured)?;
    assert_eq!(named.read(0, 1)?, b"x");
    // Only names of their own are listed: a template's are without number.
    let mut asking = RawClient::connect(gateway.socket())?;
    let listed = asking.negotiate(opt::LIST, &[])?;
    let names: Vec<_> = listed.iter().filter(|answer| answer.kind == rep::SERVER).map(|a| &a.data[4..]).collect();
    assert_eq!(names, [b""]);
    gateway.end()
}

#[test]
fn names_have_up_to_4096_bytes_and_a_longer_one_is_refused_in_step() -> Result<(), Trouble> {
    let served = named_disks()?;
    let exact = "e".repeat(4096);
    let uri = format!("nbd+unix:///{{}}?socket={}", served.socket.display());
    let tables = export("*", &uri, "") + &export(&exact, "memory:", "size = \"1MiB\"");
    let gateway = Gateway::start(&tables)?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let listed = client.negotiate(opt::LIST, &[])?;
    ensure(listed.iter().any(|answer| answer.data[4.min(answer.data.len())..] == *exact.as_bytes()), || {
        "a name of 4096 bytes is not listed".into()
    })?;
    let longer = "n".repeat(4097);
    for option in [opt::INFO, opt::GO] {
        let kind = client.verdict(option, &go_request(&longer, &[]))?;
        ensure([rep::ERR_INVALID, rep::ERR_TOO_BIG].contains(&kind), || format!("{kind:#x}"))?;
    }
    let kind = client.verdict(opt::SET_META_CONTEXT, &meta_request(&longer, &["base:allocation"]))?;
    ensure([rep::ERR_INVALID, rep::ERR_TOO_BIG].contains(&kind), || format!("{kind:#x}"))?;
    assert_eq!(client.contexts(&exact, &["base:allocation"])?.len(), 1);
    assert_eq!(client.go(&exact)?.size, 1 << 20);
    client.read(0, 512)?;
    let name = "n".repeat(4096);
    let (mut client, opened) = RawClient::open(gateway.socket(), &name, Framing::Extended)?;
    assert_eq!(opened.size, 4096);
    assert_eq!(client.read(0, 4096)?, name.as_bytes());
    gateway.end()
}

/// It was open from the start, and stayed so although nobody used it any more.
#[test]
fn a_disk_whose_own_entry_goes_is_closed_when_idle_if_a_template_has_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let any = |name: &str| format!("file:{}", place.path(name).display());
    let template = export("disks/*", &any("{}.img"), "size = \"1MiB\"");
    let named = export("disks/1", &any("1.img"), "size = \"1MiB\"");
    let gateway = Gateway::start(&[template.clone(), named].concat())?;
    let open = || gateway.metric("nbd_gateway_export_open", &["export=\"disks/1\""]).unwrap_or(0.0);
    assert_eq!(open(), 1.0);
    let more = template.replace("size = \"1MiB\"", "size = \"1MiB\"\nidle-timeout = \"0s\"");
    gateway.write_down(&more)?;
    gateway.operator(&["reload"])?.run()?.success()?;
    eventually("it is closed", || open() == 0.0)?;
    gateway.end()
}

/// Each opening opened another one, under a longer name each time, until names were too long.
#[test]
fn a_template_that_leads_to_longer_names_of_itself_is_refused_and_costs_a_bounded_number_of_openings()
-> Result<(), Trouble> {
    let place = Place::fresh()?;
    // Not the listener's own path: that is found before the start.
    let way = place.path("way");
    let uri = format!("nbd+unix:///t/{{}}x?socket={}", way.display());
    let gateway = Gateway::start(&export("t/*", &uri, "dial-timeout = \"2s\""))?.expecting_warnings();
    std::os::unix::fs::symlink(gateway.socket(), &way)?;
    let mut client = RawClient::connect(gateway.socket())?;
    let (kind, words) = refusal(&mut client, "t/")?;
    ensure(kind == rep::ERR_UNKNOWN, || format!("{kind:#x} {words}"))?;
    // As many as one tenant may have opened at once, and not as many as there is time for.
    ensure(!gateway.log_tail(1000).contains(&"x".repeat(80)), || gateway.log_tail(1000))?;
    let open = || Ok::<_, Trouble>(gateway.operator(&["exports", "--json"])?.run()?.success()?.stdout);
    eventually("all of it is let go", || open().is_ok_and(|open| open.trim() == "[]"))?;
    gateway.end()
}

/// The same, where the configuration shows it.
#[test]
fn a_backend_that_is_the_export_itself_is_a_problem_of_the_configuration() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let socket = place.path("s");
    let text = format!(
        "[admin]\naddress = \"off\"\n[[listener]]\naddress = \"unix:{0}\"\n[[export]]\nname = \"a\"\n\
         backend = \"nbd+unix:///a?socket={0}\"\n",
        socket.display()
    );
    fs::write(place.path("c.toml"), text)?;
    let checked = crate::process::Call::new(&crate::gateway::binary()?.display().to_string())
        .args(["check", "--config"])
        .arg(place.path("c.toml"))
        .run()?;
    ensure(!checked.status.success() && checked.stderr.contains("leads back to the export itself"), || checked.stderr)
}
