//! Making a backend connection, within one deadline; and what is worth another attempt.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_net::tls::BackendTls;
use nbd_gateway_net::{Address, Negotiation, NegotiationError, Stream};
use nbd_gateway_policy::types::Span;
use nbd_gateway_proto::handshake::client::{Contexts, Goal, HandshakeError, Negotiated, Wishes};
use nbd_gateway_proto::{Info, Rep};
use tokio::time::Instant;

use super::{Connected, Link, Server};
use crate::fault::Fault;

/// Why a backend could not be reached.
#[derive(Debug)]
pub(crate) struct DialError {
    address: Address,
    limit: Duration,
    why: NegotiationError,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, limit, why } = self;
        match why {
            NegotiationError::Connect(error) => write!(f, "can't connect to backend {address}: {error}"),
            NegotiationError::Broken { error, .. } => {
                write!(f, "backend {address} broke the connection during the handshake: {error}")
            }
            NegotiationError::Handshake(error) => write!(f, "backend {address}: {error}"),
            NegotiationError::Tls(fault) => write!(f, "backend {address}: {fault}"),
            NegotiationError::Late(reached) => {
                write!(f, "backend {address}: {}", reached.late(format_args!("{} (dial-timeout)", Span(*limit))))
            }
        }
    }
}

impl std::error::Error for DialError {}

impl DialError {
    /// Whether the backend is there and does not know the export's name.
    pub(crate) fn is_unknown_name(&self) -> bool {
        let unknown = |error: &HandshakeError| matches!(error, HandshakeError::Refused { rep: Rep::ERR_UNKNOWN, .. });
        matches!(&self.why, NegotiationError::Handshake(error) if unknown(error))
    }

    /// Whether nobody listens there.
    pub(crate) fn is_refused(&self) -> bool {
        match &self.why {
            NegotiationError::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => true,
                io::ErrorKind::NotFound => matches!(self.address, Address::Unix(_)),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the backend was there and did not answer.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self.why, NegotiationError::Late(_))
    }

    /// Whether the backend was there, and the two did not come to an agreement.
    pub(crate) fn is_disagreement(&self) -> bool {
        matches!(self.why, NegotiationError::Handshake(_) | NegotiationError::Broken { .. })
    }
}

impl From<DialError> for Fault {
    fn from(error: DialError) -> Self {
        Self::backend(error.to_string())
    }
}

/// How long a look at who listens may take.
const KNOCK: Duration = Duration::from_secs(1);

/// How to reach one backend export.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
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
        let error = match self.enter(until).await {
            Err(error) if !self.plain && error.why.is_about_extras() => error,
            dialled => return Ok((dialled?, self.clone())),
        };
        let plain = Self { plain: true, ..self.clone() };
        match plain.enter(until).await {
            Ok(connected) => {
                tracing::warn!(%error, "a backend is used without extended headers, structured replies and metadata contexts until its export is opened again");
                Ok((connected, plain))
            }
            // What it says to a stock client's questions tells more.
            Err(_) => Err(error),
        }
    }

    /// One connection, ready for transmission. Cancel-safe: yes, a half-made connection is closed.
    pub(crate) async fn dial(&self) -> Result<Connected, DialError> {
        self.enter(Instant::now() + self.limit).await
    }

    /// Looks who listens there, without a word. None: not to be seen within a second. Cancel-safe: yes.
    pub(crate) async fn knock(&self) -> Option<Result<Link, DialError>> {
        let made = Instant::now();
        let stream = tokio::time::timeout(KNOCK, Stream::connect(&self.address)).await.ok()?;
        let link = stream.map(|stream| Link { made, server: Server::of(&stream) });
        Some(link.map_err(|error| self.failed(NegotiationError::Connect(error))))
    }

    async fn enter(&self, until: Instant) -> Result<Connected, DialError> {
        let wishes = Wishes {
            contexts: Contexts::All,
            infos: vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE, Info::RESIZE],
            ..Wishes::go(self.export.clone())
        };
        let wishes = if self.plain { wishes.only_what_is_needed() } else { wishes };
        let (negotiation, negotiated, link) = self.negotiate(wishes, until).await?;
        let (stream, inbox) = negotiation.into_parts();
        Ok(Connected { negotiated, stream, inbox, link })
    }

    /// A connection that stays in its negotiation, and what the server says of the export there; size 0 is what some say of
    /// every export. Cancel-safe: as [`Dialer::dial`].
    pub(crate) async fn watch(&self) -> Result<(Negotiation, Negotiated), DialError> {
        let wishes = Wishes { goal: Goal::Watch, ..Wishes::go(self.export.clone()).only_what_is_needed() };
        let (negotiation, negotiated, _) = self.negotiate(wishes, Instant::now() + self.limit).await?;
        Ok((negotiation, negotiated))
    }

    /// What the server says of the export on a connection that [`Dialer::watch`] made, to whichever export. Cancel-safe: no, the
    /// connection is of no further use.
    pub(crate) async fn ask(&self, negotiation: &mut Negotiation) -> Result<Negotiated, DialError> {
        negotiation.ask(&self.export, self.limit).await.map_err(|why| self.failed(why))
    }

    async fn negotiate(&self, wishes: Wishes, until: Instant) -> Result<(Negotiation, Negotiated, Link), DialError> {
        let made = Instant::now();
        let seen = |stream: &Stream| Link { made, server: Server::of(stream) };
        let opened = Negotiation::open(&self.address, self.tls.as_deref(), wishes, until, seen).await;
        opened.map_err(|why| self.failed(why))
    }

    fn failed(&self, why: NegotiationError) -> DialError {
        DialError { address: self.address.clone(), limit: self.limit, why }
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
