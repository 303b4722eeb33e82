//! The handshake with an NBD server, from connect to transmission: the one driver of [`Client`], for lanes, looks at
//! sizes, the client's commands and the agent.
//!
//! Owns the stages, and which of them time was over in. Never retries, and never names the server: how it is named, and
//! what is worth another attempt, differs between callers.

use std::io;
use std::time::Duration;

use nbd_gateway_proto::handshake::client::{Client, Closed, HandshakeError, Negotiated, Progress, Wishes};
use nbd_gateway_proto::{Inbox, Opt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

use crate::tls::{BackendTls, TlsError};
use crate::{Address, Reached, Stream, TlsStream};

/// How long a server has to take leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no connection to a server.
#[derive(Debug)]
pub enum NegotiationError {
    /// No connection.
    Connect(io::Error),
    /// The connection broke during the handshake.
    Broken {
        /// The option whose answer was awaited.
        asked: Option<Opt>,
        /// How.
        error: io::Error,
    },
    /// The handshake failed.
    Handshake(HandshakeError),
    /// There is no TLS.
    Tls(TlsError),
    /// Not done in time. `qemu-nbd` without `-e` leaves a second connection without a greeting.
    Late(Reached),
}

impl NegotiationError {
    /// Whether the server may be reached by [asking for nothing that is not needed](Wishes::only_what_is_needed).
    pub fn is_about_extras(&self) -> bool {
        match self {
            Self::Handshake(error) => error.is_about_extras(),
            // As the end of the stream, where what the server had not read made it a reset.
            Self::Broken { asked: Some(opt), .. } => {
                HandshakeError::Closed { when: Closed::InReply(*opt) }.is_about_extras()
            }
            _ => false,
        }
    }
}

/// A connection whose handshake is under way, or done.
#[derive(Debug)]
pub struct Negotiation<S = Stream> {
    client: Client,
    stream: S,
    inbox: Inbox,
}

impl Negotiation {
    /// Connects and shakes hands until `until`; inside TLS, if it is given. `seen` gets the socket before anything is said.
    /// Cancel-safe: yes, a half-made connection is closed.
    pub async fn open<T>(
        address: &Address,
        tls: Option<&BackendTls>,
        wishes: Wishes,
        until: Instant,
        seen: impl FnOnce(&Stream) -> T,
    ) -> Result<(Self, Negotiated, T), NegotiationError> {
        let late = |reached| move |_: Elapsed| NegotiationError::Late(reached);
        let connected = timeout_at(until, Stream::connect_until(address, until)).await;
        let stream = connected.map_err(late(Reached::Nothing))?.map_err(NegotiationError::Connect)?;
        let seen = seen(&stream);
        let mut negotiation = Self::over(stream, Wishes { tls: tls.is_some(), ..wishes });
        // It is the server's to speak first.
        timeout_at(until, negotiation.receive()).await.map_err(late(Reached::Connection))??;
        let agreed = async {
            if let Some(tls) = tls {
                negotiation = negotiation.secure(tls).await?;
            }
            negotiation.finish().await
        };
        let (negotiation, negotiated) = timeout_at(until, agreed).await.map_err(late(Reached::Greeting))??;
        Ok((negotiation, negotiated, seen))
    }

    /// Inside TLS, once the server has agreed to it.
    async fn secure(mut self, tls: &BackendTls) -> Result<Self, NegotiationError> {
        if self.advance().await?.is_some() {
            return Err(NegotiationError::Handshake(HandshakeError::Over));
        }
        self.client.secured(self.inbox.bytes()).map_err(NegotiationError::Handshake)?;
        let stream = TlsStream::connect(self.stream, tls).await.map_err(NegotiationError::Tls)?;
        Ok(Self { stream, ..self })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Negotiation<S> {
    /// On a stream that is there already.
    pub fn over(stream: S, wishes: Wishes) -> Self {
        Self { client: Client::new(wishes), stream, inbox: Inbox::default() }
    }

    /// Until both sides have agreed, in the clear or inside the TLS that is there.
    pub async fn finish(mut self) -> Result<(Self, Negotiated), NegotiationError> {
        let negotiated = self.advance().await?;
        // TLS is never agreed on without having been asked for.
        let negotiated = negotiated.ok_or(NegotiationError::Handshake(HandshakeError::Over))?;
        Ok((self, negotiated))
    }

    /// What the server says of `export` on a connection that stays in its negotiation
    /// ([`Goal::Watch`](nbd_gateway_proto::handshake::client::Goal::Watch)), to whichever export. Cancel-safe: no, the
    /// connection is of no further use.
    pub async fn ask(&mut self, export: &str, limit: Duration) -> Result<Negotiated, NegotiationError> {
        self.client.ask_info(export);
        let told = timeout(limit, self.advance()).await.map_err(|_| NegotiationError::Late(Reached::Greeting))?;
        told?.ok_or(NegotiationError::Handshake(HandshakeError::Over))
    }

    /// Leaves in order, if the server takes it at once. Cancel-safe: yes.
    pub async fn leave(mut self) {
        let abort = async {
            self.client.abort();
            self.send().await.is_ok() && self.stream.shutdown().await.is_ok()
        };
        let _ = timeout(FAREWELL, abort).await;
    }

    /// The connection in transmission, and what was received beyond the handshake.
    pub fn into_parts(self) -> (S, Inbox) {
        (self.stream, self.inbox)
    }

    /// As far as it goes; None: until TLS has to be there.
    async fn advance(&mut self) -> Result<Option<Negotiated>, NegotiationError> {
        loop {
            let progress = self.client.handle_input(self.inbox.bytes());
            let sent = self.send().await;
            // After an error what is sent is only a polite good-bye.
            let progress = progress.map_err(NegotiationError::Handshake)?;
            sent?;
            match progress {
                Progress::Done(negotiated) => return Ok(Some(negotiated)),
                Progress::StartTls => return Ok(None),
                Progress::Need(_) | Progress::Listed(_) => self.receive().await?,
            }
        }
    }

    async fn send(&mut self) -> Result<(), NegotiationError> {
        match self.client.take_output() {
            Some(bytes) => self.stream.write_all(&bytes).await.map_err(|error| self.broken(error)),
            None => Ok(()),
        }
    }

    /// Never more than was sent: what follows the handshake may not be this program's to read.
    async fn receive(&mut self) -> Result<(), NegotiationError> {
        let room = self.inbox.bytes();
        room.reserve(8192);
        match self.stream.read_buf(room).await {
            Ok(0) => Err(NegotiationError::Handshake(self.client.handle_eof())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn broken(&self, error: io::Error) -> NegotiationError {
        NegotiationError::Broken { asked: self.client.asked(), error }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use nbd_gateway_proto::Rep;
    use nbd_gateway_proto::handshake::{Ask, Progress, Server, Tls};

    use super::*;

    #[tokio::test]
    async fn a_server_that_does_not_have_the_export_is_left_politely() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let serving = tokio::spawn(async move {
            let (mut server, mut input) = (Server::new(4096, Tls::Off), BytesMut::new());
            loop {
                match server.handle_input(&mut input).unwrap() {
                    Progress::Ask(Ask::Info { .. }) => server.refuse(Rep::ERR_UNKNOWN, "no such export"),
                    Progress::Ask(other) => panic!("{other:?} was not to be asked"),
                    Progress::Aborted => return true,
                    Progress::More => {}
                }
                theirs.write_all(&core::mem::take(server.output())).await.unwrap();
                if theirs.read_buf(&mut input).await.unwrap() == 0 {
                    return false;
                }
            }
        });
        let error = Negotiation::over(ours, Wishes::go("x")).finish().await.unwrap_err();
        assert!(matches!(error, NegotiationError::Handshake(HandshakeError::Refused { rep: Rep::ERR_UNKNOWN, .. })));
        assert!(serving.await.unwrap(), "NBD_OPT_ABORT came before the end of the stream");
    }
}
