//! A scripted client: a number of conversations, each of which may end at any byte.

mod actions;
mod batches;
mod replies;

use std::collections::BTreeMap;
use std::time::Duration;

use nbd_gateway_proto::handshake::client::{Client as Handshake, Contexts, Goal, Negotiated, Progress, Wishes};
use nbd_gateway_proto::reply::ReplyReader;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{Cmd, CmdFlags, Framing, Heap, Inbox, Info};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::checker::{End, Knowledge};
use super::random::Random;
use super::scene::{Phase, Scene};
pub(super) use batches::run_in_batches;

/// Most requests in flight.
const DEPTH: usize = 16;
/// Most sectors of one request.
const LONGEST: u64 = 8;

/// How long the gateway may take to notice a closed connection: time for the kernel to tell.
const NOTICED: Duration = Duration::from_millis(1);

/// A request without its reply.
#[derive(Debug)]
struct Asked {
    header: RequestHeader,
    begun: u64,
    /// Number of its operation, if it changes data.
    operation: Option<u64>,
    /// The data of a READ so far.
    data: Vec<u8>,
    received: u64,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    /// The connection is over.
    Over,
}

/// Runs a client that takes `actions` actions in several conversations.
pub(super) async fn run(scene: Scene, number: u64, mut actions: u64, mut random: Random) {
    let mut first = true;
    while actions > 0 || std::mem::take(&mut first) {
        sleep(Duration::from_millis(random.below(300))).await;
        if scene.phase() >= Phase::Quiet {
            return;
        }
        let some = actions.min(random.between(3, 30));
        actions -= some;
        let id = scene.next_conversation();
        scene.note(format_args!("client {number} connects, conversation {id}"));
        let mut kills = scene.kills();
        let seed = random.split();
        let Some(stream) = scene.connect() else {
            scene.note(format_args!("conversation {id} found no gateway"));
            actions += some;
            continue;
        };
        let begun = tokio::select! {
            // A kill first: nothing is heard after it.
            biased;
            _ = kills.changed() => None,
            begun = Conversation::begin(scene.clone(), id, stream, false, seed) => begun,
        };
        if let Some(mut conversation) = begun {
            conversation.run(some).await;
            conversation.end();
        } else {
            scene.note(format_args!("conversation {id} found no export"));
        }
    }
}

struct Conversation {
    scene: Scene,
    id: u64,
    stream: UnixStream,
    random: Random,
    agreed: Negotiated,
    inbox: Inbox,
    reader: ReplyReader,
    out: Vec<u8>,
    asked: BTreeMap<u64, Asked>,
    cookie: u64,
    knowledge: Knowledge,
    /// The size that the client was told last, in bytes.
    size: u64,
    notified: bool,
    /// The BLOCK_STATUS that waits for another size.
    watch: Option<u64>,
    /// The sector after its last READ.
    read_to: u64,
    kills: watch::Receiver<u32>,
}

impl Conversation {
    /// With a client that `watches` the size.
    async fn begin(scene: Scene, id: u64, stream: UnixStream, watches: bool, mut random: Random) -> Option<Self> {
        let kills = scene.kills();
        let framing = random.pick(&[Framing::Simple, Framing::Structured, Framing::Extended]);
        let resizes = random.percent(60);
        let automatic = random.percent(30).then(|| "x-resize:automatic".to_owned());
        let contexts = automatic.into_iter().chain(["base:allocation".to_owned()]).collect();
        let infos = if resizes { vec![Info::BLOCK_SIZE, Info::RESIZE] } else { Vec::new() };
        let contexts = if random.percent(50) { Contexts::These(contexts) } else { Contexts::None };
        let (framing, contexts) = match watches {
            true if framing == Framing::Simple => (Framing::Structured, watched()),
            true => (framing, watched()),
            false => (framing, contexts),
        };
        let wishes = Wishes { framing, contexts, infos, goal: Goal::Go, export: "e".to_owned(), tls: false };
        let (mut side, mut inbox) = (Handshake::new(wishes), Inbox::default());
        let agreed = loop {
            match side.handle_input(inbox.bytes()).ok()? {
                Progress::Done(agreed) => break agreed,
                Progress::Need(_) => {}
                Progress::StartTls | Progress::Listed(_) => return None,
            }
            if let Some(some) = side.take_output() {
                send(&stream, &some).await?;
            }
            receive(&stream, &mut inbox).await?;
        };
        if let Some(rest) = side.take_output() {
            send(&stream, &rest).await?;
        }
        let opened = scene
            .note(format_args!("conversation {id}: {:?}, {} bytes, {}", agreed.framing, agreed.size, agreed.flags));
        let knowledge = Knowledge { opened, flush_failed: 0 };
        let (reader, size) = (ReplyReader::new(agreed.framing), agreed.size);
        let (out, asked, cookie) = (Vec::new(), BTreeMap::new(), id << 32);
        Some(Self {
            scene,
            id,
            stream,
            random,
            agreed,
            inbox,
            reader,
            out,
            asked,
            cookie,
            knowledge,
            size,
            notified: false,
            watch: None,
            read_to: 0,
            kills,
        })
    }

    async fn run(&mut self, actions: u64) {
        let (mut left, mut next, mut paused) = (actions, Instant::now(), None);
        loop {
            if self.hear() == Flow::Over {
                return;
            }
            if self.scene.phase() >= Phase::Quiet {
                left = 0;
            }
            let full = self.requests() >= DEPTH || left == 0;
            if paused.is_some_and(|until| until <= Instant::now()) {
                paused = None;
            }
            let wakes = paused.unwrap_or(next);
            if left == 0 && paused.is_none() && self.requests() == 0 && self.out.is_empty() && !self.notified {
                self.ask(Cmd::DISC, CmdFlags::NONE, 0, 0, None, &[]);
                send(&self.stream, &std::mem::take(&mut self.out)).await;
                return;
            }
            let (quiet, still) = (self.scene.later(Phase::Quiet), self.scene.later(Phase::Still));
            tokio::select! {
                // A kill first: nothing is heard after it. Then replies, so that a busy client hears them. They end when all
                // requests are answered.
                biased;
                _ = self.kills.changed() => return self.note("is cut off"),
                ready = self.stream.readable(), if paused.is_none() => {
                    if ready.is_err() || !self.read() {
                        return self.note("is cut off");
                    }
                }
                ready = self.stream.writable(), if !self.out.is_empty() => {
                    if ready.is_err() || !self.write() {
                        return self.note("is cut off");
                    }
                }
                () = sleep_until(wakes), if !full || paused.is_some() => {
                    if paused.is_some() || full {
                        continue;
                    }
                    left -= 1;
                    if self.act(&mut paused) == Flow::Over {
                        return;
                    }
                    next = Instant::now() + Duration::from_millis(self.random.pick(&[0, 0, 0, 1, 7, 40, 900, 4000]));
                }
                () = quiet => {}
                () = still => {
                    if self.requests() > 0 {
                        let oldest = self.asked.values().find(|asked| !asked.is_notify());
                        let message = format!("conversation {} got no reply: {oldest:?}", self.id);
                        return self.scene.violated(format_args!("{message}"));
                    }
                    // Only its standing NOTIFY is left.
                    return self.last_notice();
                }
            }
        }
    }

    fn note(&self, what: &str) {
        self.scene.note(format_args!("conversation {} {what}", self.id));
    }

    /// Number of requests in flight, without those that wait for another size.
    fn requests(&self) -> usize {
        let stands = |cookie, asked: &Asked| asked.is_notify() || self.watch == Some(cookie);
        self.asked.iter().filter(|(cookie, asked)| !stands(**cookie, asked)).count()
    }

    fn read(&mut self) -> bool {
        let mut some = [0; 16 * 1024];
        match self.stream.try_read(&mut some) {
            Ok(0) => false,
            Ok(read) => {
                self.inbox.room(&Heap).extend_from_slice(&some[..read]);
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    fn write(&mut self) -> bool {
        match self.stream.try_write(&self.out) {
            Ok(written) => {
                self.out.drain(..written);
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Checks that the last notice has the current size.
    fn last_notice(&mut self) {
        if let Some(size) = self.scene.shown().filter(|size| *size != self.size) {
            let message = format!("conversation {} was told {} last, and the size is {size}", self.id, self.size);
            self.scene.violated(format_args!("{message}"));
        }
        self.note("closes at last");
    }

    /// Closes the connection. No reply tells how its requests end.
    fn end(self) {
        let Self { scene, stream, asked, .. } = self;
        drop(stream);
        tokio::spawn(async move {
            sleep(NOTICED).await;
            asked.values().filter_map(|asked| asked.operation).for_each(|operation| scene.ended(operation, End::Gone));
        });
    }
}

impl Asked {
    fn is_notify(&self) -> bool {
        self.header.command == Cmd::RESIZE && self.header.flags.has(CmdFlags::NOTIFY)
    }
}

fn watched() -> Contexts {
    Contexts::These(
        [Context::SizeLow, Context::SizeHigh, Context::Watch].iter().map(|context| context.name().to_owned()).collect(),
    )
}

async fn send(stream: &UnixStream, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        stream.writable().await.ok()?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(())
}

async fn receive(stream: &UnixStream, inbox: &mut Inbox) -> Option<()> {
    let mut some = [0; 4096];
    loop {
        stream.readable().await.ok()?;
        match stream.try_read(&mut some) {
            Ok(0) => return None,
            Ok(read) => {
                inbox.room(&Heap).extend_from_slice(&some[..read]);
                return Some(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}
