//! Promise: whatever a backend makes of a resize, and whatever a client asks for, the size that is shown is one that was
//! read back, nothing is done by halves, and nobody else waits or is harmed.

mod backends;
mod clients;
mod notices;

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Fault, Resizing, Script};
use crate::scripted::numbers::{cmd, cmd_flag, info, opt};
use crate::scripted::{Ask, Framing, Opened, RawClient, Reply};
use crate::trouble::Trouble;

const EXPLICIT: u16 = 1;
const QUERY: u16 = 1 << 2;
const NOTIFY: u16 = 1 << 3;
const SHRINK: u16 = 1 << 4;
const ZEROED: u16 = 1 << 5;
const MIB: u64 = 1 << 20;

/// A backend that speaks the whole extension but for notices, and has one fault.
fn backend(fault: Option<Fault>) -> Result<Backend, Trouble> {
    let features = EXPLICIT | QUERY | SHRINK | ZEROED;
    Backend::start(Script { fault, resizing: Resizing::Native { features }, ..Script::default() })
}

/// The export `e` in front of it, which may shrink. No backend that answers takes as long as it may, however busy the machine.
fn table(backend: &str) -> String {
    patient(backend, "30s")
}

/// The same, with so much time for a backend to answer.
fn patient(backend: &str, timeout: &str) -> String {
    let resize = "[export.resize]\nstep = \"64KiB\"\nshrink = true\nshrink-grace = \"0s\"\npoll = \"100ms\"";
    export("e", backend, &format!("{resize}\ntimeout = {timeout:?}"))
}

fn opted_in(gateway: &Gateway, framing: Framing) -> Result<(RawClient, Opened), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(framing)?;
    let opened = client.learn(opt::GO, "e", &[info::BLOCK_SIZE, info::RESIZE])?;
    Ok((client, opened))
}

fn resize(cookie: u64, size: u64) -> Ask {
    Ask { command: cmd::RESIZE, cookie, offset: size, length: 0, flags: 0 }
}

fn notify(cookie: u64, interval: u64, most: u64) -> Ask {
    Ask { command: cmd::RESIZE, cookie, offset: interval, length: most, flags: cmd_flag::NOTIFY }
}

/// The size now, asked for in band.
fn size(client: &mut RawClient) -> Result<u64, Trouble> {
    let reply: Reply = client.ask(Ask { flags: cmd_flag::QUERY, ..resize(0x5125, 0) }, &[])?.success()?;
    reply.sizes.first().copied().ok_or_else(|| Trouble::new("a QUERY without a size"))
}
