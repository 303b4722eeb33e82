//! A fence ends what a server goes on with, and then nobody waits for the guard.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use super::cable::Cable;
use super::slow::Slow;
use super::{LONG, NEW, OLD, flush, is_new, open, send_held, send_write, waited, wired};
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::{Running, installed};
use crate::trouble::{Trouble, ensure, eventually};

/// A program that does this.
fn program(place: &Place, script: &str) -> Result<PathBuf, Trouble> {
    let path = place.path("fence");
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// What ends the first write of this server, and sees that it has.
fn landing(slow: &Slow, place: &Place) -> Result<PathBuf, Trouble> {
    let [go, landed] = ["go", "landed"].map(|name| slow.path(name).display().to_string());
    program(place, &format!("touch {go}; until [ -e {landed} ]; do sleep 0.02; done; echo $NBD_GATEWAY_EXPORT >>{go}"))
}

#[test]
fn a_program_of_the_operators_ends_the_wait() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let place = Place::fresh()?;
    let more = format!("{LONG}fence = [{:?}]", landing(&slow, &place)?);
    let (cable, gateway) = wired(&slow.served.socket, &more)?;
    let mut client = send_held(&gateway, &slow)?;
    cable.cut();
    client.reply()?.success()?;
    client.write(0, &NEW)?.success()?;
    flush(&mut client)?;
    is_new(&mut client, &slow)?;
    assert_eq!(fs::read_to_string(slow.path("go"))?, "vm\n", "once, and told which export");
    gateway.end()
}

#[test]
fn after_a_crash_the_program_is_used_before_anything_is_written() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let place = Place::fresh()?;
    let more = format!("{LONG}fence = [{:?}]", landing(&slow, &place)?);
    let mut gateway = Gateway::start(&export("vm", &slow.served.uri(), &more))?.expecting_warnings();
    let _client = send_held(&gateway, &slow)?;
    gateway.kill_and_restart()?;
    let mut client = open(&gateway)?;
    client.write(0, &NEW)?.success()?;
    is_new(&mut client, &slow)?;
    gateway.end()
}

#[test]
fn a_program_that_fails_is_told_of_and_the_guard_counts() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let place = Place::fresh()?;
    let fence = program(&place, "echo 'no such machine' >&2; exit 3")?;
    let more = format!(
        "late-write-guard = \"3s\"\non-backend-loss = {{ hold = \"30s\", durable = true }}\nfence = [{fence:?}]"
    );
    let (cable, gateway) = wired(&slow.served.socket, &more)?;
    let mut client = send_held(&gateway, &slow)?;
    let lost = Instant::now();
    cable.cut();
    client.reply()?.success()?;
    send_write(&mut client, 2, &NEW)?;
    client.read(4096, 512)?;
    slow.land()?;
    client.reply()?.success()?;
    waited(lost, 3)?;
    ensure(gateway.log().contains("no such machine"), || gateway.log())?;
    assert_eq!(slow.disk()?, NEW);
    gateway.end()
}

/// qemu-storage-daemon has the write, and no answer yet from where its disk is. Taking its export off waits for that.
#[test]
fn an_export_of_qemus_is_taken_off_and_put_back() -> Result<(), Trouble> {
    let slow = Slow::start()?;
    let place = Place::fresh()?;
    let (socket, qmp) = (place.path("s"), place.path("qmp"));
    let arguments = [
        format!("--pidfile={}", place.path("pid").display()),
        format!("--blockdev=driver=nbd,node-name=node,server.type=unix,server.path={}", slow.served.socket.display()),
        format!("--nbd-server=addr.type=unix,addr.path={},max-connections=0", socket.display()),
        "--export=type=nbd,id=id,node-name=node,name=disk,writable=on".to_owned(),
        format!("--chardev=socket,id=qmp,path={},server=on,wait=off", qmp.display()),
        "--monitor=chardev=qmp".to_owned(),
    ];
    let mut daemon = Running::start(&installed("qemu-storage-daemon")?, arguments, place.path("log"))?;
    daemon.await_ready("its pid file", || place.path("pid").exists())?;
    let cable = Cable::to(&socket)?;
    let backend = format!("nbd+unix:///disk?socket={}", cable.near().display());
    let more = format!("{LONG}[export.resize]\ndriver = \"qmp\"\nsocket = {qmp:?}\nnode = \"node\"\nexport = \"id\"\n");
    let gateway = Gateway::start(&export("vm", &backend, &more))?.expecting_warnings();
    let mut client = send_held(&gateway, &slow)?;
    cable.cut();
    eventually("it is taken off", || gateway.log().contains("taking an export off"))?;
    send_write(&mut client, 2, &NEW)?;
    slow.land()?;
    let mut answered = [client.reply()?.success()?.cookie, client.reply()?.success()?.cookie];
    answered.sort_unstable();
    assert_eq!(answered, [1, 2]);
    flush(&mut client)?;
    let ended = client.read(0, 512)?;
    ensure(ended == NEW || ended == OLD, || "neither".into())?;
    client.write(0, &NEW)?.success()?;
    is_new(&mut client, &slow)?;
    gateway.end()
}
