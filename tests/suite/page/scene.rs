//! What the page is looked at with: a gateway, its clients, and a way to it that stays the same over restarts.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::gateway::{Gateway, export};
use crate::scripted::backend::Backend;
use crate::scripted::numbers::{cmd, cmd_flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::Trouble;

pub(super) const MIB: u64 = 1 << 20;

/// A tenant with a quota of 64 MiB, and one without.
pub(super) const TENANTS: &str = "[[tenant]]\nname = \"blue\"\nquota = \"64MiB\"\nsoft-quota = \"48MiB\"\n\n\
                                  [[tenant]]\nname = \"free\"\n\n";

/// A disk in memory.
pub(super) fn disk(name: &str, tenant: &str, size: &str) -> String {
    export(name, "memory:", &format!("tenant = {tenant:?}\nsize = {size:?}"))
}

/// A client that is told of new sizes.
pub(super) fn explicit(gateway: &Gateway, export: &str) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.learn(opt::GO, export, &[info::RESIZE])?;
    client.send(Ask { command: cmd::RESIZE, flags: cmd_flag::NOTIFY, cookie: 1, ..Ask::default() }, &[])?;
    client.next_size(1)?;
    Ok(client)
}

/// A client that grows a disk by writing past its end.
pub(super) fn automatic(gateway: &Gateway, export: &str) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.contexts(export, &["x-resize:automatic"])?;
    client.learn(opt::GO, export, &[])?;
    Ok(client)
}

/// A client that knows nothing of resizing.
pub(super) fn stock(gateway: &Gateway, export: &str) -> Result<RawClient, Trouble> {
    Ok(RawClient::open(gateway.socket(), export, Framing::Simple)?.0)
}

/// An operator's order, which is carried out.
pub(super) fn order(gateway: &Gateway, export: &str, size: &str) -> Result<(), Trouble> {
    gateway.operator(&["resize", export, size])?.run()?.success().map(drop)
}

/// A server that does as it is told, in its own time. It has what it grows by in memory.
pub(super) fn slow() -> Result<Backend, Trouble> {
    Backend::growing()
}

/// A client asks, and does not wait for the answer.
pub(super) fn ask(client: &mut RawClient, size: u64) -> Result<(), Trouble> {
    client.send(Ask { command: cmd::RESIZE, cookie: 9, offset: size, ..Ask::default() }, &[])
}

/// An address in front of a gateway whose own changes when it starts again.
pub(super) struct Door {
    pub(super) address: SocketAddr,
    behind: Arc<Mutex<SocketAddr>>,
}

impl Door {
    pub(super) fn before(gateway: &Gateway) -> Result<Self, Trouble> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let behind = Arc::new(Mutex::new(admin(gateway)));
        let shared = Arc::clone(&behind);
        // Ends with the test's process: nobody connects any more.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(gateway) = TcpStream::connect(*shared.lock()) else { continue };
                let (Ok(from), Ok(to)) = (client.try_clone(), gateway.try_clone()) else { continue };
                thread::spawn(move || pass(&from, &to));
                thread::spawn(move || pass(&gateway, &client));
            }
        });
        Ok(Self { address, behind })
    }

    /// The gateway has started again.
    pub(super) fn leads_to(&self, gateway: &Gateway) {
        *self.behind.lock() = admin(gateway);
    }
}

fn admin(gateway: &Gateway) -> SocketAddr {
    gateway.told("admin on http://").parse().expect("it tells an IP address")
}

/// All that comes from one side, until either has had enough.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    // How it broke off is for the two at its ends to tell.
    let _ = io::copy(&mut from, &mut to);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
