//! Promise: a stock server is resized beside NBD, by its file, by a restart, or by a program; what it then shows is what
//! counts, and what went wrong is told to whoever ordered it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::own_disk::SmallDisk;
use crate::peer::nbdkit::{nbdkit_for_one, nbdkit_on};
use crate::peer::qemu;
use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;
const NAME: &str = "disk";

/// An `[export.resize]` with a driver.
fn driver(words: &str) -> String {
    format!("on-backend-loss = {{ hold = \"30s\", durable = true }}\n[export.resize]\nshrink = true\n{words}\n")
}

fn by_file(path: &Path) -> String {
    driver(&format!("driver = \"file\"\npath = {:?}", path.display().to_string()))
}

/// A program of the operator's.
fn program(place: &Place, name: &str, lines: &str) -> Result<String, Trouble> {
    let path = place.path(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

/// What an operator is told about a resize that is refused.
fn refused(gateway: &Gateway, size: u64) -> Result<String, Trouble> {
    let told = gateway.operator(&["resize", NAME, &size.to_string()])?.run()?;
    ensure(!told.status.success(), || format!("{size} bytes were not refused"))?;
    Ok(told.stderr)
}

/// A client that writes 4 KiB at an offset, reads them back, and says nothing of resize.
fn uses(gateway: &Gateway, at: u64, byte: u8) -> Result<(), Trouble> {
    let io = Call::new("qemu-io").args(["-f", "raw", "-c", &format!("write -P {byte} {at} 4k"), "-c", "flush"]);
    let output = io.args(["-c", &format!("read -P {byte} {at} 4k")]).arg(gateway.uri(NAME)).run()?.success()?;
    ensure(!output.stdout.contains("failed"), || output.trouble("did not find what it wrote").to_string())
}

#[test]
fn a_file_shrinks_and_no_connection_from_before_grows_it_back() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    fs::File::create(&file)?.set_len(8 * MIB)?;
    let nbdkit = nbdkit_on(&file)?;
    let gateway = Gateway::start(&export(NAME, &nbdkit.uri(), &by_file(&file)))?;
    uses(&gateway, 7 * MIB, 0x11)?;
    uses(&gateway, 0, 0x12)?;
    gateway.order_size(NAME, 4 * MIB)?;
    assert_eq!(fs::metadata(&file)?.len(), 4 * MIB);
    uses(&gateway, 3 * MIB, 0x13)?;
    let beyond = Call::new("qemu-io").args(["-f", "raw", "-c", "read 5M 4k"]).arg(gateway.uri(NAME)).run()?;
    ensure(beyond.stdout.contains("failed") || !beyond.status.success(), || "read past the new end".to_owned())?;
    assert_eq!(fs::metadata(&file)?.len(), 4 * MIB, "somebody grew it back");
    // What was cut off does not come back with the room.
    gateway.order_size(NAME, 8 * MIB)?;
    let zeroes = Call::new("qemu-io").args(["-f", "raw", "-c", "read -P 0 4M 4M"]).arg(gateway.uri(NAME)).run()?;
    ensure(!zeroes.success()?.stdout.contains("failed"), || "old bytes shine through".to_owned())?;
    gateway.end()
}

#[test]
fn a_full_file_system_is_told_to_who_resizes_and_the_disk_stays_as_it_was() -> Result<(), Trouble> {
    let Some(disk) = SmallDisk::mount()? else { return Ok(()) };
    let (file, filler) = (disk.at.join("disk.raw"), disk.at.join("filler"));
    fs::File::create(&file)?.set_len(MIB)?;
    let nbdkit = nbdkit_on(&file)?;
    let gateway = Gateway::start(&export(NAME, &nbdkit.uri(), &by_file(&file)))?.expecting_warnings();
    fs::write(&filler, vec![1; 4 << 20]).expect_err("it is full");
    let why = refused(&gateway, 8 * MIB)?;
    ensure(why.contains("No space left on device") && why.contains("make room in its file system"), || why)?;
    assert_eq!(fs::metadata(&file)?.len(), MIB);
    fs::remove_file(&filler)?;
    gateway.order_size(NAME, 8 * MIB)?;
    uses(&gateway, 7 * MIB, 0x14)?;
    gateway.end()
}

/// The lock that keeps a shrink away, in another process.
#[test]
fn a_shrink_is_refused_with_the_process_that_has_locked_the_file() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    fs::File::create(&file)?.set_len(8 * MIB)?;
    let nbdkit = nbdkit_on(&file)?;
    let gateway = Gateway::start(&export(NAME, &nbdkit.uri(), &by_file(&file)))?.expecting_warnings();
    // It has the lock once the program that it runs does, and until that ends.
    let (words, ready) = (place.path("words"), place.path("ready"));
    Call::new("mkfifo").arg(&words).run()?.success()?;
    let waits = format!("touch '{}'; read word <'{}'", ready.display(), words.display());
    let locked = ["--no-fork", &file.display().to_string(), "bash", "-c", &waits].map(str::to_owned);
    let mut locking = Running::start(&installed("flock")?, &locked, place.path("flock.log"))?;
    eventually("the lock is taken", || ready.exists())?;
    let why = refused(&gateway, 4 * MIB)?;
    ensure(
        why.contains(&format!("is locked by another process (process {}, \"bash\")", locking.child().id())),
        || why,
    )?;
    gateway.order_size(NAME, 9 * MIB)?;
    fs::write(&words, "go\n")?;
    locking.await_end(crate::process::DEADLINE)?;
    gateway.order_size(NAME, 4 * MIB)?;
    gateway.end()
}

#[test]
fn a_server_that_never_looks_again_is_told_apart_and_so_is_what_it_needs() -> Result<(), Trouble> {
    let served = qemu::raw(16, &Image::of_zeroes())?;
    let file = served.file().ok_or_else(|| Trouble::new("no file"))?.to_owned();
    let gateway = Gateway::start(&export(NAME, &served.uri(), &by_file(&file)))?.expecting_warnings();
    let size = fs::metadata(&file)?.len();
    let why = refused(&gateway, 2 * size)?;
    ensure(why.contains("never looks at its file again") && why.contains("restart"), || why)?;
    uses(&gateway, 0, 0x21)?;
    gateway.end()
}

#[test]
fn a_server_with_room_for_one_connection_is_let_go_before_it_is_looked_at() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    let size = 4 * MIB;
    fs::File::create(&file)?.set_len(size)?;
    let served = nbdkit_for_one(&file)?;
    let more = format!("dial-timeout = \"2s\"\n{}", by_file(&file));
    let gateway = Gateway::start(&export(NAME, &served.uri(), &more))?.expecting_warnings();
    gateway.order_size(NAME, 2 * size)?;
    uses(&gateway, 2 * size - 4096, 0x31)?;
    gateway.order_size(NAME, 3 * size)?;
    uses(&gateway, 3 * size - 4096, 0x32)?;
    gateway.end()
}

#[test]
fn a_program_resizes_and_the_size_that_counts_is_the_servers() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    fs::File::create(&file)?.set_len(4 * MIB)?;
    let nbdkit = nbdkit_on(&file)?;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/drivers/qemu-img");
    let command = format!("driver = \"exec\"\ncommand = [\"{}\", \"raw\", \"{}\"]", shipped.display(), file.display());
    let gateway = Gateway::start(&export(NAME, &nbdkit.uri(), &driver(&command)))?;
    for size in [6 * MIB, 9 * MIB] {
        gateway.order_size(NAME, size)?;
        assert_eq!(fs::metadata(&file)?.len(), size);
        uses(&gateway, size - 4096, 0x41)?;
    }
    gateway.end()
}

#[test]
fn a_program_that_fails_lies_or_hangs_changes_nothing_and_its_words_reach_the_operator() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    fs::File::create(&file)?.set_len(4 * MIB)?;
    let nbdkit = nbdkit_on(&file)?;
    for (lines, words) in [
        ("echo no volume group by that name >&2; exit 5", &["5", "no volume group by that name"][..]),
        ("echo much larger now", &["much larger now"]),
        ("echo $NBD_GATEWAY_NEW_SIZE", &["still shows the old size"]),
        ("exec sleep 1000", &["1s"]),
    ] {
        let path = program(&place, "grow", lines)?;
        // On a busy machine it takes a while to fail as well.
        let timeout = if lines.starts_with("exec sleep") { "1s" } else { "30s" };
        let command = driver(&format!("timeout = {timeout:?}\ndriver = \"exec\"\ncommand = [{path:?}]"));
        let gateway = Gateway::start(&export(NAME, &nbdkit.uri(), &command))?.expecting_warnings();
        let why = refused(&gateway, 8 * MIB)?;
        ensure(words.iter().all(|word| why.contains(word)), || format!("{lines}: told {why}"))?;
        uses(&gateway, 0, 0x51)?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_come_back_from_its_restart_is_told_and_can_still_come_back() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    fs::File::create(&file)?.set_len(4 * MIB)?;
    let nbdkit = nbdkit_on(&file)?;
    let path = program(&place, "restart", "echo unit not found >&2; exit 3")?;
    let words = format!("driver = \"restart\"\npath = {:?}\ncommand = [{path:?}]", file.display().to_string());
    let gateway = Gateway::start(&export(NAME, &nbdkit.uri(), &driver(&words)))?.expecting_warnings();
    // The command failed, but nbdkit runs and shows the file's new size: that is what counts.
    gateway.order_size(NAME, 8 * MIB)?;
    uses(&gateway, 8 * MIB - 4096, 0x61)?;
    gateway.end()
}

#[test]
fn a_server_of_one_connection_that_comes_back_late_from_its_restart_is_resized_after_all() -> Result<(), Trouble> {
    let mut served = qemu::raw(1, &Image::of_zeroes())?;
    let file = served.file().ok_or_else(|| Trouble::new("no file"))?.to_owned();
    let size = fs::metadata(&file)?.len();
    let place = Place::fresh()?;
    let pid = fs::read_to_string(file.with_file_name("pid"))?;
    let path = program(&place, "restart", &format!("kill -9 {}; exec sleep 1000", pid.trim()))?;
    let words = format!(
        "timeout = \"1s\"\ndriver = \"restart\"\npath = {:?}\ncommand = [{path:?}]",
        file.display().to_string()
    );
    let gateway = Gateway::start(&export(NAME, &served.uri(), &driver(&words)))?.expecting_warnings();
    uses(&gateway, 0, 0x71)?;
    let why = refused(&gateway, 2 * size)?;
    ensure(why.contains("restart` did not end within") && why.contains("its server may be down"), || why)?;
    served.kill()?;
    served.start_again()?;
    // Whom it tells its size is the gateway's lane: to any other connection it says nothing.
    eventually("the size is known", || gateway.order_size(NAME, 2 * size).is_ok())?;
    uses(&gateway, 2 * size - 4096, 0x72)?;
    gateway.end()
}
