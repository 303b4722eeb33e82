//! One connection to a server: dialled, negotiated, and then requests out and replies in, several at a time.
//!
//! Owns cookies and what each waits for. Sends and receives on one task: what a server may owe us before it must read
//! again (a window of replies) is far less than a socket holds, except for READs, whose requests are tiny.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Buf;
use nbd_gateway_config::{Endpoint, Host, NbdUri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::ClientFault;
use super::pieces::Range;
use crate::proto::handshake::client::{Client, Negotiated, Progress, Wishes};
use crate::proto::reply::{Body, Expected, ReplyReader};
use crate::proto::request::RequestHeader;
use crate::proto::{Cmd, CmdFlags, Cookie, Framing, Heap, Inbox};
use crate::work::Piece;

/// How many requests are in flight, at most.
pub(super) const WINDOW: usize = 16;
/// The longest payload of a request, unless the server allows less. With [`WINDOW`]: at most 16 MiB in memory.
const LONGEST: u32 = 1 << 20;
/// How long dialling and the handshake may take together.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait at the end for what is in flight.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stream of any kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection in the transmission phase.
pub(super) struct Connection {
    stream: Box<dyn Duplex>,
    export: Negotiated,
    inbox: Inbox,
    reader: ReplyReader,
    waiting: HashMap<Cookie, Waiting>,
    last: u64,
}

/// What a cookie stands for.
struct Waiting {
    header: RequestHeader,
    range: Range,
    refused: Option<ClientFault>,
}

/// A request that has been answered with success.
#[derive(Debug)]
pub(super) struct Answered {
    /// Where it began.
    pub(super) offset: u64,
    /// How long it was.
    pub(super) length: u64,
    /// What a READ found, in order.
    pub(super) pieces: Vec<Piece>,
}

impl Connection {
    /// Dials and negotiates.
    pub(super) async fn open(uri: &NbdUri, wishes: Wishes) -> Result<Self, ClientFault> {
        let endpoint = || uri.endpoint().to_string();
        let open = async {
            let stream = dial(uri.endpoint()).await;
            Self::negotiate(stream.map_err(|cause| ClientFault::Connect { endpoint: endpoint(), cause })?, wishes).await
        };
        match tokio::time::timeout(DEADLINE, open).await {
            Ok(opened) => opened,
            Err(_) => Err(ClientFault::Deadline { endpoint: endpoint(), seconds: DEADLINE.as_secs() }),
        }
    }

    /// Negotiates on a stream. Wishes must have the goal to enter transmission.
    pub(super) async fn negotiate(mut stream: Box<dyn Duplex>, wishes: Wishes) -> Result<Self, ClientFault> {
        let (mut client, mut inbox) = (Client::new(wishes), Inbox::default());
        loop {
            let progress = client.handle_input(inbox.bytes());
            if let Some(out) = client.take_output() {
                let sent = stream.write_all(&out).await;
                // After an error this was only a polite good-bye.
                if progress.is_ok() {
                    sent.map_err(ClientFault::Broken)?;
                }
            }
            match progress? {
                Progress::Done(export) => {
                    let reader = ReplyReader::new(export.framing);
                    return Ok(Self { stream, export, inbox, reader, waiting: HashMap::new(), last: 0 });
                }
                Progress::Need(_) | Progress::Listed(_) => {}
            }
            if receive(&mut stream, &mut inbox).await? == 0 {
                return Err(client.handle_eof().into());
            }
        }
    }

    /// What was negotiated.
    pub(super) fn export(&self) -> &Negotiated {
        &self.export
    }

    /// Offsets and lengths of requests must be multiples of it.
    pub(super) fn minimum(&self) -> u64 {
        self.export.block_sizes.map_or(1, |sizes| u64::from(sizes.minimum))
    }

    /// The longest payload to use: a multiple of the minimum block size.
    pub(super) fn longest(&self) -> u64 {
        let longest = self.export.block_sizes.map_or(LONGEST, |sizes| sizes.maximum.min(LONGEST));
        let minimum = self.minimum();
        (u64::from(longest) / minimum).max(1).saturating_mul(minimum)
    }

    /// How many requests wait for their answer.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Sends a request. `payload` is what a WRITE writes, of `length` bytes; empty for all others.
    pub(super) async fn send(
        &mut self,
        command: Cmd,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<(), ClientFault> {
        self.last = self.last.wrapping_add(1);
        let extended = self.export.framing == Framing::Extended;
        let flags = CmdFlags::NONE.with_if(CmdFlags::PAYLOAD_LEN, extended && command == Cmd::WRITE);
        let header = RequestHeader { flags, command, cookie: Cookie(self.last), offset, length };
        let range = Range::new(offset, if command == Cmd::READ { length } else { 0 });
        self.waiting.insert(header.cookie, Waiting { header, range, refused: None });
        self.put(&header, payload).await
    }

    async fn put(&mut self, header: &RequestHeader, payload: &[u8]) -> Result<(), ClientFault> {
        let mut head = Vec::with_capacity(32);
        header.put(self.export.framing, &mut head);
        self.stream.write_all_buf(&mut Buf::chain(&head[..], payload)).await.map_err(ClientFault::Broken)
    }

    /// The next request that is answered, in whatever order the server chose. An error reply is an error.
    pub(super) async fn answered(&mut self) -> Result<Answered, ClientFault> {
        loop {
            while let Some(event) = self.reader.next(&mut self.inbox, |cookie| {
                self.waiting
                    .get(&cookie)
                    .map(|w| Expected { read: (w.header.command == Cmd::READ).then_some(w.header.length) })
            })? {
                let Some(waiting) = self.waiting.get_mut(&event.cookie) else { continue };
                match event.body {
                    Body::Whole(payload) => waiting.range.whole(payload)?,
                    Body::Data { offset, payload } => waiting.range.push(Piece::Data { offset, payload })?,
                    Body::Hole { offset, length } => waiting.range.push(Piece::Hole { offset, length })?,
                    Body::Error { errno, message, .. } => {
                        let RequestHeader { command, offset, length, .. } = waiting.header;
                        let refused = ClientFault::Refused { command, offset, length, errno, message };
                        waiting.refused.get_or_insert(refused);
                    }
                    Body::Nothing | Body::Status { .. } | Body::Resize { .. } => {}
                }
                if event.done
                    && let Some(done) = self.waiting.remove(&event.cookie)
                {
                    let RequestHeader { offset, length, .. } = done.header;
                    return match done.refused {
                        Some(refused) => Err(refused),
                        None => Ok(Answered { offset, length, pieces: done.range.finish()? }),
                    };
                }
            }
            if receive(&mut self.stream, &mut self.inbox).await? == 0 {
                return Err(ClientFault::HungUp { unanswered: self.waiting.len() });
            }
        }
    }

    /// Waits for what is in flight, then says good-bye. Some servers take it badly when a client with requests in flight
    /// just goes away, so this also comes after a failure on our side.
    pub(super) async fn leave(mut self) {
        let drained = async {
            while self.in_flight() > 0 {
                match self.answered().await {
                    Ok(_) | Err(ClientFault::Refused { .. }) => {}
                    Err(_) => return false,
                }
            }
            true
        };
        if !matches!(tokio::time::timeout(PATIENCE, drained).await, Ok(true)) {
            return;
        }
        let cookie = Cookie(self.last.wrapping_add(1));
        let header = RequestHeader { flags: CmdFlags::NONE, command: Cmd::DISC, cookie, offset: 0, length: 0 };
        if self.put(&header, &[]).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

async fn receive(stream: &mut Box<dyn Duplex>, inbox: &mut Inbox) -> Result<usize, ClientFault> {
    stream.read_buf(inbox.room(&Heap)).await.map_err(ClientFault::Broken)
}

async fn dial(endpoint: &Endpoint) -> std::io::Result<Box<dyn Duplex>> {
    let stream = match endpoint {
        Endpoint::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host: Host::Address(address), port } => TcpStream::connect((*address, *port)).await?,
        Endpoint::Tcp { host: Host::Name(name), port } => TcpStream::connect((&name[..], *port)).await?,
    };
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}
