//! A client of each style: how it asks for a size, and how it learns of one that another asked for.

use std::path::{Path, PathBuf};

use super::backend::{NAME, Stage};
use super::stock::Stock;
use super::style::Style;
use crate::scripted::numbers::{cmd, cmd_flag, errno, flag, info, opt};
use crate::scripted::{Ask, Framing, Opened, RawClient, Reply};
use crate::trouble::{Trouble, ensure, eventually};

/// How many bytes a client that grows by writing writes at the new end, and which.
pub(super) const MARK: u64 = 512;
pub(super) const MARK_BYTE: u8 = 0xa7;

/// The cookie of a standing NOTIFY.
const STANDING: u64 = 0x57a4;

/// What a client was told when it asked for a size.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) errno: u32,
    /// The sentence of a refusal, where the client's dialect can carry one.
    pub(super) sentence: Option<String>,
    /// The size in force, where it can carry that.
    pub(super) size: Option<u64>,
}

impl From<Reply> for Said {
    fn from(reply: Reply) -> Self {
        let sentence = (!reply.message.is_empty()).then_some(reply.message);
        Self { errno: reply.error, sentence, size: reply.sizes.last().copied() }
    }
}

#[expect(clippy::large_enum_variant, reason = "there is one per client")]
enum Line {
    Raw(RawClient),
    Stock(Stock),
}

pub(super) struct Client {
    pub(super) style: Style,
    line: Line,
    socket: PathBuf,
    /// The transmission flags that it was told.
    flags: u16,
    /// Whether the gateway knows that it knows of other sizes.
    opted_in: bool,
    /// The size that the gateway last told it, and the last one that it was found to know.
    told: u64,
    known: u64,
    /// Up to where a client that did not opt in is admitted.
    confirmed: u64,
}

impl Client {
    pub(super) fn enter(stage: &Stage, style: Style) -> Result<Self, Trouble> {
        let socket = stage.gateway.socket().to_owned();
        if style == Style::Libnbd {
            let (stock, told) = Stock::connect(&stage.gateway.uri(NAME))?;
            return Ok(Self {
                style,
                line: Line::Stock(stock),
                socket,
                flags: 0,
                opted_in: true,
                told,
                known: told,
                confirmed: told,
            });
        }
        let mut raw = RawClient::connect(&socket)?;
        raw.upgrade(style.framing())?;
        let mut opted_in = style.opts_in();
        let asks: &[u16] = match style {
            Style::Handshake => &[],
            Style::Automatic => {
                // Not there where nothing grows: then it is a client like any other.
                opted_in = !raw.contexts(NAME, &["x-resize:automatic"])?.is_empty();
                &[]
            }
            _ => &[info::RESIZE],
        };
        let Opened { size, flags, resize, .. } = raw.learn(opt::GO, NAME, asks)?;
        ensure(resize.is_some() != asks.is_empty(), || format!("{style:?} asked {asks:?} and was told {resize:?}"))?;
        if style == Style::Notified {
            raw.send(Ask { command: cmd::RESIZE, flags: cmd_flag::NOTIFY, cookie: STANDING, ..Ask::default() }, &[])?;
            let first = raw.next_size(STANDING)?;
            ensure(first == size, || format!("GO told {size}, and NOTIFY begins with {first}"))?;
        }
        Ok(Self { style, line: Line::Raw(raw), socket, flags, opted_in, told: size, known: size, confirmed: size })
    }

    /// Asks for a size as its style can: by RESIZE, or by a write that ends there.
    pub(super) fn ask(&mut self, to: u64) -> Result<Said, Trouble> {
        let said = if self.style.only_writes() { self.write(to - MARK, MARK)? } else { self.resize(to)? };
        if said.errno == 0 {
            self.confirmed = self.confirmed.max(to);
        }
        Ok(said)
    }

    /// NBD_CMD_RESIZE.
    fn resize(&mut self, to: u64) -> Result<Said, Trouble> {
        let Line::Raw(raw) = &mut self.line else { return Err(Trouble::new("libnbd does not know NBD_CMD_RESIZE")) };
        let said = Said::from(raw.ask(Ask { command: cmd::RESIZE, cookie: 0x51, offset: to, ..Ask::default() }, &[])?);
        if said.errno == 0 {
            self.confirmed = said.size.unwrap_or(to);
            self.told = self.confirmed;
        }
        Ok(said)
    }

    /// A WRITE of marks.
    pub(super) fn write(&mut self, offset: u64, length: u64) -> Result<Said, Trouble> {
        match &mut self.line {
            Line::Raw(raw) => raw.write(offset, &vec![MARK_BYTE; length as usize]).map(Said::from),
            Line::Stock(stock) => Ok(match stock.ask(&format!("write {offset} {length} {MARK_BYTE}"))? {
                Ok(_) => Said { errno: 0, sentence: None, size: None },
                Err((errno, _)) => Said { errno, sentence: None, size: None },
            }),
        }
    }

    /// Knows `size` at once, by the means of its style, and may use all of it, and not more.
    pub(super) fn knows(&mut self, size: u64) -> Result<(), Trouble> {
        let news = size != self.known;
        let known = match &mut self.line {
            Line::Stock(stock) => {
                if news {
                    let watched = stock.ask("watch")?.map_err(|(_, why)| Trouble::new(why))?;
                    ensure(watched == size, || format!("libnbd's long poll told {watched}, not {size}"))?;
                }
                stock.ask("size")?.map_err(|(_, why)| Trouble::new(why))?
            }
            Line::Raw(raw) => match self.style {
                Style::Notified if news => loop {
                    let told = raw.next_size(STANDING)?;
                    if told == size {
                        break told;
                    }
                },
                // The direction is judged against what it was told: this can only be a grow that is done already.
                Style::Structured | Style::Extended if size >= self.told && self.flags & flag::SEND_RESIZE != 0 => {
                    let ask = Ask { command: cmd::RESIZE, cookie: 0x52, offset: self.told, ..Ask::default() };
                    one_size(raw.ask(ask, &[])?)?
                }
                Style::Structured | Style::Extended | Style::Query | Style::Notified => {
                    let ask = Ask { command: cmd::RESIZE, flags: cmd_flag::QUERY, cookie: 0x53, ..Ask::default() };
                    one_size(raw.ask(ask, &[])?)?
                }
                Style::Simple | Style::Automatic | Style::Handshake | Style::Libnbd => shown(&self.socket)?,
            },
        };
        ensure(known == size, || format!("the client {:?} knows of {known} bytes, not {size}", self.style))?;
        (self.told, self.known) = (size, size);
        self.uses_all_of(size)
    }

    /// The same after some time, for what nobody here has asked for.
    pub(super) fn comes_to_know(&mut self, size: u64) -> Result<(), Trouble> {
        if !matches!(self.style, Style::Notified | Style::Libnbd) {
            let socket = self.socket.clone();
            eventually("the new size", || shown(&socket).is_ok_and(|now| now == size))?;
        }
        self.knows(size)
    }

    fn uses_all_of(&mut self, size: u64) -> Result<(), Trouble> {
        let end = if self.opted_in { size } else { self.confirmed.min(size) };
        let last = self.read(end - MARK)?;
        ensure(last == 0, || format!("{:?} may not read the last bytes of {end}: error {last}", self.style))?;
        let past = self.read(end)?;
        ensure(past == errno::EINVAL, || format!("{:?} reads past {end} and is told {past}, not EINVAL", self.style))
    }

    /// The error of a READ.
    fn read(&mut self, offset: u64) -> Result<u32, Trouble> {
        match &mut self.line {
            Line::Raw(raw) => Ok(raw.ask(Ask::read(0x1234, offset, MARK), &[])?.error),
            Line::Stock(stock) => {
                Ok(stock.ask(&format!("read {offset} {MARK}"))?.map_or_else(|(errno, _)| errno, |_| 0))
            }
        }
    }

    pub(super) fn leave(self) -> Result<(), Trouble> {
        match self.line {
            Line::Raw(raw) => raw.leave(),
            Line::Stock(stock) => stock.leave(),
        }
    }
}

fn one_size(reply: Reply) -> Result<u64, Trouble> {
    let reply = reply.success()?;
    match reply.sizes[..] {
        [size] => Ok(size),
        _ => Err(Trouble::new(format!("one RESIZE chunk was due: {:?}", reply.sizes))),
    }
}

/// What a handshake of somebody who only asks tells; INFO and GO have to agree.
fn shown(socket: &Path) -> Result<u64, Trouble> {
    let mut client = RawClient::connect(socket)?;
    client.upgrade(Framing::Structured)?;
    let asked = client.learn(opt::INFO, NAME, &[])?.size;
    let gone = client.learn(opt::GO, NAME, &[info::RESIZE])?.size;
    client.leave()?;
    ensure(asked == gone, || format!("INFO tells {asked}, and GO {gone}"))?;
    Ok(gone)
}

/// One who knows the extension, for what a test does besides: it fills disks, and looks at all of them.
pub(super) struct Hand(RawClient);

impl Hand {
    pub(super) fn enter(stage: &Stage) -> Result<Self, Trouble> {
        let mut raw = RawClient::connect(stage.gateway.socket())?;
        raw.upgrade(Framing::Structured)?;
        raw.learn(opt::GO, NAME, &[info::RESIZE])?;
        Ok(Self(raw))
    }

    /// Asks for a size in full knowledge of the one now.
    pub(super) fn try_resize(&mut self, to: u64) -> Result<Said, Trouble> {
        let query = Ask { command: cmd::RESIZE, flags: cmd_flag::QUERY, cookie: 0x55, ..Ask::default() };
        one_size(self.0.ask(query, &[])?)?;
        self.0.ask(Ask { command: cmd::RESIZE, cookie: 0x54, offset: to, ..Ask::default() }, &[]).map(Said::from)
    }

    pub(super) fn resize(&mut self, to: u64) -> Result<u64, Trouble> {
        one_size(self.0.ask(Ask { command: cmd::RESIZE, cookie: 0x54, offset: to, ..Ask::default() }, &[])?)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Trouble> {
        self.0.write(offset, data)?.success().map(|_| ())
    }

    pub(super) fn expect(&mut self, content: &[u8]) -> Result<(), Trouble> {
        let found = self.0.read(0, content.len() as u64)?;
        let Some(at) = (0..content.len()).find(|at| found[*at] != content[*at]) else { return Ok(()) };
        Err(Trouble::new(format!("byte {at} of {} is {:#x}, not {:#x}", content.len(), found[at], content[at])))
    }

    pub(super) fn leave(self) -> Result<(), Trouble> {
        self.0.leave()
    }
}
