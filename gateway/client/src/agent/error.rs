//! Why the agent could not do something: each variant one sentence that says what to do.

use nbd_gateway_policy::types::Bytes;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::netlink::Request;
use crate::ClientError;

/// Why the agent could not do something.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A name that is none of a whole nbd device.
    #[error("{} is no nbd device: name one like /dev/nbd0", node.display())]
    NoNbdDevice {
        /// As it was named.
        node: PathBuf,
    },
    /// The kernel has no nbd driver.
    #[error("this kernel has no nbd driver now; as root, run: modprobe nbd")]
    NoModule,
    /// The kernel has no such device.
    #[error("there is no {}: take one that is there, or load the module for more (modprobe nbd nbds_max=64)", node.display())]
    NoDevice {
        /// As it was named.
        node: PathBuf,
    },
    /// The device was to be followed and is free.
    #[error("{} is not attached: leave --follow out to attach it", node.display())]
    NotAttached {
        /// As it was named.
        node: PathBuf,
    },
    /// The device is attached to another export.
    #[error(
        "{} is attached for {backend:?}, not for {uri:?}: take another device, detach it, \
         or say --follow if both are the same disk", node.display()
    )]
    AttachedForOther {
        /// As it was named.
        node: PathBuf,
        /// For whom, as the kernel keeps it.
        backend: String,
        /// The export that was named.
        uri: String,
    },
    /// The device is attached, and was not by an agent.
    #[error(
        "{} is attached, and the kernel does not say for what: take another device, detach it, \
         or say --follow if it is the same disk", node.display()
    )]
    AttachedForUnknown {
        /// As it was named.
        node: PathBuf,
    },
    /// Not allowed to.
    #[error("the kernel does not let this process change nbd devices: run it as root (it needs CAP_SYS_ADMIN)")]
    NotAllowed,
    /// Another attached it in between.
    #[error("the device is in use by another program: detach it there, or take another device")]
    Busy,
    /// The kernel refused to attach it.
    #[error("the kernel refuses to attach the device: {cause}")]
    Attach {
        /// Why.
        cause: io::Error,
    },
    /// The kernel refused to change it.
    #[error(
        "the kernel refuses to change {what}: {cause}; \
         a device that was attached without netlink (nbd-client -nonetlink) has to be attached anew"
    )]
    Change {
        /// What of it.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// The kernel refused to detach it.
    #[error("the kernel refuses to detach the device: {cause}")]
    Detach {
        /// Why.
        cause: io::Error,
    },
    /// The driver can't be talked to.
    #[error("the kernel's nbd driver can't be reached over netlink: {cause}")]
    Netlink {
        /// Why not.
        cause: io::Error,
    },
    /// A file of the device in sysfs.
    #[error("{}: {cause}", file.display())]
    Sysfs {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
    /// The device has a user.
    #[error("{} stays attached, it is in use: {cause}", node.display())]
    InUse {
        /// As it was named.
        node: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
    /// The device was detached, and not by the agent.
    #[error("{} was detached by another program", node.display())]
    DetachedByOther {
        /// As it was named.
        node: PathBuf,
    },
    /// The kernel took a size, and has another.
    #[error("the kernel was told {} and has {}", Bytes(*.asked).in_full(), Bytes(*.now).in_full())]
    NotInForce {
        /// In bytes.
        asked: u64,
        /// In bytes.
        now: u64,
    },
    /// No connection to the export.
    #[error(transparent)]
    Server(#[from] ClientError),
    /// The connection has bytes that nobody asked for.
    #[error("the server broke the protocol: it sent {} after the handshake, before any request", Bytes::of(*.count))]
    Unasked {
        /// How many.
        count: usize,
    },
    /// An export that the kernel can't have.
    #[error("the export can't be this device: {why}")]
    Unfit {
        /// Why not, and what it would need.
        why: String,
    },
    /// The page of metrics.
    #[error("can't listen on {address} for the metrics: {cause}; choose another --metrics")]
    Metrics {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        cause: io::Error,
    },
}

impl AgentError {
    /// A task or a thread of the agent's that ended without an answer.
    pub(super) fn lost(cause: impl Into<Box<dyn core::error::Error + Send + Sync>>) -> Self {
        Self::Netlink { cause: io::Error::other(cause) }
    }

    /// What an error number of the driver's means for this request.
    pub(super) fn of_kernel(request: &Request, cause: io::Error) -> Self {
        match (request, cause.kind()) {
            (_, io::ErrorKind::PermissionDenied) => Self::NotAllowed,
            (Request::Connect { .. }, io::ErrorKind::ResourceBusy) => Self::Busy,
            (Request::Connect { .. }, _) => Self::Attach { cause },
            (Request::Size(_), _) => Self::Change { what: "the size of the device", cause },
            (Request::Socket(_), _) => Self::Change { what: "the connection of the device", cause },
            (Request::Timeouts(_), _) => Self::Change { what: "the timeouts of the device", cause },
            (Request::Disconnect, _) => Self::Detach { cause },
        }
    }
}
