//! The kernel's nbd driver over generic netlink: asks, and what it tells by itself.
//!
//! Owns the sockets. They stay open as long as the agent lives, because a kernel may come to detach devices whose socket
//! was closed. Never asks from a task: the kernel answers a size only once the requests in flight are done, so each
//! ask takes a thread that may block, and sizes have a socket of their own.

mod message;
mod wire;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::AgentError;
use message::Family;
pub(super) use message::{Request, Timeouts};

/// Room for a datagram of the kernel's.
const LARGEST: usize = 16 << 10;
/// ENOENT: there is no such family.
const NO_FAMILY: i32 = 2;

/// A way to ask for one device.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    family: Family,
    index: u32,
    /// For whom the device is attached, as the kernel keeps it.
    backend: Option<String>,
    /// For what may wait for requests in flight.
    sizes: Arc<Port>,
    /// For everything else.
    rest: Arc<Port>,
}

impl Driver {
    /// Finds the driver. Blocks shortly.
    pub(super) fn open(index: u32) -> Result<Self, AgentError> {
        let failed = |cause| AgentError::Netlink { cause };
        let (sizes, rest) = (Port::open().map_err(failed)?, Port::open().map_err(failed)?);
        let family = rest.family().map_err(failed)?.ok_or(AgentError::NoModule)?;
        Ok(Self { family, index, backend: None, sizes: Arc::new(sizes), rest: Arc::new(rest) })
    }

    /// The same for a device that is, or will be, attached for this backend.
    pub(super) fn for_backend(self, backend: Option<String>) -> Self {
        Self { backend, ..self }
    }

    /// Asks, and waits for the answer in a thread of its own. Cancel-safe: no, what was asked is done all the same.
    pub(super) async fn ask(&self, request: Request) -> Result<(), AgentError> {
        let driver = self.clone();
        let asked = tokio::task::spawn_blocking(move || driver.ask_here(&request));
        asked.await.unwrap_or_else(|lost| Err(AgentError::lost(lost)))
    }

    /// Asks, and waits for the answer.
    fn ask_here(&self, request: &Request) -> Result<(), AgentError> {
        let port = if matches!(request, Request::Size(_)) { &self.sizes } else { &self.rest };
        let encode = |sequence| request.encode(self.family, self.index, self.backend.as_deref(), sequence);
        match port.ask(encode, |_| ()) {
            Ok((0, ())) => Ok(()),
            Ok((error, ())) => Err(AgentError::of_kernel(request, io::Error::from_raw_os_error(error))),
            Err(cause) => Err(AgentError::Netlink { cause }),
        }
    }

    /// What the driver tells by itself. A thread waits for it, as long as the process lives.
    pub(super) fn events(&self) -> Result<Events, AgentError> {
        let (family, index) = (self.family, self.index);
        let (sender, dead) = mpsc::channel(16);
        let open = || {
            let mut socket = Socket::new(NETLINK_GENERIC)?;
            socket.bind_auto()?;
            socket.add_membership(family.group)?;
            thread::Builder::new().name("netlink".to_owned()).spawn(move || watch(&socket, family, index, &sender))
        };
        open().map_err(|cause| AgentError::Netlink { cause })?;
        Ok(Events(dead))
    }
}

/// A socket for questions, one at a time.
#[derive(Debug)]
struct Port {
    socket: Mutex<Socket>,
    sequence: AtomicU32,
}

impl Port {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket: Mutex::new(socket), sequence: AtomicU32::new(0) })
    }

    /// Sends what `encode` makes of a fresh number, hands what comes to `look`, and gives the error code of its answer
    /// with the last of what `look` saw.
    fn ask<T: Default>(
        &self,
        encode: impl FnOnce(u32) -> Vec<u8>,
        mut look: impl FnMut(&[u8]) -> T,
    ) -> io::Result<(i32, T)> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let socket = self.socket.lock();
        socket.send(&encode(sequence), 0)?;
        let mut seen = T::default();
        loop {
            let mut datagram = Vec::with_capacity(LARGEST);
            socket.recv(&mut datagram, 0)?;
            if let Some(error) = message::answer(&datagram, sequence) {
                return Ok((error, seen));
            }
            seen = look(&datagram);
        }
    }

    /// The numbers of the nbd family, if the kernel has one.
    fn family(&self) -> io::Result<Option<Family>> {
        match self.ask(message::get_family, message::family)? {
            (0, Some(family)) => Ok(Some(family)),
            (0 | NO_FAMILY, _) => Ok(None),
            (error, _) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Dead connections of one device.
#[derive(Debug)]
pub(super) struct Events(mpsc::Receiver<io::Result<usize>>);

impl Events {
    /// Waits until the device loses connections, and tells how many. Cancel-safe: yes.
    pub(super) async fn dead_links(&mut self) -> Result<usize, AgentError> {
        let told = self.0.recv().await;
        let told = told.unwrap_or_else(|| Err(io::Error::other("the thread that listens has ended")));
        told.map_err(|cause| AgentError::Netlink { cause })
    }
}

/// Counts the device's dead connections for `sender`, until nobody wants to know.
fn watch(socket: &Socket, family: Family, index: u32, sender: &mpsc::Sender<io::Result<usize>>) {
    loop {
        let mut datagram = Vec::with_capacity(LARGEST);
        let told = match socket.recv(&mut datagram, 0) {
            Ok(_) => match message::dead_links(&datagram, family).filter(|of| *of == index).count() {
                0 => continue,
                dead => Ok(dead),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // One of those that were lost may have been ours.
            Err(error) if error.raw_os_error() == Some(OVERRUN) => Ok(1),
            Err(error) => Err(error),
        };
        let ends = told.is_err();
        if sender.blocking_send(told).is_err() || ends {
            return;
        }
    }
}

/// ENOBUFS: messages were lost.
const OVERRUN: i32 = 105;

/// The number by which the kernel knows an open socket in this process.
pub(super) fn number(socket: &impl AsRawFd) -> u32 {
    // A descriptor that is open is never negative.
    u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX)
}
