//! Receive buffers, shared by all connections so that an idle one holds none.
//!
//! A buffer comes back as soon as its connection has decoded everything in it, or has filled it, even while payloads still
//! point into it: the next user fills what is left of it, or takes it from the start once nothing points into it any more.
//! When too many are full and still pointed into, small payloads are copied out from then on ([`Buffers::is_tight`]): a few
//! bytes that stay for long must not keep a buffer each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;

use nbd_gateway_proto::{BUFFER, Buffers};

/// With less room than this a buffer waits until it can be used from the start.
const WORTHWHILE: usize = BUFFER / 4;
/// How many of the oldest waiting buffers are looked at before a new one is made.
const LOOKED_AT: usize = 4;

#[derive(Debug, Default)]
struct Kept {
    /// With room; the last one used, and so the warmest, on top.
    ready: Vec<BytesMut>,
    /// Full and pointed into when they came back; the oldest in front. All of them are here, however many, to be counted.
    waiting: VecDeque<BytesMut>,
}

impl Kept {
    /// One of the oldest that waited, if nothing points into it any more.
    fn reclaim(&mut self) -> Option<BytesMut> {
        for _ in 0..self.waiting.len().min(LOOKED_AT) {
            let Some(mut buffer) = self.waiting.pop_front() else { break };
            if buffer.try_reclaim(BUFFER) {
                return Some(buffer);
            }
            self.waiting.push_back(buffer);
        }
        None
    }
}

/// A bounded stack of buffers.
#[derive(Debug)]
pub struct Pool {
    kept: Mutex<Kept>,
    most: usize,
    tight: AtomicBool,
}

impl Pool {
    /// Keeps at most `most` buffers of [`BUFFER`] bytes that nothing points into; more are given back to the allocator. With
    /// more than `most` that are pointed into, it is tight.
    pub fn new(most: usize) -> Self {
        Self { kept: Mutex::default(), most, tight: AtomicBool::new(false) }
    }

    fn judge(&self, kept: &Kept) {
        self.tight.store(kept.waiting.len() > self.most, Ordering::Relaxed);
    }

    /// How many it knows of.
    #[cfg(test)]
    pub(crate) fn buffers(&self) -> usize {
        let kept = self.kept.lock();
        kept.ready.len() + kept.waiting.len()
    }
}

impl Buffers for Pool {
    fn fresh(&self) -> BytesMut {
        let mut kept = self.kept.lock();
        if let Some(buffer) = kept.ready.pop() {
            return buffer;
        }
        let reclaimed = kept.reclaim();
        self.judge(&kept);
        drop(kept);
        reclaimed.unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
    }

    fn retire(&self, mut buffer: BytesMut) {
        let whole = buffer.try_reclaim(BUFFER);
        let ready = whole || buffer.capacity() >= WORTHWHILE;
        let mut kept = self.kept.lock();
        let full = kept.ready.len() + kept.waiting.len() >= self.most;
        let surplus = match (full, ready) {
            (true, true) if whole => Some(buffer),
            (_, true) => {
                kept.ready.push(buffer);
                None
            }
            (_, false) => {
                kept.waiting.push_back(buffer);
                if full { kept.reclaim() } else { None }
            }
        };
        self.judge(&kept);
        drop(kept);
        drop(surplus);
    }

    fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;
    use nbd_gateway_proto::{Inbox, Payload};

    #[test]
    fn a_buffer_that_is_pointed_into_is_used_from_its_rest_or_waits() {
        let pool = Pool::new(4);
        let mut buffer = pool.fresh();
        buffer.extend_from_slice(&[7; 1000]);
        let payload = buffer.split_to(1000).freeze();
        pool.retire(buffer);
        let mut again = pool.fresh();
        assert_eq!(again.capacity(), BUFFER - 1000, "the rest of the same buffer");
        again.extend_from_slice(&vec![8; BUFFER - 2000]);
        drop(again.split());
        pool.retire(again);
        let other = pool.fresh();
        assert_eq!(other.capacity(), BUFFER, "another one: too little is left and the payload still stands");
        assert!(payload.iter().all(|b| *b == 7));
        let at = payload.as_ptr();
        drop(payload);
        let mut first = pool.fresh();
        first.extend_from_slice(&[0]);
        assert_eq!(first.as_ptr(), at, "the first one from its start");
    }

    #[test]
    fn no_more_than_the_bound_is_kept() {
        let pool = Pool::new(2);
        let buffers: Vec<BytesMut> = (0..5).map(|_| pool.fresh()).collect();
        buffers.into_iter().for_each(|b| pool.retire(b));
        assert_eq!(pool.kept.lock().ready.len(), 2);
    }

    /// Whoever kept four bytes of each buffer kept all of it, and the pool no longer knew.
    #[test]
    fn memory_is_tight_while_too_many_full_buffers_are_pointed_into() {
        let pool = Pool::new(2);
        let mut pinned = Vec::new();
        for made in 1..=4 {
            let mut buffer = BytesMut::with_capacity(BUFFER);
            buffer.extend_from_slice(&vec![7; BUFFER]);
            pinned.push(buffer.split_to(4).freeze());
            drop(buffer.split());
            pool.retire(buffer);
            assert_eq!(pool.is_tight(), made > 2, "{made}");
        }
        drop(pinned);
        let taken: Vec<BytesMut> = (0..2).map(|_| pool.fresh()).collect();
        assert!(!pool.is_tight());
        drop(taken);
    }

    /// One byte of payload in front of 128 KiB that were thrown away kept all of them.
    #[test]
    fn what_nobody_keeps_takes_no_room_beside_what_is_in_flight() {
        let pool = Pool::new(64);
        let (mut inbox, mut kept) = (Inbox::default(), Vec::new());
        let receive = |inbox: &mut Inbox, mut bytes: &[u8]| {
            while !bytes.is_empty() {
                let room = inbox.room(&pool);
                let n = bytes.len().min(room.capacity() - room.len());
                room.extend_from_slice(&bytes[..n]);
                bytes.advance(n);
                inbox.skip(if bytes.is_empty() { 0 } else { u64::MAX });
            }
        };
        for small in [1, 100, 4096].repeat(40) {
            // Throws away up to a header, so that what is thrown away never reaches to the end of what was received.
            receive(&mut inbox, &[9; BUFFER - 7000]);
            inbox.skip(u64::try_from(inbox.received()).unwrap());
            receive(&mut inbox, &[7; 4096 + 28][..small + 28]);
            inbox.advance(28);
            kept.push(inbox.payload(small).unwrap());
        }
        let (bytes, buffers) = (kept.iter().map(Payload::len).sum::<usize>(), pool.buffers());
        assert!(kept.iter().all(|p| p.segments().all(|s| s.iter().all(|b| *b == 7))));
        assert!(buffers <= 2 + 3 * bytes / BUFFER, "{bytes} bytes of payload keep {buffers} buffers");
    }

    /// Buffers that are too small for the next reader would take the places of good ones for ever.
    #[test]
    fn only_buffers_that_came_from_the_pool_go_back_to_it() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            let mut inbox = Inbox::default();
            inbox.bytes().reserve(64);
            inbox.room(&pool);
            let buffer = inbox.release().expect("one of the pool's");
            pool.retire(buffer);
            inbox.bytes().reserve(64);
            assert!(inbox.release().is_none(), "the handshake's");
        }
        let buffer = pool.fresh();
        let address = buffer.as_ptr();
        pool.retire(buffer);
        assert_eq!(pool.fresh().as_ptr(), address, "the pool still keeps what it is given");
    }
}
