//! Talking to a qemu by QMP, over its Unix socket: one command at a time, each within a deadline.
//!
//! Owns the connection and what is on it ([`wire`]); knows nothing of disks. Whatever the other side does, a call ends in
//! bounded time with bounded memory. A connection on which a call failed by anything but [`QmpError::Refused`] is of no
//! more use. qemu serves one client of a QMP socket at a time; the next waits for its greeting.

pub(crate) mod wire;

#[cfg(test)]
mod tests;

use nbd_gateway_policy::types::Span;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use wire::{Decoder, Message};

use crate::fault::Fault;

/// How long the greeting may take: somebody else who is connected may be just finishing.
pub(crate) const GREETING: Duration = Duration::from_secs(5);
/// How long a command may take that does not wait for a disk.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("can't connect to the QMP socket {socket}: {error}; is that qemu running?", socket = socket.display())]
    Connect { socket: PathBuf, error: io::Error },
    /// Connected, and not served.
    #[error(
        "the QMP socket {socket} gave no greeting within {}: it serves one client at a time, and somebody else may be connected; give the gateway one of its own (a further -qmp, or --chardev and --monitor)",
Span(GREETING),
        socket = socket.display()
    )]
    Busy { socket: PathBuf },
    /// The connection ended, or it is not QMP.
    #[error("the QMP socket {socket} broke off at {command}: {why}", socket = socket.display())]
    Broken { socket: PathBuf, command: &'static str, why: String },
    /// No answer in time.
    #[error("qemu did not answer {command} at {socket} within {}", Span(*.limit), socket = socket.display())]
    Late { socket: PathBuf, command: &'static str, limit: Duration },
    /// qemu's answer is an error. The connection goes on.
    #[error("qemu refused {command}: {desc}")]
    Refused {
        command: &'static str,
        /// `GenericError`, `CommandNotFound` and so on.
        class: String,
        desc: String,
    },
}

impl From<QmpError> for Fault {
    fn from(error: QmpError) -> Self {
        Self::backend(error.to_string())
    }
}

impl QmpError {
    /// Whether qemu does not have the command at all.
    pub(crate) fn is_unknown_command(&self) -> bool {
        matches!(self, Self::Refused { class, .. } if class == "CommandNotFound")
    }

    /// What qemu said, if it refused.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { desc, .. } => Some(desc),
            Self::Connect { .. } | Self::Busy { .. } | Self::Broken { .. } | Self::Late { .. } => None,
        }
    }
}

/// A qemu that takes commands.
#[derive(Debug)]
pub(crate) struct Qemu {
    socket: PathBuf,
    stream: UnixStream,
    decoder: Decoder,
    id: u64,
}

impl Qemu {
    /// Connects, waits to be served, and leaves the negotiation. Cancel-safe: yes.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, QmpError> {
        let failed = |error| QmpError::Connect { socket: socket.to_owned(), error };
        let stream = match UnixStream::connect(socket).await {
            // The queue of those who wait to be served is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(QmpError::Busy { socket: socket.to_owned() });
            }
            other => other.map_err(failed)?,
        };
        let mut qemu = Self { socket: socket.to_owned(), stream, decoder: Decoder::default(), id: 0 };
        match timeout_at(Instant::now() + GREETING, qemu.next("the greeting")).await {
            Err(_) => return Err(QmpError::Busy { socket: socket.to_owned() }),
            Ok(Ok(Message::Greeting)) => {}
            Ok(Ok(_)) => return Err(qemu.broken("the greeting", "something else came first".to_owned())),
            Ok(Err(error)) => return Err(error),
        }
        qemu.execute("qmp_capabilities", Value::Null, SOON).await?;
        Ok(qemu)
    }

    /// The process at the other end: the one that listens, if it is on this host and in a PID namespace that is seen from
    /// here. One that was handed the socket is hidden behind who handed it over.
    pub(crate) fn process(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    /// Carries out one command. Cancel-safe: no: dropped, the command may still be carried out, and the connection is of
    /// no more use.
    pub(crate) async fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        match timeout_at(Instant::now() + limit, self.ask(command, arguments)).await {
            Ok(answer) => answer,
            Err(_) => Err(QmpError::Late { socket: self.socket.clone(), command, limit }),
        }
    }

    async fn ask(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.id += 1;
        let line = wire::command(command, &arguments, self.id);
        self.stream.write_all(line.as_bytes()).await.map_err(|error| self.broken(command, error.to_string()))?;
        loop {
            match self.next(command).await? {
                Message::Event(_) => {}
                Message::Answer { id, outcome } if id == Some(self.id) => {
                    return outcome.map_err(|fault| QmpError::Refused {
                        command,
                        class: fault.class,
                        desc: fault.desc,
                    });
                }
                Message::Answer { .. } => return Err(self.broken(command, "an answer to something else".to_owned())),
                Message::Greeting => return Err(self.broken(command, "a second greeting".to_owned())),
            }
        }
    }

    async fn next(&mut self, command: &'static str) -> Result<Message, QmpError> {
        loop {
            match self.decoder.poll_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(unreadable) => return Err(self.broken(command, unreadable.to_string())),
            }
            match self.stream.read_buf(self.decoder.room()).await {
                Ok(0) => return Err(self.broken(command, "qemu closed the connection".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(self.broken(command, error.to_string())),
            }
        }
    }

    fn broken(&self, command: &'static str, why: String) -> QmpError {
        QmpError::Broken { socket: self.socket.clone(), command, why }
    }

    /// The size of a block node in bytes, if there is such a node.
    pub(crate) async fn size_of(&mut self, node: &str) -> Result<Option<u64>, QmpError> {
        let nodes = self.execute("query-named-block-nodes", json!({ "flat": true }), SOON).await?;
        let found = nodes.as_array().into_iter().flatten().find(|it| it.get("node-name") == Some(&json!(node)));
        Ok(found.and_then(|it| it.pointer("/image/virtual-size")).and_then(Value::as_u64))
    }
}
