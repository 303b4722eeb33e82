//! One connection to a server: dialled, negotiated, and then requests out and replies in, several at a time.
//!
//! Owns cookies and what each waits for. Sends and receives on one task: what a server may owe us before it must read
//! again (a window of replies) is far less than a socket holds, except for READs, whose requests are tiny.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Buf;
use nbd_gateway_config::NbdUri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::ClientError;
use super::pieces::Range;
use nbd_gateway_net::tls::BackendTls;
use nbd_gateway_net::{Address, Negotiation, NegotiationError};
use nbd_gateway_proto::handshake::client::{Negotiated, Wishes};
use nbd_gateway_proto::reply::{Body, Event, Expected, MAX_EXTENTS, ReplyReader};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::ResizeRequest;
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, Errno, Framing, Heap, Inbox, MAX_SIZE, Piece};

/// How many requests are in flight, at most.
pub(super) const WINDOW: usize = 16;
/// The longest payload of a request, unless the server allows less. With [`WINDOW`]: at most 16 MiB in memory.
const LONGEST: u32 = 1 << 20;
/// How long dialling and the handshake may take together.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait at the end for what is in flight.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stream of any kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// Where connections to one export come from, as many as a command needs.
pub(super) trait Connector {
    /// The export's name.
    fn export(&self) -> &str;
    /// One more connection, in the transmission phase.
    async fn open(&self, wishes: Wishes) -> Result<Connection, ClientError>;
}

impl Connector for NbdUri {
    fn export(&self) -> &str {
        NbdUri::export(self).as_str()
    }

    async fn open(&self, wishes: Wishes) -> Result<Connection, ClientError> {
        Connection::open(self, wishes).await
    }
}

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
    size: Option<u64>,
    status: Vec<(u32, u64)>,
    refused: Option<ClientError>,
}

impl Waiting {
    /// A NOTIFY stays open until the server ends it: nobody waits for its end.
    fn stands(&self) -> bool {
        self.header.command == Cmd::RESIZE && self.header.flags.has(CmdFlags::NOTIFY)
    }
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
    /// What a RESIZE chunk told, in bytes.
    pub(super) size: Option<u64>,
    /// What BLOCK_STATUS told of the first byte: contexts by number, and their flags.
    pub(super) status: Vec<(u32, u64)>,
}

/// One chunk of a standing NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// The size now in force, in bytes; none where the chunk only ends the NOTIFY.
    pub(super) size: Option<u64>,
    /// No other follows.
    pub(super) last: bool,
}

impl Connection {
    /// Dials and negotiates.
    /// A server that hangs up on something that is not needed, or answers it with nonsense, is tried once more without.
    pub(super) async fn open(uri: &NbdUri, wishes: Wishes) -> Result<Self, ClientError> {
        let tls = BackendTls::of(uri, None)?;
        let opened = match negotiate(uri, tls.as_ref(), wishes.clone()).await {
            Err(error) if error.is_about_extras() => {
                // What it says to the questions that were meant tells more.
                negotiate(uri, tls.as_ref(), wishes.only_what_is_needed()).await.map_err(|_| error)
            }
            opened => opened,
        };
        let (negotiation, export) = opened.map_err(|error| ClientError::of(uri, error))?;
        let (stream, inbox) = negotiation.into_parts();
        Ok(Self::over(Box::new(stream), export, inbox))
    }

    /// In transmission on a stream that is there already.
    pub(super) fn over(stream: Box<dyn Duplex>, export: Negotiated, inbox: Inbox) -> Self {
        let reader = ReplyReader::new(export.framing);
        Self { stream, export, inbox, reader, waiting: HashMap::new(), last: 0 }
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

    /// Sends a request without flags. `payload` is what a WRITE writes, of `length` bytes; empty for all others.
    pub(super) async fn send(
        &mut self,
        command: Cmd,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<(), ClientError> {
        self.send_with(CmdFlags::NONE, command, offset, length, payload).await
    }

    /// Sends a request with flags.
    pub(super) async fn send_with(
        &mut self,
        flags: CmdFlags,
        command: Cmd,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<(), ClientError> {
        let extended = self.export.framing == Framing::Extended;
        let flags = flags.with_if(CmdFlags::PAYLOAD_LEN, extended && command == Cmd::WRITE);
        let header = RequestHeader { flags, command, cookie: self.fresh(), offset, length };
        self.put(header, payload).await
    }

    /// Sends an NBD_CMD_RESIZE.
    pub(super) async fn send_resize(&mut self, request: ResizeRequest) -> Result<(), ClientError> {
        let header = request.header(self.fresh(), self.export.framing);
        self.put(header, &[]).await
    }

    fn fresh(&mut self) -> Cookie {
        self.last = self.last.wrapping_add(1);
        Cookie(self.last)
    }

    async fn put(&mut self, header: RequestHeader, payload: &[u8]) -> Result<(), ClientError> {
        // A DISC is never answered.
        if header.command != Cmd::DISC {
            let range = Range::new(header.offset, if header.command == Cmd::READ { header.length } else { 0 });
            let waiting = Waiting { header, range, size: None, status: Vec::new(), refused: None };
            self.waiting.insert(header.cookie, waiting);
        }
        let mut head = Vec::with_capacity(32);
        header.put(self.export.framing, &mut head);
        self.stream.write_all_buf(&mut Buf::chain(&head[..], payload)).await.map_err(ClientError::Broken)
    }

    /// The next request that is answered, in whatever order the server chose. An error reply is an error.
    pub(super) async fn answered(&mut self) -> Result<Answered, ClientError> {
        loop {
            let event = self.event().await?;
            let Some(waiting) = self.waiting.get_mut(&event.cookie) else { continue };
            match event.body {
                Body::Whole(payload) => waiting.range.whole(payload)?,
                Body::Piece(piece) => waiting.range.push(piece)?,
                Body::Error { errno, message, .. } => {
                    waiting.refused.get_or_insert(refused(waiting.header, errno, message));
                }
                // The stream is in step whatever the size: the answer still has its end.
                Body::Resize { size } => match sane(size) {
                    Ok(size) => waiting.size = Some(size),
                    Err(fault) => drop(waiting.refused.get_or_insert(fault)),
                },
                Body::Status { context, extents } => {
                    // A server has as many contexts as were selected: what is more is rubbish, and not kept.
                    if waiting.status.len() < self.export.contexts.len() {
                        waiting.status.extend(extents.first().map(|(_, flags)| (context, *flags)));
                    }
                }
                Body::Nothing => {}
            }
            if event.done
                && let Some(done) = self.waiting.remove(&event.cookie)
            {
                let RequestHeader { offset, length, .. } = done.header;
                return match done.refused {
                    Some(refused) => Err(refused),
                    None => {
                        let pieces = done.range.finish()?;
                        Ok(Answered { offset, length, pieces, size: done.size, status: done.status })
                    }
                };
            }
        }
    }

    /// The next chunk of the NOTIFY that stands, when nothing else is in flight. An error reply is an error.
    pub(super) async fn notice(&mut self) -> Result<Notice, ClientError> {
        let event = self.event().await?;
        let header = self.waiting.get(&event.cookie).map(|waiting| waiting.header);
        if event.done {
            self.waiting.remove(&event.cookie);
        }
        match (event.body, header) {
            (Body::Resize { size }, _) => Ok(Notice { size: Some(sane(size)?), last: event.done }),
            (Body::Error { errno, message, .. }, Some(header)) => Err(refused(header, errno, message)),
            _ => Ok(Notice { size: None, last: event.done }),
        }
    }

    /// The next reply or chunk.
    async fn event(&mut self) -> Result<Event, ClientError> {
        loop {
            let expected = |cookie| {
                let header = &self.waiting.get(&cookie)?.header;
                let read = (header.command == Cmd::READ).then_some(header.length);
                Some(Expected { read, extents: MAX_EXTENTS })
            };
            if let Some(event) = self.reader.next(&mut self.inbox, expected)? {
                return Ok(event);
            }
            if receive(&mut self.stream, &mut self.inbox).await? == 0 {
                return Err(ClientError::HungUp { unanswered: self.waiting.len() });
            }
        }
    }

    /// Waits for what is in flight, then says good-bye. Some servers take it badly when a client with requests in flight
    /// just goes away, so this also comes after a failure on our side. A NOTIFY that stands ends with the good-bye.
    pub(super) async fn leave(mut self) {
        let drained = async {
            while self.waiting.values().any(|waiting| !waiting.stands()) {
                match self.answered().await {
                    Ok(_) | Err(ClientError::Refused { .. } | ClientError::ResizeRefused { .. }) => {}
                    Err(_) => return false,
                }
            }
            true
        };
        if !matches!(tokio::time::timeout(PATIENCE, drained).await, Ok(true)) {
            return;
        }
        let header =
            RequestHeader { flags: CmdFlags::NONE, command: Cmd::DISC, cookie: self.fresh(), offset: 0, length: 0 };
        if self.put(header, &[]).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// What an error reply to this request means.
fn refused(header: RequestHeader, errno: Errno, message: String) -> ClientError {
    let RequestHeader { command, offset, length, .. } = header;
    // What was sent is well-formed: `parse` gives back the wish.
    match ResizeRequest::parse(&header, true) {
        Ok(request) if command == Cmd::RESIZE => ClientError::ResizeRefused { wish: request.wish, errno, message },
        _ => ClientError::Refused { command, offset, length, errno, message },
    }
}

/// A size that a server told, if there can be one.
fn sane(size: u64) -> Result<u64, ClientError> {
    if size > MAX_SIZE { Err(ClientError::SizeTooLarge { size }) } else { Ok(size) }
}

/// Dials and shakes hands, within a deadline. Wishes must have the goal to enter transmission.
pub(super) async fn negotiate(
    uri: &NbdUri,
    tls: Option<&BackendTls>,
    wishes: Wishes,
) -> Result<(Negotiation, Negotiated), NegotiationError> {
    let until = Instant::now() + DEADLINE;
    let opened = Negotiation::open(&Address::of(uri), tls, wishes, until, |_| ()).await;
    opened.map(|(negotiation, export, ())| (negotiation, export))
}

async fn receive(stream: &mut impl Duplex, inbox: &mut Inbox) -> Result<usize, ClientError> {
    stream.read_buf(inbox.room(&Heap)).await.map_err(ClientError::Broken)
}
