//! Moving bytes between a file and payloads, whole or not at all, without copying a payload.

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nbd_gateway_proto::{Errno, Payload};
use rustix::buffer::{Buffer, spare_capacity};
use rustix::io::{Errno as Os, ReadWriteFlags};

use super::buffers::SPARE;
use super::disk::Disk;
use super::map::HOLES_FROM;
use super::{MAXIMUM_PAYLOAD, error::failure};
use crate::request::Failure;

/// Segments per call; payloads have at most a few.
const SEGMENTS: usize = 16;
/// What zeroes are written from.
static ZEROES: [u8; 0x1_0000] = [0; 0x1_0000];

/// A length in memory as a length on disk.
pub(super) fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl Disk {
    /// Reads exactly `length` bytes. An end of file on the way is an error: zeroes would hide that data were lost.
    pub(super) fn read(&self, offset: u64, length: u64) -> Result<Payload, Failure> {
        let too_long =
            || Failure::new(Errno::EINVAL, format!("a read of {length} bytes is over {MAXIMUM_PAYLOAD} bytes"));
        let fits = if length > u64::from(MAXIMUM_PAYLOAD) { None } else { usize::try_from(length).ok() };
        let room = fits.ok_or_else(too_long)?;
        let no_memory = || failure(Os::NOMEM, None);
        if length >= HOLES_FROM {
            let mut bytes = SPARE.take(room).ok_or_else(no_memory)?;
            let mut done = 0;
            while let Some(rest) = bytes.as_mut().get_mut(done..).filter(|rest| !rest.is_empty()) {
                done += self.read_some(rest, offset + wide(done))?;
            }
            return Ok(Bytes::from(bytes).into());
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).map_err(|_| no_memory())?;
        while bytes.len() < room {
            let at = offset + wide(bytes.len());
            self.read_some(spare_capacity(&mut bytes), at)?;
        }
        // The allocator may have given more room than asked for, and pread fills it.
        bytes.truncate(room);
        Ok(bytes.into())
    }

    /// How many bytes it has read, 0 if it was interrupted.
    fn read_some<B: Buffer<u8, Output = usize>>(&self, into: B, at: u64) -> Result<usize, Failure> {
        match rustix::io::pread(&self.file, into, at) {
            Ok(0) => Err(self.cut_short(at)),
            Ok(read) => Ok(read),
            Err(Os::INTR) => Ok(0),
            Err(os) => Err(self.failed("read", os, at)),
        }
    }

    /// Reads `length` bytes if all are in the page cache, without waiting for the disk; else nothing.
    ///
    /// Measured: a cached 4 KiB read takes 0.5 µs, waking a thread for it ten times that.
    pub(super) fn read_cached(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        if length == 0 || length >= HOLES_FROM || !self.able.nowait.load(Ordering::Relaxed) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let read = rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(&mut bytes)], offset, ReadWriteFlags::NOWAIT);
        match read {
            Ok(read) if read == bytes.len() => Some(bytes),
            Err(Os::OPNOTSUPP | Os::NOSYS | Os::INVAL) => {
                self.able.nowait.store(false, Ordering::Relaxed);
                None
            }
            _ => None,
        }
    }

    /// Writes all of a payload.
    pub(super) fn write(&self, offset: u64, payload: &Payload) -> Result<(), Failure> {
        let mut done = 0;
        while done < payload.len() {
            let (mut slices, mut count, mut skip) = ([IoSlice::new(&[]); SEGMENTS], 0, done);
            for segment in payload.segments() {
                let (Some(rest), Some(slot)) = (segment.get(skip..), slices.get_mut(count)) else {
                    skip = skip.saturating_sub(segment.len());
                    continue;
                };
                skip = 0;
                if !rest.is_empty() {
                    *slot = IoSlice::new(rest);
                    count += 1;
                }
            }
            done += self.write_some(slices.get(..count).unwrap_or_default(), offset + wide(done))?;
        }
        Ok(())
    }

    /// Writes zeroes as data: what always works, at the price of moving them.
    pub(super) fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Failure> {
        let mut done = 0;
        while done < length {
            let mut left = length - done;
            let slices = [(); SEGMENTS].map(|()| {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
                left -= wide(part);
                IoSlice::new(ZEROES.get(..part).unwrap_or_default())
            });
            done += wide(self.write_some(&slices, offset + done)?);
        }
        Ok(())
    }

    fn write_some(&self, slices: &[IoSlice<'_>], at: u64) -> Result<usize, Failure> {
        match rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, slices, at)) {
            // No error and no progress: not to be tried for ever.
            Ok(0) => Err(self.failed("write", Os::IO, at)),
            Ok(written) => Ok(written),
            Err(os) => Err(self.failed("write", os, at)),
        }
    }
}
