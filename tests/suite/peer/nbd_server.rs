//! nbd-server, the reference one: simple replies only, one process per connection. It always leaves its process group
//! (in the foreground it serves one connection and ends), so a small shell stays behind to end it: when the shell is
//! told to, or when the suite that holds its standard input is no more.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use super::{Disk, Served};
use crate::image::Image;
use crate::place::Place;
use crate::process::{Running, installed};
use crate::trouble::Trouble;

const GUARD: &str = r#"
set -e
trap : TERM
"$1" -C "$2" -p "$3"
read -r _ || true
# Its process group has its number. No `--` here: not every shell's kill knows it.
kill -KILL "-$(cat "$3")"
"#;

pub(crate) fn start(image: &Image) -> Result<Served, Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    image.write_to(&file)?;
    let socket = place.path("s");
    let (config, pidfile) = (place.path("config"), place.path("pid"));
    // A TCP port of 0 would mean "serve standard input"; with a Unix socket there is no TCP at all.
    fs::write(
        &config,
        format!(
            "[generic]\nunixsock = {}\nallowlist = true\n[disk]\nexportname = {}\nflush = true\nfua = true\ntrim = true\n",
            socket.display(),
            file.display()
        ),
    )?;
    let server = installed("nbd-server")?;
    let arguments = ["-c".as_ref(), GUARD.as_ref(), "guard".as_ref(), server.as_path(), &config, &pidfile];
    let mut process =
        Running::start_with(Path::new("/bin/sh"), arguments, place.path("log"), Stdio::piped(), Stdio::null())?;
    process.await_ready("its pid file and a greeting", || pidfile.exists() && greets(&socket))?;
    Ok(Served { process, export: "disk", socket, disk: Disk::File(file, "raw"), place })
}

/// Whether a connection is made and greeted.
fn greets(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok_and(|mut stream| stream.read_exact(&mut [0; 18]).is_ok())
}
