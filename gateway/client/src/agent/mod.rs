//! `nbd-gateway agent`: an export as a disk of this host's kernel, whose size follows the export's.
//!
//! The kernel's nbd client never asks for a size again, and no server can tell it one. The agent attaches a device (or takes
//! on one that is attached), keeps a connection of its own on which it learns of sizes, and tells the kernel, which then
//! goes on with the connection it has. When that dies, it makes another and hands it over.
//!
//! What it never does: shrink a device unasked; tell the kernel a size that was remembered; tell it a size and a connection
//! in one message, or a size while a connection is known to be dead; report a size that was not read back; detach a device
//! that is in use.

use core::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;

use nbd_gateway_metrics::AgentMetrics;

mod attach;
mod device;
mod error;
mod event;
mod follow;
mod link;
mod listen;
mod netlink;
mod readiness;
mod size;

pub use error::AgentError;

use attach::attach;
use device::Device;
use event::Teller;
use follow::{Follower, State};
use listen::Listener;
use netlink::Driver;
use readiness::Readiness;

use crate::cli;

/// Does as ordered until `stop`, and tells `out` of it, a line for each thing done; and calls `ready` once, when the device
/// is there with the size that it should have. `page` serves metrics at an address, and gives the one that it got.
pub async fn run(
    order: &cli::Agent,
    out: &mut (dyn Write + Send),
    ready: Box<dyn FnOnce() + Send>,
    page: impl FnOnce(SocketAddr, AgentMetrics) -> io::Result<SocketAddr>,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let device = Device::named(&order.device)?;
    let driver = Driver::open(device.index)?;
    // From before the attach, so that no dead connection is missed.
    let events = driver.events()?;
    let metrics = AgentMetrics::new(env!("CARGO_PKG_VERSION"), &format!("nbd{}", device.index))
        .map_err(|error| AgentError::Netlink { cause: io::Error::other(error) })?;
    let mut teller = Teller::new(out, &device.node, order.json);
    if let Some(address) = order.metrics {
        let failed = |cause| AgentError::Metrics { address, cause };
        let address = page(address, metrics.clone()).map_err(failed)?;
        teller.tell(&event::Event::Metrics { address });
    }
    let attached = attach(order, &device, driver, &mut teller).await?;
    let readiness = Readiness::of(ready, attached.flags.is_some());
    let state = State::new(if attached.flags.is_some() { 0 } else { order.connections });
    let listener = Listener::start(order.uri.clone(), order.poll.duration());
    Follower { order, device, attached, events, listener, teller, metrics, readiness, state }.run(stop).await
}
