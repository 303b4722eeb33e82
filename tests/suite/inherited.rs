//! Promise: sockets that systemd hands over are served, all of them, and told by their addresses.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::gateway::{binary, said_until_ready};
use crate::place::Place;
use crate::process::{Call, Running};
use crate::trouble::{Trouble, ensure};

/// As systemd does for one `.socket` unit with three ListenStream=: makes the sockets, then becomes the gateway.
const ACTIVATE: &str = "
import fcntl, os, socket, sys
sockets = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)]
for s, address in zip(sockets, [sys.argv[1], ('127.0.0.1', 0), sys.argv[2]]):
    s.bind(address)
    s.listen()
# First out of the way of each other, then to their places.
high = [fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 100) for s in sockets]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='3', LISTEN_FDNAMES='nbd:nbd:nbd')
os.execv(sys.argv[3], sys.argv[3:])
";

#[test]
fn all_sockets_of_one_name_are_served_and_told() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (one, two, config) = (place.path("one"), place.path("two"), place.path("config.toml"));
    let tables = "[[listener]]\naddress = \"systemd:nbd\"\n\n[admin]\naddress = \"off\"\n\n\
                  [[export]]\nname = \"disk\"\nbackend = \"memory:\"\nsize = \"3MiB\"\n";
    fs::write(&config, tables)?;
    let gateway = binary()?;
    let words: [&OsStr; 8] = [
        "-c".as_ref(),
        ACTIVATE.as_ref(),
        one.as_ref(),
        two.as_ref(),
        gateway.as_ref(),
        "serve".as_ref(),
        "--config".as_ref(),
        config.as_ref(),
    ];
    let python = Path::new("/usr/bin/python3");
    let mut process = Running::start_with(python, words, place.path("log"), Stdio::null(), Stdio::piped())?;
    let said = said_until_ready(&mut process)?;
    let uris: Vec<_> = said.iter().filter_map(|line| line.strip_prefix("listening on ")).collect();
    let unix = |path: &Path| format!("nbd+unix:///?socket={}", path.display());
    let [first, tcp, third] = uris[..] else { return Err(process.trouble(&format!("says {said:?}"))) };
    assert_eq!([first, third], [unix(&one), unix(&two)]);
    ensure(tcp.starts_with("nbd://127.0.0.1:"), || format!("an address of its own: {tcp}"))?;
    for uri in [first.replace("/?", "/disk?"), format!("{tcp}/disk"), third.replace("/?", "/disk?")] {
        let size = Call::new("nbdinfo").args(["--size", &uri]).run()?.success()?.stdout;
        assert_eq!(size.trim(), "3145728", "{uri}");
    }
    let status = process.stop()?;
    ensure(status.success(), || format!("ended with {status}"))
}
