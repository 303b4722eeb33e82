//! Making a backend connection: connect, shake hands, within one deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Connected;
use crate::net::{Address, Stream, TlsStream};
use crate::proto::handshake::client::{Client, Contexts, HandshakeError, Progress, Wishes};
use crate::proto::{Framing, Inbox, Info, Rep};
use crate::tls::{BackendTls, TlsFault};

/// Why a backend could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
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
    #[error(
        "backend {address} did not finish the handshake within {limit:?} (dial-timeout); does it take one more connection?"
    )]
    Late {
        /// Where to.
        address: Address,
        /// How long it had.
        limit: Duration,
    },
}

impl DialError {
    /// Whether the backend is there and does not know the export's name.
    pub fn is_unknown_name(&self) -> bool {
        matches!(self, DialError::Handshake { error: HandshakeError::Refused { rep: Rep::ERR_UNKNOWN, .. }, .. })
    }

    /// Whether the backend was there and did not answer.
    pub fn is_late(&self) -> bool {
        matches!(self, DialError::Late { .. })
    }
}

/// How to reach one backend export.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Where it listens.
    pub address: Address,
    /// The export's name there.
    pub export: String,
    /// TLS, without which nothing is said to it; None: everything goes in the clear.
    pub tls: Option<Arc<BackendTls>>,
    /// Deadline for connect and handshake together.
    pub limit: Duration,
}

impl Dialer {
    /// One connection, ready for transmission. Cancel-safe: yes, a half-made connection is closed.
    pub async fn dial(&self) -> Result<Connected, DialError> {
        match tokio::time::timeout(self.limit, self.handshake()).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Late { address: self.address.clone(), limit: self.limit }),
        }
    }

    async fn handshake(&self) -> Result<Connected, DialError> {
        let address = || self.address.clone();
        let broken = |error| DialError::Broken { address: address(), error };
        let mut stream =
            Stream::connect(&self.address).await.map_err(|error| DialError::Connect { address: address(), error })?;
        let mut inbox = Inbox::default();
        let mut client = Client::new(Wishes {
            framing: Framing::Extended,
            contexts: Contexts::All,
            infos: vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE, Info::RESIZE],
            tls: self.tls.is_some(),
            ..Wishes::go(self.export.clone())
        });
        loop {
            let progress = client.handle_input(inbox.bytes());
            if let Some(bytes) = client.take_output() {
                stream.write_all(&bytes).await.map_err(broken)?;
            }
            let failed = |error| DialError::Handshake { address: address(), error };
            match (progress.map_err(failed)?, &self.tls) {
                (Progress::StartTls, Some(tls)) => {
                    client.secured(inbox.bytes()).map_err(failed)?;
                    stream = TlsStream::connect(stream, tls)
                        .await
                        .map_err(|fault| DialError::Tls { address: address(), fault })?;
                    continue;
                }
                (Progress::Done(negotiated), _) => return Ok(Connected { negotiated, stream, inbox }),
                // TLS is never agreed on without having been asked for.
                (Progress::Need(_) | Progress::Listed(_) | Progress::StartTls, _) => {}
            }
            let room = inbox.bytes();
            room.reserve(8192);
            if stream.fill(room).await.map_err(broken)? == 0 {
                return Err(DialError::Handshake { address: address(), error: client.handle_eof() });
            }
        }
    }
}
