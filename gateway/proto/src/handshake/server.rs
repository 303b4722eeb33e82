//! The server's side of the handshake: what a client connection does until it enters transmission.
//!
//! Feed bytes to [`Server::handle_input`]; it either needs more, or has an [`Ask`] that only the outside can decide. While
//! an ask is open no input is consumed; one `answer_*` call closes it. What is to be sent collects in [`Server::output`].
//! TLS is such an ask: what it is made of, and what its bytes look like, is the outside's.
//! Invariants: nothing is reserved on a client's word beyond the option limit; after a refused option the stream is in step.

use bytes::{Buf, BytesMut};

#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{fuzz_seeds, fuzz_server};

use super::BlockSizes;
use super::info::{put_error, put_reply};
use crate::{ClientFlags, ExportFlags, Framing, HandshakeFlags, Info, MAX_STRING, NBD_MAGIC, OPT_MAGIC, Opt, Rep};

/// Options larger than the limit are read and thrown away up to this many bytes, so that the stream stays in step.
const SKIP_AT_MOST: u32 = 16 * 1024 * 1024;
/// The most context queries that one option may hold.
const MAX_QUERIES: u32 = 1024;

/// The most options in one handshake, besides four for each export that a LIST has told of: some clients ask about each of
/// those on the same connection.
const MAX_OPTIONS: u32 = 1024;

/// What the outside must decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Which exports are there? Answer with [`Server::list`] for each, then [`Server::end_list`].
    List,
    /// What is this export like? Answer with [`Server::answer_info`] or [`Server::refuse`].
    Info {
        /// The export.
        name: String,
        /// Enter transmission after the answer.
        go: bool,
        /// What the client wants to know besides size and flags.
        infos: Vec<Info>,
    },
    /// As GO, but from an older client: answer with [`Server::answer_export_name`], or end the connection.
    ExportName {
        /// The export.
        name: String,
    },
    /// Which of the export's contexts match? Answer with [`Server::answer_contexts`] or [`Server::refuse`].
    Contexts {
        /// The export.
        name: String,
        /// Select them (SET), or only list.
        set: bool,
        /// The queries; none means all, when listing.
        queries: Vec<String>,
    },
    /// TLS. Answer with [`Server::answer_start_tls`], send what that said, and shake hands for TLS before anything else is
    /// read. Asked only where TLS was not [`Tls::Off`].
    StartTls,
}

/// Whether a client may have TLS (proto.md, "TLS support").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// NOTLS: NBD_OPT_STARTTLS is refused.
    #[default]
    Off,
    /// SELECTIVETLS, with nothing that only TLS can have.
    Allow,
    /// FORCEDTLS: until there is TLS, everything is refused but NBD_OPT_STARTTLS and NBD_OPT_ABORT.
    Require,
}

/// What came of some input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to decide yet.
    More,
    /// The outside must decide.
    Ask(Ask),
    /// The client said ABORT; the acknowledgement is in the output.
    Aborted,
}

/// The client broke the protocol in a way after which the stream can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerHandshakeError {
    /// Unknown client flags.
    #[error("client flags {0:#x} hold bits that no specification names")]
    Flags(u32),
    /// No option starts here.
    #[error("option magic is {0:#018x}, not IHAVEOPT")]
    Magic(u64),
    /// An option too long even to throw away.
    #[error("{0} with {1} bytes of data, more than {SKIP_AT_MOST} even to throw away")]
    Length(Opt, u32),
    /// An export name that can't be, in the one option that has no error reply.
    #[error("NBD_OPT_EXPORT_NAME with a name of {0} bytes, or not UTF-8")]
    Name(u32),
    /// A client without fixed newstyle may only send EXPORT_NAME.
    #[error("{0} from a client that did not agree on fixed newstyle")]
    NotFixed(Opt),
    /// EXPORT_NAME, which has no error reply, before TLS.
    #[error("NBD_OPT_EXPORT_NAME without TLS, which this listener requires (tls = \"require\")")]
    NoTls,
    /// A handshake without end.
    #[error("more than {0} options in one handshake")]
    Options(u32),
    /// Bytes in the clear behind NBD_OPT_STARTTLS: whoever put them there wants them to be taken as sent through TLS.
    #[error("{0} bytes in the clear behind NBD_OPT_STARTTLS")]
    Injected(usize),
}

/// What an export looks like to one client.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags for this client.
    pub flags: ExportFlags,
    /// The canonical name.
    pub name: &'a str,
    /// A description, if there is one.
    pub description: Option<&'a str>,
    /// Constraints, if the backend has any.
    pub block_sizes: Option<BlockSizes>,
    /// The body of NBD_INFO_RESIZE after the type, if the client may have it.
    pub resize: Option<[u8; 26]>,
}

/// What a client selected by SET_META_CONTEXT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// For which export; a GO to another one forgets it.
    pub export: String,
    /// Indexes into the export's contexts; the id on the wire is the same number.
    pub contexts: Vec<usize>,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Option,
    Skipping { option: Opt, left: u32 },
    Asked(Opt),
    Finished,
}

/// How far one option got.
enum Step {
    /// It is not whole.
    More,
    /// It is dealt with; look for the next.
    Again,
    Tell(Progress),
}

/// The server's side of one handshake.
#[derive(Debug)]
pub struct Server {
    state: State,
    client: ClientFlags,
    framing: Framing,
    selection: Option<Selection>,
    /// The longest option data taken, in bytes.
    limit: u32,
    tls: Tls,
    /// TLS is there.
    secured: bool,
    /// How many options there have been.
    options: u32,
    /// How many exports the last LIST has told of, and how many any has.
    listed: (u32, u32),
    out: Vec<u8>,
}

impl Server {
    /// A new connection; the greeting is in the output. `limit` is the longest option data taken, in bytes.
    pub fn new(limit: u32, tls: Tls) -> Self {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPT_MAGIC.to_be_bytes());
        out.extend_from_slice(&HandshakeFlags::FIXED_NEWSTYLE.with(HandshakeFlags::NO_ZEROES).0.to_be_bytes());
        Self {
            state: State::ClientFlags,
            client: ClientFlags::NONE,
            framing: Framing::Simple,
            selection: None,
            limit,
            tls,
            secured: false,
            options: 0,
            listed: (0, 0),
            out,
        }
    }

    /// The framing agreed on so far.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The contexts selected for `export`; none if they were selected for another.
    pub fn selected(&self, export: &str) -> Vec<usize> {
        self.selection.as_ref().filter(|s| s.export == export).map_or_else(Vec::new, |s| s.contexts.clone())
    }

    /// What is to be sent; taken by the caller.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether transmission has begun: what is left in the input belongs to it.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Takes whole messages off the input until something must be decided or nothing whole is left.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Progress, ServerHandshakeError> {
        loop {
            match self.state {
                State::Asked(_) | State::Finished => return Ok(Progress::More),
                State::ClientFlags => {
                    let Some(flags) = input.first_chunk::<4>() else { return Ok(Progress::More) };
                    let flags = u32::from_be_bytes(*flags);
                    if flags & !ClientFlags::FIXED_NEWSTYLE.with(ClientFlags::NO_ZEROES).0 != 0 {
                        return Err(ServerHandshakeError::Flags(flags));
                    }
                    input.advance(4);
                    self.client = ClientFlags(flags);
                    self.state = State::Option;
                }
                State::Skipping { option, left } => {
                    let there = u32::try_from(input.len()).unwrap_or(u32::MAX).min(left);
                    input.advance(usize::try_from(there).unwrap_or(usize::MAX));
                    if there < left {
                        self.state = State::Skipping { option, left: left - there };
                        return Ok(Progress::More);
                    }
                    self.state = State::Option;
                    if self.lacks_tls() && option != Opt::STARTTLS {
                        self.require_tls(option);
                        continue;
                    }
                    let limit = self.limit;
                    self.reply_error(option, Rep::ERR_TOO_BIG, &format!("option data is limited to {limit} bytes"));
                }
                State::Option => match self.option(input)? {
                    Step::More => return Ok(Progress::More),
                    Step::Again => {}
                    Step::Tell(progress) => return Ok(progress),
                },
            }
        }
    }

    fn option(&mut self, input: &mut BytesMut) -> Result<Step, ServerHandshakeError> {
        let Some(magic) = input.first_chunk::<8>() else { return Ok(Step::More) };
        let magic = u64::from_be_bytes(*magic);
        if magic != OPT_MAGIC {
            return Err(ServerHandshakeError::Magic(magic));
        }
        let Some(head) = input.first_chunk::<16>() else { return Ok(Step::More) };
        let mut head: &[u8] = head;
        head.advance(8);
        let (option, length) = (Opt(head.get_u32()), head.get_u32());
        if !self.client.has(ClientFlags::FIXED_NEWSTYLE) && option != Opt::EXPORT_NAME {
            return Err(ServerHandshakeError::NotFixed(option));
        }
        // An option that is longer than what has come is looked at again, and counted when it is whole.
        let most = MAX_OPTIONS.saturating_add(self.listed.1.saturating_mul(4));
        if self.options >= most {
            return Err(ServerHandshakeError::Options(most));
        }
        if option == Opt::SET_META_CONTEXT {
            // Whatever comes of it, malformed or too long, the selection before is forgotten.
            self.selection = None;
        }
        if length > self.limit {
            if option == Opt::EXPORT_NAME {
                return Err(ServerHandshakeError::Name(length));
            }
            if length > SKIP_AT_MOST {
                return Err(ServerHandshakeError::Length(option, length));
            }
            input.advance(16);
            self.options += 1;
            self.state = State::Skipping { option, left: length };
            return Ok(Step::Again);
        }
        let whole = 16usize.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        if input.len() < whole {
            return Ok(Step::More);
        }
        self.options += 1;
        let message = input.split_to(whole);
        let data = message.get(16..).unwrap_or_default();
        self.decide(option, data)
    }

    /// Whether TLS is required and not there.
    fn lacks_tls(&self) -> bool {
        self.tls == Tls::Require && !self.secured
    }

    fn require_tls(&mut self, option: Opt) {
        self.reply_error(option, Rep::ERR_TLS_REQD, "this server requires TLS: send NBD_OPT_STARTTLS first");
    }

    fn decide(&mut self, option: Opt, data: &[u8]) -> Result<Step, ServerHandshakeError> {
        match option {
            Opt::EXPORT_NAME if self.lacks_tls() => return Err(ServerHandshakeError::NoTls),
            Opt::ABORT | Opt::STARTTLS => {}
            _ if self.lacks_tls() => {
                self.require_tls(option);
                return Ok(Step::Again);
            }
            _ => {}
        }
        let ask = match option {
            Opt::EXPORT_NAME => {
                let name = core::str::from_utf8(data).ok().filter(|n| fits(n.len()));
                let name =
                    name.ok_or_else(|| ServerHandshakeError::Name(u32::try_from(data.len()).unwrap_or(u32::MAX)))?;
                Ask::ExportName { name: name.to_owned() }
            }
            Opt::ABORT => {
                self.state = State::Finished;
                self.reply(option, Rep::ACK, &[]);
                return Ok(Step::Tell(Progress::Aborted));
            }
            Opt::LIST | Opt::STARTTLS | Opt::STRUCTURED_REPLY | Opt::EXTENDED_HEADERS if !data.is_empty() => {
                return Ok(self.turn_down(option, Rep::ERR_INVALID, "this option takes no data"));
            }
            Opt::LIST => Ask::List,
            Opt::STARTTLS if self.secured => {
                return Ok(self.turn_down(option, Rep::ERR_INVALID, "TLS is there already"));
            }
            Opt::STARTTLS if self.tls == Tls::Off => {
                return Ok(self.turn_down(option, Rep::ERR_POLICY, "TLS is off on this listener"));
            }
            Opt::STARTTLS => Ask::StartTls,
            Opt::STRUCTURED_REPLY if self.framing == Framing::Extended => {
                return Ok(self.turn_down(
                    option,
                    Rep::ERR_INVALID,
                    "extended headers are already agreed on and include it",
                ));
            }
            Opt::EXTENDED_HEADERS if self.framing == Framing::Extended => {
                return Ok(self.turn_down(option, Rep::ERR_INVALID, "extended headers are already agreed on"));
            }
            Opt::STRUCTURED_REPLY | Opt::EXTENDED_HEADERS => {
                let extended = option == Opt::EXTENDED_HEADERS;
                self.framing = if extended { Framing::Extended } else { Framing::Structured };
                self.reply(option, Rep::ACK, &[]);
                return Ok(Step::Again);
            }
            Opt::INFO | Opt::GO => match info(data) {
                Some((name, infos)) => Ask::Info { name, go: option == Opt::GO, infos },
                None => return self.malformed(option),
            },
            Opt::SET_META_CONTEXT if self.framing == Framing::Simple => {
                return Ok(self.turn_down(
                    option,
                    Rep::ERR_INVALID,
                    "structured replies or extended headers must be agreed on first",
                ));
            }
            Opt::LIST_META_CONTEXT | Opt::SET_META_CONTEXT => match queries(data) {
                Some((name, queries)) => Ask::Contexts { name, set: option == Opt::SET_META_CONTEXT, queries },
                None if has_too_many_queries(data) => {
                    let what = format!("at most {MAX_QUERIES} context queries are taken in one option");
                    return Ok(self.turn_down(option, Rep::ERR_TOO_BIG, &what));
                }
                None => return self.malformed(option),
            },
            other => return Ok(self.turn_down(other, Rep::ERR_UNSUP, &format!("option {other} is not known here"))),
        };
        self.state = State::Asked(option);
        Ok(Step::Tell(Progress::Ask(ask)))
    }

    fn malformed(&mut self, option: Opt) -> Result<Step, ServerHandshakeError> {
        Ok(self.turn_down(
            option,
            Rep::ERR_INVALID,
            "the data's inner lengths disagree with its own, or a string is too long or not UTF-8",
        ))
    }

    fn answered(&mut self) -> Opt {
        match core::mem::replace(&mut self.state, State::Option) {
            State::Asked(option) => option,
            other => {
                self.state = other;
                Opt(0)
            }
        }
    }

    /// Closes the ask with an error reply. After an EXPORT_NAME there is none: end the connection instead.
    pub fn refuse(&mut self, error: Rep, message: &str) {
        let option = self.answered();
        self.reply_error(option, error, message);
    }

    /// Closes a StartTls: it is granted, and all that was agreed on before is forgotten (proto.md, "TLS support"). `input`
    /// is what has been received behind the option: it must be nothing, and is never used.
    pub fn answer_start_tls(&mut self, input: &BytesMut) -> Result<(), ServerHandshakeError> {
        if !input.is_empty() {
            return Err(ServerHandshakeError::Injected(input.len()));
        }
        let option = self.answered();
        self.reply(option, Rep::ACK, &[]);
        self.secured = true;
        self.framing = Framing::Simple;
        self.selection = None;
        Ok(())
    }

    /// One export, in answer to a List that stays open. The answer may be long: send what has collected from time to time.
    pub fn list(&mut self, name: &str, description: Option<&str>) {
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let description = description.unwrap_or_default();
        self.listed.0 = self.listed.0.saturating_add(1);
        self.reply(Opt::LIST, Rep::SERVER, &[&length.to_be_bytes(), name.as_bytes(), description.as_bytes()]);
    }

    /// Closes a List: these were all.
    pub fn end_list(&mut self) {
        self.listed = (0, self.listed.1.max(self.listed.0));
        let option = self.answered();
        self.reply(option, Rep::ACK, &[]);
    }

    /// Closes an Info; after a GO, transmission begins.
    pub fn answer_info(&mut self, infos: &[Info], offer: &Offer<'_>) {
        let option = self.answered();
        let export = [&offer.size.to_be_bytes()[..], &offer.flags.0.to_be_bytes()].concat();
        self.reply(option, Rep::INFO, &[&Info::EXPORT.0.to_be_bytes(), &export]);
        if infos.contains(&Info::NAME) {
            self.reply(option, Rep::INFO, &[&Info::NAME.0.to_be_bytes(), offer.name.as_bytes()]);
        }
        if let Some(description) = offer.description.filter(|_| infos.contains(&Info::DESCRIPTION)) {
            self.reply(option, Rep::INFO, &[&Info::DESCRIPTION.0.to_be_bytes(), description.as_bytes()]);
        }
        if let Some(sizes) = offer.block_sizes.filter(|_| infos.contains(&Info::BLOCK_SIZE)) {
            let [minimum, preferred, maximum] = [sizes.minimum, sizes.preferred, sizes.maximum].map(u32::to_be_bytes);
            self.reply(option, Rep::INFO, &[&Info::BLOCK_SIZE.0.to_be_bytes(), &minimum, &preferred, &maximum]);
        }
        if let Some(resize) = offer.resize.filter(|_| infos.contains(&Info::RESIZE)) {
            self.reply(option, Rep::INFO, &[&Info::RESIZE.0.to_be_bytes(), &resize]);
        }
        self.reply(option, Rep::ACK, &[]);
        if option == Opt::GO {
            self.state = State::Finished;
        }
    }

    /// Closes an ExportName: transmission begins.
    pub fn answer_export_name(&mut self, size: u64, flags: ExportFlags) {
        self.answered();
        self.out.extend_from_slice(&size.to_be_bytes());
        self.out.extend_from_slice(&flags.0.to_be_bytes());
        if !self.client.has(ClientFlags::NO_ZEROES) {
            self.out.extend_from_slice(&[0; 124]);
        }
        self.state = State::Finished;
    }

    /// Closes a Contexts. `found` are (index, name); when setting, they are now selected for `export`.
    pub fn answer_contexts(&mut self, export: &str, found: &[(usize, &str)]) {
        let option = self.answered();
        for (index, name) in found {
            // The id is the index; in a listing it means nothing and is 0.
            let id = if option == Opt::SET_META_CONTEXT { u32::try_from(*index).unwrap_or(u32::MAX) } else { 0 };
            self.reply(option, Rep::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
        }
        self.reply(option, Rep::ACK, &[]);
        if option == Opt::SET_META_CONTEXT {
            self.selection = Some(Selection {
                export: export.to_owned(),
                contexts: found.iter().map(|(index, _)| *index).collect(),
            });
        }
    }

    /// Answers an option with an error, and goes on with the next one.
    fn turn_down(&mut self, option: Opt, error: Rep, message: &str) -> Step {
        self.reply_error(option, error, message);
        Step::Again
    }

    fn reply_error(&mut self, option: Opt, error: Rep, message: &str) {
        put_error(&mut self.out, option, error, message);
    }

    fn reply(&mut self, option: Opt, kind: Rep, parts: &[&[u8]]) {
        put_reply(&mut self.out, option, kind, &parts.concat());
    }
}

/// Those of the contexts (number, name) that match: exactly, or in a listing by a query that ends in a colon.
pub fn match_contexts<'a>(contexts: &[(usize, &'a str)], queries: &[String], set: bool) -> Vec<(usize, &'a str)> {
    let all = !set && queries.is_empty();
    let hits = |context: &str| {
        all || queries.iter().any(|q| q == context || (!set && q.ends_with(':') && context.starts_with(q.as_str())))
    };
    contexts.iter().filter(|(_, c)| hits(c)).copied().collect()
}

fn fits(length: usize) -> bool {
    u32::try_from(length).is_ok_and(|l| l <= MAX_STRING)
}

/// The string at the front of `data`, with its length before it.
fn string<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(data.try_get_u32().ok()?).ok().filter(|l| fits(*l))?;
    let (string, rest) = data.split_at_checked(length)?;
    *data = rest;
    core::str::from_utf8(string).ok()
}

fn info(data: &[u8]) -> Option<(String, Vec<Info>)> {
    let data = &mut { data };
    let name = string(data)?.to_owned();
    let count = usize::from(data.try_get_u16().ok()?);
    if data.len() != count.checked_mul(2)? {
        return None;
    }
    let mut infos = Vec::new();
    while let Ok(info) = data.try_get_u16() {
        // Asked for twice is answered once.
        if !infos.contains(&Info(info)) && Info::NAMED.contains(&Info(info)) {
            infos.push(Info(info));
        }
    }
    Some((name, infos))
}

/// Whether it is what it is but for the number of its queries.
fn has_too_many_queries(data: &[u8]) -> bool {
    let data = &mut { data };
    string(data).is_some() && data.try_get_u32().is_ok_and(|count| count > MAX_QUERIES)
}

fn queries(data: &[u8]) -> Option<(String, Vec<String>)> {
    let data = &mut { data };
    let name = string(data)?.to_owned();
    let count = data.try_get_u32().ok().filter(|c| *c <= MAX_QUERIES)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(string(data)?.to_owned());
    }
    data.is_empty().then_some((name, queries))
}

#[cfg(test)]
mod tests;
