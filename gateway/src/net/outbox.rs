//! The outgoing queue of one connection: many tasks append, whoever appended writes, one at a time.
//!
//! [`Outbox::append`] takes a short lock. [`Outbox::flush`] writes everything queued in as few vectored writes as possible,
//! unless another task is writing already, which then takes what was appended meanwhile along. Nobody waits for a socket
//! here: when it is full, the connection's own task is woken to go on once there is room ([`Outbox::is_blocked`]).
//! Payload bytes are never moved. What a reply holds (requests, bytes) is reported released when its last byte is with
//! the kernel; inside TLS, when it is encrypted, of which a bounded amount waits for the kernel (`net/tls.rs`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use bytes::Bytes;
use parking_lot::Mutex;

use super::WriteHalf;
use crate::proto::Payload;

/// The most slices given to one vectored write.
const SLICES: usize = 64;

/// What is given back when a reply has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Requests.
    pub requests: u32,
    /// Payload bytes.
    pub bytes: u64,
    /// Notices of a size.
    pub notices: u32,
}

impl Released {
    fn add(&mut self, other: Released) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.notices += other.notices;
    }
}

/// What a flush did.
#[derive(Debug)]
pub enum Written {
    /// All that could be; what was released on the way.
    Progress(Released),
    /// The connection is broken.
    Broken(io::Error, Released),
}

#[derive(Debug)]
enum Segment {
    /// This many bytes of `heads`, in order.
    Head(usize),
    Body(Bytes),
    Release(Released),
}

/// Header bytes and payload segments, in order.
#[derive(Debug, Default)]
pub struct Batch {
    heads: Vec<u8>,
    segments: VecDeque<Segment>,
}

impl Batch {
    /// Appends what `put` appends to the header bytes.
    pub fn head(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let before = self.heads.len();
        put(&mut self.heads);
        let added = self.heads.len().saturating_sub(before);
        match self.segments.back_mut() {
            Some(Segment::Head(length)) => *length += added,
            _ => self.segments.push_back(Segment::Head(added)),
        }
    }

    /// Appends a payload.
    pub fn body(&mut self, payload: &Payload) {
        payload.segments().for_each(|s| self.segments.push_back(Segment::Body(s.clone())));
    }

    /// Appends zeroes.
    pub fn zeroes(&mut self, mut length: u64) {
        static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
        while length > 0 {
            let n = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROES.len());
            self.segments.push_back(Segment::Body(Bytes::from_static(&ZEROES).slice(..n)));
            length -= u64::try_from(n).unwrap_or(length);
        }
    }

    /// What is released once everything before it is written.
    pub fn release(&mut self, released: Released) {
        self.segments.push_back(Segment::Release(released));
    }
}

/// What the one who writes holds.
#[derive(Debug, Default)]
struct Writer {
    sink: Option<WriteHalf>,
    heads: Vec<u8>,
    /// How much of `heads` is written.
    heads_done: usize,
    segments: VecDeque<Segment>,
    /// How much of a `Body` at the front is written.
    body_done: usize,
}

/// The outgoing queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    incoming: Mutex<Batch>,
    writer: Mutex<Writer>,
    /// Set when something was appended; spares `flush` both locks when there is nothing to do.
    dirty: AtomicBool,
    blocked: AtomicBool,
}

impl Outbox {
    /// Sends through `sink` from now on, from a clean start: what an earlier connection left is forgotten.
    pub fn connect(&self, sink: WriteHalf) {
        let mut writer = self.writer.lock();
        *self.incoming.lock() = Batch::default();
        *writer = Writer { sink: Some(sink), ..Writer::default() };
        self.blocked.store(false, Ordering::Release);
    }

    /// Ends the connection and forgets what is queued; gives back what that held.
    pub fn disconnect(&self) -> Released {
        let mut writer = self.writer.lock();
        if let Some(sink) = writer.sink.take() {
            sink.goodbye();
        }
        let incoming = core::mem::take(&mut *self.incoming.lock());
        let left = core::mem::take(&mut *writer);
        let mut released = Released::default();
        for segment in left.segments.iter().chain(&incoming.segments) {
            if let Segment::Release(more) = segment {
                released.add(*more);
            }
        }
        self.blocked.store(false, Ordering::Release);
        released
    }

    /// Has the kernel drop what it has not delivered when the connection ends: it must not arrive later.
    pub fn forget_unsent(&self) {
        if let Some(sink) = &self.writer.lock().sink {
            sink.forget_unsent();
        }
    }

    /// Appends; `add` must not block.
    pub fn append<T>(&self, add: impl FnOnce(&mut Batch) -> T) -> T {
        let mut incoming = self.incoming.lock();
        let result = add(&mut incoming);
        self.dirty.store(true, Ordering::Release);
        result
    }

    /// Whether the socket was full and the rest waits for room.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    /// Whether everything appended is with the kernel.
    pub fn is_empty(&self) -> bool {
        let writer = self.writer.lock();
        !self.is_blocked() && writer.segments.is_empty() && self.incoming.lock().segments.is_empty()
    }

    /// Writes what is queued, unless someone is at it. The flag says whether the socket has just become full: then the
    /// connection's own task must be woken, to wait for room and flush again.
    pub fn flush(&self) -> (Written, bool) {
        let mut released = Released::default();
        loop {
            // Between "appended, then tried the lock" and "let go, then looked at dirty" one must see the other's first
            // half, or an append is left lying: that takes a full fence on both sides.
            fence(Ordering::SeqCst);
            if !self.dirty.load(Ordering::Acquire) {
                break;
            }
            // Whoever holds the writer looks at `dirty` again after letting go.
            let Some(mut writer) = self.writer.try_lock() else { break };
            if self.blocked.load(Ordering::Acquire) {
                break;
            }
            self.dirty.store(false, Ordering::Release);
            writer.take_over(&mut self.incoming.lock());
            match writer.write(&mut released) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.dirty.store(true, Ordering::Release);
                    self.blocked.store(true, Ordering::Release);
                    return (Written::Progress(released), true);
                }
                Err(e) => return (Written::Broken(e, released), false),
            }
        }
        (Written::Progress(released), false)
    }

    /// For the connection's own task: waits for room if the socket was full; ready once a flush may be tried again.
    pub fn poll_room(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        let writer = self.writer.lock();
        let Some(sink) = &writer.sink else { return std::task::Poll::Ready(Ok(())) };
        let ready = sink.poll_writable(cx);
        if ready.is_ready() {
            self.blocked.store(false, Ordering::Release);
        }
        ready
    }

    /// Ends the direction of the socket that this queue writes to.
    pub fn end(&self) {
        if let Some(sink) = &self.writer.lock().sink {
            sink.end();
        }
    }

    /// Ends both directions of the socket; what is queued stays.
    pub fn cut(&self) {
        if let Some(sink) = &self.writer.lock().sink {
            sink.cut();
        }
    }
}

impl Writer {
    fn take_over(&mut self, incoming: &mut Batch) {
        if self.segments.is_empty() {
            self.heads.clear();
            self.heads_done = 0;
            core::mem::swap(&mut self.heads, &mut incoming.heads);
            core::mem::swap(&mut self.segments, &mut incoming.segments);
        } else {
            self.heads.drain(..self.heads_done.min(self.heads.len()));
            self.heads_done = 0;
            self.heads.append(&mut incoming.heads);
            self.segments.append(&mut incoming.segments);
        }
    }

    fn write(&mut self, released: &mut Released) -> io::Result<()> {
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            let mut head = self.heads_done;
            let mut skip = self.body_done;
            for segment in &self.segments {
                let bytes = match segment {
                    Segment::Head(length) => {
                        let bytes = self.heads.get(head..head + length).unwrap_or_default();
                        head += length;
                        bytes
                    }
                    Segment::Body(bytes) => bytes.get(core::mem::take(&mut skip)..).unwrap_or_default(),
                    Segment::Release(_) => continue,
                };
                let Some(slot) = slices.get_mut(used) else { break };
                *slot = IoSlice::new(bytes);
                used += 1;
            }
            if used == 0 {
                self.written(0, released);
                // What TLS keeps back waits for room like anything else.
                return self.sink.as_ref().map_or(Ok(()), WriteHalf::try_flush);
            }
            let Some(sink) = &self.sink else { return Err(io::ErrorKind::NotConnected.into()) };
            let n = sink.try_write(slices.get(..used).unwrap_or_default())?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written(n, released);
        }
    }

    fn written(&mut self, mut n: usize, released: &mut Released) {
        loop {
            match self.segments.front_mut() {
                Some(Segment::Release(more)) => released.add(*more),
                Some(Segment::Head(length)) if *length <= n => {
                    n -= *length;
                    self.heads_done += *length;
                }
                Some(Segment::Head(length)) => {
                    *length -= n;
                    self.heads_done += n;
                    return;
                }
                Some(Segment::Body(bytes)) if bytes.len() - self.body_done <= n => {
                    n -= bytes.len() - self.body_done;
                    self.body_done = 0;
                }
                Some(Segment::Body(_)) => {
                    self.body_done += n;
                    return;
                }
                None => return,
            }
            self.segments.pop_front();
        }
    }
}
