//! Received bytes on their way to becoming messages.
//!
//! Headers are peeked at in place; payloads leave as slices of the buffer they were received in. A payload that does not
//! fit what is left of a buffer continues in the next one, as a second segment.
//!
//! A payload in flight keeps its buffer alive, so a buffer must not be filled with bytes that nobody keeps: those give way to
//! what comes after them, and a payload that is shorter than what went before it is copied out. So whatever a peer sends,
//! at least half of what a buffer has been used for is payload.
//! Owns no socket: whoever does calls [`Inbox::room`], receives into it, and decodes again.

use bytes::{Buf, Bytes, BytesMut};

use crate::Payload;

/// Capacity of an ordinary receive buffer, in bytes. Each socket holds at most one while a message is incomplete, and a
/// payload in flight keeps at most the buffers alive that it lies in.
pub const BUFFER: usize = 128 * 1024;
/// The front of a payload that is shorter than this, in bytes, moves to the next buffer.
const FRONT: usize = BUFFER / 8;
/// Where memory is tight, payloads shorter than this, in bytes, are copied out of their buffer.
const SMALL: usize = BUFFER / 4;
/// With less room than this a new buffer is started: tiny reads cost as much as large ones.
const LEAST_ROOM: usize = 8 * 1024;

/// Where receive buffers come from, and where they go when they are full.
pub trait Buffers {
    /// An empty buffer with room for [`BUFFER`] bytes or a good part of it.
    fn fresh(&self) -> BytesMut;
    /// Takes an empty buffer back; payloads may still point into it.
    fn retire(&self, buffer: BytesMut);
    /// Whether small payloads keep too many buffers alive.
    fn is_tight(&self) -> bool;
}

/// Buffers straight from the allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap;

impl Buffers for Heap {
    fn fresh(&self) -> BytesMut {
        BytesMut::with_capacity(BUFFER)
    }
    fn retire(&self, _: BytesMut) {}
    fn is_tight(&self) -> bool {
        false
    }
}

/// The receive side of one connection.
#[derive(Debug, Default)]
pub struct Inbox {
    current: BytesMut,
    /// How many bytes at the front of `current` are done with. They still take room.
    done: usize,
    /// Whether memory was tight when the last bytes came.
    tight: bool,
    /// Whether `current` came from [`Buffers`] and so may go back there: the handshake's is smaller, and at first and
    /// after a release there is none.
    borrowed: bool,
    /// The front of an incomplete payload, from earlier buffers.
    held: Payload,
    /// Total length of the payload being waited for; 0 while waiting for a header.
    awaited: usize,
}

impl Inbox {
    /// The next `N` bytes, if they are there. Never inside a payload.
    pub fn peek<const N: usize>(&self) -> Option<&[u8; N]> {
        self.waiting().first_chunk::<N>()
    }

    /// How many bytes have come and are not decoded, in the present buffer.
    pub fn received(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> &[u8] {
        self.current.get(self.done..).unwrap_or_default()
    }

    /// Drops `n` bytes that were peeked at.
    pub fn advance(&mut self, n: usize) {
        self.done += n.min(self.waiting().len());
        if self.done == self.current.len() {
            // What comes next takes their place.
            self.current.clear();
            self.done = 0;
        }
    }

    /// The next `len` bytes as a payload, once they are all there; until then remembers to wait for them.
    pub fn payload(&mut self, len: usize) -> Option<Payload> {
        let missing = len.saturating_sub(self.held.len());
        let Some(last) = self.waiting().get(..missing) else {
            self.awaited = len;
            return None;
        };
        let last = if missing < self.done || (self.tight && missing < SMALL) {
            let copy = Bytes::copy_from_slice(last);
            self.advance(missing);
            copy
        } else {
            self.current.advance(core::mem::take(&mut self.done));
            self.current.split_to(missing).freeze()
        };
        let mut payload = core::mem::take(&mut self.held);
        payload.push(last);
        self.awaited = 0;
        Some(payload)
    }

    /// Drops up to `n` bytes; how many were there to drop.
    pub fn skip(&mut self, n: u64) -> u64 {
        let there = u64::try_from(self.waiting().len()).unwrap_or(u64::MAX).min(n);
        self.advance(usize::try_from(there).unwrap_or(usize::MAX));
        there
    }

    /// Takes all bytes that wait, whole messages or not, for an inbox elsewhere: see [`Inbox::resume`].
    pub fn suspend(&mut self) -> Payload {
        let Self { mut current, done, mut held, .. } = core::mem::take(self);
        current.advance(done);
        held.push(current.freeze());
        held
    }

    /// An inbox to which these bytes have come, from the start of a message on.
    pub fn resume(bytes: BytesMut) -> Self {
        Self { current: bytes, ..Self::default() }
    }

    /// Whether no byte is waiting: the connection stands between two messages.
    pub fn is_empty(&self) -> bool {
        self.current.is_empty() && self.held.is_empty()
    }

    /// The bytes not yet decoded, for the handshake, whose messages are small and rare.
    pub fn bytes(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    /// A buffer with room to receive into. Large payloads span several buffers of the ordinary size: those are at hand
    /// and in the processor's cache, where one that fits would have to be mapped and cleared by the kernel.
    pub fn room(&mut self, buffers: &impl Buffers) -> &mut BytesMut {
        self.tight = buffers.is_tight();
        let there = self.waiting().len();
        let missing = self.awaited.saturating_sub(self.held.len()).saturating_sub(there);
        let wanted = if self.awaited > 0 { missing.min(LEAST_ROOM) } else { LEAST_ROOM }.max(1);
        let spare = |current: &BytesMut| current.capacity().saturating_sub(current.len());
        if spare(&self.current) < wanted && there < FRONT.min(self.done) {
            self.current.copy_within(self.done.., 0);
            self.current.truncate(there);
            self.done = 0;
        }
        if spare(&self.current) >= wanted {
            return &mut self.current;
        }
        let mut old = core::mem::replace(&mut self.current, buffers.fresh());
        old.advance(core::mem::take(&mut self.done));
        let borrowed = core::mem::replace(&mut self.borrowed, true);
        if old.len() >= FRONT {
            self.held.push(old.split().freeze());
        } else {
            self.current.extend_from_slice(&old);
            old.clear();
        }
        if borrowed {
            buffers.retire(old);
        }
        &mut self.current
    }

    /// Forgets what has come, and lets go of the buffer; what is given back is for [`Buffers::retire`].
    pub fn forget(&mut self) -> Option<BytesMut> {
        let Self { mut current, borrowed, .. } = core::mem::take(self);
        current.clear();
        borrowed.then_some(current)
    }

    /// Lets go of the buffer, if no byte is waiting, so that an idle connection holds none; what is given back is for
    /// [`Buffers::retire`].
    pub fn release(&mut self) -> Option<BytesMut> {
        if !self.is_empty() {
            return None;
        }
        let buffer = core::mem::take(&mut self.current);
        core::mem::take(&mut self.borrowed).then_some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(inbox: &mut Inbox, mut bytes: &[u8], at_most: usize) -> usize {
        let room = inbox.room(&Heap);
        let n = bytes.len().min(at_most).min(room.capacity() - room.len());
        room.extend_from_slice(&bytes[..n]);
        bytes.advance(n);
        n
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(lengths in proptest::collection::vec(0usize..300_000, 1..5), cut in 1usize..200_000) {
            let mut stream = Vec::new();
            for (i, len) in lengths.iter().enumerate() {
                stream.extend_from_slice(&u64::try_from(*len).unwrap().to_be_bytes());
                stream.extend(std::iter::repeat_n(u8::try_from(i).unwrap() + 1, *len));
            }
            let (mut inbox, mut fed, mut seen) = (Inbox::default(), 0, Vec::new());
            let mut header = None;
            while seen.len() < lengths.len() {
                if header.is_none() && let Some(head) = inbox.peek::<8>() {
                    header = Some(usize::try_from(u64::from_be_bytes(*head)).unwrap());
                    inbox.advance(8);
                }
                match header.and_then(|len| inbox.payload(len)) {
                    Some(payload) => {
                        let tag = u8::try_from(seen.len()).unwrap() + 1;
                        prop_assert!(payload.segments().all(|s| s.iter().all(|b| *b == tag)));
                        seen.push(payload.len());
                        header = None;
                    }
                    None => {
                        prop_assert!(fed < stream.len(), "stuck");
                        fed += feed(&mut inbox, &stream[fed..], cut);
                    }
                }
            }
            prop_assert_eq!(seen, lengths);
            prop_assert!(inbox.is_empty());
        }
    }

    #[test]
    fn an_idle_inbox_gives_its_buffer_away() {
        let mut inbox = Inbox::default();
        feed(&mut inbox, b"12345678", 8);
        assert!(inbox.release().is_none(), "a byte is waiting");
        inbox.advance(8);
        assert!(inbox.release().is_some());
        assert!(inbox.release().is_none());
    }
}
