//! Where a command speaks: what was asked for on one stream, what a person may want to know besides on another.
//!
//! Owns how sizes are written. Never holds anything back: each line is out before the next thing is done, so that a
//! program at the other end of a pipe sees it at once.

use std::io::Write;

use nbd_gateway_policy::types::Bytes;

use super::ClientError;
use nbd_gateway_net::escaped;

/// Stdout and stderr, or what stands for them in tests.
pub(super) struct Output<'a> {
    out: &'a mut dyn Write,
    notes: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    /// Speaks to these.
    pub(super) fn new(out: &'a mut dyn Write, notes: &'a mut dyn Write) -> Self {
        Self { out, notes }
    }

    /// Prints whole lines. Unlike `println!`, a reader that went away is an error and no panic.
    pub(super) fn print(&mut self, text: &str) -> Result<(), ClientError> {
        self.out
            .write_all(escaped(text).as_bytes())
            .and_then(|()| self.out.flush())
            .map_err(|cause| ClientError::local("stdout", cause))
    }

    /// Tells something besides, on a line of its own. That nobody listens is no failure.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.notes, "{}", escaped(text)).and_then(|()| self.notes.flush());
    }
}

/// A size for people: `8 GiB (8589934592 bytes)`, or only the bytes where no unit is whole.
pub(crate) fn shown(size: u64) -> String {
    Bytes(size).in_full()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_shown_in_its_unit_and_in_bytes() {
        for (size, text) in [
            (0, "0 bytes"),
            (1025, "1025 bytes"),
            (8 << 30, "8 GiB (8589934592 bytes)"),
            (1536 << 20, "1.5 GiB (1610612736 bytes)"),
        ] {
            assert_eq!(shown(size), text);
        }
    }
}
