//! The device's own connection to the export: made here, then handed to the kernel.
//!
//! Owns the handshake with what the kernel can speak (simple replies), and whether an export fits the device. Never reads a
//! byte past the handshake, which would be the kernel's, and never sends a request.

use nbd_gateway_policy::types::Bytes;
use std::os::fd::OwnedFd;

use nbd_gateway_config::NbdUri;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::AgentError;
use super::device::{Device, SECTOR};
use super::size::whole;
use crate::ClientError;
use crate::connect::negotiate;
use nbd_gateway_net::Stream;
use nbd_gateway_proto::handshake::client::{Negotiated, Wishes};
use nbd_gateway_proto::{ExportFlags, Framing, Info};

/// The largest block that the kernel takes for an nbd device: a page.
const LARGEST_BLOCK: u32 = 4096;
/// What the kernel asks of a server only if the flag was set at the attach.
const USED: [ExportFlags; 4] =
    [ExportFlags::SEND_FLUSH, ExportFlags::SEND_FUA, ExportFlags::SEND_TRIM, ExportFlags::SEND_WRITE_ZEROES];

/// A connection in the transmission phase, as the kernel takes it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    /// What the handshake said.
    pub(super) export: Negotiated,
}

impl Link {
    /// Dials and negotiates. `shrink` opts in to sizes that become smaller: a server may let nobody shrink an export
    /// that somebody has open who did not.
    pub(super) async fn open(uri: &NbdUri, shrink: bool) -> Result<Self, AgentError> {
        if uri.tls().is_some() {
            // Never in the clear what was to go through TLS.
            let why = "its URI asks for TLS, which the kernel does not speak: use nbd:// or nbd+unix://".to_owned();
            return Err(AgentError::Unfit { why });
        }
        let infos = if shrink { vec![Info::BLOCK_SIZE, Info::RESIZE] } else { vec![Info::BLOCK_SIZE] };
        let wishes = Wishes { framing: Framing::Simple, infos, ..Wishes::go(uri.export().as_str()) };
        let negotiated = negotiate(uri, None, wishes).await;
        let (negotiation, export) = negotiated.map_err(|error| ClientError::of(uri, error))?;
        let (stream, mut inbox) = negotiation.into_parts();
        // A server has nothing to say now: it would be lost for the kernel.
        match inbox.bytes().len() {
            0 => Ok(Self { socket: blocking(stream).map_err(ClientError::Broken)?, export }),
            count => Err(AgentError::Unasked { count }),
        }
    }

    /// The block size to attach with, in bytes.
    pub(super) fn block_size(&self) -> Result<u64, AgentError> {
        let minimum = self.export.block_sizes.map_or(1, |sizes| sizes.minimum);
        if minimum > LARGEST_BLOCK {
            let why = format!(
                "its smallest block is {}, and the kernel's largest {}",
                Bytes(u64::from(minimum)),
                Bytes(u64::from(LARGEST_BLOCK))
            );
            return Err(AgentError::Unfit { why });
        }
        Ok(u64::from(minimum).max(SECTOR))
    }

    /// Whether the device can go on with it; `flags` is what it was attached with, as far as that is known.
    pub(super) fn fits(&self, device: &Device, flags: Option<ExportFlags>, shrink: bool) -> Result<(), AgentError> {
        let is = Shape { size: device.size()?, block: device.block_size()?, read_only: device.read_only()?, flags };
        is.fits(&self.export, shrink)
    }
}

/// What the kernel has taken for granted about a device since it was attached.
#[derive(Clone, Copy, Debug)]
struct Shape {
    size: u64,
    block: u64,
    read_only: bool,
    flags: Option<ExportFlags>,
}

impl Shape {
    fn fits(&self, new: &Negotiated, shrink: bool) -> Result<(), AgentError> {
        let unfit = |why| Err(AgentError::Unfit { why });
        let size = whole(new.size, self.block);
        if size < self.size && (!shrink || size == 0) {
            return unfit(format!(
                "it has {} now, and the device {}",
                Bytes(new.size).in_full(),
                Bytes(self.size).in_full()
            ));
        }
        let minimum = u64::from(new.block_sizes.map_or(1, |sizes| sizes.minimum));
        if minimum > self.block {
            return unfit(format!(
                "its smallest block is {} now, and the device's {}",
                Bytes(minimum),
                Bytes(self.block)
            ));
        }
        if new.flags.has(ExportFlags::READ_ONLY) && !self.read_only {
            return unfit("it is read-only now, and the device is not".to_owned());
        }
        let missing = USED.iter().find(|flag| self.flags.is_some_and(|had| had.has(**flag)) && !new.flags.has(**flag));
        missing.map_or(Ok(()), |flag| unfit(format!("it no longer offers {flag}")))
    }
}

/// The socket, out of the runtime's hands.
fn blocking(stream: Stream) -> std::io::Result<OwnedFd> {
    let (socket, _) = stream.take()?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Whether both directions of a socket have ended: the kernel shuts a dead connection down.
pub(super) fn ended(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_gateway_proto::handshake::BlockSizes;

    const FLAGS: ExportFlags = ExportFlags::HAS_FLAGS;

    fn export(size: u64, flags: ExportFlags, minimum: Option<u32>) -> Negotiated {
        Negotiated {
            size,
            flags,
            framing: Framing::Simple,
            contexts: Vec::new(),
            contexts_left_out: 0,
            block_sizes: minimum.map(|minimum| BlockSizes { minimum, preferred: 4096, maximum: 32 << 20 }),
            name: None,
            description: None,
            resize: None,
        }
    }

    #[test]
    fn a_device_goes_on_only_with_what_can_do_all_that_it_could() {
        let flags = FLAGS.with(ExportFlags::SEND_FLUSH).with(ExportFlags::SEND_RESIZE);
        let device = Shape { size: 1 << 20, block: 512, read_only: false, flags: Some(flags) };
        let unknown = Shape { flags: None, ..device };
        let frozen = Shape { read_only: true, ..unknown };
        let read_only = FLAGS.with(ExportFlags::READ_ONLY);
        for (shape, new, shrink, why) in [
            (device, export(1 << 20, flags, None), false, None),
            (device, export(2 << 20, flags, Some(512)), false, None),
            // What the kernel has no use for may go.
            (device, export(1 << 20, FLAGS.with(ExportFlags::SEND_FLUSH), None), false, None),
            (device, export(1 << 20, FLAGS, None), false, Some("SEND_FLUSH")),
            (unknown, export(1 << 20, FLAGS, None), false, None),
            (device, export((1 << 20) - 1, flags, None), false, Some("has 1023.99 KiB (1048575 bytes) now")),
            (device, export((1 << 20) - 1, flags, None), true, None),
            (device, export(100, flags, None), true, Some("has 100 bytes now")),
            (device, export(1 << 20, flags, Some(4096)), false, Some("smallest block is 4 KiB")),
            (unknown, export(1 << 20, read_only, None), false, Some("read-only now")),
            (frozen, export(1 << 20, read_only, None), false, None),
        ] {
            let found = shape.fits(&new, shrink);
            match why {
                None => assert!(found.is_ok(), "{found:?} for {new:?}"),
                Some(words) => {
                    assert!(found.as_ref().is_err_and(|said| said.to_string().contains(words)), "{found:?} for {new:?}")
                }
            }
        }
    }

    #[tokio::test]
    async fn an_uri_with_tls_is_never_taken_to_the_kernel_in_the_clear() {
        let nobody = "nbds+unix:///x?socket=/nonexistent".parse().unwrap();
        let Err(fault) = Link::open(&nobody, false).await else { panic!("there is nobody") };
        assert!(fault.to_string().contains("its URI asks for TLS, which the kernel does not speak"), "{fault}");
    }

    #[test]
    fn a_socket_has_ended_once_both_directions_are_shut() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let ours: OwnedFd = ours.into();
        assert!(!ended(&ours));
        drop(theirs);
        assert!(ended(&ours));
    }
}
