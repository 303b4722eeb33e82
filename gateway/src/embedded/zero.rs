//! Discarding and zeroing ranges of a file, the cheapest way that its file system has.

use std::sync::atomic::{AtomicBool, Ordering};

use nbd_gateway_proto::{CmdFlags, Errno};
use rustix::fs::FallocateFlags;
use rustix::io::Errno as Os;

use super::disk::{Disk, Kind};
use crate::request::Failure;

impl Disk {
    /// Discards a range. Where that can't be done it is no error: TRIM is advice. proto.md, "NBD_CMD_TRIM".
    pub(super) fn trim(&self, offset: u64, length: u64) -> Result<(), Failure> {
        let (start, end) = self.whole_sectors(offset, length);
        if start < end {
            self.punch(start, end - start)?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes: as a hole unless NO_HOLE, else allocated; with FAST_ZERO never by writing them.
    pub(super) fn zero(&self, offset: u64, length: u64, flags: CmdFlags) -> Result<(), Failure> {
        let (start, end) = self.whole_sectors(offset, length);
        if start >= end {
            // Less than two sectors of a device: fast by being small.
            return self.write_zeroes(offset, length);
        }
        // Memory has nothing slower than a write.
        let fast = flags.has(CmdFlags::FAST_ZERO) && !self.memory;
        let hole = !flags.has(CmdFlags::NO_HOLE);
        // A device's ZERO_RANGE falls back to writing inside the kernel.
        let may_convert = self.kind == Kind::Regular || !fast;
        let done = hole && self.punch(start, end - start)? || may_convert && self.convert(start, end - start)?;
        if !done {
            if fast {
                return Err(Failure::new(Errno::ENOTSUP, "this range can't be zeroed faster than by writing"));
            }
            return self.write_zeroes(offset, length);
        }
        self.write_zeroes(offset, start - offset)?;
        self.write_zeroes(end, offset + length - end)
    }

    /// The part of a range that can be discarded: all of it in a file, whole sectors of a device. May be empty.
    fn whole_sectors(&self, offset: u64, length: u64) -> (u64, u64) {
        let end = offset + length;
        match self.kind {
            Kind::Regular => (offset, end),
            Kind::Device { sector } => (offset.next_multiple_of(sector), end - end % sector),
        }
    }

    /// Makes a hole; false if the file system has none.
    fn punch(&self, offset: u64, length: u64) -> Result<bool, Failure> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(flags, &self.able.punch, offset, length)
    }

    /// Allocates, as zeroes that need no writing; false if the file system has none.
    fn convert(&self, offset: u64, length: u64) -> Result<bool, Failure> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        self.allocate(flags, &self.able.zero_range, offset, length)
    }

    fn allocate(&self, flags: FallocateFlags, able: &AtomicBool, offset: u64, length: u64) -> Result<bool, Failure> {
        if !able.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset, length)) {
            Ok(()) => {
                self.able.sparse.store(self.kind == Kind::Regular, Ordering::Relaxed);
                self.runs.forget(offset, offset.saturating_add(length));
                Ok(true)
            }
            Err(Os::OPNOTSUPP | Os::NOSYS | Os::NODEV) => {
                able.store(false, Ordering::Relaxed);
                tracing::debug!(path = %self.path.display(), ?flags, "the file system can't do this; it is not tried again");
                Ok(false)
            }
            Err(os) => Err(self.failed("zero", os, offset)),
        }
    }
}
