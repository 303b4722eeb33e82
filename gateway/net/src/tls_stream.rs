//! A stream inside TLS, in two halves that share one rustls connection.
//!
//! Owns when bytes are encrypted, decrypted and moved. Never looks at certificates. Both halves take a short lock; nobody
//! waits for a socket under it. Written bytes are encrypted where they are appended and go out in one vectored write; what
//! a full socket does not take waits here, at most [`BUFFERED`] bytes and the records they lie in, and nothing more is
//! taken before it is gone. So what a reply holds is released at the latest when its bytes are among those.
//! Bytes that arrive are read 64 KiB at once; an idle stream keeps no buffer for them but rustls' own.
//! What the connection itself has to say (tickets, key updates, alerts) goes out with the reading half's polls.

use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::{FarEnd, FarEndCloses, ReadHalf, Stream, WriteHalf};
use crate::tls::{BackendTls, ListenerTls, PeerCertificate, Side, TlsError};

/// The most bytes that wait, encrypted, for room in the socket.
const BUFFERED: usize = 128 * 1024;
/// How much is received at once.
const RECEIVED: usize = 64 * 1024;
/// How long whoever is refused has to take note of why.
const FAREWELL: Duration = Duration::from_millis(500);

/// What both halves use.
#[derive(Debug)]
struct Shared {
    plain: WriteHalf,
    connection: Mutex<Connection>,
}

/// A whole stream.
#[derive(Debug)]
pub struct TlsStream {
    read: TlsRead,
    write: TlsWrite,
}

/// The reading half.
#[derive(Debug)]
pub struct TlsRead {
    plain: Box<ReadHalf>,
    shared: Arc<Shared>,
    /// Received and not yet given to rustls.
    incoming: BytesMut,
    side: Side,
}

/// The writing half.
#[derive(Debug)]
pub struct TlsWrite(Arc<Shared>);

impl TlsStream {
    /// Shakes hands with a client, whose certificate comes with the stream if it had to show one.
    /// Cancel-safe: no; dropped midway, the connection is closed.
    pub async fn accept(stream: Stream, tls: &ListenerTls) -> Result<(Stream, Option<PeerCertificate>), TlsError> {
        let connection = ServerConnection::new(tls.settings()).map_err(|error| TlsError::of(&error, Side::Client))?;
        let stream = Self::shake_hands(stream, Connection::Server(connection), Side::Client).await?;
        let shown = stream.write.0.connection.lock().peer_certificates().and_then(<[_]>::first).cloned();
        let peer = shown.map(|certificate| PeerCertificate::read(&certificate, now())).transpose();
        let peer = peer.map_err(|why| TlsError::Certificate { other: "client", why: why.to_string() })?;
        Ok((Stream::Tls(Box::new(stream)), peer))
    }

    /// Shakes hands with a server. Cancel-safe: no; dropped midway, the connection is closed.
    pub async fn connect(stream: Stream, tls: &BackendTls) -> Result<Stream, TlsError> {
        let (settings, name) = tls.settings();
        let connection = ClientConnection::new(settings, name).map_err(|error| TlsError::of(&error, Side::Server))?;
        let stream = Self::shake_hands(stream, Connection::Client(connection), Side::Server).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn shake_hands(stream: Stream, mut connection: Connection, side: Side) -> Result<Self, TlsError> {
        connection.set_buffer_limit(Some(BUFFERED));
        let (read, write) = stream.split();
        let shared = Arc::new(Shared { plain: write, connection: Mutex::new(connection) });
        let read = TlsRead { plain: Box::new(read), shared: Arc::clone(&shared), incoming: BytesMut::new(), side };
        let mut stream = Self { read, write: TlsWrite(shared) };
        let done = std::future::poll_fn(|cx| stream.read.poll_handshake(cx)).await;
        if let Err(fault) = done {
            stream.farewell().await;
            return Err(fault);
        }
        Ok(stream)
    }

    /// Waits until the other side has closed, so that it reads the alert and not a reset.
    async fn farewell(mut self) {
        self.write.0.plain.end();
        let gone = std::future::poll_fn(|cx| {
            loop {
                self.read.incoming.clear();
                self.read.incoming.reserve(4096);
                match ready!(self.read.plain.poll_fill(cx, &mut self.read.incoming)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_) => {}
                }
            }
        });
        // However it ends, the connection is closed.
        let _ = tokio::time::timeout(FAREWELL, gone).await;
    }

    /// The same, watched by the runtime of the caller from now on.
    pub(super) fn rehome(self) -> io::Result<Self> {
        let Self { read, write } = self;
        drop(write);
        let TlsRead { plain, shared, incoming, side } = read;
        // Nobody else has it before it is split.
        let Shared { plain: write, connection } = Arc::into_inner(shared).ok_or(io::ErrorKind::NotConnected)?;
        let (read, write) = Stream::join(*plain, write)?.rehome()?.split();
        let shared = Arc::new(Shared { plain: write, connection });
        let read = TlsRead { plain: Box::new(read), shared: Arc::clone(&shared), incoming, side };
        Ok(Self { read, write: TlsWrite(shared) })
    }

    pub(super) fn far_end(&self) -> FarEnd {
        self.read.far_end()
    }

    pub(super) fn split(self) -> (TlsRead, TlsWrite) {
        (self.read, self.write)
    }

    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.read.poll_fill(cx, buffer)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.write.try_write(&[IoSlice::new(bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.write.poll_writable(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.write.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.write.poll_writable(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }

    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Said once, however often this is polled.
        self.write.0.connection.lock().send_close_notify();
        ready!(self.poll_flush(cx))?;
        self.write.0.plain.end();
        Poll::Ready(Ok(()))
    }
}

impl Shared {
    /// Writes what is encrypted; `WouldBlock` if not all of it fits.
    fn push(&self, connection: &mut Connection) -> io::Result<()> {
        while connection.wants_write() {
            if connection.write_tls(&mut Sink(&self.plain))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// The same, for the task that reads; what does not fit has it woken when there is room.
    fn poll_push(&self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.push(connection) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.plain.poll_writable(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }
}

/// Unix time in seconds, by which certificates are valid or not.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The socket, as rustls writes to it.
struct Sink<'a>(&'a WriteHalf);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsRead {
    /// Decrypts what is there into the room of `buffer`; 0 is the end of the stream, also one without close_notify: NBD says
    /// itself where a conversation ends, and what is cut in the middle of a message is noticed there.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let before = buffer.len();
        loop {
            {
                let shared = Arc::clone(&self.shared);
                let mut connection = shared.connection.lock();
                let ended = self.decrypt(&mut connection, buffer)?;
                // What does not fit goes out when there is room: this task is woken for it. Where writing fails, reading still
                // brings what the other side said before it left, which may be why.
                let _ = shared.poll_push(&mut connection, cx);
                let got = buffer.len() - before;
                if got > 0 || ended || buffer.len() == buffer.capacity() {
                    return Poll::Ready(Ok(got));
                }
            }
            match self.receive(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // An idle stream keeps none.
                    self.incoming = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
    }

    pub(super) fn far_end(&self) -> FarEnd {
        self.plain.far_end()
    }

    /// Decrypts as much of what was received as there is room for. Whether the other side has said that nothing follows.
    fn decrypt(&mut self, connection: &mut Connection, buffer: &mut BytesMut) -> io::Result<bool> {
        loop {
            let ended = loop {
                let room = buffer.capacity() - buffer.len();
                if room == 0 {
                    return Ok(false);
                }
                let mut reader = connection.reader();
                match reader.fill_buf() {
                    Ok([]) => break true,
                    Ok(chunk) => {
                        let chunk = chunk.get(..room).unwrap_or(chunk);
                        buffer.extend_from_slice(chunk);
                        let taken = chunk.len();
                        reader.consume(taken);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                    Err(error) => return Err(error),
                }
            };
            if ended || self.incoming.is_empty() {
                return Ok(ended);
            }
            self.feed(connection)?;
        }
    }

    /// Gives rustls some of what was received.
    fn feed(&mut self, connection: &mut Connection) -> Result<(), TlsError> {
        let mut rest: &[u8] = &self.incoming;
        let other = |error: io::Error| TlsError::Io(error.to_string());
        let taken = connection.read_tls(&mut rest).map_err(other)?;
        self.incoming.advance(taken);
        if taken == 0 {
            // It has said that nothing follows.
            self.incoming.clear();
        }
        match connection.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => {
                // The alert says why; a socket that is full does not get it.
                let _ = self.shared.push(connection);
                Err(TlsError::of(&error, self.side))
            }
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.incoming.capacity() - self.incoming.len() < RECEIVED / 2 {
            self.incoming.reserve(RECEIVED);
        }
        self.plain.poll_fill(cx, &mut self.incoming)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        let broken = |error: io::Error| TlsError::Io(error.to_string());
        loop {
            {
                let shared = Arc::clone(&self.shared);
                let mut connection = shared.connection.lock();
                ready!(shared.poll_push(&mut connection, cx)).map_err(broken)?;
                if !connection.is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
                if !self.incoming.is_empty() {
                    self.feed(&mut connection)?;
                    continue;
                }
            }
            if ready!(self.receive(cx)).map_err(broken)? == 0 {
                return Poll::Ready(Err(TlsError::closed(self.side)));
            }
        }
    }
}

impl TlsWrite {
    /// Encrypts and writes what fits; `WouldBlock` if what was taken before is not yet with the kernel.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut connection = self.0.connection.lock();
        self.0.push(&mut connection)?;
        let taken = connection.writer().write_vectored(slices)?;
        match self.0.push(&mut connection) {
            // It goes out before anything else is taken.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Writes what was taken; `WouldBlock` if some of it is left.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        self.0.push(&mut self.0.connection.lock())
    }

    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.plain.poll_writable(cx)
    }

    pub(super) fn far_end_closes(&self) -> FarEndCloses {
        self.0.plain.far_end_closes()
    }

    pub(super) fn forget_unsent(&self) {
        self.0.plain.forget_unsent();
    }

    /// Ends a direction or both; if `polite`, after saying that nothing follows.
    pub(super) fn shut(&self, how: rustix::net::Shutdown, polite: bool) {
        if polite {
            let mut connection = self.0.connection.lock();
            connection.send_close_notify();
            // A socket that is full, or gone, does not get it.
            let _ = self.0.push(&mut connection);
        }
        self.0.plain.shut(how, false);
    }
}

#[cfg(test)]
mod tests;
