//! How the agent comes by a device: it attaches one that is free, or takes on one that is attached.
//!
//! Owns which of them. Without an order to follow, only a device that was attached for the same URI is taken on, so that an
//! agent that was restarted goes on with its own, and no typing mistake lets a device grow with another's export.

use nbd_gateway_policy::types::Bytes;
use std::os::fd::OwnedFd;

use super::AgentError;
use super::device::Device;
use super::event::{Event, Teller};
use super::link::Link;
use super::netlink::{Driver, Request, Timeouts, number};
use super::size::whole;
use crate::cli;
use nbd_gateway_proto::ExportFlags;

/// A device that is attached.
#[derive(Debug)]
pub(super) struct Attached {
    /// How to ask for it.
    pub(super) driver: Driver,
    /// The flags that it was attached with, if the agent did that.
    pub(super) flags: Option<ExportFlags>,
    /// Its connections, if the agent made them.
    pub(super) sockets: Vec<OwnedFd>,
}

/// Attaches the device, or takes it on.
pub(super) async fn attach(
    order: &cli::Agent,
    device: &Device,
    driver: Driver,
    teller: &mut Teller<'_>,
) -> Result<Attached, AgentError> {
    let timeouts = Timeouts { request: seconds(order.timeout).max(1), dead: seconds(order.dead_timeout) };
    if !device.exists() {
        return Err(AgentError::NoDevice { node: device.node.clone() });
    }
    match (device.attached(), order.follow) {
        (false, false) => connect(order, device, driver, timeouts, teller).await,
        (false, true) => Err(AgentError::NotAttached { node: device.node.clone() }),
        (true, follow) => {
            let (backend, uri) = (device.backend(), order.uri.to_string());
            let node = device.node.clone();
            match &backend {
                Some(backend) if !follow && *backend != uri => {
                    return Err(AgentError::AttachedForOther { node, backend: backend.clone(), uri });
                }
                None if !follow => return Err(AgentError::AttachedForUnknown { node }),
                _ => {}
            }
            let driver = driver.for_backend(backend.clone());
            driver.ask(Request::Timeouts(timeouts)).await?;
            teller.tell(&Event::Followed { size: device.size()?, by: backend.as_deref() });
            Ok(Attached { driver, flags: None, sockets: Vec::new() })
        }
    }
}

async fn connect(
    order: &cli::Agent,
    device: &Device,
    driver: Driver,
    timeouts: Timeouts,
    teller: &mut Teller<'_>,
) -> Result<Attached, AgentError> {
    let mut links = Vec::new();
    for _ in 0..order.connections.max(1) {
        links.push(Link::open(&order.uri, order.allow_shrink).await?);
    }
    // The last one knows best: sizes may change in between.
    let Some(link) = links.last() else { return Err(AgentError::NoDevice { node: device.node.clone() }) };
    let (block_size, flags) = (link.block_size()?, link.export.flags);
    let size = whole(link.export.size, block_size);
    if size == 0 {
        let why = format!("it has {}, less than one block of {}", Bytes(link.export.size), Bytes(block_size));
        return Err(AgentError::Unfit { why });
    }
    if links.len() > 1 && !flags.has(ExportFlags::CAN_MULTI_CONN) {
        let why = "its server does not set CAN_MULTI_CONN, so it can have one connection: leave --connections out";
        return Err(AgentError::Unfit { why: why.to_owned() });
    }
    let longest = link.export.block_sizes.map(|sizes| sizes.maximum);
    let driver = driver.for_backend(Some(order.uri.to_string()));
    let sockets: Vec<OwnedFd> = links.into_iter().map(|link| link.socket).collect();
    let numbers = sockets.iter().map(number).collect();
    driver.ask(Request::Connect { size, block_size, flags: flags.0, timeouts, sockets: numbers }).await?;
    let now = device.size()?;
    if now != size {
        return Err(AgentError::NotInForce { asked: size, now });
    }
    if let Some(longest) = longest {
        device.bound_requests(longest)?;
    }
    teller.tell(&Event::Attached { size, block_size, read_only: device.read_only()? });
    Ok(Attached { driver, flags: Some(flags), sockets })
}

/// The kernel counts whole seconds; parts of one are rounded up.
fn seconds(interval: nbd_gateway_config::Interval) -> u64 {
    interval.millis().div_ceil(1000)
}
