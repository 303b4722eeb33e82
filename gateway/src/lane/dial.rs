//! Making a backend connection: connect, shake hands, within one deadline.

use nbd_gateway_policy::types::Span;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Connected, Link, Server};
use crate::net::{Address, Reached, Stream, TlsStream};
use crate::proto::handshake::client::{Client, Closed, Contexts, Goal, HandshakeError, Negotiated, Progress, Wishes};
use crate::proto::{Inbox, Info, Opt, Rep};
use crate::tls::{BackendTls, TlsFault};

/// Why a backend could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No connection.
    #[error("can't connect to backend {address}: {error}")]
    Connect {
        /// Where to.
        address: Address,
        /// Why not.
        error: io::Error,
    },
    /// The connection broke during the handshake.
    #[error("backend {address} broke the connection during the handshake: {error}")]
    Broken {
        /// Where to.
        address: Address,
        /// The option whose answer was awaited.
        asked: Option<Opt>,
        /// How.
        error: io::Error,
    },
    /// The handshake failed.
    #[error("backend {address}: {error}")]
    Handshake {
        /// Where to.
        address: Address,
        /// How.
        error: HandshakeError,
    },
    /// There is no TLS.
    #[error("backend {address}: {fault}")]
    Tls {
        /// Where to.
        address: Address,
        /// Why not.
        fault: TlsFault,
    },
    /// No answer in time. `qemu-nbd` without `-e` leaves a second connection without a greeting.
    #[error("backend {address}: {}", .reached.late(format_args!("{} (dial-timeout)", Span(*.limit))))]
    Late {
        /// Where to.
        address: Address,
        /// How long it had.
        limit: Duration,
        /// What there was of it.
        reached: Reached,
    },
}

impl DialError {
    /// Whether the backend is there and does not know the export's name.
    pub(crate) fn is_unknown_name(&self) -> bool {
        matches!(self, DialError::Handshake { error: HandshakeError::Refused { rep: Rep::ERR_UNKNOWN, .. }, .. })
    }

    /// Whether nobody listens there.
    pub(crate) fn is_refused(&self) -> bool {
        match self {
            DialError::Connect { address, error } => match error.kind() {
                io::ErrorKind::ConnectionRefused => true,
                io::ErrorKind::NotFound => matches!(address, Address::Unix(_)),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the backend was there and did not answer.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, DialError::Late { .. })
    }

    /// Whether it may be reached by asking for nothing that is not needed.
    fn is_about_extras(&self) -> bool {
        match self {
            DialError::Handshake { error, .. } => error.is_about_extras(),
            // As the end of the stream, where what it had not read made it a reset.
            DialError::Broken { asked: Some(opt), .. } => {
                HandshakeError::Closed { when: Closed::InReply(*opt) }.is_about_extras()
            }
            _ => false,
        }
    }
}

/// How long a look at who listens may take.
const KNOCK: Duration = Duration::from_secs(1);

/// How to reach one backend export.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    /// Where it listens.
    pub address: Address,
    /// The export's name there.
    pub export: String,
    /// TLS, without which nothing is said to it; None: everything goes in the clear.
    pub tls: Option<Arc<BackendTls>>,
    /// Deadline for connect and handshake together.
    pub limit: Duration,
    /// Whether nothing is asked for that an export can be served without: no framing, context or information.
    pub plain: bool,
}

impl Dialer {
    /// The first connection of an export. A server that hangs up on something that is not needed, or answers it with nonsense,
    /// is tried once more without; the dialer that comes with the connection asks like the one that made it, so that later
    /// connections are like the first. Cancel-safe: as [`Dialer::dial`].
    pub(crate) async fn open(&self) -> Result<(Connected, Self), DialError> {
        let until = Instant::now() + self.limit;
        let error = match self.dial().await {
            Err(error) if !self.plain && error.is_about_extras() => error,
            dialled => return Ok((dialled?, self.clone())),
        };
        let plain = Self { plain: true, ..self.clone() };
        match tokio::time::timeout_at(until, plain.handshake(until, &Mutex::default())).await {
            Ok(Ok(connected)) => {
                tracing::warn!(%error, "a backend is used without extended headers, structured replies and metadata contexts until its export is opened again");
                Ok((connected, plain))
            }
            // What it says to a stock client's questions tells more.
            Ok(Err(_)) | Err(_) => Err(error),
        }
    }

    /// One connection, ready for transmission. Cancel-safe: yes, a half-made connection is closed.
    pub(crate) async fn dial(&self) -> Result<Connected, DialError> {
        let (until, reached) = (Instant::now() + self.limit, Mutex::default());
        match tokio::time::timeout_at(until, self.handshake(until, &reached)).await {
            Ok(result) => result,
            Err(_) => Err(self.late(reached.into_inner())),
        }
    }

    /// Looks who listens there, without a word. None: not to be seen within a second. Cancel-safe: yes.
    pub(crate) async fn knock(&self) -> Option<Result<Link, DialError>> {
        let made = Instant::now();
        let stream = tokio::time::timeout(KNOCK, Stream::connect(&self.address)).await.ok()?;
        let failed = |error| DialError::Connect { address: self.address.clone(), error };
        Some(stream.map(|stream| Link { made, server: Server::of(&stream) }).map_err(failed))
    }

    fn late(&self, reached: Reached) -> DialError {
        DialError::Late { address: self.address.clone(), limit: self.limit, reached }
    }

    async fn handshake(&self, until: Instant, reached: &Mutex<Reached>) -> Result<Connected, DialError> {
        let wishes = Wishes {
            contexts: Contexts::All,
            infos: vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE, Info::RESIZE],
            ..Wishes::go(self.export.clone())
        };
        let wishes = if self.plain { wishes.only_what_is_needed() } else { wishes };
        let (mut negotiation, negotiated) = self.negotiate(wishes, until, reached).await?;
        negotiation.send().await?;
        let Negotiation { stream, inbox, link, .. } = negotiation;
        Ok(Connected { negotiated, stream, inbox, link })
    }

    /// A connection that stays in its negotiation, and what the server says of the export there; size 0 is what some say of
    /// every export. Cancel-safe: as [`Dialer::dial`].
    pub(crate) async fn watch(&self) -> Result<(Negotiation, Negotiated), DialError> {
        let (until, reached) = (Instant::now() + self.limit, Mutex::default());
        let wishes = Wishes { goal: Goal::Watch, ..Wishes::go(self.export.clone()).only_what_is_needed() };
        match tokio::time::timeout_at(until, self.negotiate(wishes, until, &reached)).await {
            Ok(result) => result,
            Err(_) => Err(self.late(reached.into_inner())),
        }
    }

    /// What the server says of the export on a connection that [`Dialer::watch`] made, to whichever export. Cancel-safe: no, the
    /// connection is of no further use.
    pub(crate) async fn ask(&self, negotiation: &mut Negotiation) -> Result<Negotiated, DialError> {
        negotiation.client.ask_info(&self.export);
        match tokio::time::timeout(self.limit, negotiation.go_on()).await {
            Ok(Ok(Some(negotiated))) => Ok(negotiated),
            Ok(Ok(None)) => Err(DialError::Handshake { address: self.address.clone(), error: HandshakeError::Over }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.late(Reached::Greeting)),
        }
    }

    async fn negotiate(
        &self,
        wishes: Wishes,
        until: Instant,
        reached: &Mutex<Reached>,
    ) -> Result<(Negotiation, Negotiated), DialError> {
        let address = || self.address.clone();
        let made = Instant::now();
        let stream = Stream::connect_until(&self.address, until).await;
        let stream = stream.map_err(|error| DialError::Connect { address: address(), error })?;
        *reached.lock() = Reached::Connection;
        let client = Client::new(Wishes { tls: self.tls.is_some(), ..wishes });
        let link = Link { made, server: Server::of(&stream) };
        let mut negotiation = Negotiation { address: address(), client, stream, inbox: Inbox::default(), link };
        // It is the server's to speak first.
        negotiation.receive().await?;
        *reached.lock() = Reached::Greeting;
        loop {
            match (negotiation.go_on().await?, &self.tls) {
                (Some(negotiated), _) => return Ok((negotiation, negotiated)),
                (None, Some(tls)) => negotiation = negotiation.secure(tls).await?,
                // TLS is never agreed on without having been asked for.
                (None, None) => {
                    return Err(DialError::Handshake { address: address(), error: HandshakeError::Over });
                }
            }
        }
    }
}

/// A connection whose handshake is under way.
#[derive(Debug)]
pub(crate) struct Negotiation {
    address: Address,
    client: Client,
    stream: Stream,
    inbox: Inbox,
    link: Link,
}

impl Negotiation {
    /// Leaves in order, if the server takes it at once. Cancel-safe: yes.
    pub(crate) async fn leave(mut self) {
        let abort = async {
            self.client.abort();
            self.send().await.is_ok() && self.stream.close().await.is_ok()
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), abort).await;
    }

    fn broken(&self, error: io::Error) -> DialError {
        DialError::Broken { address: self.address.clone(), asked: self.client.asked(), error }
    }

    async fn send(&mut self) -> Result<(), DialError> {
        match self.client.take_output() {
            Some(bytes) => self.stream.write_all(&bytes).await.map_err(|error| self.broken(error)),
            None => Ok(()),
        }
    }

    /// Inside TLS, which the server has agreed to.
    async fn secure(mut self, tls: &BackendTls) -> Result<Self, DialError> {
        let address = self.address.clone();
        self.client
            .secured(self.inbox.bytes())
            .map_err(|error| DialError::Handshake { address: address.clone(), error })?;
        let stream = TlsStream::connect(self.stream, tls).await;
        let stream = stream.map_err(|fault| DialError::Tls { address: address.clone(), fault })?;
        Ok(Self { address, client: self.client, stream, inbox: self.inbox, link: self.link })
    }

    /// Until it is done, where what is left to send is not sent yet; None: until TLS has to be there.
    async fn go_on(&mut self) -> Result<Option<Negotiated>, DialError> {
        loop {
            let progress = self.client.handle_input(self.inbox.bytes());
            let progress = progress.map_err(|error| DialError::Handshake { address: self.address.clone(), error })?;
            match progress {
                Progress::Done(negotiated) => return Ok(Some(negotiated)),
                Progress::StartTls => {
                    self.send().await?;
                    return Ok(None);
                }
                Progress::Need(_) | Progress::Listed(_) => {}
            }
            self.send().await?;
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), DialError> {
        let room = self.inbox.bytes();
        room.reserve(8192);
        match self.stream.fill(room).await {
            Ok(0) => Err(DialError::Handshake { address: self.address.clone(), error: self.client.handle_eof() }),
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn late(address: std::net::SocketAddr) -> String {
        let dialer = Dialer {
            address: Address::Tcp(address.ip().to_string(), address.port()),
            export: "x".to_owned(),
            tls: None,
            limit: Duration::from_secs(10),
            plain: false,
        };
        dialer.dial().await.unwrap_err().to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_keeps_us_waiting_is_told_by_how_far_it_let_us_come() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = silent.local_addr().unwrap();
        let expect = format!(
            "backend {at}: connected, but the server sent no greeting within 10s (dial-timeout): is it accepting, and does it \
             take one more connection?"
        );
        assert_eq!(late(at).await, expect, "never accepted");

        let server = tokio::spawn(async move {
            // The first is the one of before.
            let before = silent.accept().await.unwrap();
            let (mut stream, _) = silent.accept().await.unwrap();
            stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").await.unwrap();
            (before, stream, std::future::pending::<()>().await)
        });
        let expect = format!("backend {at}: the server did not finish the handshake within 10s (dial-timeout)");
        assert_eq!(late(at).await, expect, "greeted, and no more");
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_queue_of_connections_is_full_is_not_said_to_have_connected() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(0).unwrap();
        let at = full.local_addr().unwrap();
        let one_more = || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)).ok();
        let queued: Vec<_> = std::iter::from_fn(one_more).collect();
        let expect = format!(
            "backend {at}: no connection within 10s (dial-timeout): is the host up, and is the server accepting?"
        );
        assert_eq!(late(at).await, expect, "{} in the queue", queued.len());
    }
}
