//! A disk under the ledger that is full, or fails: growth stops, with a reason, and nothing else does; when there is room
//! again, it goes on.

use std::fs;
use std::path::Path;

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::Backend;
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient, Reply};
use crate::trouble::{Trouble, ensure};

const MIB: u64 = 1 << 20;

/// A small disk of its own where the ledger will be, then the gateway.
const OWN_DISK: &str = "mkdir \"$0\" && mount -t tmpfs -o size=1m none \"$0\" && exec \"$@\"";

#[test]
fn a_disk_that_takes_no_more_stops_growth_and_nothing_else() -> Result<(), Trouble> {
    grows_only_while_there_is_room(&["env".to_owned()], Place::fresh()?, |gateway, room| {
        gateway.may_write(if room { None } else { Some(1) })
    })
}

/// Where no file systems may be mounted, as in most containers, the test above has to do.
#[test]
fn a_full_disk_stops_growth_and_nothing_else() -> Result<(), Trouble> {
    let alone = ["--mount", "--map-root-user"];
    let mounts = Call::new("unshare").args(alone).args(["mount", "-t", "tmpfs", "none", "/mnt"]);
    if !mounts.run()?.status.success() {
        eprintln!("skipped: no file system can be mounted here");
        return Ok(());
    }
    let place = Place::fresh()?;
    let state = place.path("state").display().to_string();
    let words = [&["unshare"], &alone[..], &["bash", "-c", OWN_DISK, &state]].concat();
    let launcher: Vec<_> = words.into_iter().map(str::to_owned).collect();
    grows_only_while_there_is_room(&launcher, place, |gateway, room| {
        let inside = format!("/proc/{}/root{state}/ballast", gateway.id());
        if room {
            return Ok(fs::remove_file(inside)?);
        }
        let fill = Call::new("dd").args(["if=/dev/zero", "bs=4k", &format!("of={inside}")]).run()?;
        ensure(!fill.status.success(), || "a disk that is never full".into())?;
        let full = Call::new("dd").args(["if=/dev/zero", "bs=1", "count=1", &format!("of={inside}2")]).run()?;
        fs::remove_file(Path::new(&format!("{inside}2")))?;
        ensure(!full.status.success(), || "there is room left".into())
    })
}

fn grows_only_while_there_is_room(
    launcher: &[String],
    place: Place,
    room: impl Fn(&mut Gateway, bool) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let listener =
        format!("[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = \"off\"\n\n", place.path("g").display());
    let tables = listener + &export("disk", &backend.uri(), "[export.resize]\nshrink = true\n");
    let mut gateway = Gateway::launched_by(launcher, place, &tables)?.expecting_errors();
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let size = client.learn(opt::GO, "disk", &[info::RESIZE])?.size;
    assert_eq!(resize(&mut client, size + MIB)?.success()?.sizes, [size + MIB]);
    for turn in 1..=3 {
        room(&mut gateway, false)?;
        // More than once: nothing is worn out by being refused.
        for _ in 0..3 {
            let refused = resize(&mut client, size + 2 * MIB)?;
            ensure(refused.error == errno::ENOSPC && refused.message.contains("ledger"), || format!("{refused:?}"))?;
        }
        assert_eq!(backend.story(|story| story.disk.len() as u64), size + MIB, "asked without a record of it");
        client.write(size, &[turn; 4096])?.success()?;
        client.ask(Ask { command: cmd::FLUSH, cookie: 3, ..Ask::default() }, &[])?.success()?;
        assert_eq!(client.read(size, 4096)?, [turn; 4096]);
        room(&mut gateway, true)?;
        assert_eq!(resize(&mut client, size + 2 * MIB)?.success()?.sizes, [size + 2 * MIB]);
        assert_eq!(resize(&mut client, size + MIB)?.success()?.sizes, [size + MIB]);
    }
    client.leave()?;
    gateway.end()
}

fn resize(client: &mut RawClient, size: u64) -> Result<Reply, Trouble> {
    client.ask(Ask { command: cmd::RESIZE, cookie: 7, offset: size, ..Ask::default() }, &[])
}
