//! Receive buffers, shared by all connections so that an idle one holds none.
//!
//! A buffer comes back as soon as its connection has decoded everything in it, even while payloads still point into it:
//! the next user fills what is left of it, or takes it from the start once nothing points into it any more.

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::proto::BUFFER;

/// With less room than this a buffer is only worth taking once it can be used from the start.
const WORTHWHILE: usize = BUFFER / 4;

/// A bounded stack of buffers.
#[derive(Debug)]
pub struct Pool {
    buffers: Mutex<Vec<BytesMut>>,
    most: usize,
}

impl Pool {
    /// Keeps at most `most` buffers of [`BUFFER`] bytes; more are given back to the allocator.
    pub fn new(most: usize) -> Self {
        Self { buffers: Mutex::new(Vec::with_capacity(most)), most }
    }

    /// An empty buffer with room for at least `capacity` bytes.
    pub fn take(&self, capacity: usize) -> BytesMut {
        if capacity <= BUFFER {
            let mut buffers = self.buffers.lock();
            // The last few returned are the warmest; further down lie those that are still pointed into.
            for back in 1..=buffers.len().min(4) {
                let at = buffers.len() - back;
                let Some(buffer) = buffers.get_mut(at) else { break };
                if buffer.capacity() >= WORTHWHILE.max(capacity.min(BUFFER / 2)) || buffer.try_reclaim(BUFFER) {
                    return buffers.swap_remove(at);
                }
            }
        }
        BytesMut::with_capacity(capacity.max(BUFFER))
    }

    /// Gives an empty buffer back. Larger ones than usual are not kept.
    pub fn give(&self, buffer: BytesMut) {
        if buffer.capacity() > BUFFER {
            return;
        }
        let mut buffers = self.buffers.lock();
        if buffers.len() < self.most {
            buffers.push(buffer);
        } else if let Some(oldest) = buffers.first_mut() {
            // The oldest is likely pinned by a payload in flight; it frees itself when that is done.
            *oldest = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_pointed_into_is_used_from_its_rest_or_left_alone() {
        let pool = Pool::new(4);
        let mut buffer = pool.take(1);
        buffer.extend_from_slice(&[7; 1000]);
        let payload = buffer.split_to(1000).freeze();
        pool.give(buffer);
        let mut again = pool.take(1);
        assert_eq!(again.capacity(), BUFFER - 1000, "the rest of the same buffer");
        again.extend_from_slice(&vec![8; BUFFER - 2000]);
        drop(again.split());
        pool.give(again);
        assert_eq!(pool.take(1).capacity(), BUFFER, "another one: too little is left and the payload still stands");
        assert!(payload.iter().all(|b| *b == 7));
        drop(payload);
        assert_eq!(pool.take(1).capacity(), BUFFER, "the first one from its start");
    }
}
