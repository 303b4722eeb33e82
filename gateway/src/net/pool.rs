//! Receive buffers, shared by all connections so that an idle one holds none.
//!
//! A buffer comes back as soon as its connection has decoded everything in it, or has filled it, even while payloads still
//! point into it: the next user fills what is left of it, or takes it from the start once nothing points into it any more.

use std::collections::VecDeque;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::proto::{BUFFER, Buffers};

/// With less room than this a buffer waits until it can be used from the start.
const WORTHWHILE: usize = BUFFER / 4;
/// How many of the oldest waiting buffers are looked at before a new one is made.
const LOOKED_AT: usize = 4;

#[derive(Debug, Default)]
struct Kept {
    /// With room; the last one used, and so the warmest, on top.
    ready: Vec<BytesMut>,
    /// Full and pointed into when they came back; the oldest in front.
    waiting: VecDeque<BytesMut>,
}

/// A bounded stack of buffers.
#[derive(Debug)]
pub struct Pool {
    kept: Mutex<Kept>,
    most: usize,
}

impl Pool {
    /// Keeps at most `most` buffers of [`BUFFER`] bytes; more are given back to the allocator.
    pub fn new(most: usize) -> Self {
        Self { kept: Mutex::default(), most }
    }
}

impl Buffers for Pool {
    fn fresh(&self) -> BytesMut {
        let mut kept = self.kept.lock();
        if let Some(buffer) = kept.ready.pop() {
            return buffer;
        }
        for _ in 0..kept.waiting.len().min(LOOKED_AT) {
            let Some(mut buffer) = kept.waiting.pop_front() else { break };
            if buffer.try_reclaim(BUFFER) {
                return buffer;
            }
            kept.waiting.push_back(buffer);
        }
        drop(kept);
        BytesMut::with_capacity(BUFFER)
    }

    fn retire(&self, mut buffer: BytesMut) {
        let ready = buffer.try_reclaim(BUFFER) || buffer.capacity() >= WORTHWHILE;
        let mut kept = self.kept.lock();
        if kept.ready.len() + kept.waiting.len() >= self.most {
            return;
        }
        if ready { kept.ready.push(buffer) } else { kept.waiting.push_back(buffer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
