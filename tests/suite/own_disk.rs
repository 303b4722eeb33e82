//! Promise: a disk of the gateway's own behaves as a server's: what its file system cannot do is an error for the request,
//! and nobody shares it by accident.

use std::path::{Path, PathBuf};

use crate::gateway::{Gateway, binary, configuration, export};
use crate::image::Image;
use crate::place::Place;
use crate::process::Call;
use crate::scripted::numbers::{cmd, cmd_flag, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// A file system of a few MiB, while this lives.
pub(crate) struct SmallDisk {
    pub(crate) at: PathBuf,
    _place: Place,
}

impl SmallDisk {
    /// None where the machine lets us mount nothing.
    pub(crate) fn mount() -> Result<Option<Self>, Trouble> {
        let place = Place::fresh()?;
        let at = place.path("full");
        std::fs::create_dir(&at)?;
        let mounted = Call::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&at).run()?;
        if !mounted.status.success() {
            eprintln!("skipped: no file system can be mounted here ({})", mounted.stderr.trim());
            return Ok(None);
        }
        Ok(Some(Self { at, _place: place }))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Before the directory goes, which is dropped after this.
        let _ = Call::new("umount").arg("--lazy").arg(&self.at).run();
    }
}

fn listener(place: &Place) -> String {
    format!("[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = \"off\"\n\n", place.path("g").display())
}

#[test]
fn a_full_file_system_is_enospc_for_the_write_and_no_end_for_anything() -> Result<(), Trouble> {
    let Some(disk) = SmallDisk::mount()? else { return Ok(()) };
    let file = disk.at.join("disk.img");
    let size = "size = \"64MiB\"";
    let tables = export("vm", &format!("file:{}", file.display()), size) + &export("other", "memory:", size);
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    for framing in Framing::ALL {
        let (mut client, opened) = RawClient::open(gateway.socket(), "vm", framing)?;
        assert_eq!(opened.size, 64 << 20);
        client.write(0, &[5; 4096])?.success()?;
        let full = client.write(16 << 20, &vec![6; 8 << 20])?;
        assert_eq!(full.error, errno::ENOSPC, "{framing:?}");
        let zeroes =
            Ask { command: cmd::WRITE_ZEROES, flags: cmd_flag::NO_HOLE, cookie: 5, offset: 32 << 20, length: 8 << 20 };
        assert_eq!(client.ask(zeroes, &[])?.error, errno::ENOSPC, "{framing:?}");
        // What is there can be read, and with room again it can be written.
        assert_eq!(client.read(0, 4096)?, [5; 4096]);
        client.ask(Ask { command: cmd::FLUSH, cookie: 6, ..Ask::default() }, &[])?.success()?;
        let trim = Ask { command: cmd::TRIM, cookie: 7, offset: 16 << 20, length: 32 << 20, flags: 0 };
        client.ask(trim, &[])?.success()?;
        client.write(17 << 20, &[7; 65_536])?.success()?;
        assert_eq!(client.read(17 << 20, 65_536)?, [7; 65_536]);
        client.leave()?;
    }
    let (mut other, _) = RawClient::open(gateway.socket(), "other", Framing::Structured)?;
    other.write(0, &[1; 4096])?.success()?;
    gateway.end()
}

/// The kernel sends SIGXFSZ with it, which ends a process that does not expect it.
#[test]
fn a_file_over_the_process_limit_is_enospc_too() -> Result<(), Trouble> {
    let disk = Place::fresh()?;
    let file = disk.path("disk.img");
    std::fs::File::create(&file)?.set_len(64 << 20)?;
    let place = Place::fresh()?;
    let tables = listener(&place) + &export("vm", &format!("file:{}", file.display()), "");
    let limited = ["/usr/bin/prlimit", "--fsize=1048576", "--"].map(str::to_owned);
    let gateway = Gateway::launched_by(&limited, place, &tables)?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    assert_eq!(client.write(8 << 20, &[1; 4096])?.error, errno::ENOSPC);
    client.write(4096, &[1; 4096])?.success()?;
    client.read(8 << 20, 4096)?;
    gateway.end()
}

#[test]
fn qemu_sees_that_the_disk_is_full() -> Result<(), Trouble> {
    let Some(disk) = SmallDisk::mount()? else { return Ok(()) };
    let backend = format!("file:{}", disk.at.join("disk.img").display());
    let gateway = Gateway::start(&export("vm", &backend, "size = \"64MiB\""))?.expecting_warnings();
    let uri = format!("nbd+unix:///vm?socket={}", gateway.socket().display());
    let output = Call::new("qemu-io").args(["-f", "raw", "-c", "write 1M 8M", &uri]).run()?;
    ensure((output.stdout.clone() + &output.stderr).contains("No space left on device"), || {
        output.trouble("should have told that there is no space").to_string()
    })?;
    gateway.end()
}

#[test]
fn a_file_that_another_gateway_serves_is_refused_until_that_one_ends() -> Result<(), Trouble> {
    let shared = Place::fresh()?;
    let file = shared.path("disk.img");
    Image::sparse(3).write_to(&file)?;
    let tables = |place: &Place| listener(place) + &export("vm", &format!("file:{}", file.display()), "");
    let place = Place::fresh()?;
    let mut first = Gateway::start_in(Place::fresh()?, &tables(&place))?;
    let holder = format!("(process {}, \"nbd-gateway\")", first.id());
    let (mut client, _) = RawClient::open(&place.path("g"), "vm", Framing::Structured)?;

    let other = Place::fresh()?;
    let config = configuration(&other, &tables(&other))?;
    let serve =
        |config: &Path| Call::new(&binary()?.display().to_string()).args(["serve", "--config"]).arg(config).run();
    let second = serve(&config)?;
    let last = second.stderr.lines().last().unwrap_or_default();
    ensure(second.status.code() == Some(1) && last.contains("disk.img") && last.contains(&holder), || {
        second.trouble("should have said who has locked the file").to_string()
    })?;
    client.read(0, 512)?;
    client.leave()?;
    first.end()?;
    let second = Gateway::start_in(Place::fresh()?, &tables(&other))?;
    RawClient::open(&other.path("g"), "vm", Framing::Structured)?.0.leave()?;
    second.end()
}

#[test]
fn a_template_of_files_is_opened_when_asked_for_and_one_that_is_taken_is_told() -> Result<(), Trouble> {
    let shared = Place::fresh()?;
    std::fs::create_dir(shared.path("disks"))?;
    for name in ["a", "b"] {
        Image::sparse(3).write_to(&shared.path(&format!("disks/{name}.img")))?;
    }
    let backend = format!("file:{}/disks/{{}}.img", shared.root().display());
    let tables = |more: &str| export("d/*", &backend, more);
    let first = Gateway::start(&tables(""))?;
    let second = Gateway::start(&tables("read-only = true"))?.expecting_warnings();
    let third = Gateway::start(&tables("read-only = true"))?.expecting_warnings();
    let (mut client, _) = RawClient::open(first.socket(), "d/a", Framing::Structured)?;
    client.write(0, &[1; 512])?.success()?;
    ensure(RawClient::open(second.socket(), "d/a", Framing::Structured).is_err(), || {
        "a locked file was opened".into()
    })?;
    // Readers may share.
    let readers = [&second, &third].map(|gateway| RawClient::open(gateway.socket(), "d/b", Framing::Structured));
    for reader in readers {
        reader?.0.leave()?;
    }
    ensure(RawClient::open(first.socket(), "d/missing", Framing::Simple).is_err(), || {
        "a file that is not there".into()
    })?;
    ensure(!shared.path("disks/missing.img").exists(), || "a file without a size was made".into())?;
    client.leave()?;
    first.expecting_warnings().end()?;
    second.end()?;
    third.end()
}

/// A disk of the gateway's own did what a client had left behind after what another was told is done.
#[test]
fn what_a_client_left_behind_is_done_before_another_writes_there() -> Result<(), Trouble> {
    const SIZE: u64 = 256 << 20;
    const PART: u64 = 64 << 10;
    let gateway = Gateway::start(&export("vm", "memory:", &format!("size = {SIZE}")))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    for round in 0..3 {
        client.write(SIZE - 2 * PART, &[6; 2 * PART as usize])?.success()?;
        let mut other = RawClient::connect(gateway.socket())?;
        other.upgrade(Framing::Extended)?;
        other.learn(opt::GO, "vm", &[info::RESIZE])?;
        other.send(Ask { command: cmd::RESIZE, cookie: 9, flags: cmd_flag::NOTIFY, ..Ask::default() }, &[])?;
        assert_eq!(other.next_size(9)?, SIZE);
        let flags = cmd_flag::NO_HOLE;
        other.send(Ask { command: cmd::WRITE_ZEROES, cookie: 1, offset: 0, length: SIZE, flags }, &[])?;
        other.link().finish_sending()?;
        // The gateway has seen its end: no more notices come.
        assert_eq!(other.reply()?.cookie, 9);
        // One of the two parts that are to be zeroed is written: so it was zeroed before, and with it the other.
        client.write(SIZE - PART, &[7; PART as usize])?.success()?;
        assert_eq!(client.read(SIZE - 2 * PART, 1)?, [0], "in round {round}");
        assert_eq!(client.read(SIZE - 1, 1)?, [7]);
    }
    client.leave()?;
    gateway.end()
}
