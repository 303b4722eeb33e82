//! The allocation map of a file: what is data and what is a hole, for BLOCK_STATUS and for reads that skip holes.
//!
//! The file system's own map is asked (SEEK_DATA, SEEK_HOLE): by BLOCK_STATUS each time, by a READ where data is not known to
//! be from an earlier one (see [`runs`](super::runs)).

use std::sync::atomic::Ordering;

use nbd_gateway_proto::{Cmd, Piece};
use rustix::fs::SeekFrom;
use rustix::io::Errno as Os;

use super::disk::Disk;
use super::open::measure;
use super::store::Store;
use crate::request::{Extent, Failure, Found, Request};

/// Flags of base:allocation for data. proto.md, "`base:allocation` metadata context".
pub(super) const DATA: u64 = 0;
/// NBD_STATE_HOLE and NBD_STATE_ZERO: not allocated, and reads as zeroes.
pub(super) const HOLE: u64 = 0x3;
/// Reads shorter than this, in bytes, don't look for holes: two calls of 0.4 µs are too much beside a copy of 0.5 µs
/// (4 KiB), and little beside one of 4 µs (64 KiB).
pub(super) const HOLES_FROM: u64 = 0x1_0000;
/// Holes shorter than this, in bytes, are read as data.
const SHORTEST_HOLE: u64 = 0x1000;
/// Pieces of one read; the rest comes as data, so that a shredded file doesn't cost a chunk per block.
const MOST_PIECES: usize = 128;
/// Extents of one reply; a client asks again for the rest.
const MOST_EXTENTS: usize = 4096;

/// Appends an extent, or lengthens the last one if it is of the same kind.
pub(super) fn append(extents: &mut Vec<Extent>, length: u64, flags: u64) {
    match extents.last_mut() {
        Some(last) if last.flags == flags => last.length += length,
        _ => extents.push(Extent { length, flags }),
    }
}

impl Disk {
    /// The extents from `offset` on, up to `end` at most; one if `one`.
    pub(super) fn extents(&self, offset: u64, end: u64, one: bool) -> Result<Vec<Extent>, Failure> {
        let most = if one { 1 } else { MOST_EXTENTS };
        let (mut extents, mut at) = (Vec::new(), offset);
        while at < end && extents.len() < most {
            let (flags, until) = self.run(at, end)?;
            append(&mut extents, until - at, flags);
            at = until;
        }
        Ok(extents)
    }

    /// What a READ finds: holes are told as such if there are any worth it and `whole` is not asked for.
    pub(super) fn find(&self, offset: u64, length: u64, whole: bool) -> Result<Found, Failure> {
        let end = offset + length;
        if whole || length < HOLES_FROM || !self.able.sparse.load(Ordering::Relaxed) {
            return Ok(Found::Whole(self.read(offset, length)?));
        }
        self.look_at_blocks();
        let (mut pieces, mut at, mut unread) = (Vec::new(), offset, offset);
        while at < end && pieces.len() < MOST_PIECES {
            let (flags, until) = match self.runs.data(at) {
                Some(until) => (DATA, until.min(end)),
                // To its end, however far that is: it is remembered.
                None => match self.whole_run(at, end)? {
                    (DATA, until) => {
                        self.runs.found(at, until);
                        (DATA, until.min(end))
                    }
                    hole => hole,
                },
            };
            if flags == HOLE && until - at >= SHORTEST_HOLE {
                self.read_piece(unread, at, &mut pieces)?;
                pieces.push(Piece::Hole { offset: at, length: until - at });
                unread = until;
            }
            at = until;
        }
        if pieces.is_empty() {
            return Ok(Found::Whole(self.read(offset, length)?));
        }
        self.read_piece(unread, end, &mut pieces)?;
        Ok(Found::Pieces(pieces))
    }

    /// Whether the file system may have to search for holes: in memory that takes time for each page of data.
    pub(super) fn may_search(&self, request: &Request) -> bool {
        let known = || self.runs.data(request.offset).is_some_and(|until| until >= request.end());
        match request.command {
            Cmd::READ => request.length >= HOLES_FROM && self.able.sparse.load(Ordering::Relaxed) && !known(),
            command => command == Cmd::BLOCK_STATUS,
        }
    }

    /// Now and then: a file that has a block for all of its bytes has no holes, and one with fewer than before has new ones.
    fn look_at_blocks(&self) {
        if !self.runs.is_due() {
            return;
        }
        if let Ok(stat) = rustix::fs::fstat(&self.file) {
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            self.runs.blocks(blocks);
            if blocks.saturating_mul(512) >= self.size() {
                self.able.sparse.store(false, Ordering::Relaxed);
            }
        }
    }

    fn read_piece(&self, from: u64, to: u64, pieces: &mut Vec<Piece>) -> Result<(), Failure> {
        if from < to {
            pieces.push(Piece::Data { offset: from, payload: self.read(from, to - from)? });
        }
        Ok(())
    }

    /// What is at `at`, and where it ends: after `at`, and not after `end`.
    fn run(&self, at: u64, end: u64) -> Result<(u64, u64), Failure> {
        self.whole_run(at, end).map(|(flags, until)| (flags, until.min(end)))
    }

    /// The same, where data is told up to its end, however far that is.
    fn whole_run(&self, at: u64, end: u64) -> Result<(u64, u64), Failure> {
        if !self.able.seek.load(Ordering::Relaxed) {
            return Ok((DATA, end));
        }
        let sought = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => return Ok((HOLE, data.min(end))),
            Ok(_) => rustix::fs::seek(&self.file, SeekFrom::Hole(at)).map(|hole| (DATA, hole)),
            Err(os) => Err(os),
        };
        match sought {
            Ok((flags, until)) if until > at => Ok((flags, until)),
            // It became a hole between the two calls. Data is always a right answer; ask again soon after.
            Ok(_) => Ok((DATA, end.min(at + SHORTEST_HOLE))),
            // No data from here on; but past a cut end it says the same, and that is no hole.
            Err(Os::NXIO) => match measure(&self.file) {
                Ok(size) if size >= end => Ok((HOLE, end)),
                Ok(size) => Err(self.cut_short(size.max(at))),
                Err(os) => Err(self.failed("measure", os, at)),
            },
            Err(Os::INVAL | Os::OPNOTSUPP | Os::NOSYS) => {
                self.able.seek.store(false, Ordering::Relaxed);
                Ok((DATA, end))
            }
            Err(os) => Err(self.failed("map", os, at)),
        }
    }
}
