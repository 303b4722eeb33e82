//! Promise: a client that knows nothing of sizes is shown the ceiling and can use all of it, and the backend has no more
//! than was written. Above all, qcow2 in an export that begins empty.

mod life;

use std::path::Path;

use crate::gateway::{Gateway, export};
use crate::peer::nbdkit_on;
use crate::place::Place;
use crate::process::Call;
use crate::recipe::Recipe;
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};
use life::{live, qemu_io};

const MIB: u64 = 1 << 20;

/// 64 GiB to look at, growing by 4 MiB.
const CEILING: &str = "max-size = \"64GiB\"\n[export.resize]\npresent = \"ceiling\"\nstep = \"4MiB\"\n";

/// A disk of the gateway's own, of one byte at first.
fn own(file: &Path, more: &str) -> String {
    export("d", &format!("file:{}", file.display()), &format!("size = 1\n{more}"))
}

#[test]
fn qcow2_lives_in_a_file_that_begins_empty() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("d.img");
    let gateway = Gateway::start(&own(&file, CEILING))?;
    live(&gateway.uri("d"), &file)?;
    gateway.end()
}

#[test]
fn qcow2_lives_on_an_nbdkit_whose_file_begins_empty() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("d.img");
    std::fs::write(&file, "")?;
    let served = nbdkit_on(&file)?;
    let driver = format!("{CEILING}driver = \"file\"\npath = {file:?}\n");
    let gateway = Gateway::start(&export("d", &served.uri(), &driver))?;
    live(&gateway.uri("d"), &file)?;
    gateway.end()
}

#[test]
fn qcow2_lives_behind_two_gateways() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("d.img");
    let inner = Gateway::start(&own(&file, ""))?;
    let gateway = Gateway::start(&export("d", &inner.uri("d"), CEILING))?;
    live(&gateway.uri("d"), &file)?;
    gateway.end()?;
    inner.end()
}

#[test]
fn a_full_quota_is_no_space_left_for_qemu_and_is_not_exceeded() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("d.img");
    let tenant = "[[tenant]]\nname = \"t\"\nquota = \"10MiB\"\n";
    let gateway = Gateway::start(&format!("{tenant}{}", own(&file, &format!("tenant = \"t\"\n{CEILING}"))))?;
    let uri = gateway.uri("d");
    Call::new("qemu-img").args(["create", "-f", "qcow2", &uri, "1G"]).run()?.success()?;
    qemu_io(&uri, &["write -P 1 0 6M"])?.success()?;
    let full = qemu_io(&uri, &["write -P 2 8M 6M"])?;
    ensure(full.stdout.contains("No space left on device"), || format!("qemu-io says {}", full.stdout))?;
    // What still fits is written, and nothing of before is harmed.
    qemu_io(&uri, &["read -P 1 0 6M", "write -P 3 20M 3M", "read -P 3 20M 3M"])?.success()?;
    let size = std::fs::metadata(&file)?.len();
    ensure(size == 10 * MIB, || format!("the last step is cut to what the quota leaves: {size}"))?;
    Call::new("qemu-img").args(["check", "-f", "qcow2", &uri]).run()?.success()?;
    gateway.end()
}

#[test]
fn whoever_knows_of_sizes_sees_the_real_one() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = Gateway::start(&own(&place.path("d.img"), CEILING))?;
    for framing in Framing::ALL {
        let (mut stock, shown) = RawClient::open(gateway.socket(), "d", framing)?;
        assert_eq!(shown.size, 64 << 30, "{framing:?}");
        assert_eq!(shown.flags & 1 << 9, 0, "{framing:?}: there is nothing to resize");
        let mut asking = RawClient::connect(gateway.socket())?;
        asking.upgrade(framing)?;
        let before = asking.learn(opt::INFO, "d", &[info::RESIZE])?.size;
        assert!(before < 64 << 30, "{framing:?}: {before}");
        // Reads wherever it likes; nothing of it makes the backend larger.
        for (offset, length) in [(0, 4096), (before - 1, 2), (before, 512), ((64 << 30) - 4096, 4096)] {
            let data = stock.read(offset, length)?;
            ensure(data.len() as u64 == length, || format!("{} bytes at {offset}", data.len()))?;
        }
        for command in [cmd::TRIM, cmd::CACHE] {
            for (offset, length) in [(before - 1, 2), (before + 4096, MIB)] {
                stock.ask(Ask { command, cookie: 9, offset, length, flags: 0 }, &[])?.success()?;
            }
        }
        assert_eq!(asking.learn(opt::INFO, "d", &[info::RESIZE])?.size, before, "{framing:?}");
        // A write of zeroes is a write.
        let zeroes = Ask { command: cmd::WRITE_ZEROES, cookie: 8, offset: before + 5 * MIB, length: 1, flags: 0 };
        stock.ask(zeroes, &[])?.success()?;
        assert_eq!(asking.learn(opt::INFO, "d", &[info::RESIZE])?.size, before + 5 * MIB + 1, "{framing:?}");
        assert_eq!(stock.write((64 << 30) - 511, &[1; 512])?.error, errno::ENOSPC, "{framing:?}: past the ceiling");
        assert_eq!(stock.ask(Ask::read(7, (64 << 30) - 511, 512), &[])?.error, errno::EINVAL, "{framing:?}");
        stock.leave()?;
    }
    gateway.end()
}

#[test]
fn a_copy_of_what_is_shown_is_sparse() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = Gateway::start(&own(&place.path("d.img"), CEILING))?;
    let uri = gateway.uri("d");
    Call::new("qemu-io").args(["-f", "raw", "-c", "write -P 7 5M 64k", &uri]).run()?.success()?;
    let map = Call::new("nbdinfo").args(["--map", "--totals", &uri]).run()?.success()?.stdout;
    ensure(map.lines().any(|line| line.contains("hole,zero")), || format!("nbdinfo says {map}"))?;
    let size = Call::new("nbdinfo").args(["--size", &uri]).run()?.success()?.stdout;
    assert_eq!(size.trim(), (64u64 << 30).to_string());
    gateway.end()
}

#[test]
fn qcow2_lives_as_the_readme_says() -> Result<(), Trouble> {
    let said = Recipe::named("ceiling")?.run("/tmp/nbd-ceiling")?;
    let clean = said.matches("No errors were found on the image.").count();
    ensure(clean == 2, || format!("not checked twice without an error: {said}"))
}
