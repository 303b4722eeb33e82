//! A socket, bare or inside TLS, that never blocks: what does not fit or is not there is `WouldBlock`.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How much ciphertext is received with one call.
const RECEIVED: usize = 256 << 10;

pub(crate) struct Wire {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
}

struct Tls {
    connection: ClientConnection,
    /// Ciphertext; what comes before `done` has been decrypted.
    incoming: Vec<u8>,
    done: usize,
}

/// What rustls writes ciphertext to.
struct Sink<'a>(&'a TcpStream);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `None` where the call would have blocked.
pub(crate) fn unblocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

impl Tls {
    fn push(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Sink(socket))?;
        }
        Ok(())
    }

    fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = unblocked(self.connection.reader().read(buffer))? {
                return Ok(read);
            }
            self.receive(socket)?;
        }
    }

    /// Takes in more ciphertext and decrypts some of it.
    fn receive(&mut self, socket: &TcpStream) -> io::Result<()> {
        if self.done == self.incoming.len() {
            self.incoming.resize(RECEIVED, 0);
            let received = socket.try_read(&mut self.incoming);
            self.done = 0;
            // Nothing of it is left where nothing came.
            self.incoming.truncate(*received.as_ref().unwrap_or(&0));
            if received? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let mut rest = self.incoming.get(self.done..).unwrap_or_default();
        self.done += self.connection.read_tls(&mut rest)?;
        self.connection.process_new_packets().map_err(io::Error::other)?;
        Ok(())
    }
}

impl Wire {
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, tls: None })
    }

    /// Goes over to TLS.
    pub(crate) async fn secure(&mut self, config: Arc<ClientConfig>) -> io::Result<()> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut tls = Box::new(Tls { connection, incoming: Vec::new(), done: 0 });
        while tls.connection.is_handshaking() {
            let pushed = unblocked(tls.push(&self.socket))?;
            if pushed.is_some() && unblocked(tls.receive(&self.socket))?.is_some() {
                continue;
            }
            let wanted = if pushed.is_some() { Interest::READABLE } else { Interest::WRITABLE };
            self.socket.ready(wanted).await?;
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// What TLS has agreed on.
    pub(crate) fn cipher(&self) -> Option<String> {
        let suite = self.tls.as_ref()?.connection.negotiated_cipher_suite()?.suite();
        suite.as_str().map(str::to_owned)
    }

    pub(crate) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.try_write_vectored(slices) };
        tls.push(&self.socket)?;
        let taken = tls.connection.writer().write_vectored(slices)?;
        unblocked(tls.push(&self.socket))?;
        Ok(taken)
    }

    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.try_read(buffer),
            Some(tls) => {
                // A session that only waits for replies sends what is left here.
                unblocked(tls.push(&self.socket))?;
                tls.read(&self.socket, buffer)
            }
        }
    }

    /// Waits until there may be something to read, or room for what is still to be sent.
    pub(crate) async fn ready(&self, unsent: bool) -> io::Result<()> {
        let encrypted = self.tls.as_ref().is_some_and(|tls| tls.connection.wants_write());
        let both = Interest::READABLE.add(Interest::WRITABLE);
        self.socket.ready(if unsent || encrypted { both } else { Interest::READABLE }).await?;
        Ok(())
    }

    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match unblocked(self.try_write(&[IoSlice::new(bytes)]))? {
                Some(written) => bytes = bytes.get(written..).unwrap_or_default(),
                None => self.ready(true).await?,
            }
        }
        Ok(())
    }

    /// The next `length` bytes, and no byte more: what follows may be TLS.
    pub(crate) async fn read_exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut rest: &mut [u8] = &mut bytes;
        while !rest.is_empty() {
            match unblocked(self.try_read(rest))? {
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(read) => rest = rest.get_mut(read..).unwrap_or_default(),
                None => self.ready(false).await?,
            }
        }
        Ok(bytes)
    }
}
