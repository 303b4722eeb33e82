//! One conversation: what a seed has a client say, and what it is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, Framing};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::super::Scene;
use super::Dice;

const HALF: u64 = 512 << 10;
/// How long a conversation may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one step of it takes.
const STEP: Duration = Duration::from_millis(1);

/// What a client negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Kernel,
    Stock,
    StockExtended,
    ExplicitSimple,
    Explicit,
    ExplicitExtended,
    Automatic,
    Watching,
}

impl Style {
    pub(super) const ALL: [Self; 8] = [
        Self::Kernel,
        Self::Stock,
        Self::StockExtended,
        Self::ExplicitSimple,
        Self::Explicit,
        Self::ExplicitExtended,
        Self::Automatic,
        Self::Watching,
    ];

    fn framing(self) -> Framing {
        match self {
            Self::Kernel | Self::ExplicitSimple => Framing::Simple,
            Self::Stock | Self::Explicit | Self::Watching => Framing::Structured,
            Self::StockExtended | Self::ExplicitExtended | Self::Automatic => Framing::Extended,
        }
    }

    fn contexts(self) -> &'static [&'static str] {
        match self {
            Self::Kernel | Self::ExplicitSimple => &[],
            Self::Stock | Self::StockExtended => &["base:allocation"],
            Self::Explicit | Self::ExplicitExtended => &["base:allocation", "x-resize:size-low"],
            Self::Automatic => &["base:allocation", "x-resize:automatic"],
            Self::Watching => &["x-resize:size-low", "x-resize:size-high", "x-resize:watch"],
        }
    }

    fn asks(self) -> bool {
        !matches!(self, Self::Kernel | Self::Stock | Self::StockExtended)
    }
}

pub(super) struct Talk<'a> {
    scene: &'a Scene,
    style: Style,
    stream: UnixStream,
    /// What is said.
    dice: Dice,
    /// How: where it is cut, when it is read, when the session is moved.
    how: Dice,
    moved: bool,
    cookie: u64,
    size: u64,
    context: u32,
    to_send: Vec<u8>,
    received: Vec<u8>,
    ended: bool,
    /// The lengths of READs, whose simple replies do not say how long they are.
    reads: BTreeMap<u64, usize>,
    waiting: BTreeSet<u64>,
    answered: BTreeSet<u64>,
    notify: Option<(u64, usize)>,
    watch: Option<u64>,
    over: Instant,
    /// What came, by the cookie that it is for.
    messages: BTreeMap<u64, Vec<Vec<u8>>>,
    pub(super) moves: usize,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn length(bytes: &[u8]) -> usize {
    usize::try_from(number(bytes)).unwrap()
}

impl<'a> Talk<'a> {
    pub(super) async fn begin(scene: &'a Scene, style: Style, seed: u64, moved: bool) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        scene.serve(ours);
        let mut talk = Self {
            scene,
            style,
            stream: theirs,
            dice: Dice(seed),
            how: Dice(seed ^ 0x5eed),
            moved,
            cookie: 0,
            size: 1 << 20,
            context: 0,
            to_send: Vec::new(),
            received: Vec::new(),
            ended: false,
            reads: BTreeMap::new(),
            waiting: BTreeSet::new(),
            answered: BTreeSet::new(),
            notify: None,
            watch: None,
            over: Instant::now() + PATIENCE,
            messages: BTreeMap::new(),
            moves: 0,
        };
        talk.negotiate().await;
        talk
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        use tokio::io::AsyncReadExt;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// An option, and the replies to it up to the last.
    async fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        use tokio::io::AsyncWriteExt;
        let length_of = u32::try_from(data.len()).unwrap();
        let all = [b"IHAVEOPT", &option.to_be_bytes()[..], &length_of.to_be_bytes(), data].concat();
        self.stream.write_all(&all).await.unwrap();
        let mut replies = Vec::new();
        loop {
            let head = self.exactly(20).await;
            let kind = u32::try_from(number(&head[12..16])).unwrap();
            let body = self.exactly(length(&head[16..])).await;
            assert!(kind < 1 << 31, "option {option}: {}", String::from_utf8_lossy(&body));
            replies.push((kind, body));
            if kind == 1 {
                return replies;
            }
        }
    }

    async fn negotiate(&mut self) {
        use tokio::io::AsyncWriteExt;
        self.exactly(18).await;
        self.stream.write_all(&3u32.to_be_bytes()).await.unwrap();
        match self.style.framing() {
            Framing::Simple => {}
            Framing::Structured => drop(self.option(8, &[]).await),
            Framing::Extended => drop(self.option(11, &[]).await),
        }
        let contexts = self.style.contexts();
        if !contexts.is_empty() {
            let mut data = [&[0, 0, 0, 1][..], b"e", &u32::try_from(contexts.len()).unwrap().to_be_bytes()].concat();
            for context in contexts {
                data.extend_from_slice(&u32::try_from(context.len()).unwrap().to_be_bytes());
                data.extend_from_slice(context.as_bytes());
            }
            let replies = self.option(10, &data).await;
            assert_eq!(replies.len(), contexts.len() + 1, "{:?}: a context is not there", self.style);
            self.context = u32::try_from(number(&replies[0].1[..4])).unwrap();
        }
        let infos: &[u8] = if self.style.asks() { &[0, 1, 0x52, 0x53] } else { &[0, 0] };
        self.option(7, &[&[0, 0, 0, 1][..], b"e", infos].concat()).await;
        while self.scene.front.table.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Says everything, and hears everything.
    pub(super) async fn hold(&mut self) {
        for _ in 0..8 {
            match self.dice.roll(8) {
                0..2 => (0..=self.dice.roll(8)).for_each(|_| self.say_read()),
                2..4 => (0..=self.dice.roll(8)).for_each(|_| self.say_write()),
                4 => self.say_wrong(),
                5 => {
                    if self.resize().await {
                        return;
                    }
                }
                6 => {
                    if self.write_past_the_end().await {
                        return;
                    }
                }
                _ => self.stand().await,
            }
            if self.until_answered().await {
                return;
            }
        }
        self.ask(Cmd::DISC, CmdFlags::NONE, 0, 0, &[]);
        self.waiting.clear();
        self.until(|_| false).await;
    }

    fn ask(&mut self, command: Cmd, flags: CmdFlags, offset: u64, length: u64, payload: &[u8]) -> u64 {
        self.cookie += 1;
        let framing = self.style.framing();
        let carries = framing == Framing::Extended && !payload.is_empty();
        let flags = flags.with_if(CmdFlags::PAYLOAD_LEN, carries);
        RequestHeader { flags, command, cookie: Cookie(self.cookie), offset, length }.put(framing, &mut self.to_send);
        self.to_send.extend_from_slice(payload);
        if command == Cmd::READ {
            self.reads.insert(self.cookie, usize::try_from(length).unwrap());
        }
        self.waiting.insert(self.cookie);
        self.cookie
    }

    fn say_read(&mut self) {
        let (offset, some) = (self.dice.roll(HALF / 4), 1 + self.dice.roll(5000));
        let contexts = !self.style.contexts().is_empty() && self.style != Style::Watching;
        match self.dice.roll(9) {
            0..4 => self.ask(Cmd::READ, CmdFlags::NONE, offset, some, &[]),
            4 => self.ask(Cmd::READ, CmdFlags::NONE, offset, HALF / 2, &[]),
            5 if contexts => self.ask(Cmd::BLOCK_STATUS, CmdFlags::REQ_ONE, offset, some, &[]),
            6 if contexts && self.style.framing() == Framing::Extended => {
                let payload = [&4096u64.to_be_bytes()[..], &self.context.to_be_bytes()].concat();
                self.ask(Cmd::BLOCK_STATUS, CmdFlags::NONE, offset, 12, &payload)
            }
            7 => self.ask(Cmd::CACHE, CmdFlags::NONE, offset, some, &[]),
            _ => self.ask(Cmd::FLUSH, CmdFlags::NONE, 0, 0, &[]),
        };
    }

    /// Each to a place of its own: requests in flight are in no order.
    fn say_write(&mut self) {
        let (offset, some) = (HALF + self.cookie % 100 * 5120, 1 + self.dice.roll(5000));
        let payload: Vec<u8> = (0..some).map(|at| u8::try_from((at * 7 + self.cookie) % 251).unwrap()).collect();
        match self.dice.roll(5) {
            0..3 => self.ask(Cmd::WRITE, CmdFlags::NONE, offset, some, &payload),
            3 => self.ask(Cmd::WRITE_ZEROES, CmdFlags::NONE, offset, some, &[]),
            _ => self.ask(Cmd::TRIM, CmdFlags::NONE, offset, some, &[]),
        };
    }

    fn say_wrong(&mut self) {
        let far = 1 << 40;
        let payload = vec![9; usize::try_from(1 + self.dice.roll(6000)).unwrap()];
        let long = u64::try_from(payload.len()).unwrap();
        match self.dice.roll(5) {
            0 => self.ask(Cmd::READ, CmdFlags::NONE, far, 4096, &[]),
            1 => self.ask(Cmd::WRITE, CmdFlags(1 << 9), 0, long, &payload),
            2 => self.ask(Cmd(77), CmdFlags::NONE, 0, 0, &[]),
            3 => self.ask(Cmd::RESIZE, CmdFlags(1 << 9), 0, 0, &[]),
            _ => self.ask(Cmd::READ, CmdFlags::NONE, 0, 0, &[]),
        };
    }

    /// Asks for another size, and waits for the answer. Whether the conversation has ended.
    async fn resize(&mut self) -> bool {
        let target = self.size + (1 + self.dice.roll(16)) * 4096;
        let cookie = self.ask(Cmd::RESIZE, CmdFlags::NONE, target, 0, &[]);
        let ended = self.until_answered().await;
        if !ended && self.succeeded(cookie) {
            self.changed(target);
        }
        ended
    }

    async fn write_past_the_end(&mut self) -> bool {
        let offset = self.size - 512 + self.dice.roll(4) * 512;
        let payload = vec![5; 2048];
        let cookie = self.ask(Cmd::WRITE, CmdFlags::NONE, offset, 2048, &payload);
        let ended = self.until_answered().await;
        if !ended && self.succeeded(cookie) {
            self.changed(offset + 2048);
        }
        ended
    }

    fn succeeded(&self, cookie: u64) -> bool {
        let last = self.messages[&cookie].last().unwrap();
        match self.style.framing() {
            Framing::Simple => number(&last[4..8]) == 0,
            Framing::Structured | Framing::Extended => last[6] & 0x80 == 0,
        }
    }

    /// Whoever waits for another size hears of it.
    fn changed(&mut self, size: u64) {
        self.size = self.size.max(size);
        if let Some((_, notices)) = &mut self.notify {
            *notices += 1;
        }
        self.waiting.extend(self.watch.take().filter(|watch| !self.answered.contains(watch)));
    }

    /// Begins to wait for sizes.
    async fn stand(&mut self) {
        if self.style == Style::Watching && self.watch.is_none() && self.dice.roll(2) == 0 {
            let cookie = self.ask(Cmd::BLOCK_STATUS, CmdFlags::NONE, 0, 512, &[]);
            self.waiting.remove(&cookie);
            self.watch = Some(cookie);
            return;
        }
        let before = self.notify.take();
        let cookie = self.ask(Cmd::RESIZE, CmdFlags::NOTIFY, 0, 0, &[]);
        self.waiting.remove(&cookie);
        self.waiting.extend(before.map(|(cookie, _)| cookie));
        let first = |talk: &Self| talk.messages.contains_key(&cookie) && talk.waiting.is_empty();
        if self.until(first).await && self.succeeded(cookie) {
            self.notify = Some((cookie, 1));
        }
    }

    /// Until everything is answered. Whether the conversation has ended instead.
    async fn until_answered(&mut self) -> bool {
        let told = |talk: &Self| {
            talk.notify.is_none_or(|(cookie, notices)| talk.messages.get(&cookie).map_or(0, Vec::len) >= notices)
        };
        !self.until(|talk| talk.waiting.is_empty() && told(talk)).await
    }

    /// False: the conversation has ended before.
    async fn until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) || !self.to_send.is_empty() {
            if self.ended {
                return false;
            }
            let (style, moved, waiting) = (self.style, self.moved, &self.waiting);
            assert!(Instant::now() < self.over, "{style:?}, moved: {moved}: {waiting:?} is not answered");
            self.step().await;
        }
        true
    }

    async fn step(&mut self) {
        let piece = usize::try_from(1 + self.how.roll(700)).unwrap().min(self.to_send.len());
        if let Ok(sent) = self.stream.try_write(&self.to_send[..piece]) {
            self.to_send.drain(..sent);
        }
        tokio::task::yield_now().await;
        if self.moved && self.how.roll(3) == 0 {
            self.moves += self.scene.hand_over().await.unwrap_or_default();
        }
        // A client that reads seldom is owed much.
        if self.how.roll(4) == 0 {
            let mut some = vec![0; usize::try_from(1 + self.how.roll(100_000)).unwrap()];
            match self.stream.try_read(&mut some) {
                Ok(0) => self.ended = true,
                Ok(read) => self.received.extend_from_slice(&some[..read]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
            }
            while self.understand() {}
        }
        // Timers go on too.
        tokio::time::sleep(STEP).await;
    }

    /// What it was told, by the cookies of its requests. Of a READ what was found: whether zeroes come as a hole is up to the
    /// disk.
    pub(super) fn told(&self) -> BTreeMap<u64, Vec<Vec<u8>>> {
        let framing = self.style.framing();
        let head = if framing == Framing::Extended { 32 } else { 20 };
        let found = |messages: &Vec<Vec<u8>>| {
            let mut pieces: Vec<(u64, Vec<u8>)> = messages
                .iter()
                .filter(|message| message.len() > head)
                .map(|message| {
                    let (body, hole) = (&message[head..], message[7] == 2);
                    let data = if hole { vec![0; length(&body[8..])] } else { body[8..].to_vec() };
                    (number(&body[..8]), data)
                })
                .collect();
            pieces.sort();
            vec![pieces.into_iter().flat_map(|(_, data)| data).collect()]
        };
        let told = self.messages.iter().map(|(cookie, messages)| {
            let reads = self.reads.contains_key(cookie) && framing != Framing::Simple;
            let failed = messages.iter().any(|message| message[6] & 0x80 != 0);
            (*cookie, if reads && !failed { found(messages) } else { messages.clone() })
        });
        told.collect()
    }

    /// The next whole message; false: there is none yet.
    fn understand(&mut self) -> bool {
        let bytes = &self.received;
        let (head, extended) = match self.style.framing() {
            Framing::Simple => (16, false),
            Framing::Structured => (20, false),
            Framing::Extended => (32, true),
        };
        if bytes.len() < head {
            return false;
        }
        let cookie = number(&bytes[8..16]);
        let (body, last) = match head {
            16 if number(&bytes[4..8]) == 0 => (self.reads.get(&cookie).copied().unwrap_or(0), true),
            16 => (0, true),
            _ => (length(&bytes[if extended { 24 } else { 16 }..head]), bytes[5] & 1 == 1),
        };
        if bytes.len() < head + body {
            return false;
        }
        let message = self.received.drain(..head + body).collect();
        self.messages.entry(cookie).or_default().push(message);
        if last {
            self.waiting.remove(&cookie);
            self.answered.insert(cookie);
        }
        true
    }
}
