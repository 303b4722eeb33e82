//! The driver: qemu-storage-daemon behind the gateway.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use super::daemon::{Daemon, SIZE, driver};
use super::load::Load;
use super::relay::Relay;
use crate::gateway::{Gateway, export};
use crate::process::Call;
use crate::trouble::{Trouble, ensure, eventually};

/// Writes at the end of the disk, and reads it back, as a client that comes now.
fn use_the_end(gateway: &Gateway, size: u64, byte: u8) -> Result<(), Trouble> {
    let at = size - (64 << 10);
    let io = Call::new("qemu-io").args(["-f", "raw", "-c", &format!("write -P {byte} {at} 64k")]);
    let io = io.args(["-c", &format!("read -P {byte} {at} 64k")]).arg(gateway.uri("disk"));
    let output = io.run()?.success()?;
    ensure(!output.stdout.contains("failed"), || output.trouble("did not find what it wrote").to_string())
}

/// What the log says of an operator's resize that is refused.
fn refused(gateway: &Gateway, size: u64) -> Result<String, Trouble> {
    match gateway.order_size("disk", size) {
        Ok(()) => Err(Trouble::new(format!("{size} bytes were not refused"))),
        Err(_) => Ok(gateway.log()),
    }
}

fn grows_twice_under_load(format: &str, options: &str) -> Result<(), Trouble> {
    let mut daemon = Daemon::start(format, options)?;
    let gateway = Gateway::start(&export("disk", &daemon.uri(), &daemon.driver("node", "id")))?;
    let mut load = Load::start(&gateway.uri("disk"))?;
    let before = Call::new("nbdinfo").args(["--json"]).arg(daemon.uri()).run()?.success()?.stdout;
    for (grows, byte) in [(2, 0xa1), (3, 0xa2)] {
        gateway.order_size("disk", SIZE * grows)?;
        assert_eq!(daemon.test.size_of("node")?, SIZE * grows);
        load.goes_on()?;
        use_the_end(&gateway, SIZE * grows, byte)?;
    }
    // The export is what it was, but for its size.
    let after = Call::new("nbdinfo").args(["--json"]).arg(daemon.uri()).run()?.success()?.stdout;
    let described = |text: &str| -> Result<serde_json::Value, Trouble> {
        let mut value: serde_json::Value = serde_json::from_str(text)?;
        let export = &mut value["exports"][0];
        for key in ["export-size", "export-size-str", "content"] {
            export[key].take();
        }
        Ok(value)
    };
    assert_eq!(described(&before)?, described(&after)?);
    let content = load.end()?;
    gateway.end()?;
    daemon.process.stop()?;
    // What nobody wrote takes no room: the file was not filled with zeroes.
    let taken = std::fs::metadata(&daemon.file)?.blocks() * 512;
    ensure(taken < SIZE / 2, || format!("{taken} bytes are taken by the disk"))?;
    let raw = daemon.place.path("raw");
    Call::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(&daemon.file).arg(&raw).run()?.success()?;
    let disk = std::fs::read(raw)?;
    let mut expected = vec![0; disk.len()];
    expected[..content.len()].copy_from_slice(&content);
    for (grows, byte) in [(2, 0xa1), (3, 0xa2)] {
        let end = usize::try_from(SIZE * grows).unwrap();
        expected[end - (64 << 10)..end].fill(byte);
    }
    assert_eq!(disk.len() as u64, SIZE * 3);
    ensure(disk == expected, || "the disk does not hold what was written".to_owned())
}

#[test]
fn a_raw_disk_grows_twice_under_load_without_an_error() -> Result<(), Trouble> {
    grows_twice_under_load("raw", "writable=on")
}

#[test]
fn a_qcow2_disk_grows_twice_and_its_export_keeps_contexts_and_description() -> Result<(), Trouble> {
    grows_twice_under_load("qcow2", "writable=on,description=a disk of qemu's,allocation-depth=on,bitmaps.0=since")
}

#[test]
fn an_export_that_another_client_uses_stays_and_everything_goes_on() -> Result<(), Trouble> {
    let mut daemon = Daemon::start("raw", "writable=on")?;
    let gateway = Gateway::start(&export("disk", &daemon.uri(), &daemon.driver("node", "id")))?.expecting_warnings();
    let mut load = Load::start(&gateway.uri("disk"))?;
    let mut other = Load::start_at(&daemon.uri(), 1 << 20)?;
    let why = refused(&gateway, 2 * SIZE)?;
    ensure(why.contains("in use by another client than this gateway"), || why)?;
    assert_eq!(daemon.test.size_of("node")?, SIZE);
    load.goes_on()?;
    other.goes_on()?;
    other.end()?;
    gateway.order_size("disk", 2 * SIZE)?;
    load.goes_on()?;
    load.end()?;
    gateway.end()
}

#[test]
fn a_node_that_qemu_cannot_resize_leaves_the_export_as_it_was() -> Result<(), Trouble> {
    let mut daemon = Daemon::start("raw", "writable=on")?;
    // A second export of the node stands in the way once the first is off.
    let second = json!({ "type": "nbd", "id": "second", "node-name": "node", "name": "second", "writable": true });
    daemon.test.ask("block-export-add", second)?;
    let gateway = Gateway::start(&export("disk", &daemon.uri(), &daemon.driver("node", "id")))?.expecting_warnings();
    let mut load = Load::start(&gateway.uri("disk"))?;
    let why = refused(&gateway, 2 * SIZE)?;
    ensure(why.contains("Permission conflict") && why.contains("another export"), || why)?;
    load.goes_on()?;
    daemon.test.ask("block-export-del", json!({ "id": "second" }))?;
    let why = refused(&gateway, 1 << 62)?;
    ensure(why.contains("make room"), || why)?;
    load.goes_on()?;
    gateway.order_size("disk", 2 * SIZE)?;
    load.end()?;
    gateway.end()
}

#[test]
fn what_the_configuration_gets_wrong_is_told_by_name() -> Result<(), Trouble> {
    let daemon = Daemon::start("raw", "writable=on")?;
    for (keys, words) in [
        (daemon.driver("node", "ID"), "it has: id"),
        (daemon.driver("file", "id"), "is one of node node, not of file"),
        (driver(&daemon.place.path("nobody"), "node", "id"), "is that qemu running?"),
        // The test's own monitor is served, so nobody else is.
        (driver(&daemon.place.path("test"), "node", "id"), "it serves one client at a time"),
    ] {
        let gateway = Gateway::start(&export("disk", &daemon.uri(), &keys))?.expecting_warnings();
        let mut load = Load::start(&gateway.uri("disk"))?;
        let why = refused(&gateway, 2 * SIZE)?;
        ensure(why.contains(words), || format!("{why}\nhas no: {words}"))?;
        load.goes_on()?;
        load.end()?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn an_export_that_was_left_off_is_told_with_the_command_that_puts_it_back() -> Result<(), Trouble> {
    let mut daemon = Daemon::start("raw", "writable=on")?;
    daemon.test.ask("block-export-del", json!({ "id": "id" }))?;
    let gateway = Gateway::start(&export("disk", &daemon.uri(), &daemon.driver("node", "id")))?.expecting_warnings();
    let info = || Call::new("nbdinfo").args(["--size"]).arg(gateway.uri("disk")).run();
    ensure(!info()?.status.success(), || "a disk that is not there was opened".to_owned())?;
    let log = gateway.log();
    let command = log
        .lines()
        .find_map(|line| Some(line.split_once("to put it back send ")?.1.split_once(" to that socket")?.0.to_owned()))
        .ok_or_else(|| Trouble::new(format!("the log has no command:\n{log}")))?;
    // As printed, or quoted once more by the log.
    let command: serde_json::Value =
        serde_json::from_str(&command).or_else(|_| serde_json::from_str(&command.replace("\\\"", "\"")))?;
    daemon.test.ask(command["execute"].as_str().unwrap_or_default(), command["arguments"].clone())?;
    info()?.success()?;
    gateway.end()
}

#[test]
fn an_export_comes_back_when_qmp_breaks_off_in_the_middle() -> Result<(), Trouble> {
    let mut daemon = Daemon::start("raw", "writable=on")?;
    let relay = Relay::start(&daemon.place.path("qmp"), daemon.place.path("relay"))?;
    let keys = driver(&daemon.place.path("relay"), "node", "id");
    let gateway = Gateway::start(&export("disk", &daemon.uri(), &keys))?.expecting_warnings();
    let mut load = Load::start(&gateway.uri("disk"))?;
    // Cut as soon as the resize is asked for: what became of it is read back.
    relay.cut_at("block_resize");
    let outcome = gateway.order_size("disk", 2 * SIZE);
    load.goes_on()?;
    let exports = daemon.test.ask("query-block-exports", json!({}))?;
    ensure(exports[0]["id"] == "id", || format!("the export is not back: {exports}"))?;
    let size = daemon.test.size_of("node")?;
    ensure(outcome.is_ok() == (size == 2 * SIZE), || {
        format!("the node has {size} bytes, and the resize: {outcome:?}")
    })?;
    // And once more, undisturbed.
    gateway.order_size("disk", 3 * SIZE)?;
    eventually("the new size", || daemon.test.size_of("node").is_ok_and(|size| size == 3 * SIZE))?;
    load.goes_on()?;
    load.end()?;
    gateway.end()
}

#[test]
fn an_export_that_is_off_when_the_gateway_is_killed_is_put_back_by_the_next_one() -> Result<(), Trouble> {
    let mut daemon = Daemon::start("raw", "writable=on")?;
    let relay = Relay::start(&daemon.place.path("qmp"), daemon.place.path("relay"))?;
    let keys = driver(&daemon.place.path("relay"), "node", "id") + "timeout = \"5s\"\n";
    let mut gateway = Gateway::start(&export("disk", &daemon.uri(), &keys))?.expecting_warnings();
    use_the_end(&gateway, SIZE, 0xb1)?;
    // From the resize on, qemu is out of reach: the export is off, and stays so.
    relay.cut_and_shut_at("block_resize");
    ensure(gateway.order_size("disk", 2 * SIZE).is_err(), || "resized without a qemu to ask".to_owned())?;
    gateway.kill()?;
    relay.open();
    gateway.start_again()?;
    use_the_end(&gateway, SIZE, 0xb2)?;
    let log = gateway.whole_log();
    ensure(log.contains("ended in the middle of a resize; it is back"), || log)?;
    gateway.order_size("disk", 3 * SIZE)?;
    use_the_end(&gateway, 3 * SIZE, 0xb3)?;
    gateway.end()?;
    daemon.process.stop().map(|_| ())
}
