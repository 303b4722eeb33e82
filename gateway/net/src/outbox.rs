//! The outgoing queue of one connection: many tasks append, whoever appended writes, one at a time.
//!
//! [`Outbox::append`] takes a short lock. [`Outbox::flush`] writes everything queued in as few vectored writes as possible,
//! unless another task is writing already, which then takes what was appended meanwhile along. Nobody waits for a socket
//! here: when it is full, the connection's own task is woken to go on once there is room ([`Outbox::is_blocked`]).
//! Payload bytes are not moved, but for small payloads that have to wait for a client: those are copied out of their receive
//! buffers, which they would keep alive as long as that client likes. What a reply holds (requests, bytes) is reported released when its last byte is with
//! the kernel; inside TLS, when it is encrypted, of which a bounded amount waits for the kernel (`net/tls.rs`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{FarEndCloses, WriteHalf};
use nbd_gateway_proto::{BUFFER, Payload};

/// The most slices given to one vectored write.
const SLICES: usize = 64;
/// Bytes of headers for which room is kept when the queue is empty.
const HEADS: usize = 64 * 1024;
/// Segments for which room is kept then.
const SEGMENTS: usize = 1024;
/// Neighbours in one receive buffer that together are shorter than this are copied out of it when they have to wait.
const SHORT: usize = BUFFER / 2;
/// How far neighbours in a receive buffer lie apart at most: a reply's headers.
const GAP: usize = 128;

static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// What is given back when a reply has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Requests that hold a permit.
    pub requests: u32,
    /// Requests that hold none: RESIZE, with QUERY and NOTIFY too.
    pub resizes: u32,
    /// Bytes.
    pub bytes: u64,
    /// Notices of a size.
    pub notices: u32,
}

impl Released {
    fn add(&mut self, other: Released) {
        self.requests += other.requests;
        self.resizes += other.resizes;
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
    /// How many of the first segments can wait: small payloads among them are copied.
    copied: usize,
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
        while length > 0 {
            let n = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROES.len());
            self.segments.push_back(Segment::Body(Bytes::from_static(&ZEROES).slice(..n)));
            length -= u64::try_from(n).unwrap_or(length);
        }
    }

    /// Appends what another queue owed.
    pub fn put_back(&mut self, Unsent { bytes, releases }: &Unsent) {
        let mut at = 0;
        for (end, released) in releases {
            self.body(&bytes.slice(at, end.saturating_sub(at)));
            self.release(*released);
            at = *end;
        }
        self.body(&bytes.slice(at, bytes.len()));
    }

    /// What is released once everything before it is written.
    pub fn release(&mut self, released: Released) {
        self.segments.push_back(Segment::Release(released));
    }
}

/// What a queue owed when it was suspended.
#[derive(Clone, Debug, Default)]
pub struct Unsent {
    /// The bytes that are not with the kernel.
    pub bytes: Payload,
    /// After how many of them something is released, and what.
    pub releases: Vec<(usize, Released)>,
}

/// What the one who writes holds.
#[derive(Debug, Default)]
struct Writer {
    sink: Option<WriteHalf>,
    heads: Vec<u8>,
    /// How much of `heads` is written.
    heads_done: usize,
    segments: VecDeque<Segment>,
    /// How many of the first segments can wait.
    copied: usize,
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
    /// Writing has failed.
    broken: AtomicBool,
    /// Whether small payloads that have to wait are copied.
    copies: bool,
}

impl Outbox {
    /// One to a client, who may read as slowly as it likes: small payloads that have to wait for it are copied.
    pub fn to_client() -> Self {
        Self { copies: true, ..Self::default() }
    }

    /// Sends through `sink` from now on, from a clean start: what an earlier connection left is forgotten.
    pub fn connect(&self, sink: WriteHalf) {
        let mut writer = self.writer.lock();
        *self.incoming.lock() = Batch::default();
        *writer = Writer { sink: Some(sink), ..Writer::default() };
        self.blocked.store(false, Ordering::Release);
        self.broken.store(false, Ordering::Release);
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

    /// Takes the socket out, and everything that is queued. The queue stays, empty and without a connection.
    pub fn suspend(&self) -> (Option<WriteHalf>, Unsent) {
        let mut writer = self.writer.lock();
        writer.take_over(&mut core::mem::take(&mut *self.incoming.lock()));
        let Writer { sink, heads, heads_done, segments, mut body_done, .. } = core::mem::take(&mut *writer);
        self.blocked.store(false, Ordering::Release);
        let (mut unsent, mut heads) = (Unsent::default(), Bytes::from(heads).slice(heads_done..));
        for segment in segments {
            match segment {
                Segment::Head(length) => unsent.bytes.push(heads.split_to(length)),
                Segment::Body(bytes) => unsent.bytes.push(bytes.slice(core::mem::take(&mut body_done)..)),
                Segment::Release(released) => unsent.releases.push((unsent.bytes.len(), released)),
            }
        }
        (sink, unsent)
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

    /// Whether writing has failed.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
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
                if self.copies {
                    let Batch { segments, copied, .. } = &mut *self.incoming.lock();
                    copy_small(segments, copied);
                }
                break;
            }
            self.dirty.store(false, Ordering::Release);
            writer.take_over(&mut self.incoming.lock());
            match writer.write(&mut released) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.copies {
                        let Writer { segments, copied, .. } = &mut *writer;
                        copy_small(segments, copied);
                    }
                    self.dirty.store(true, Ordering::Release);
                    self.blocked.store(true, Ordering::Release);
                    return (Written::Progress(released), true);
                }
                Err(e) => {
                    self.broken.store(true, Ordering::Release);
                    return (Written::Broken(e, released), false);
                }
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

    /// Waits until the other side of the socket sends nothing more, read or not; none: there is no socket.
    pub fn far_end_closes(&self) -> Option<FarEndCloses> {
        self.writer.lock().sink.as_ref().map(WriteHalf::far_end_closes)
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
            incoming.heads.shrink_to(HEADS);
            incoming.segments.shrink_to(SEGMENTS);
            self.copied = incoming.copied;
        } else {
            if self.copied == self.segments.len() {
                self.copied += incoming.copied;
            }
            self.heads.drain(..self.heads_done.min(self.heads.len()));
            self.heads_done = 0;
            self.heads.append(&mut incoming.heads);
            self.segments.append(&mut incoming.segments);
        }
        incoming.copied = 0;
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
            self.copied = self.copied.saturating_sub(1);
        }
    }
}

/// Copies the payloads from the segment `copied` on that use little of the receive buffers that they lie in: what came for
/// others there may be long gone. Neighbours count as one.
fn copy_small(segments: &mut VecDeque<Segment>, copied: &mut usize) {
    let (mut first, mut length, mut end) = (*copied, 0, 0);
    for at in *copied..=segments.len() {
        let body = match segments.get(at) {
            Some(Segment::Body(bytes)) => Some(bytes),
            Some(Segment::Head(_) | Segment::Release(_)) => continue,
            None => None,
        };
        let start = body.map_or(0, |bytes| bytes.as_ptr().addr());
        if body.is_none() || !(end..=end + GAP).contains(&start) {
            if length < SHORT {
                for segment in segments.range_mut(first..at) {
                    if let Segment::Body(bytes) = segment
                        && !ZEROES.as_ptr_range().contains(&bytes.as_ptr())
                    {
                        *bytes = Bytes::copy_from_slice(bytes);
                    }
                }
            }
            (first, length) = (at, 0);
        }
        if let Some(Segment::Body(bytes)) = segments.get(at) {
            length += bytes.len();
            end = start + bytes.len();
        }
    }
    *copied = segments.len();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    /// Who is not to be copied still points into the buffer that is given.
    fn copies(buffer: &Bytes, slices: &[core::ops::Range<usize>]) -> Vec<bool> {
        let mut batch = Batch::default();
        for slice in slices {
            batch.head(|out| out.push(1));
            batch.body(&buffer.slice(slice.clone()).into());
            batch.release(Released::default());
        }
        let (mut segments, mut copied) = (batch.segments, 0);
        copy_small(&mut segments, &mut copied);
        assert_eq!(copied, segments.len());
        let bodies = segments.iter().filter_map(|s| if let Segment::Body(bytes) = s { Some(bytes) } else { None });
        bodies.map(|bytes| !buffer.as_ptr_range().contains(&bytes.as_ptr())).collect()
    }

    #[test]
    fn what_waits_and_uses_little_of_its_buffer_is_copied() {
        let buffer = Bytes::from(vec![7; BUFFER]);
        assert_eq!(copies(&buffer, &[0..1, 5000..5001]), [true, true]);
        assert_eq!(copies(&buffer, core::slice::from_ref(&(0..SHORT))), [false]);
        let neighbours: Vec<_> = (0..31).map(|n| n * 4124..n * 4124 + 4096).collect();
        assert_eq!(copies(&buffer, &neighbours), [false; 31]);
        assert_eq!(copies(&buffer, &[0..1, 5000..5000 + SHORT, 6000 + SHORT..6001 + SHORT]), [true, false, true]);
    }

    /// The socket takes some of it, goes on under another queue, and so on: no byte and no permit is lost or doubled.
    #[tokio::test]
    async fn a_connection_taken_apart_at_any_byte_goes_on_where_it_was() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut stream = Stream::Unix(ours);
        let (mut sent, mut came, mut holds, mut released) = (Vec::new(), Vec::new(), 0, 0);
        let (mut owed, mut blocked) = (Unsent::default(), 0);
        for round in 0..40u8 {
            let (read, write) = stream.split();
            let outbox = Outbox::to_client();
            outbox.connect(write);
            outbox.append(|batch| {
                batch.put_back(&owed);
                for reply in 0..round {
                    let body = vec![round ^ reply; 311 * usize::from(reply)];
                    batch.head(|out| out.extend_from_slice(&[round, reply, 7]));
                    batch.body(&body.clone().into());
                    batch.release(Released { requests: 1, ..Released::default() });
                    sent.extend_from_slice(&[round, reply, 7]);
                    sent.extend_from_slice(&body);
                    holds += 1;
                }
            });
            let (written, full) = outbox.flush();
            let Written::Progress(now) = written else { panic!("{written:?}") };
            released += now.requests;
            blocked += u32::from(full);
            let mut some = [0; 7_001];
            if let Ok(n) = theirs.try_read(&mut some) {
                came.extend_from_slice(&some[..n]);
            }
            let (write, unsent) = outbox.suspend();
            owed = unsent;
            let (socket, kind) = Stream::join(read, write.unwrap()).unwrap().take().unwrap();
            stream = Stream::adopt(socket, kind).unwrap();
        }
        assert!(blocked > 10, "the socket was full {blocked} times");
        stream.write_all_beside(&owed.bytes, &theirs, &mut came).await;
        released += owed.releases.iter().map(|(_, more)| more.requests).sum::<u32>();
        assert_eq!((sent == came, released), (true, holds));
    }

    impl Stream {
        /// Writes the rest while the other side reads.
        async fn write_all_beside(&mut self, bytes: &Payload, theirs: &tokio::net::UnixStream, came: &mut Vec<u8>) {
            let bytes = bytes.to_contiguous();
            let reads = async {
                loop {
                    theirs.readable().await.unwrap();
                    let mut some = [0; 65536];
                    match theirs.try_read(&mut some) {
                        Ok(0) => return,
                        Ok(n) => came.extend_from_slice(&some[..n]),
                        Err(_) => {}
                    }
                }
            };
            let writes = async {
                self.write_all(&bytes).await.unwrap();
                self.close().await.unwrap();
            };
            tokio::join!(reads, writes);
        }
    }

    #[test]
    fn zeroes_are_nobodys_buffer() {
        let mut batch = Batch::default();
        batch.zeroes(100_000);
        let mut copied = 0;
        copy_small(&mut batch.segments, &mut copied);
        assert!(
            batch
                .segments
                .iter()
                .all(|s| matches!(s, Segment::Body(bytes) if ZEROES.as_ptr_range().contains(&bytes.as_ptr())))
        );
    }
}
