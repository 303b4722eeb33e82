//! Promise: systemd is told when the gateway is ready, how it is, that it ends, and that it lives, only while all of its
//! threads do. A datagram socket plays systemd.

mod watchdog;

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, binary, configuration, export};
use crate::place::Place;
use crate::process::{Call, DEADLINE};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// systemd's end.
struct Manager {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` says of it.
    address: String,
}

impl Manager {
    fn at(path: &Path) -> Result<Self, Trouble> {
        Ok(Self { socket: UnixDatagram::bind(path)?, address: path.display().to_string() })
    }

    /// As for services of a user, and of containers.
    fn abstractly(name: &str) -> Result<Self, Trouble> {
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        Ok(Self { socket, address: format!("@{name}") })
    }

    /// The launcher of a gateway that tells this manager, with more variables.
    fn launcher(&self, more: &[&str]) -> Vec<String> {
        let notify = format!("NOTIFY_SOCKET={}", self.address);
        ["/usr/bin/env".to_owned(), notify].into_iter().chain(more.iter().map(|&word| word.to_owned())).collect()
    }

    /// A gateway that tells this manager; its socket is in `place`.
    fn start(&self, place: Place, more: &[&str], tables: &str) -> Result<Gateway, Trouble> {
        let listener = format!("[[listener]]\naddress = \"unix:{}\"\n", place.path("g").display());
        Gateway::launched_by(
            &self.launcher(more),
            place,
            &format!("{listener}\n[admin]\naddress = \"127.0.0.1:0\"\n\n{tables}"),
        )
    }

    /// The next datagram; None: there is none for so long.
    fn hear_within(&self, patience: Duration) -> Result<Option<String>, Trouble> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(&bytes[..length]).into_owned())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn hear(&self) -> Result<String, Trouble> {
        self.hear_within(DEADLINE)?.ok_or_else(|| Trouble::new("the gateway tells its manager nothing"))
    }

    /// The datagrams up to one that begins so.
    fn hear_until(&self, beginning: &str) -> Result<Vec<String>, Trouble> {
        let end = Instant::now() + DEADLINE;
        let mut heard = Vec::new();
        while Instant::now() < end {
            heard.push(self.hear()?);
            if heard.last().is_some_and(|last| last.starts_with(beginning)) {
                return Ok(heard);
            }
        }
        Err(Trouble::new(format!("the gateway never tells its manager {beginning:?}, but {heard:?}")))
    }

    fn expect(&self, message: &str) -> Result<(), Trouble> {
        let heard = self.hear()?;
        ensure(heard == message, || format!("the manager should have heard {message:?}, and heard {heard:?}"))
    }
}

#[test]
fn systemd_is_told_of_the_start_of_what_changes_and_of_the_end() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let manager = Manager::at(&place.path("notify"))?;
    let backend = Backend::start(Script::default())?;
    let tables = format!("[limits]\ndrain-timeout = \"33s\"\n\n{}", export("", &backend.uri(), ""));
    let mut gateway = manager.start(place, &[], &tables)?;
    manager.expect("READY=1\n")?;
    manager.expect("STATUS=taking clients; 0 exports open, 0 sessions\n")?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    // It may have been looked at between the two.
    manager.hear_until("STATUS=taking clients; 1 export open, 1 session\n")?;
    backend.hold();
    client.send(Ask { command: cmd::WRITE, cookie: 1, offset: 0, length: 512, flags: 0 }, &[0xe1; 512])?;
    backend.await_that("the WRITE", |story| story.count(cmd::WRITE) == 1)?;
    gateway.ask_to_end();
    // The drain's bound, and what it may take beyond that.
    manager.expect("STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\n")?;
    manager.expect("STATUS=draining, 1 session left\n")?;
    backend.release();
    client.reply()?.success()?;
    drop(client);
    gateway.await_end()?;
    // Nothing that would take the end back.
    while let Some(heard) = manager.hear_within(Duration::from_millis(1))? {
        ensure(heard.starts_with("STATUS=draining"), || format!("the manager heard {heard:?} at last"))?;
    }
    Ok(())
}

#[test]
fn a_tenant_over_its_quota_is_in_the_sentence_and_embedded_exports_are_open_before_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let name = format!("nbd-gateway-suite/{}", place.root().display());
    let manager = Manager::abstractly(&name)?;
    let tables = "[[tenant]]\nname = \"blue\"\nquota = \"1MiB\"\n\n[[export]]\nname = \"disk\"\ntenant = \"blue\"\n\
                  backend = \"memory:\"\nsize = \"3MiB\"\n";
    let gateway = manager.start(place, &[], tables)?.expecting_warnings();
    manager.expect("READY=1\n")?;
    manager.expect("STATUS=taking clients; 1 export open, 0 sessions, 1 tenant over quota\n")?;
    gateway.end()
}

#[test]
fn a_gateway_that_cannot_serve_is_never_ready() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let manager = Manager::at(&place.path("notify"))?;
    fs::create_dir(place.path("folder"))?;
    // An embedded disk that is none.
    let listener = format!("[[listener]]\naddress = \"unix:{}\"\n", place.path("g").display());
    let disk = export("disk", &format!("file:{}", place.path("folder").display()), "size = \"1MiB\"");
    let tables = format!("{listener}\n[admin]\naddress = \"off\"\n\n{disk}");
    let config = configuration(&place, &tables)?;
    let launcher = manager.launcher(&[]);
    let output = Call::new(&launcher[0]).args(&launcher[1..]).arg(binary()?).args(["serve", "--config"]);
    let output = output.arg(&config).inside(place.root()).run()?;
    ensure(output.status.code() == Some(1), || output.trouble("should have failed with exit code 1").to_string())?;
    let heard = manager.hear_within(Duration::from_millis(1))?;
    ensure(heard.is_none(), || format!("the manager heard {heard:?}"))
}

#[test]
fn a_manager_that_is_not_there_is_complained_of_once_and_clients_are_served() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let manager = Manager { socket: UnixDatagram::unbound()?, address: place.path("nobody").display().to_string() };
    let disk = "[[export]]\nname = \"disk\"\nbackend = \"memory:\"\nsize = \"3MiB\"\n";
    let mut gateway = manager.start(place, &[], disk)?.expecting_warnings();
    let size = Call::new("nbdinfo").args(["--size", &gateway.uri("disk")]).run()?.success()?.stdout;
    assert_eq!(size.trim(), "3145728");
    gateway.ask_to_end();
    gateway.await_end()?;
    let complaints = gateway.whole_log().matches("the service manager does not hear").count();
    ensure(complaints == 1, || format!("it complained {complaints} times"))
}
