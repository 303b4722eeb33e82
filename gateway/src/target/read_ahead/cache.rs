//! Data that was read ahead of sequential readers, and ranges that are being read: decides, and does no I/O.
//!
//! A *block* is a range that was read ahead, or is being read. A *stream* is a reader that goes through the export from the
//! front: from its second request on, blocks are read ahead of it, in a window that doubles with each of its requests. Many
//! readers of the same range share its blocks, as long as their requests go over the same lane: what one connection was
//! answered need not be seen by another one of the server's.
//!
//! Exact: a block serves a READ only if nothing that overlaps it has begun to change since the block was asked for, and
//! nothing is asked for that is being changed. A READ that already waits for a block when a change begins is concurrent with
//! that change, and gets what the block's READ finds.

use nbd_gateway_policy::types::{ByteRange, Bytes, Size};
use nbd_gateway_proto::{Payload, Piece};

use super::super::bridge::{cut, joined};
use crate::request::Found;

/// The most streams. The one that has had no request for the longest makes way for another.
const STREAMS: usize = 16;
/// A stream is over once there have been so many READs since its last one.
const SILENCE: u64 = 256;
/// The first window of a stream, in bytes, unless its requests are longer.
const FIRST: u64 = 128 << 10;
/// The largest READ, in bytes.
const LARGEST: u64 = 1 << 20;
/// A window is read in so many parts.
const PARTS: u64 = 4;

/// How much is read ahead, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most data that is kept, with the ranges that are being read.
    pub(super) limit: u64,
    /// The largest READ that the backend takes.
    pub(super) largest: u64,
    /// READs begin and end on multiples of it.
    pub(super) block: u64,
}

#[derive(Debug)]
struct Block<J> {
    id: u64,
    lane: usize,
    range: ByteRange,
    /// What it takes of the limit. More than its length once parts of it were dropped: the memory is one.
    takes: u64,
    content: Content<J>,
    /// Whether its end was read by somebody.
    read: bool,
    /// The number of the last READ that it served.
    used: u64,
}

#[derive(Debug)]
enum Content<J> {
    Ready(Found),
    /// Being read. Not `usable`: only for those who wait already.
    Pending {
        waiting: Vec<(ByteRange, J)>,
        usable: bool,
    },
}

#[derive(Debug)]
struct Stream {
    lane: usize,
    /// Where its next request begins.
    next: u64,
    /// How far it was read ahead.
    ahead: u64,
    /// How far it is to be read ahead of `next`; 0 after the first request.
    window: u64,
    /// The number of its last READ.
    used: u64,
}

/// A READ ahead that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) id: u64,
    pub(super) range: ByteRange,
}

/// What there is of a range.
#[derive(Debug)]
pub(super) enum Known {
    Ready(Found),
    /// Some of it is being read, by this block first.
    Pending(u64),
    Unknown,
}

/// Blocks and streams of one export; `J` is a READ that waits.
#[derive(Debug)]
pub(super) struct Cache<J> {
    bounds: Bounds,
    blocks: Vec<Block<J>>,
    streams: Vec<Stream>,
    /// Changes that have begun and not ended.
    changes: Vec<(u64, ByteRange)>,
    /// The last id of a block or a change.
    last: u64,
    /// The number of the last READ.
    reads: u64,
}

impl<J> Block<J> {
    fn is_usable(&self) -> bool {
        matches!(&self.content, Content::Ready(_) | Content::Pending { usable: true, .. })
    }
}

impl<J> Cache<J> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, blocks: Vec::new(), streams: Vec::new(), changes: Vec::new(), last: 0, reads: 0 }
    }

    /// What there is of `range`, for a READ over `lane`.
    pub(super) fn find(&mut self, lane: usize, range: ByteRange) -> Known {
        let (mut parts, mut pending, mut at) = (Vec::new(), None, range.start());
        while at < range.end() {
            let here = |block: &&mut Block<J>| {
                block.lane == lane && block.is_usable() && block.range.start() <= at && at < block.range.end()
            };
            let Some(block) = self.blocks.iter_mut().find(here) else { return Known::Unknown };
            let end = block.range.end().min(range.end());
            block.used = self.reads;
            block.read |= end == block.range.end();
            match &block.content {
                Content::Ready(found) => {
                    let length = end.bytes() - at.bytes();
                    parts.push((at.bytes(), cut(found.clone(), block.range.start().bytes(), at.bytes(), length)));
                }
                Content::Pending { .. } => pending = pending.or(Some(block.id)),
            }
            at = end;
        }
        pending.map_or_else(|| Known::Ready(whole(parts)), Known::Pending)
    }

    /// Has a READ of `range` wait for a block that is [pending](Known::Pending).
    pub(super) fn wait(&mut self, id: u64, range: ByteRange, job: J) {
        if let Some(Content::Pending { waiting, .. }) =
            self.blocks.iter_mut().find(|block| block.id == id).map(|block| &mut block.content)
        {
            waiting.push((range, job));
        }
    }

    /// A READ came over `lane`, and the export ends at `end`: the READs that are to be sent ahead of it.
    pub(super) fn follow(&mut self, lane: usize, range: ByteRange, end: u64) -> Vec<Fetch> {
        self.reads += 1;
        let (now, start, stop, length) = (self.reads, range.start().bytes(), range.end().bytes(), range.len().0);
        self.streams.retain(|stream| now - stream.used <= SILENCE);
        let share = self.bounds.limit / 2 / u64::try_from(self.active().max(1)).unwrap_or(u64::MAX);
        let of_it = |stream: &&mut Stream| {
            let near = stream.next.saturating_sub(stream.window)..stream.ahead;
            stream.lane == lane && (start == stream.next || near.contains(&start))
        };
        let Some(stream) = self.streams.iter_mut().find(of_it) else {
            self.begin(Stream { lane, next: stop, ahead: stop, window: 0, used: now });
            return Vec::new();
        };
        stream.used = now;
        if stop <= stream.next {
            // One that is behind another in the same place.
            return Vec::new();
        }
        let first = FIRST.max(length.saturating_mul(2));
        stream.window = if stream.window == 0 { first } else { stream.window.saturating_mul(2) }.min(share);
        stream.next = stop;
        stream.ahead = stream.ahead.max(stop);
        let (window, mut ahead) = (stream.window, stream.ahead);
        let fetches =
            self.fetches(lane, stop.saturating_add(window).min(end), end, (window / PARTS).max(length), &mut ahead);
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.used == now) {
            stream.ahead = ahead;
        }
        fetches
    }

    fn active(&self) -> usize {
        self.streams.iter().filter(|stream| stream.window > 0).count()
    }

    fn begin(&mut self, stream: Stream) {
        if self.streams.len() >= STREAMS
            && let Some((oldest, _)) = self.streams.iter().enumerate().min_by_key(|(_, stream)| stream.used)
        {
            self.streams.swap_remove(oldest);
        }
        self.streams.push(stream);
    }

    /// Reads from `ahead` up to `until`, in parts; the last part of the export may be shorter.
    fn fetches(&mut self, lane: usize, until: u64, end: u64, part: u64, ahead: &mut u64) -> Vec<Fetch> {
        let largest = LARGEST.min(self.bounds.largest).min(self.bounds.limit / 8);
        let part = self.whole_blocks(part.min(largest));
        let mut fetches = Vec::new();
        while *ahead < until {
            let length = part.min(until - *ahead);
            // A few bytes more each time would be as many requests as the reader's own.
            if length < part && until < end {
                break;
            }
            let Some(range) = ByteRange::at(*ahead, length) else { break };
            let there = self.blocks.iter().filter(|block| block.lane == lane && block.is_usable());
            let next = there.filter(|block| block.range.overlaps(range)).map(|block| block.range);
            if let Some(there) = next.min_by_key(|range| range.start()) {
                if there.start() <= range.start() {
                    *ahead = there.end().bytes();
                    continue;
                }
                // Up to the next block.
                let gap = ByteRange::new(range.start(), there.start());
                let Some(fetch) = gap.and_then(|gap| self.fetch(lane, gap)) else { break };
                fetches.push(fetch);
                *ahead = there.end().bytes();
                continue;
            }
            let Some(fetch) = self.fetch(lane, range) else { break };
            fetches.push(fetch);
            *ahead = range.end().bytes();
        }
        fetches
    }

    fn whole_blocks(&self, length: u64) -> u64 {
        (length / self.bounds.block).max(1) * self.bounds.block
    }

    /// None: it is being changed, or there is no room.
    fn fetch(&mut self, lane: usize, range: ByteRange) -> Option<Fetch> {
        let changes = self.changes.iter().any(|(_, changed)| changed.overlaps(range));
        if changes || !self.make_room(range.len().0) {
            return None;
        }
        self.last += 1;
        self.blocks.push(Block {
            id: self.last,
            lane,
            range,
            takes: range.len().0,
            content: Content::Pending { waiting: Vec::new(), usable: true },
            read: false,
            used: self.reads,
        });
        Some(Fetch { id: self.last, range })
    }

    /// Drops blocks until there is room for `bytes` more: those that somebody has read to their end first, and of those the
    /// one that was not used for the longest. Whether there is room.
    fn make_room(&mut self, bytes: u64) -> bool {
        loop {
            let taken: u64 = self.blocks.iter().map(|block| block.takes).sum();
            if taken.saturating_add(bytes) <= self.bounds.limit {
                return true;
            }
            let blocks = self.blocks.iter().enumerate();
            let ready = blocks.filter(|(_, block)| matches!(block.content, Content::Ready(_)));
            let Some((at, _)) = ready.min_by_key(|(_, block)| (!block.read, block.used)) else { return false };
            self.blocks.swap_remove(at);
        }
    }

    /// A READ ahead was answered; with None it failed. Who waited for it gets what it found, or has to look again.
    pub(super) fn arrived(&mut self, id: u64, found: Option<&Found>) -> Vec<(ByteRange, J, Option<Found>)> {
        let Some(at) = self.blocks.iter().position(|block| block.id == id) else { return Vec::new() };
        let block = self.blocks.swap_remove(at);
        let range = block.range;
        let Content::Pending { waiting, usable } = block.content else { return Vec::new() };
        if let Some(found) = found.filter(|_| usable) {
            self.blocks.push(Block { content: Content::Ready(owned(found)), ..block });
        }
        let part = |wanted: ByteRange| {
            let found = found.filter(|_| range.contains(wanted))?.clone();
            Some(cut(found, range.start().bytes(), wanted.start().bytes(), wanted.len().0))
        };
        waiting.into_iter().map(|(wanted, job)| (wanted, job, part(wanted))).collect()
    }

    /// A request that changes `range` is about to be sent. To be [told](Self::changed) when it has ended.
    pub(super) fn change(&mut self, range: ByteRange) -> u64 {
        self.drop_all_in(range);
        self.last += 1;
        self.changes.push((self.last, range));
        self.last
    }

    /// A change has ended.
    pub(super) fn changed(&mut self, id: u64) {
        self.changes.retain(|(change, _)| *change != id);
    }

    /// Serves nothing more of `range` from what was read, or is being read.
    pub(super) fn drop_all_in(&mut self, range: ByteRange) {
        for mut block in core::mem::take(&mut self.blocks) {
            if !block.range.overlaps(range) {
                self.blocks.push(block);
                continue;
            }
            let found = match &mut block.content {
                Content::Ready(found) => found.clone(),
                Content::Pending { usable, .. } => {
                    *usable = false;
                    self.blocks.push(block);
                    continue;
                }
            };
            let (start, end) = (block.range.start(), block.range.end());
            let rest = [ByteRange::new(start, range.start()), ByteRange::new(range.end(), end)];
            for part in rest.into_iter().flatten().filter(|part| block.range.contains(*part)) {
                self.last += 1;
                let content = cut(found.clone(), start.bytes(), part.start().bytes(), part.len().0);
                self.blocks.push(Block { id: self.last, range: part, content: Content::Ready(content), ..block });
            }
        }
    }

    /// Serves nothing more of what was read so far.
    pub(super) fn drop_all(&mut self) {
        self.drop_all_in(ByteRange::beyond(0));
    }

    /// Whether anything past `end` is being read ahead.
    pub(super) fn is_fetching_beyond(&self, end: u64) -> bool {
        let pending = |block: &&Block<J>| matches!(block.content, Content::Pending { .. });
        self.blocks.iter().filter(pending).any(|block| block.range.end() > Size::ZERO.plus(Bytes(end)))
    }

    /// All READs that wait, and no longer do.
    #[cfg(test)]
    pub(super) fn take_waiting(&mut self) -> Vec<(ByteRange, J)> {
        let take = |block: &mut Block<J>| match &mut block.content {
            Content::Pending { waiting, .. } => core::mem::take(waiting),
            Content::Ready(_) => Vec::new(),
        };
        self.blocks.iter_mut().flat_map(take).collect()
    }
}

/// One finding of several that follow each other, each with its offset.
fn whole(mut parts: Vec<(u64, Found)>) -> Found {
    if parts.len() == 1
        && let Some((_, found)) = parts.pop()
    {
        return found;
    }
    let pieces = parts.into_iter().flat_map(|(offset, found)| match found {
        Found::Whole(payload) => vec![Piece::Data { offset, payload }],
        Found::Pieces(pieces) => pieces,
    });
    joined(pieces.collect())
}

/// A copy with memory of its own: receive buffers are for what comes and goes.
fn owned(found: &Found) -> Found {
    let copied = |payload: &Payload| -> Payload {
        let mut bytes = Vec::with_capacity(payload.len());
        payload.segments().for_each(|segment| bytes.extend_from_slice(segment));
        bytes.into()
    };
    match found {
        Found::Whole(payload) => Found::Whole(copied(payload)),
        Found::Pieces(pieces) => Found::Pieces(
            pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Data { offset, payload } => Piece::Data { offset: *offset, payload: copied(payload) },
                    hole @ Piece::Hole { .. } => hole.clone(),
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests;
