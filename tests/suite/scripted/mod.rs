//! Peers that we script byte by byte, for what no stock peer does: misbehaviour, and timing that a test decides. They
//! know the protocol by themselves; a mistake in the gateway's own encoder must not hide here.

pub(crate) mod backend;
mod client;
pub(crate) mod numbers;
mod selftest;

pub(crate) use client::{Answer, Ask, Opened, RawClient, Reply, go_request, meta_request, option_bytes};

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::trouble::Trouble;

/// How long a scripted peer waits for the other side; a test that fails fails after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// How requests and replies are framed on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    Simple,
    Structured,
    Extended,
}

impl Framing {
    pub(crate) const ALL: [Self; 3] = [Self::Simple, Self::Structured, Self::Extended];
}

/// A connection with deadlines.
pub(crate) struct Link(UnixStream);

impl Link {
    pub(crate) fn dial(socket: &Path) -> Result<Self, Trouble> {
        let stream =
            UnixStream::connect(socket).map_err(|e| Trouble::new(format!("connect to {}: {e}", socket.display())))?;
        Self::over(stream)
    }

    fn over(stream: UnixStream) -> Result<Self, Trouble> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        Ok(self.0.write_all(bytes)?)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<Vec<u8>, Trouble> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).map_err(|e| Trouble::new(format!("waiting for {length} bytes: {e}")))?;
        Ok(bytes)
    }

    fn take_u16(&mut self) -> Result<u16, Trouble> {
        self.array().map(u16::from_be_bytes)
    }

    fn take_u32(&mut self) -> Result<u32, Trouble> {
        self.array().map(u32::from_be_bytes)
    }

    fn take_u64(&mut self) -> Result<u64, Trouble> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(|e| Trouble::new(format!("waiting for {N} bytes: {e}")))?;
        Ok(bytes)
    }

    /// Sends `bytes` again and again, until the other side has taken nothing for a fifth of a second, or `most` bytes in all.
    pub(crate) fn send_until_stuck(&mut self, bytes: &[u8], most: usize) -> Result<(), Trouble> {
        self.0.set_write_timeout(Some(Duration::from_millis(200)))?;
        let (mut sent, mut at) = (0, 0);
        while sent < most {
            match self.0.write(&bytes[at..]) {
                Ok(taken) => (sent, at) = (sent + taken, (at + taken) % bytes.len()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.0.set_write_timeout(Some(PATIENCE))?)
    }

    /// Tells the other side that no more will come.
    pub(crate) fn finish_sending(&self) -> Result<(), Trouble> {
        Ok(self.0.shutdown(std::net::Shutdown::Write)?)
    }

    /// Waits for the other side to close, whatever it still says.
    pub(crate) fn await_close(&mut self) -> Result<(), Trouble> {
        let mut scrap = [0; 1 << 16];
        loop {
            match self.0.read(&mut scrap) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                // A process that was stopped and goes on is told so by reads with a deadline.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Trouble::new(format!("waiting for the connection to be closed: {e}"))),
            }
        }
    }
}
