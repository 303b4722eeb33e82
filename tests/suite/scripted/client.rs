//! A client that says exactly what a test wants it to say, and takes replies apart without forgiving anything.

use std::collections::HashMap;
use std::path::Path;

use super::numbers::{
    EXTENDED_REPLY, EXTENDED_REQUEST, IHAVEOPT, NBDMAGIC, OPTION_REPLY, REQUEST, SIMPLE_REPLY, STRUCTURED_REPLY, chunk,
    cmd, cmd_flag, info, opt, rep,
};
use super::{Framing, Link};
use crate::trouble::{Trouble, ensure};

/// A request, field by field.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Ask {
    pub(crate) fn read(cookie: u64, offset: u64, length: u64) -> Self {
        Self { command: cmd::READ, cookie, offset, length, flags: 0 }
    }

    /// Its bytes, without a payload.
    pub(crate) fn encode(&self, framing: Framing) -> Vec<u8> {
        let magic = if framing == Framing::Extended { EXTENDED_REQUEST } else { REQUEST };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        match framing {
            Framing::Extended => bytes.extend(self.length.to_be_bytes()),
            Framing::Simple | Framing::Structured => {
                bytes.extend(u32::try_from(self.length).expect("a compact request has 32 bits").to_be_bytes());
            }
        }
        bytes
    }
}

/// An option's reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// What GO tells of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opened {
    pub(crate) size: u64,
    pub(crate) flags: u16,
    pub(crate) blocks: Option<[u32; 3]>,
    pub(crate) resize: Option<Resizable>,
}

/// NBD_INFO_RESIZE, field by field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Resizable {
    pub(crate) features: u16,
    pub(crate) minimum: u64,
    pub(crate) maximum: u64,
    pub(crate) granularity: u64,
}

/// A whole reply: all its chunks, put together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) error: u32,
    pub(crate) error_offset: Option<u64>,
    pub(crate) message: String,
    /// The data of a READ by absolute offset, holes filled with zeroes, in order of offsets.
    pub(crate) data: Vec<u8>,
    /// How many chunks carried data or holes.
    pub(crate) pieces: usize,
    /// Per context id, lengths and flags.
    pub(crate) extents: Vec<(u32, Vec<(u64, u64)>)>,
    /// The sizes of its RESIZE chunks.
    pub(crate) sizes: Vec<u64>,
}

impl Reply {
    /// The reply, unless it is an error.
    pub(crate) fn success(self) -> Result<Self, Trouble> {
        ensure(self.error == 0, || format!("cookie {:#x}: error {} {}", self.cookie, self.error, self.message))?;
        Ok(self)
    }
}

/// A request under way.
struct Open {
    ask: Ask,
    covered: Vec<(u64, u64)>,
    reply: Reply,
}

/// A connection that speaks as it is told.
pub(crate) struct RawClient {
    link: Link,
    pub(crate) framing: Framing,
    open: HashMap<u64, Open>,
    /// Complete replies that came while something else was waited for.
    early: Vec<Reply>,
}

impl RawClient {
    /// Connects, checks the greeting, and answers it (fixed newstyle, no zeroes).
    pub(crate) fn connect(socket: &Path) -> Result<Self, Trouble> {
        Self::connect_with(socket, 3)
    }

    /// The same with other client flags.
    pub(crate) fn connect_with(socket: &Path, flags: u32) -> Result<Self, Trouble> {
        let mut link = Link::dial(socket)?;
        let greeting = (link.take_u64()?, link.take_u64()?, link.take_u16()?);
        ensure(greeting == (NBDMAGIC, IHAVEOPT, 3), || format!("an unknown greeting {greeting:x?}"))?;
        link.send(&flags.to_be_bytes())?;
        Ok(Self { link, framing: Framing::Simple, open: HashMap::new(), early: Vec::new() })
    }

    /// A session on `export`, framed as told.
    pub(crate) fn open(socket: &Path, export: &str, framing: Framing) -> Result<(Self, Opened), Trouble> {
        let mut client = Self::connect(socket)?;
        client.upgrade(framing)?;
        let opened = client.go(export)?;
        Ok((client, opened))
    }

    pub(crate) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> Result<(), Trouble> {
        let length = u32::try_from(data.len()).expect("an option has 32 bits");
        self.link.send(&option_bytes(option, length, data))
    }

    pub(crate) fn answer(&mut self) -> Result<Answer, Trouble> {
        let magic = self.link.take_u64()?;
        ensure(magic == OPTION_REPLY, || format!("an option reply begins with {magic:#x}"))?;
        let (option, kind, length) = (self.link.take_u32()?, self.link.take_u32()?, self.link.take_u32()?);
        Ok(Answer { option, kind, data: self.link.take(length as usize)? })
    }

    /// Sends an option and takes its replies, the last of which is an ACK or an error.
    pub(crate) fn negotiate(&mut self, option: u32, data: &[u8]) -> Result<Vec<Answer>, Trouble> {
        self.option(option, data)?;
        let mut answers = Vec::new();
        loop {
            let answer = self.answer()?;
            ensure(answer.option == option, || format!("option {option} got a reply for {}", answer.option))?;
            let last = answer.kind == rep::ACK || answer.kind >= 1 << 31;
            answers.push(answer);
            if last {
                return Ok(answers);
            }
        }
    }

    /// The kind of the last reply to an option.
    pub(crate) fn verdict(&mut self, option: u32, data: &[u8]) -> Result<u32, Trouble> {
        self.negotiate(option, data).map(|answers| answers.last().map_or(0, |answer| answer.kind))
    }

    pub(crate) fn upgrade(&mut self, framing: Framing) -> Result<(), Trouble> {
        let option = match framing {
            Framing::Simple => return Ok(()),
            Framing::Structured => opt::STRUCTURED_REPLY,
            Framing::Extended => opt::EXTENDED_HEADERS,
        };
        let verdict = self.verdict(option, &[])?;
        ensure(verdict == rep::ACK, || format!("{framing:?} refused: {verdict:#x}"))?;
        self.framing = framing;
        Ok(())
    }

    /// Asks for metadata contexts; their ids and names.
    pub(crate) fn contexts(&mut self, export: &str, queries: &[&str]) -> Result<Vec<(u32, String)>, Trouble> {
        let answers = self.negotiate(opt::SET_META_CONTEXT, &meta_request(export, queries))?;
        ensure(answers.last().is_some_and(|last| last.kind == rep::ACK), || format!("contexts refused: {answers:?}"))?;
        let given = answers.iter().filter(|answer| answer.kind == rep::META_CONTEXT);
        Ok(given.map(|a| (be32(&a.data[..4]), String::from_utf8_lossy(&a.data[4..]).into_owned())).collect())
    }

    pub(crate) fn go(&mut self, export: &str) -> Result<Opened, Trouble> {
        self.learn(opt::GO, export, &[info::BLOCK_SIZE])
    }

    /// INFO or GO, with the information that is asked for.
    pub(crate) fn learn(&mut self, option: u32, export: &str, wanted: &[u16]) -> Result<Opened, Trouble> {
        let answers = self.negotiate(option, &go_request(export, wanted))?;
        let last = answers.last().expect("negotiate gives at least one");
        ensure(last.kind == rep::ACK, || {
            format!("GO {export:?} refused: {:#x} {}", last.kind, String::from_utf8_lossy(&last.data))
        })?;
        let mut opened = None;
        let mut blocks = None;
        let mut resize = None;
        for answer in answers.iter().filter(|answer| answer.kind == rep::INFO) {
            match u16::from_be_bytes([answer.data[0], answer.data[1]]) {
                info::EXPORT => opened = Some((be64(&answer.data[2..10]), be16(&answer.data[10..12]))),
                info::BLOCK_SIZE => blocks = Some([2, 6, 10].map(|at| be32(&answer.data[at..at + 4]))),
                info::RESIZE => {
                    ensure(answer.data.len() == 28, || format!("NBD_INFO_RESIZE of {} bytes", answer.data.len()))?;
                    let [minimum, maximum, granularity] = [4, 12, 20].map(|at| be64(&answer.data[at..at + 8]));
                    let features = be16(&answer.data[2..4]);
                    resize = Some(Resizable { features, minimum, maximum, granularity });
                }
                _ => {}
            }
        }
        let (size, flags) = opened.ok_or_else(|| Trouble::new("GO told no size"))?;
        Ok(Opened { size, flags, blocks, resize })
    }

    /// Sends a request with its payload, and remembers what its reply may hold.
    pub(crate) fn send(&mut self, ask: Ask, payload: &[u8]) -> Result<(), Trouble> {
        let mut bytes = ask.encode(self.framing);
        bytes.extend(payload);
        let reply = Reply { cookie: ask.cookie, ..Reply::default() };
        self.open.insert(ask.cookie, Open { ask, covered: Vec::new(), reply });
        self.link.send(&bytes)
    }

    /// Sends a request and waits for its reply, the only one under way.
    pub(crate) fn ask(&mut self, ask: Ask, payload: &[u8]) -> Result<Reply, Trouble> {
        self.send(ask, payload)?;
        let reply = self.reply()?;
        ensure(reply.cookie == ask.cookie, || format!("asked {:#x}, answered {:#x}", ask.cookie, reply.cookie))?;
        Ok(reply)
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Trouble> {
        self.ask(Ask::read(0x1234, offset, length), &[])?.success().map(|reply| reply.data)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<Reply, Trouble> {
        let flags = if self.framing == Framing::Extended { cmd_flag::PAYLOAD_LEN } else { 0 };
        self.ask(Ask { flags, command: cmd::WRITE, cookie: 0x4321, offset, length: data.len() as u64 }, data)
    }

    /// The next reply to be complete, of whichever request.
    pub(crate) fn reply(&mut self) -> Result<Reply, Trouble> {
        if !self.early.is_empty() {
            return Ok(self.early.remove(0));
        }
        loop {
            if let Some(reply) = self.hear()? {
                return Ok(reply);
            }
        }
    }

    /// The next size that a standing request of this cookie tells.
    pub(crate) fn next_size(&mut self, cookie: u64) -> Result<u64, Trouble> {
        loop {
            let open = self.open.get_mut(&cookie).ok_or_else(|| Trouble::new("the standing request has ended"))?;
            if !open.reply.sizes.is_empty() {
                return Ok(open.reply.sizes.remove(0));
            }
            let done = self.hear()?;
            self.early.extend(done);
        }
    }

    /// A simple reply or one chunk; the whole reply if it ends one.
    fn hear(&mut self) -> Result<Option<Reply>, Trouble> {
        let magic = self.link.take_u32()?;
        match magic {
            SIMPLE_REPLY if self.framing != Framing::Extended => self.simple_reply().map(Some),
            STRUCTURED_REPLY if self.framing == Framing::Structured => self.chunk(),
            EXTENDED_REPLY if self.framing == Framing::Extended => self.chunk(),
            _ => Err(Trouble::new(format!("a reply on a {:?} session begins with {magic:#x}", self.framing))),
        }
    }

    fn simple_reply(&mut self) -> Result<Reply, Trouble> {
        let (error, cookie) = (self.link.take_u32()?, self.link.take_u64()?);
        let mut open = self.take_open(cookie)?;
        ensure(self.framing == Framing::Simple || open.ask.command != cmd::READ, || {
            "a READ got a simple reply after structured ones were agreed".into()
        })?;
        open.reply.error = error;
        if error == 0 && open.ask.command == cmd::READ {
            open.reply.data = self.link.take(open.ask.length as usize)?;
            open.reply.pieces = 1;
        }
        Ok(open.reply)
    }

    /// One chunk; the whole reply if it was the last.
    fn chunk(&mut self) -> Result<Option<Reply>, Trouble> {
        let (flags, kind, cookie) = (self.link.take_u16()?, self.link.take_u16()?, self.link.take_u64()?);
        let (offset, length) = match self.framing {
            Framing::Extended => (Some(self.link.take_u64()?), self.link.take_u64()?),
            Framing::Simple | Framing::Structured => (None, u64::from(self.link.take_u32()?)),
        };
        ensure(length <= 65 << 20, || format!("a chunk of {length} bytes"))?;
        let body = self.link.take(length as usize)?;
        let mut open = self.take_open(cookie)?;
        ensure(offset.is_none_or(|offset| offset == open.ask.offset), || {
            format!("an extended reply for offset {} says {offset:?}", open.ask.offset)
        })?;
        match kind {
            chunk::RESIZE => {
                ensure(length == 8, || format!("a RESIZE chunk of {length} bytes"))?;
                open.reply.sizes.push(be64(&body));
            }
            chunk::NONE => ensure(length == 0, || "a NONE chunk with a body".into())?,
            chunk::OFFSET_DATA => open.cover(be64(&body[..8]), Covering::Bytes(&body[8..]))?,
            chunk::OFFSET_HOLE => open.cover(be64(&body[..8]), Covering::Zeroes(be32(&body[8..12])))?,
            chunk::BLOCK_STATUS => {
                let extents = body[4..].chunks(8).map(|e| (u64::from(be32(&e[..4])), u64::from(be32(&e[4..]))));
                open.reply.extents.push((be32(&body[..4]), extents.collect()));
            }
            chunk::BLOCK_STATUS_EXT => {
                let extents: Vec<_> = body[8..].chunks(16).map(|e| (be64(&e[..8]), be64(&e[8..]))).collect();
                ensure(be32(&body[4..8]) as usize == extents.len(), || "a wrong count of extents".into())?;
                open.reply.extents.push((be32(&body[..4]), extents));
            }
            chunk::ERROR | chunk::ERROR_OFFSET => {
                open.reply.error = be32(&body[..4]);
                let end = 6 + usize::from(be16(&body[4..6]));
                open.reply.message = String::from_utf8_lossy(&body[6..end]).into_owned();
                open.reply.error_offset = (kind == chunk::ERROR_OFFSET).then(|| be64(&body[end..end + 8]));
            }
            _ => return Err(Trouble::new(format!("an unknown chunk type {kind:#x}"))),
        }
        if flags & chunk::DONE == 0 {
            self.open.insert(cookie, open);
            return Ok(None);
        }
        let covered: u64 = open.covered.iter().map(|(start, end)| end - start).sum();
        ensure(open.ask.command != cmd::READ || open.reply.error != 0 || covered == open.ask.length, || {
            format!("a READ of {} bytes was answered with {covered}", open.ask.length)
        })?;
        Ok(Some(open.reply))
    }

    fn take_open(&mut self, cookie: u64) -> Result<Open, Trouble> {
        self.open.remove(&cookie).ok_or_else(|| Trouble::new(format!("a reply for cookie {cookie:#x}, never asked")))
    }

    /// DISC, then the other side's close.
    pub(crate) fn leave(mut self) -> Result<(), Trouble> {
        let bytes = Ask { command: cmd::DISC, ..Ask::default() }.encode(self.framing);
        self.link.send(&bytes)?;
        self.link.await_close()
    }
}

enum Covering<'a> {
    Bytes(&'a [u8]),
    Zeroes(u32),
}

impl Open {
    /// Lays a chunk into the reply; inside the request, over nothing that is already there.
    fn cover(&mut self, start: u64, what: Covering<'_>) -> Result<(), Trouble> {
        let length = match what {
            Covering::Bytes(bytes) => bytes.len() as u64,
            Covering::Zeroes(length) => u64::from(length),
        };
        let (end, ask) = (start + length, self.ask);
        ensure(start >= ask.offset && end <= ask.offset + ask.length, || {
            format!("a chunk {start}..{end} outside its request {ask:?}")
        })?;
        ensure(self.covered.iter().all(|(s, e)| end <= *s || start >= *e), || {
            format!("a chunk {start}..{end} over another in {:?}", self.covered)
        })?;
        self.covered.push((start, end));
        self.reply.pieces += 1;
        self.reply.data.resize(ask.length as usize, 0);
        if let Covering::Bytes(bytes) = what {
            let at = (start - ask.offset) as usize;
            self.reply.data[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// An option's bytes, whatever length it claims.
pub(crate) fn option_bytes(option: u32, length: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The data of INFO and GO.
pub(crate) fn go_request(export: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = text(export);
    data.extend(u16::try_from(wanted.len()).expect("few").to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn meta_request(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = text(export);
    data.extend(u32::try_from(queries.len()).expect("few").to_be_bytes());
    data.extend(queries.iter().flat_map(|query| text(query)));
    data
}

fn text(words: &str) -> Vec<u8> {
    let length = u32::try_from(words.len()).expect("short").to_be_bytes();
    [&length, words.as_bytes()].concat()
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(bytes.try_into().expect("two bytes"))
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}
