//! One stream type over TCP and Unix sockets, bare or inside TLS, in two halves.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use nbd_gateway_config::{Endpoint, Host, NbdUri};
use nbd_gateway_policy::backoff::Backoff;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, tcp, unix};
use tokio::time::Instant;

use super::{FarEnd, Peer, TlsRead, TlsStream, TlsWrite, keepalive, zone};

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host (name or address, without brackets, an IPv6 one perhaps with `%` and its zone) and port.
    Tcp(String, u16),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl Address {
    /// Where a URI points to.
    pub fn of(uri: &NbdUri) -> Self {
        match uri.endpoint() {
            Endpoint::Tcp { host: Host::Name(name), port } => Address::Tcp(name.clone(), *port),
            Endpoint::Tcp { host: Host::Address(address), port } => Address::Tcp(address.to_string(), *port),
            Endpoint::Tcp { host: Host::Zoned(address, zone), port } => {
                Address::Tcp(format!("{address}%{zone}"), *port)
            }
            Endpoint::Unix(path) => Address::Unix(path.clone()),
        }
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What kind of socket a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP.
    Tcp,
    /// Unix.
    Unix,
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with NODELAY set.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
    /// TLS over one of them.
    Tls(Box<TlsStream>),
}

/// Whether connect(2) may work in a moment, with nothing changed at either end: the queue of a Unix socket is full (EAGAIN);
/// this host is short of descriptors, memory or ports; the other end dropped a connection before it was complete.
fn passes(error: &io::Error) -> bool {
    use rustix::io::Errno as Os;
    let passing = [
        Os::AGAIN,
        Os::INTR,
        Os::MFILE,
        Os::NFILE,
        Os::NOBUFS,
        Os::NOMEM,
        Os::ADDRNOTAVAIL,
        Os::CONNABORTED,
        Os::CONNRESET,
    ];
    error.raw_os_error().is_some_and(|number| passing.iter().any(|os| os.raw_os_error() == number))
}

impl Stream {
    /// Connects. Cancel-safe: yes, a half-made connection is closed.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(host, port) => {
                let stream = match host.split_once('%').and_then(|(ip, zone)| Some((ip.parse().ok()?, zone))) {
                    Some((ip, zone)) => {
                        let socket = TcpSocket::new_v6()?;
                        let address = zone::on(zone, ip, *port, &socket)?;
                        socket.connect(address).await?
                    }
                    None => TcpStream::connect((host.as_str(), *port)).await?,
                };
                stream.set_nodelay(true)?;
                keepalive::watch(&stream, keepalive::OF_SERVERS);
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// The same, again and again until `until` while all that is wrong is that there is no room for one more connection just
    /// now. Cancel-safe: yes, a half-made connection is closed.
    pub(crate) async fn connect_until(address: &Address, until: Instant) -> io::Result<Self> {
        let (first, most) = (Duration::from_millis(10), Duration::from_millis(500));
        let mut backoff = Backoff::named(first, most, &address.to_string());
        loop {
            let pause = backoff.next_delay();
            match Self::connect(address).await {
                Err(error) if passes(&error) && Instant::now() + pause < until => tokio::time::sleep(pause).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(
                        error.kind(),
                        "its queue of connections is full: is the server accepting?",
                    ));
                }
                connected => return connected,
            }
        }
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Who is on the other side, for logs.
    pub fn peer(&self) -> String {
        match self {
            Stream::Tcp(s) => s.peer_addr().map_or_else(|_| "tcp".to_owned(), |a| a.to_string()),
            Stream::Unix(_) => "unix".to_owned(),
            Stream::Tls(_) => "tls".to_owned(),
        }
    }

    /// Who is on the other side, to know it again.
    pub fn identity(&self) -> Peer {
        match self {
            Stream::Tcp(s) => s.peer_addr().map_or(Peer::Unknown, |address| Peer::Tcp(address.ip().to_canonical())),
            Stream::Unix(s) => s.peer_cred().map_or(Peer::Unknown, |cred| Peer::Unix {
                pid: cred.pid(),
                uid: cred.uid(),
                gid: cred.gid(),
            }),
            // Asked before there is TLS.
            Stream::Tls(_) => Peer::Unknown,
        }
    }

    /// Has the kernel close the connection when the other host has answered nothing for about `limit`.
    pub fn keep_alive(&self, limit: Duration) {
        if let Stream::Tcp(s) = self {
            keepalive::watch(s, limit);
        }
    }

    /// Whether its other side is still there.
    pub fn far_end(&self) -> FarEnd {
        match self {
            Stream::Tcp(s) => FarEnd::of(s.as_fd()),
            Stream::Unix(s) => FarEnd::of(s.as_fd()),
            Stream::Tls(s) => s.far_end(),
        }
    }

    /// Receives what is there into the room of `buffer`; 0 is the end of the stream. Cancel-safe: yes.
    pub async fn fill(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read_buf(buffer).await,
            Stream::Unix(s) => s.read_buf(buffer).await,
            Stream::Tls(s) => std::future::poll_fn(|cx| s.poll_fill(cx, buffer)).await,
        }
    }

    /// Writes all of `bytes`, waiting as needed. Cancel-safe: no, part of it may have gone out.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        AsyncWriteExt::write_all(self, bytes).await?;
        self.flush().await
    }

    /// Ends the sending side in order: with TLS, after saying so. Cancel-safe: yes.
    pub async fn close(&mut self) -> io::Result<()> {
        self.shutdown().await
    }

    /// The same socket, watched by the runtime of the caller from now on.
    pub fn rehome(self) -> io::Result<Self> {
        Ok(match self {
            Stream::Tcp(s) => Stream::Tcp(TcpStream::from_std(s.into_std()?)?),
            Stream::Unix(s) => Stream::Unix(UnixStream::from_std(s.into_std()?)?),
            Stream::Tls(s) => Stream::Tls(Box::new(s.rehome()?)),
        })
    }

    /// Takes the socket out of its runtime, which hears of it no more; nothing is shut down.
    ///
    /// # Errors
    /// Inside TLS: what the connection has agreed on with the other side stays in this process.
    pub fn take(self) -> io::Result<(OwnedFd, SocketKind)> {
        match self {
            Stream::Tcp(s) => Ok((s.into_std()?.into(), SocketKind::Tcp)),
            Stream::Unix(s) => Ok((s.into_std()?.into(), SocketKind::Unix)),
            Stream::Tls(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "cannot take a TLS connection apart")),
        }
    }

    /// A socket that was [taken](Self::take) out of a runtime, watched by that of the caller from now on.
    pub fn adopt(socket: OwnedFd, kind: SocketKind) -> io::Result<Self> {
        Ok(match kind {
            SocketKind::Tcp => Stream::Tcp(TcpStream::from_std(socket.into())?),
            SocketKind::Unix => Stream::Unix(UnixStream::from_std(socket.into())?),
        })
    }

    /// Splits into a half that reads and one that many tasks may write through.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Tcp(r), WriteHalf::Tcp(Arc::new(w)))
            }
            Stream::Unix(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Unix(r), WriteHalf::Unix(Arc::new(w)))
            }
            Stream::Tls(s) => {
                let (r, w) = s.split();
                (ReadHalf::Tls(r), WriteHalf::Tls(w))
            }
        }
    }

    /// Puts two halves of a bare socket together again. A half that is dropped instead would shut the socket down.
    pub fn join(read: ReadHalf, write: WriteHalf) -> io::Result<Self> {
        let other = || io::Error::other("halves of different sockets");
        match (read, write) {
            (ReadHalf::Tcp(r), WriteHalf::Tcp(w)) => {
                let w = Arc::into_inner(w).ok_or_else(other)?;
                r.reunite(w).map(Stream::Tcp).map_err(|_| other())
            }
            (ReadHalf::Unix(r), WriteHalf::Unix(w)) => {
                let w = Arc::into_inner(w).ok_or_else(other)?;
                r.reunite(w).map(Stream::Unix).map_err(|_| other())
            }
            _ => Err(other()),
        }
    }
}

/// For what is generic over streams: the command-line client.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => pin!(s).poll_read(cx, buffer),
            Stream::Unix(s) => pin!(s).poll_read(cx, buffer),
            Stream::Tls(s) => {
                let mut plain = BytesMut::with_capacity(buffer.remaining().min(64 * 1024));
                ready!(s.poll_fill(cx, &mut plain))?;
                buffer.put_slice(&plain);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => pin!(s).poll_write(cx, bytes),
            Stream::Unix(s) => pin!(s).poll_write(cx, bytes),
            Stream::Tls(s) => s.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => pin!(s).poll_flush(cx),
            Stream::Unix(s) => pin!(s).poll_flush(cx),
            Stream::Tls(s) => s.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => pin!(s).poll_shutdown(cx),
            Stream::Unix(s) => pin!(s).poll_shutdown(cx),
            Stream::Tls(s) => s.poll_close(cx),
        }
    }
}

/// The reading half.
#[derive(Debug)]
pub enum ReadHalf {
    /// TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Unix.
    Unix(unix::OwnedReadHalf),
    /// TLS.
    Tls(TlsRead),
}

impl ReadHalf {
    /// Whether its other side is still there.
    pub fn far_end(&self) -> FarEnd {
        match self {
            ReadHalf::Tcp(r) => FarEnd::of(r.as_ref().as_fd()),
            ReadHalf::Unix(r) => FarEnd::of(r.as_ref().as_fd()),
            ReadHalf::Tls(r) => r.far_end(),
        }
    }

    /// Receives what is there into the room of `buffer`; 0 is the end of the stream. A short read costs no second call.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            ReadHalf::Tcp(r) => pin!(r.read_buf(buffer)).poll(cx),
            ReadHalf::Unix(r) => pin!(r.read_buf(buffer)).poll(cx),
            ReadHalf::Tls(r) => r.poll_fill(cx, buffer),
        }
    }
}

/// Ends when the other side of a socket sends nothing more.
pub type FarEndCloses = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The writing half.
#[derive(Debug)]
pub enum WriteHalf {
    /// TCP.
    Tcp(Arc<tcp::OwnedWriteHalf>),
    /// Unix.
    Unix(Arc<unix::OwnedWriteHalf>),
    /// TLS.
    Tls(TlsWrite),
}

impl WriteHalf {
    /// Writes what fits; `WouldBlock` if nothing does. TLS may keep some of it until it is flushed.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(w) => w.try_write_vectored(slices),
            WriteHalf::Unix(w) => w.try_write_vectored(slices),
            WriteHalf::Tls(w) => w.try_write(slices),
        }
    }

    /// Writes what was kept; `WouldBlock` if not all of it fits.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        match self {
            WriteHalf::Tcp(_) | WriteHalf::Unix(_) => Ok(()),
            WriteHalf::Tls(w) => w.try_flush(),
        }
    }

    /// Waits until something may fit. One task at a time may wait.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            WriteHalf::Tcp(w) => (**w).as_ref().poll_write_ready(cx),
            WriteHalf::Unix(w) => (**w).as_ref().poll_write_ready(cx),
            WriteHalf::Tls(w) => w.poll_writable(cx),
        }
    }

    /// Waits until the other side sends nothing more, whether what it has sent was read or not. Keeps the socket until it is
    /// dropped. Cancel-safe: yes.
    pub fn far_end_closes(&self) -> FarEndCloses {
        // Priority is of no interest: this is how tokio tells of the end without telling of data.
        match self {
            WriteHalf::Tcp(w) => {
                let w = Arc::clone(w);
                Box::pin(async move { _ = w.ready(Interest::PRIORITY).await })
            }
            WriteHalf::Unix(w) => {
                let w = Arc::clone(w);
                Box::pin(async move { _ = w.ready(Interest::PRIORITY).await })
            }
            WriteHalf::Tls(w) => w.far_end_closes(),
        }
    }

    /// Ends this direction: what was written is delivered, then who reads gets the end of the stream. With TLS it is said
    /// that nothing follows.
    pub fn end(&self) {
        self.shut(rustix::net::Shutdown::Write, true);
    }

    /// Has the kernel drop what it has not delivered once the socket is closed (TCP: SO_LINGER of 0, a reset). What is
    /// in a Unix socket is with the other process already.
    pub fn forget_unsent(&self) {
        match self {
            // Fails only on a socket that is gone, and with it what it held.
            WriteHalf::Tcp(w) => {
                let _ = rustix::net::sockopt::set_socket_linger((**w).as_ref().as_fd(), Some(Duration::ZERO));
            }
            WriteHalf::Unix(_) => {}
            WriteHalf::Tls(w) => w.forget_unsent(),
        }
    }

    /// Ends both directions at once: who reads gets the end of the stream.
    pub fn cut(&self) {
        self.shut(rustix::net::Shutdown::Both, false);
    }

    /// The same; with TLS, after saying that nothing follows.
    pub fn goodbye(&self) {
        self.shut(rustix::net::Shutdown::Both, true);
    }

    pub(super) fn shut(&self, how: rustix::net::Shutdown, polite: bool) {
        // Fails only if the other side was faster.
        let _ = match self {
            WriteHalf::Tcp(w) => rustix::net::shutdown((**w).as_ref().as_fd(), how),
            WriteHalf::Unix(w) => rustix::net::shutdown((**w).as_ref().as_fd(), how),
            WriteHalf::Tls(w) => return w.shut(how, polite),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_waited_for_and_a_refusal_is_not() {
        let path = std::env::temp_dir().join(format!("nbd-gateway-queue-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket: OwnedFd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = Address::Unix(path.clone());
        let mut queued = Vec::new();
        let full = loop {
            match Stream::connect(&address).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let soon = || Instant::now() + Duration::from_millis(200);
        let error = Stream::connect_until(&address, soon()).await.unwrap_err();
        let why = "its queue of connections is full: is the server accepting?";
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::WouldBlock, why));
        let waiting = tokio::spawn({
            let (address, until) = (address.clone(), Instant::now() + Duration::from_secs(60));
            async move { Stream::connect_until(&address, until).await }
        });
        tokio::task::yield_now().await;
        for _ in &queued {
            drop(rustix::net::accept(&socket).unwrap());
        }
        waiting.await.unwrap().unwrap();
        drop(socket);
        let begun = Instant::now();
        let refused = Stream::connect_until(&address, begun + Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::fs::remove_file(&path).unwrap();
    }
}
