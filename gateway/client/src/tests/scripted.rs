//! A server in this process that speaks as much of the RESIZE extension as its script says, or one named fault instead.
//!
//! All its connections share one export, whose size a test may change at any time. It notes what it was asked, in order.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::ClientError;
use super::super::connect::{Connection, Connector};
use super::over;
use nbd_gateway_proto::handshake::client::Wishes;
use nbd_gateway_proto::handshake::server::match_contexts;
use nbd_gateway_proto::handshake::{Ask, BlockSizes, Offer, Progress, Server, Tls};
use nbd_gateway_proto::reply::{put_chunk, put_simple};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::{Context, ResizeInfo, ResizeRequest, Wish, put_resize};
use nbd_gateway_proto::{Chunk, ChunkFlags, Cmd, CmdFlags, Errno, ExportFlags, Features, Framing, Heap, Inbox, Info};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Nothing,
    /// Sets bit 9 and knows nothing of command 8.
    KnowsNoResize,
    /// Says success, with the size that was asked for, and changes nothing.
    KeepsItsSize,
    /// Tells sizes of 2^63.
    TellsTooMuch,
    /// Answers with NBD_REPLY_TYPE_NONE where a size is due.
    TellsNothing,
    /// Closes the connection on an NBD_CMD_RESIZE.
    HangsUp,
    /// Has no room for a second connection.
    TakesOneConnection,
    /// Tells half its size in the handshake.
    StaleHandshake,
    /// Ends a NOTIFY after its first chunk, without a reason.
    EndsNotify,
    /// Drains once the size changes under a NOTIFY.
    Drains,
}

/// What it is like.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) framing: Framing,
    pub(super) flags: ExportFlags,
    /// None: it does not know NBD_INFO_RESIZE.
    pub(super) features: Option<Features>,
    pub(super) contexts: Vec<Context>,
    pub(super) granularity: u64,
    /// What is more is refused, or cut to this.
    pub(super) most: u64,
    pub(super) clamps: bool,
    pub(super) wrong: Wrong,
}

impl Script {
    /// Structured replies, FUA, FLUSH and WRITE_ZEROES, and nothing of the extension.
    pub(super) fn plain() -> Self {
        let flags = ExportFlags::HAS_FLAGS
            .with(ExportFlags::SEND_FLUSH)
            .with(ExportFlags::SEND_FUA)
            .with(ExportFlags::SEND_WRITE_ZEROES);
        Self {
            framing: Framing::Structured,
            flags,
            features: None,
            contexts: Vec::new(),
            granularity: 1,
            most: 8 << 30,
            clamps: false,
            wrong: Wrong::Nothing,
        }
    }

    /// NBD_INFO_RESIZE with these features, and bit 9 if it has to be set.
    pub(super) fn with(features: Features) -> Self {
        let plain = Self::plain();
        let flags = plain.flags.with_if(ExportFlags::SEND_RESIZE, features.has(Features::EXPLICIT));
        Self { features: Some(features), flags, ..plain }
    }
}

/// The server.
#[derive(Clone)]
pub(super) struct Scripted(Arc<Shared>);

struct Shared {
    script: Script,
    size: watch::Sender<u64>,
    seen: Mutex<Vec<String>>,
    serving: Mutex<Vec<JoinHandle<()>>>,
}

impl Connector for Scripted {
    fn export(&self) -> &str {
        "x"
    }

    async fn open(&self, wishes: Wishes) -> Result<Connection, ClientError> {
        let first = self.0.serving.lock().is_empty();
        if !first && self.0.script.wrong == Wrong::TakesOneConnection {
            let cause = std::io::ErrorKind::ConnectionRefused.into();
            return Err(ClientError::Connect { endpoint: "x".to_owned(), cause });
        }
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.0.serving.lock().push(tokio::spawn(serve(theirs, self.clone())));
        over(ours, Wishes { framing: self.0.script.framing, ..wishes }).await
    }
}

impl Scripted {
    pub(super) fn new(script: Script, size: u64) -> Self {
        Self(Arc::new(Shared {
            script,
            size: watch::Sender::new(size),
            seen: Mutex::default(),
            serving: Mutex::default(),
        }))
    }

    pub(super) fn size(&self) -> u64 {
        *self.0.size.borrow()
    }

    pub(super) fn set(&self, size: u64) {
        self.0.size.send_replace(size);
    }

    /// What it was asked since the last time, in order. All connections must have been left.
    pub(super) async fn asked(&self) -> String {
        let serving = core::mem::take(&mut *self.0.serving.lock());
        for connection in serving {
            connection.await.unwrap();
        }
        core::mem::take(&mut *self.0.seen.lock()).join(", ")
    }

    fn note(&self, what: impl Into<String>) {
        self.0.seen.lock().push(what.into());
    }
}

/// One connection.
struct Session {
    server: Scripted,
    framing: Framing,
    /// Whether writes past the end grow the export.
    grows: bool,
    opted_in: bool,
    /// Those selected, each with its number.
    contexts: Vec<(u32, Context)>,
    /// The NOTIFY that stands, and how many chunks are left of it.
    standing: Option<(RequestHeader, u64)>,
    /// The BLOCK_STATUS that waits.
    held: Option<RequestHeader>,
    told: u64,
    out: Vec<u8>,
}

async fn serve(mut stream: DuplexStream, server: Scripted) {
    server.note("open");
    let (mut inbox, mut sizes) = (Inbox::default(), server.0.size.subscribe());
    let Some(mut session) = greet(&mut stream, &mut inbox, server).await else { return };
    loop {
        while let Some(header) = RequestHeader::take(&mut inbox, session.framing).unwrap() {
            let length = if header.command == Cmd::WRITE { usize::try_from(header.length).unwrap() } else { 0 };
            while inbox.payload(length).is_none() {
                assert_ne!(stream.read_buf(inbox.room(&Heap)).await.unwrap(), 0);
            }
            if !session.carry_out(header) {
                let _ = stream.write_all(&session.out).await;
                return;
            }
        }
        let _ = stream.write_all(&core::mem::take(&mut session.out)).await;
        let waits = session.standing.is_some() || session.held.is_some();
        tokio::select! {
            // Requests first: a size that changes meanwhile is told in the next round.
            biased;
            came = stream.read_buf(inbox.room(&Heap)) => if came.unwrap() == 0 { return },
            _ = sizes.changed(), if waits => session.tell(),
        }
    }
}

async fn greet(stream: &mut DuplexStream, inbox: &mut Inbox, server: Scripted) -> Option<Session> {
    let script = &server.0.script;
    let names: Vec<String> = script.contexts.iter().map(|context| context.name().to_owned()).collect();
    let (mut side, mut told, mut asks) = (Server::new(4096, Tls::Off), 0, false);
    while !side.is_finished() {
        match side.handle_input(inbox.bytes()).unwrap() {
            Progress::Ask(Ask::Info { name, infos, .. }) => {
                asks = infos.contains(&Info::RESIZE) && script.features.is_some();
                told = if script.wrong == Wrong::StaleHandshake { server.size() / 2 } else { server.size() };
                let resize = script.features.map(|features| {
                    let (granularity, maximum) = (script.granularity, script.most);
                    ResizeInfo { features, minimum: 0, maximum, granularity }.to_body()
                });
                let block_sizes = Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 20 });
                let offer =
                    Offer { size: told, flags: script.flags, name: &name, description: None, block_sizes, resize };
                side.answer_info(&infos, &offer);
            }
            Progress::Ask(Ask::Contexts { name, set, queries }) => {
                let numbered: Vec<(usize, &str)> = names.iter().map(String::as_str).enumerate().collect();
                side.answer_contexts(&name, &match_contexts(&numbered, &queries, set));
            }
            _ => {}
        }
        stream.write_all(&core::mem::take(side.output())).await.ok()?;
        if !side.is_finished() && stream.read_buf(inbox.room(&Heap)).await.ok()? == 0 {
            return None;
        }
    }
    let selected = side.selected("x");
    let contexts: Vec<(u32, Context)> =
        selected.iter().map(|index| (u32::try_from(*index).unwrap(), script.contexts[*index])).collect();
    let grows = (asks && script.features.is_some_and(|it| it.has(Features::AUTOMATIC)))
        || contexts.iter().any(|(_, context)| *context == Context::Automatic);
    let framing = side.framing();
    Some(Session {
        opted_in: asks,
        framing,
        grows,
        contexts,
        standing: None,
        held: None,
        told,
        out: Vec::new(),
        server,
    })
}

impl Session {
    /// False: the connection is over.
    fn carry_out(&mut self, header: RequestHeader) -> bool {
        let RequestHeader { command, flags, offset, length, .. } = header;
        let wrong = self.server.0.script.wrong;
        let fua = if flags.has(CmdFlags::FUA) { " FUA" } else { "" };
        match command {
            Cmd::RESIZE => {
                let request = ResizeRequest::parse(&header, self.server.0.script.flags.has(ExportFlags::SEND_FUA));
                let request = request.unwrap();
                self.server.note(match request.wish {
                    Wish::Size { size } => format!("RESIZE {size}{fua}"),
                    Wish::Query => "QUERY".to_owned(),
                    Wish::Notify { interval, most } => format!("NOTIFY {interval:?} {most}"),
                });
                if wrong == Wrong::HangsUp {
                    return false;
                }
                self.resize(header, request.wish);
            }
            Cmd::WRITE | Cmd::WRITE_ZEROES => {
                self.server.note(format!("{command} {offset}+{length}{fua}").replace("NBD_CMD_", ""));
                let end = offset + length;
                if end > self.server.size() && !self.grows {
                    self.error(header, Errno::ENOSPC, "past the end");
                } else {
                    let rounded = end.next_multiple_of(self.server.0.script.granularity);
                    self.server.set(rounded.max(self.server.size()));
                    self.nothing(header);
                }
            }
            Cmd::BLOCK_STATUS => {
                self.server.note("BLOCK_STATUS");
                self.held = Some(header);
                self.tell();
            }
            Cmd::DISC => {
                self.server.note("DISC");
                return false;
            }
            other => {
                self.server.note(other.to_string().replace("NBD_CMD_", ""));
                self.nothing(header);
            }
        }
        true
    }

    fn resize(&mut self, header: RequestHeader, wish: Wish) {
        let Script { wrong, granularity, most, clamps, features, .. } = self.server.0.script.clone();
        let offered = features.unwrap_or(Features::EXPLICIT).with_framing(self.framing);
        if wrong == Wrong::KnowsNoResize || !offered.has(wish.needs()) {
            return self.error(header, Errno::EINVAL, "unknown command");
        }
        match wish {
            Wish::Size { size } if size > most && !clamps => self.error(header, Errno::ENOSPC, "over the quota"),
            Wish::Size { size } => {
                let rounded = size.next_multiple_of(granularity).min(most);
                if wrong != Wrong::KeepsItsSize {
                    self.server.set(rounded);
                }
                self.told = rounded;
                if self.opted_in { self.size(header, true, rounded) } else { self.nothing(header) }
            }
            Wish::Query => self.size(header, true, self.server.size()),
            Wish::Notify { most, .. } => {
                self.size(header, most == 1, self.server.size());
                self.standing = (most != 1).then(|| (header, most.checked_sub(1).unwrap_or(u64::MAX)));
                if wrong == Wrong::EndsNotify {
                    self.nothing(header);
                }
            }
        }
    }

    /// Tells whoever waits that the size is another.
    fn tell(&mut self) {
        let size = self.server.size();
        if let Some((header, left)) = self.standing.take() {
            if self.server.0.script.wrong == Wrong::Drains {
                return self.error(header, Errno::ESHUTDOWN, "maintenance");
            }
            self.size(header, left == 1, size);
            self.standing = (left > 1).then_some((header, left - 1));
        }
        if let Some(header) = self.held.take_if(|_| size != self.told) {
            self.told = size;
            let contexts = self.contexts.clone();
            for (at, (id, context)) in contexts.iter().enumerate() {
                let flags = match context {
                    Context::SizeLow => u32::try_from(size & 0xffff_ffff).unwrap(),
                    Context::SizeHigh => u32::try_from(size >> 32).unwrap(),
                    _ => 0,
                };
                let done = ChunkFlags::NONE.with_if(ChunkFlags::DONE, at + 1 == contexts.len());
                let payload = [*id, u32::try_from(header.length).unwrap(), flags].map(u32::to_be_bytes).concat();
                assert_eq!(self.framing, Framing::Structured);
                put_chunk(&mut self.out, self.framing, done, Chunk::BLOCK_STATUS, header.cookie, 0, payload.len());
                self.out.extend(payload);
            }
        }
    }

    fn size(&mut self, header: RequestHeader, done: bool, size: u64) {
        let size = match self.server.0.script.wrong {
            Wrong::TellsNothing => return self.nothing(header),
            Wrong::TellsTooMuch => 1 << 63,
            _ => size,
        };
        if self.framing == Framing::Simple {
            return self.nothing(header);
        }
        put_resize(&mut self.out, self.framing, done, header.cookie, header.offset, size);
    }

    fn nothing(&mut self, header: RequestHeader) {
        match self.framing {
            Framing::Simple => put_simple(&mut self.out, 0, header.cookie),
            framing => {
                put_chunk(&mut self.out, framing, ChunkFlags::DONE, Chunk::NONE, header.cookie, header.offset, 0);
            }
        }
    }

    fn error(&mut self, header: RequestHeader, errno: Errno, message: &str) {
        if self.framing == Framing::Simple {
            return put_simple(&mut self.out, errno.0, header.cookie);
        }
        let length = u16::try_from(message.len()).unwrap();
        let payload = [&errno.0.to_be_bytes()[..], &length.to_be_bytes(), message.as_bytes()].concat();
        let (done, kind) = (ChunkFlags::DONE, Chunk::ERROR);
        put_chunk(&mut self.out, self.framing, done, kind, header.cookie, header.offset, payload.len());
        self.out.extend(payload);
    }
}
