//! Promise: what is found is held against what is on record, each time that an export is opened and while it is open: bytes
//! that are gone are told, and clients that may come back do not find less than they left.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::gateway::{Gateway, export};
use crate::peer::{Served, nbdkit_as_it_is};
use crate::place::Place;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

fn cut(file: &Path, size: u64) -> Result<(), Trouble> {
    Ok(File::options().write(true).open(file)?.set_len(size)?)
}

fn shown(gateway: &Gateway, name: &str) -> Result<u64, Trouble> {
    let (client, opened) = RawClient::open(gateway.socket(), name, Framing::Structured)?;
    client.leave()?;
    Ok(opened.size)
}

/// What is told of an export in the history, of this kind.
fn told(gateway: &Gateway, name: &str, kind: &str) -> Result<String, Trouble> {
    let said = || gateway.operator(&["events", "--export", name, "--kind", kind, "--json"])?.run()?.success();
    eventually("it is told", || said().is_ok_and(|said| said.stdout.contains("old_size")))?;
    Ok(said()?.stdout)
}

fn quarantined(gateway: &Gateway, name: &str) -> bool {
    let name = format!("export=\"{name}\"");
    gateway.metric("nbd_gateway_export_quarantined", &[&name]).is_ok_and(|now| now == 1.0)
}

/// It was taken without a word, and the record of what there had been was written over.
#[test]
fn a_disk_that_was_cut_while_nobody_had_it_open_is_told_and_shown_as_it_is() -> Result<(), Trouble> {
    let disk = Place::fresh()?;
    let file = disk.path("disk");
    File::create(&file)?.set_len(64 * MIB)?;
    let served = nbdkit_as_it_is(&[], &["file", &file.display().to_string()])?;
    let backend = format!("nbd+unix:///?socket={}", served.socket.display());
    let gateway = Gateway::start(&export("vm", &backend, "idle-timeout = \"0s\""))?.expecting_warnings();
    assert_eq!(shown(&gateway, "vm")?, 64 * MIB);
    eventually("it is closed", || {
        gateway.metric("nbd_gateway_export_open", &["export=\"vm\""]).is_ok_and(|open| open == 0.0)
    })?;
    cut(&file, 16 * MIB)?;
    assert_eq!(shown(&gateway, "vm")?, 16 * MIB);
    let events = told(&gateway, "vm", "outside")?;
    ensure(events.contains("67108864") && events.contains("16777216"), || events)?;
    ensure(gateway.log_tail(50).contains("smaller than on record"), || gateway.log_tail(50))?;
    gateway.end()
}

#[test]
fn disks_that_were_cut_while_the_gateway_was_down_are_quarantined_for_those_who_may_come_back() -> Result<(), Trouble> {
    let disk = Place::fresh()?;
    let file = disk.path("disk");
    File::create(&file)?.set_len(64 * MIB)?;
    let served = nbdkit_as_it_is(&[], &["file", &file.display().to_string()])?;
    let backend = format!("nbd+unix:///?socket={}", served.socket.display());
    let poll = "[export.resize]\npoll = \"1s\"\n";
    let own = disk.path("own");
    let tables = export("vm", &backend, poll) + &export("own", &format!("file:{}", own.display()), "size = \"64MiB\"");
    let mut gateway = Gateway::start(&tables)?.expecting_errors();
    assert_eq!((shown(&gateway, "vm")?, shown(&gateway, "own")?), (64 * MIB, 64 * MIB));
    gateway.kill()?;
    cut(&file, 16 * MIB)?;
    cut(&own, 16 * MIB)?;
    for _ in 0..2 {
        // The record stays, so that the next start finds the loss again.
        gateway.start_again()?;
        for name in ["vm", "own"] {
            assert_eq!(shown(&gateway, name)?, 64 * MIB, "{name}");
            eventually("it is quarantined", || quarantined(&gateway, name))?;
            let events = told(&gateway, name, "quarantined")?;
            ensure(events.contains("67108864"), || events)?;
        }
        gateway.kill()?;
    }
    gateway.start_again()?;
    // The bytes are given back to one, the other is taken for what it is.
    cut(&file, 64 * MIB)?;
    assert_eq!(shown(&gateway, "vm")?, 64 * MIB);
    assert_eq!(shown(&gateway, "own")?, 64 * MIB);
    eventually("it is quarantined", || quarantined(&gateway, "own"))?;
    cut(&own, 64 * MIB)?;
    eventually("it fits again", || !quarantined(&gateway, "own"))?;
    ensure(!quarantined(&gateway, "vm"), || "it has what it had".into())?;
    gateway.end()
}

/// Its length was read once, when it was opened.
#[test]
fn a_file_that_is_cut_while_it_is_open_is_quarantined() -> Result<(), Trouble> {
    let disk = Place::fresh()?;
    let own = disk.path("own");
    let tables = export("own", &format!("file:{}", own.display()), "size = \"8MiB\"");
    let gateway = Gateway::start(&tables)?.expecting_errors();
    let (mut client, _) = RawClient::open(gateway.socket(), "own", Framing::Structured)?;
    cut(&own, 4 * MIB)?;
    eventually("it is noticed", || quarantined(&gateway, "own"))?;
    client.read(0, 4 * MIB)?;
    cut(&own, 8 * MIB)?;
    eventually("it fits again", || !quarantined(&gateway, "own"))?;
    client.read(4 * MIB, 512)?;
    gateway.end()
}

const TENANT: &str = "[[tenant]]\nname = \"t\"\nquota = \"64MiB\"\n";

/// Exports of one tenant, each a file behind a server of its own and closed when nobody uses it.
struct Disks {
    place: Place,
    _servers: Vec<Served>,
}

impl Disks {
    fn of(names: &[&str]) -> Result<(Self, String), Trouble> {
        let place = Place::fresh()?;
        let (mut servers, mut tables) = (Vec::new(), TENANT.to_owned());
        for name in names {
            let file = place.path(name);
            File::create(&file)?.set_len(2 * MIB)?;
            let served = nbdkit_as_it_is(&[], &["file", &file.display().to_string()])?;
            let more = format!(
                "tenant = \"t\"\nidle-timeout = \"0s\"\n[export.resize]\ndriver = \"file\"\npath = {:?}\n",
                file.display().to_string()
            );
            tables += &export(name, &format!("nbd+unix:///?socket={}", served.socket.display()), &more);
            servers.push(served);
        }
        Ok((Self { place, _servers: servers }, tables))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }
}

fn grow(gateway: &Gateway, name: &str, size: &str) -> Result<bool, Trouble> {
    Ok(gateway.operator(&["resize", name, size])?.run()?.status.success())
}

fn closed(gateway: &Gateway, name: &str) -> Result<(), Trouble> {
    let name = format!("export=\"{name}\"");
    eventually("it is closed", || gateway.metric("nbd_gateway_export_open", &[&name]).is_ok_and(|open| open == 0.0))
}

/// It counted at what it had when it was closed, and its tenant went over its quota.
#[test]
fn a_disk_that_grew_while_it_was_closed_counts_before_its_tenant_grows_elsewhere() -> Result<(), Trouble> {
    let (disks, tables) = Disks::of(&["one", "two"])?;
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    for name in ["one", "two"] {
        assert_eq!(shown(&gateway, name)?, 2 * MIB);
        closed(&gateway, name)?;
    }
    cut(&disks.file("one"), 60 * MIB)?;
    ensure(!grow(&gateway, "two", "50MiB")?, || "the tenant is over its quota".into())?;
    cut(&disks.file("one"), 8 * MIB)?;
    eventually("there is room again", || grow(&gateway, "two", "50MiB").unwrap_or_default())?;
    gateway.end()
}

#[test]
fn an_older_copy_of_the_ledger_lets_nobody_over_a_quota() -> Result<(), Trouble> {
    let (disks, tables) = Disks::of(&["one", "two"])?;
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    assert_eq!(shown(&gateway, "two")?, 2 * MIB);
    ensure(grow(&gateway, "one", "3MiB")?, || "there is room".into())?;
    gateway.kill()?;
    let copy = disks.place.path("copy");
    copy_all(&gateway.path("state"), &copy)?;
    gateway.start_again()?;
    ensure(grow(&gateway, "one", "60MiB")?, || "there is room".into())?;
    gateway.kill()?;
    std::fs::remove_dir_all(gateway.path("state"))?;
    copy_all(&copy, &gateway.path("state"))?;
    gateway.start_again()?;
    ensure(!grow(&gateway, "two", "58MiB")?, || "the tenant is over its quota".into())?;
    ensure(grow(&gateway, "two", "4MiB")?, || "there is room".into())?;
    gateway.end()
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Trouble> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Its bytes were counted for good, and the tenant refused for want of room that there was.
#[test]
fn a_disk_that_is_gone_from_its_templates_server_makes_room() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    for name in ["one", "two"] {
        File::create(place.path(name))?.set_len(30 * MIB)?;
    }
    let served = nbdkit_as_it_is(&[], &["file", &format!("dir={}", place.root().display())])?;
    let uri = format!("nbd+unix:///{{}}?socket={}", served.socket.display());
    let grown = place.path("grown");
    let more = format!(
        "tenant = \"t\"\nidle-timeout = \"0s\"\n[export.resize]\ndriver = \"file\"\npath = {:?}\n",
        grown.display().to_string()
    );
    File::create(&grown)?.set_len(MIB)?;
    let tables = TENANT.to_owned()
        + &export("d/*", &uri, "tenant = \"t\"\nidle-timeout = \"0s\"\n")
        + &export("grown", &format!("nbd+unix:///grown?socket={}", served.socket.display()), &more);
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    for name in ["d/one", "d/two"] {
        assert_eq!(shown(&gateway, name)?, 30 * MIB);
    }
    ensure(!grow(&gateway, "grown", "8MiB")?, || "there is no room".into())?;
    std::fs::remove_file(place.path("one"))?;
    eventually("there is room", || grow(&gateway, "grown", "8MiB").unwrap_or_default())?;
    gateway.end()
}
