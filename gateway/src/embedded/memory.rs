//! Memory as a store: a sparse map of chunks.
//!
//! Owns the bytes. What was never written, or was discarded, takes no memory and reads as zeroes. Requests that overlap
//! may interleave chunk by chunk. Lock order: steady, chunks, one chunk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Buf;
use parking_lot::RwLock;
use rustix::io::Errno as Os;

use super::error::{failure, past_the_end};
use super::map::{DATA, HOLE, HOLES_FROM, MOST_EXTENTS, SHORTEST_HOLE, append};
use super::store::{Performed, Store};
use super::transfer::{buffer, wide};
use super::{Admission, DiskError, Facts, MAXIMUM_PAYLOAD, PREFERRED_BLOCK, Task};
use crate::proto::{Cmd, CmdFlags, Errno, ExportFlags, MAX_SIZE, Payload};
use crate::request::{Extent, Failure, Finished, Found, Outcome, Piece, Request, Status};

/// Bytes of a chunk: the unit of allocation.
const CHUNK: u64 = 0x1_0000;
/// The same, as a length in memory.
const CHUNK_LEN: usize = 0x1_0000;

type Chunk = RwLock<Vec<u8>>;

/// A memory disk.
#[derive(Debug)]
pub(super) struct Memory {
    /// Chunks by number (offset / `CHUNK`), each `CHUNK` bytes; an absent one is a hole.
    chunks: RwLock<BTreeMap<u64, Chunk>>,
    size: AtomicU64,
    /// Read-locked by each request under way, write-locked to change the size.
    steady: RwLock<()>,
    admission: Admission,
}

/// The part of a range that lies in one chunk.
struct Part {
    number: u64,
    /// First byte inside the chunk.
    from: usize,
    /// After the last byte inside the chunk.
    to: usize,
}

/// Cuts a range at the chunks' edges.
fn parts(offset: u64, end: u64) -> impl Iterator<Item = Part> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let (number, start) = (at / CHUNK, at - at % CHUNK);
        let to = end.min(start + CHUNK);
        let inside = |position: u64| usize::try_from(position - start).unwrap_or(CHUNK_LEN);
        let part = (at < end).then(|| Part { number, from: inside(at), to: inside(to) });
        at = to.max(at);
        part
    })
}

fn empty_chunk() -> Result<Chunk, Failure> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(CHUNK_LEN).map_err(|_| failure(Os::NOMEM, None))?;
    bytes.resize(CHUNK_LEN, 0);
    Ok(RwLock::new(bytes))
}

impl Memory {
    /// A disk of `size` bytes, all holes.
    pub(super) fn new(size: u64) -> Self {
        Self {
            chunks: RwLock::default(),
            size: AtomicU64::new(size.min(MAX_SIZE)),
            steady: RwLock::new(()),
            admission: Admission::new(),
        }
    }

    fn answer(&self, request: &Request) -> Result<Outcome, Failure> {
        let Request { command, flags, offset, length, ref payload } = *request;
        if command == Cmd::FLUSH {
            return Ok(Outcome::Done);
        }
        let end = request.end();
        if end > self.size() {
            return Err(past_the_end(request.changes_data(), self.size()));
        }
        if length == 0 || command == Cmd::WRITE && wide(payload.len()) != length {
            return Err(Failure::new(Errno::EINVAL, "a request of no bytes, or of others than it says"));
        }
        match command {
            Cmd::READ => self.find(offset, end, flags.has(CmdFlags::DF)).map(Outcome::Found),
            Cmd::WRITE => self.write(offset, end, payload).map(|()| Outcome::Done),
            Cmd::WRITE_ZEROES if flags.has(CmdFlags::NO_HOLE) => self.fill(offset, end).map(|()| Outcome::Done),
            Cmd::TRIM | Cmd::WRITE_ZEROES => {
                self.discard(offset, end);
                Ok(Outcome::Done)
            }
            Cmd::CACHE => Ok(Outcome::Done),
            Cmd::BLOCK_STATUS => {
                let extents = self.extents(offset, end, flags.has(CmdFlags::REQ_ONE));
                Ok(Outcome::Status(vec![Status { context: 0, extents }]))
            }
            _ => Err(Failure::new(Errno::EINVAL, format!("{command} is not for a disk"))),
        }
    }

    fn find(&self, offset: u64, end: u64, whole: bool) -> Result<Found, Failure> {
        let length = end - offset;
        if !whole && length >= HOLES_FROM {
            // The map may change before the data are copied; that only turns a hole that was into data, or the reverse
            // by a request that this one overlaps.
            let extents = self.extents(offset, end, false);
            if extents.iter().any(|extent| extent.flags == HOLE && extent.length >= SHORTEST_HOLE) {
                return self.pieces(offset, end, &extents).map(Found::Pieces);
            }
        }
        Ok(Found::Whole(self.read(offset, end)?.into()))
    }

    fn pieces(&self, offset: u64, end: u64, extents: &[Extent]) -> Result<Vec<Piece>, Failure> {
        let (mut pieces, mut at) = (Vec::new(), offset);
        for extent in extents {
            let until = at + extent.length;
            pieces.push(match extent.flags {
                HOLE => Piece::Hole { offset: at, length: extent.length },
                _ => Piece::Data { offset: at, payload: self.read(at, until)?.into() },
            });
            at = until;
        }
        if at < end {
            pieces.push(Piece::Data { offset: at, payload: self.read(at, end)?.into() });
        }
        Ok(pieces)
    }

    fn read(&self, offset: u64, end: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = buffer(end - offset)?;
        for Part { number, from, to } in parts(offset, end) {
            let chunks = self.chunks.read();
            match chunks.get(&number) {
                Some(chunk) => bytes.extend_from_slice(chunk.read().get(from..to).unwrap_or_default()),
                None => bytes.resize(bytes.len() + (to - from), 0),
            }
        }
        Ok(bytes)
    }

    fn write(&self, offset: u64, end: u64, payload: &Payload) -> Result<(), Failure> {
        let mut segments = payload.segments().cloned();
        let mut segment = segments.next().unwrap_or_default();
        for Part { number, from, to } in parts(offset, end) {
            self.with_chunk(number, |chunk| {
                let mut into = chunk.get_mut(from..to).unwrap_or_default();
                while !into.is_empty() {
                    if segment.is_empty() {
                        let Some(next) = segments.next() else { return };
                        segment = next;
                    }
                    let count = into.len().min(segment.len());
                    let (now, later) = into.split_at_mut(count);
                    segment.copy_to_slice(now);
                    into = later;
                }
            })?;
        }
        Ok(())
    }

    /// Zeroes a range and allocates it.
    fn fill(&self, offset: u64, end: u64) -> Result<(), Failure> {
        parts(offset, end).try_for_each(|Part { number, from, to }| {
            self.with_chunk(number, |chunk| chunk.get_mut(from..to).unwrap_or_default().fill(0))
        })
    }

    /// Changes a chunk, allocated if it is not there.
    fn with_chunk(&self, number: u64, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        {
            let chunks = self.chunks.read();
            if let Some(chunk) = chunks.get(&number) {
                change(chunk.write().as_mut_slice());
                return Ok(());
            }
        }
        // Made before the lock is taken: clearing it takes as long as a large request. In vain if another was faster.
        let fresh = empty_chunk()?;
        let mut chunks = self.chunks.write();
        change(chunks.entry(number).or_insert(fresh).get_mut().as_mut_slice());
        Ok(())
    }

    /// Frees the whole chunks of a range and zeroes what is left of it at the edges.
    fn discard(&self, offset: u64, end: u64) {
        let (first, last) = (offset.div_ceil(CHUNK), end / CHUNK);
        if first >= last {
            self.clear(offset, end);
            return;
        }
        self.clear(offset, first * CHUNK);
        self.clear(last * CHUNK, end);
        let freed: Vec<Chunk> = {
            let mut chunks = self.chunks.write();
            let numbers: Vec<u64> = chunks.range(first..last).map(|(&number, _)| number).collect();
            numbers.iter().filter_map(|number| chunks.remove(number)).collect()
        };
        // Many chunks take long to free: not under the lock.
        drop(freed);
    }

    /// Zeroes a range without allocating.
    fn clear(&self, offset: u64, end: u64) {
        for Part { number, from, to } in parts(offset, end) {
            if let Some(chunk) = self.chunks.read().get(&number) {
                chunk.write().get_mut(from..to).unwrap_or_default().fill(0);
            }
        }
    }

    fn extents(&self, offset: u64, end: u64, one: bool) -> Vec<Extent> {
        // One more than wanted: what follows may still lengthen the last.
        let most = if one { 2 } else { MOST_EXTENTS };
        let (mut extents, mut at) = (Vec::new(), offset);
        let chunks = self.chunks.read();
        for &number in chunks.range(offset / CHUNK..end.div_ceil(CHUNK)).map(|(number, _)| number) {
            let start = at.max(number * CHUNK);
            if start > at {
                append(&mut extents, start - at, HOLE);
            }
            at = end.min((number + 1) * CHUNK);
            append(&mut extents, at - start, DATA);
            if extents.len() >= most {
                break;
            }
        }
        if at < end && extents.len() < most {
            append(&mut extents, end - at, HOLE);
        }
        extents.truncate(if one { 1 } else { MOST_EXTENTS });
        extents
    }
}

impl Store for Memory {
    fn admission(&self) -> &Admission {
        &self.admission
    }

    fn facts(&self) -> Facts {
        Facts {
            size: self.size(),
            flags: ExportFlags::HAS_FLAGS
                .with(ExportFlags::SEND_FLUSH)
                .with(ExportFlags::SEND_FUA)
                .with(ExportFlags::SEND_TRIM)
                .with(ExportFlags::SEND_WRITE_ZEROES)
                .with(ExportFlags::SEND_DF)
                .with(ExportFlags::CAN_MULTI_CONN)
                .with(ExportFlags::SEND_CACHE)
                .with(ExportFlags::SEND_FAST_ZERO),
            contexts: vec!["base:allocation".into()],
            minimum_block: 1,
            preferred_block: PREFERRED_BLOCK,
            maximum_payload: MAXIMUM_PAYLOAD,
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn set_size(&self, new: u64) -> Result<u64, DiskError> {
        if new > MAX_SIZE {
            return Err(DiskError::TooLarge { size: new });
        }
        let _alone = self.steady.write();
        let old = self.size.swap(new, Ordering::AcqRel);
        if new < old {
            self.discard(new, old.next_multiple_of(CHUNK));
        }
        Ok(new)
    }

    fn at_once(&self, request: &Request, budget: &mut u64) -> Option<Outcome> {
        let cost = match request.command {
            Cmd::READ | Cmd::WRITE | Cmd::TRIM | Cmd::WRITE_ZEROES => request.length,
            _ => 0,
        };
        *budget = budget.checked_sub(cost)?;
        match self.perform(request) {
            Performed::Answer(outcome) => Some(outcome),
            Performed::Unsettled => None,
        }
    }

    fn perform(&self, request: &Request) -> Performed {
        let _steady = self.steady.read();
        Performed::Answer(self.answer(request).unwrap_or_else(Outcome::Failed))
    }

    /// Memory is as durable as it gets.
    fn settle(&self, task: Task, finished: &mut Finished) {
        task.answer(Outcome::Done, finished);
    }

    fn release(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
