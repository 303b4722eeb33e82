//! Promise: a client that has gone gives back its places at once, whatever its server is doing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, opt};
use crate::scripted::{Ask, Framing, RawClient, option_bytes};
use crate::trouble::{Trouble, eventually};

/// How many clients a listener, or a tenant, has room for.
const ROOM: u64 = 4;

fn scene(limits: &str, tenant: &str) -> Result<(Backend, Gateway), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = format!("{limits}[[tenant]]\nname = \"blue\"\n{tenant}\n[[tenant]]\nname = \"red\"\n")
        + &export("stuck", &backend.uri(), "tenant = \"blue\"")
        + &export("fine", "memory:", "size = \"1MiB\"\ntenant = \"red\"");
    // Refusals in between are told.
    Ok((backend, Gateway::start(&tables)?.expecting_warnings()))
}

fn write(cookie: u64) -> Ask {
    Ask { command: cmd::WRITE, cookie, offset: cookie * 4096, length: 4096, flags: 0 }
}

/// A session over TCP, by the oldest way in; None: it is not let in.
fn over_tcp(address: SocketAddr, name: &str) -> Result<Option<TcpStream>, Trouble> {
    let mut stream = TcpStream::connect(address)?;
    let (mut greeting, mut opened) = ([0; 18], [0; 10]);
    if stream.read_exact(&mut greeting).is_err() {
        return Ok(None);
    }
    stream.write_all(&3_u32.to_be_bytes())?;
    stream.write_all(&option_bytes(opt::EXPORT_NAME, name.len() as u32, name.as_bytes()))?;
    Ok(stream.read_exact(&mut opened).is_ok().then_some(stream))
}

#[test]
fn clients_that_left_a_stuck_server_keep_nobody_out_of_the_listener_or_their_tenant() -> Result<(), Trouble> {
    let limits = format!("[limits]\nsessions-per-listener = {ROOM}\n");
    let tenant = format!("max-sessions = {ROOM}");
    for (limits, tenant) in [(&limits[..], ""), ("", &tenant[..])] {
        let (backend, gateway) = scene(limits, tenant)?;
        backend.hold();
        for cookie in 0..3 * ROOM {
            eventually("a place that somebody left", || {
                let Ok((mut client, _)) = RawClient::open(gateway.socket(), "stuck", Framing::Simple) else {
                    return false;
                };
                client.send(write(cookie), &[1; 4096]).is_ok()
            })?;
            let seen = usize::try_from(cookie).unwrap() + 1;
            backend.await_that("its WRITE", |story| story.count(cmd::WRITE) == seen)?;
        }
        eventually("another tenant's client", || RawClient::open(gateway.socket(), "fine", Framing::Simple).is_ok())?;
        backend.release();
        gateway.end()?;
    }
    Ok(())
}

/// TCP does not say whether a client that sends nothing more still reads.
#[test]
fn clients_over_tcp_that_left_a_stuck_server_keep_nobody_out() -> Result<(), Trouble> {
    let (backend, gateway) = scene(&format!("[limits]\nsessions-per-listener = {ROOM}\nsession-requests = 1\n"), "")?;
    backend.hold();
    for cookie in 0..2 * ROOM {
        let mut client = None;
        eventually("a place that somebody left", || {
            client = over_tcp(gateway.tcp(), "stuck").unwrap_or_default();
            client.is_some()
        })?;
        // Of the second request nothing is read any more.
        let mut bytes = Vec::new();
        for cookie in [cookie, cookie + 100] {
            bytes.extend(write(cookie).encode(Framing::Simple));
            bytes.extend([1; 4096]);
        }
        client.expect("it was let in").write_all(&bytes)?;
        let seen = usize::try_from(cookie).unwrap() + 1;
        backend.await_that("its WRITE", |story| story.count(cmd::WRITE) == seen)?;
    }
    eventually("another tenant's client", || over_tcp(gateway.tcp(), "fine").is_ok_and(|client| client.is_some()))?;
    backend.release();
    gateway.end()
}

#[test]
fn a_client_that_only_ends_its_sending_side_still_gets_its_replies() -> Result<(), Trouble> {
    let (backend, gateway) = scene("[limits]\nsession-requests = 4\n", "")?;
    let (mut client, _) = RawClient::open(gateway.socket(), "stuck", Framing::Structured)?;
    for cookie in 0..100 {
        client.send(Ask::read(cookie, cookie * 4096, 4096), &[])?;
    }
    client.link().finish_sending()?;
    for _ in 0..100 {
        client.reply()?.success()?;
    }
    client.link().await_close()?;
    drop(backend);
    gateway.end()
}

/// Each left its largest request behind, and the next one's memory was its own again.
#[test]
fn what_clients_leave_behind_is_bounded_by_their_tenants_budget() -> Result<(), Trouble> {
    let limits = "[limits]\nlargest-payload = \"1MiB\"\nsession-bytes = \"1MiB\"\ntenant-bytes = \"8MiB\"\n";
    let (backend, mut gateway) = scene(limits, "")?;
    let before = gateway.peak_memory()?;
    backend.hold();
    for cookie in 0..40 {
        let (mut client, _) = RawClient::open(gateway.socket(), "stuck", Framing::Simple)?;
        let large = Ask { length: 1 << 20, offset: 0, ..write(cookie) };
        // Nobody reads all of it once the tenant has too much.
        let mut bytes = large.encode(Framing::Simple);
        bytes.extend(vec![1; 1 << 20]);
        client.link().send_until_stuck(&bytes, bytes.len())?;
    }
    let grown = gateway.peak_memory()? - before;
    assert!(grown < 28 << 10, "{grown} KiB for 40 clients that have gone");
    backend.release();
    gateway.end()
}
