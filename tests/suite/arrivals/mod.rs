//! Promise: whoever connects, however many at once and whether they say anything, the others get in. A connection whose host
//! has vanished is closed; one whose client is only idle, or does not read, is not.

mod vanished;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Signal;

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::{Call, DEADLINE};
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const DISK: &str = "size = \"1MiB\"";

/// A client that has not said anything.
fn silent(address: SocketAddr) -> Result<TcpStream, Trouble> {
    let client = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .map_err(|error| Trouble::new(format!("connecting to {address}: {error}")))?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok(client)
}

/// The same, by a Unix socket, whose queue says at once that it is full.
fn silent_at(socket: &Path) -> Result<UnixStream, Trouble> {
    let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    match connect(&client, &SocketAddrUnix::new(socket)?) {
        Ok(()) => {}
        Err(Errno::AGAIN) => return Err(Trouble::new("the socket's queue is full")),
        Err(error) => return Err(error.into()),
    }
    let client = UnixStream::from(client);
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok(client)
}

/// From the greeting to transmission: NBD_OPT_EXPORT_NAME of `a`, which has to have this size.
fn open(client: &mut (impl Read + Write), size: u64) -> Result<(), Trouble> {
    client.read_exact(&mut [0; 18])?;
    client
        .write_all(&[&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &1u32.to_be_bytes(), b"a"].concat())?;
    let mut told = [0; 10];
    client.read_exact(&mut told)?;
    ensure(told[..8] == size.to_be_bytes(), || format!("told {told:?}"))
}

#[test]
fn a_thousand_clients_of_which_five_hundred_connect_at_once_are_all_served() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let many = ["/usr/bin/prlimit", "--nofile=4096", "--"].map(str::to_owned);
    let tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n{}",
        place.path("g").display(),
        export("a", "memory:", DISK)
    );
    let gateway = Gateway::launched_by(&many, place, &tables)?;
    let address = gateway.tcp();
    let mut clients = Vec::new();
    for _ in 0..2 {
        // While it accepts nothing, the kernel keeps all of them.
        gateway.signal(Signal::STOP);
        let arrived: Result<Vec<_>, _> = (0..500).map(|_| silent(address)).collect();
        gateway.signal(Signal::CONT);
        let mut arrived = arrived?;
        arrived.iter_mut().try_for_each(|client| open(client, 1 << 20))?;
        clients.extend(arrived);
    }
    eventually("all have their sessions", || {
        gateway.metric("nbd_gateway_sessions", &["127.0.0.1"]).is_ok_and(|sessions| sessions == 1000.0)
    })?;
    drop(clients);
    gateway.signal(Signal::STOP);
    let arrived: Result<Vec<_>, _> = (0..500).map(|_| silent_at(gateway.socket())).collect();
    gateway.signal(Signal::CONT);
    arrived?.iter_mut().try_for_each(|client| open(client, 1 << 20))?;
    gateway.end()
}

#[test]
fn silent_connections_take_no_place_of_a_session_and_give_way_to_clients() -> Result<(), Trouble> {
    let limits = "[limits]\nsessions-per-listener = 2\nhandshakes-per-listener = 8\n";
    let gateway = Gateway::start(&format!("{limits}{}", export("a", "memory:", DISK)))?.expecting_warnings();
    let address = gateway.tcp();
    let mut held: Vec<_> = (0..4).map(|_| silent(address)).collect::<Result<_, _>>()?;
    held.iter_mut().try_for_each(|client| client.read_exact(&mut [0; 18]))?;
    // All places that one address has are taken.
    let mut clients = [silent(address)?, silent(address)?];
    clients.iter_mut().try_for_each(|client| open(client, 1 << 20))?;
    eventually("the oldest silent ones are closed", || {
        gateway.metric("nbd_gateway_connections_refused_total", &["handshakes"]).is_ok_and(|n| n >= 1.0)
    })?;
    // Sessions have their own bound, and the client is told.
    let (mut third, _held) = (RawClient::connect(gateway.socket())?, held);
    let (mut other, _) = RawClient::open(gateway.socket(), "a", Framing::Structured)?;
    other.read(0, 512)?;
    third.upgrade(Framing::Structured)?;
    drop(clients);
    other.leave()?;
    third.go("a")?;
    third.leave()?;
    gateway.end()
}

#[test]
fn a_client_beyond_the_sessions_of_its_listener_is_told_why() -> Result<(), Trouble> {
    let limits = "[limits]\nsessions-per-listener = 1\n";
    let gateway = Gateway::start(&format!("{limits}{}", export("a", "memory:", DISK)))?;
    let (first, _) = RawClient::open(gateway.socket(), "a", Framing::Simple)?;
    let refused = Call::new("qemu-img").args(["info", "-f", "raw", &gateway.uri("a")]).run()?;
    ensure(refused.stderr.contains("sessions-per-listener (1)"), || refused.trouble("should say why").to_string())?;
    assert_eq!(gateway.metric("nbd_gateway_connections_refused_total", &["sessions"])?, 1.0);
    first.leave()?;
    eventually("its place is free", || {
        RawClient::open(gateway.socket(), "a", Framing::Simple).is_ok_and(|(client, _)| client.leave().is_ok())
    })?;
    gateway.end()
}

#[test]
fn signals_that_mean_nothing_here_end_nothing() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("a", "memory:", DISK))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "a", Framing::Simple)?;
    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        gateway.signal(signal);
        eventually("it is logged", || gateway.whole_log().contains(name))?;
    }
    client.read(0, 512)?;
    client.leave()?;
    gateway.end()
}
