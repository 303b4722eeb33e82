//! The states of the connecting side: each owns its data, and one function takes a state and gives the next.

use bytes::{Buf, BytesMut};

use super::asks::{put_contexts, put_info_or_go, put_option};
use super::{Client, Contexts, Goal, HandshakeError, MAX_CONTEXTS, MAX_LISTED, Negotiated, Progress};
use crate::handshake::info::{InfoItem, Listed, MAX_REPLY, Malformed, MetaContext, REPLY_HEAD, ReplyHead};
use crate::resize::{CONTEXT_PREFIX, ResizeInfo};
use crate::text::printable;
use crate::{
    ClientFlags, ExportFlags, Framing, HandshakeFlags, Info, MAX_SIZE, NBD_MAGIC, OLDSTYLE_MAGIC, OPT_MAGIC, Opt, Rep,
};

/// Magic, style, flags.
const GREETING: usize = 18;
/// Size and flags after NBD_OPT_EXPORT_NAME.
const EXPORT: usize = 10;
/// What follows them unless NO_ZEROES was agreed on.
const ZEROES: usize = 124;
/// The most replies to one option other than NBD_OPT_LIST.
const MAX_REPLIES: usize = 1024;
/// The most bytes of names and descriptions in one NBD_OPT_LIST.
const MAX_LISTED_BYTES: usize = 16 << 20;

/// Where the handshake stands.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing has been asked.
    Greeting,
    /// NBD_OPT_STARTTLS has been asked.
    StartTls { agreed: Agreed },
    /// The backend has agreed to TLS, which is not there yet.
    Secured { agreed: Agreed },
    /// A framing has been asked for.
    Framing { agreed: Agreed, asked: Framing },
    /// The list of contexts has been asked for.
    ListingContexts { agreed: Agreed, names: Vec<String>, replies: usize },
    /// Contexts have been asked for.
    SettingContexts { agreed: Agreed, asked: Vec<String> },
    /// NBD_OPT_GO or NBD_OPT_INFO has been asked. Of an item told twice the last one stands.
    Exporting { opt: Opt, agreed: Agreed, told: Negotiated, replies: usize },
    /// NBD_OPT_EXPORT_NAME has been asked.
    ExportName { agreed: Agreed },
    /// NBD_OPT_LIST has been asked.
    Listing { exports: Vec<Listed>, bytes: usize },
    /// Done or failed.
    Over,
}

/// What one step came to.
pub(super) enum Step {
    /// The input is too short by at least so many bytes.
    Wait(State, usize),
    /// Go on.
    Next(State),
    /// Not without TLS.
    Secure(State),
    /// The handshake is over.
    Done(Progress),
}

/// What has been agreed on so far.
#[derive(Debug)]
pub(super) struct Agreed {
    no_zeroes: bool,
    framing: Framing,
    contexts: Vec<(String, u32)>,
    left_out: usize,
}

impl State {
    /// The option whose reply is awaited; `None` where what is awaited is no option reply.
    pub(super) fn asked(&self) -> Option<Opt> {
        match self {
            Self::Greeting | Self::Secured { .. } | Self::ExportName { .. } | Self::Over => None,
            Self::StartTls { .. } => Some(Opt::STARTTLS),
            Self::Framing { asked: Framing::Extended, .. } => Some(Opt::EXTENDED_HEADERS),
            Self::Framing { .. } => Some(Opt::STRUCTURED_REPLY),
            Self::ListingContexts { .. } => Some(Opt::LIST_META_CONTEXT),
            Self::SettingContexts { .. } => Some(Opt::SET_META_CONTEXT),
            Self::Exporting { opt, .. } => Some(*opt),
            Self::Listing { .. } => Some(Opt::LIST),
        }
    }
}

/// The next reply to an option, if it is there whole.
enum Heard {
    Reply(Rep, BytesMut),
    Missing(usize),
}

/// Takes one reply to `asked` off the input. Its length is held against its bound before it is waited for.
fn hear(asked: Opt, input: &mut BytesMut) -> Result<Heard, HandshakeError> {
    let head = match ReplyHead::decode(input) {
        None => return Ok(Heard::Missing(REPLY_HEAD.saturating_sub(input.len()))),
        Some(Err(found)) => return Err(HandshakeError::ReplyMagic { opt: asked, found }),
        Some(Ok(head)) => head,
    };
    if head.opt != asked {
        return Err(HandshakeError::ReplyToOther { asked, answered: head.opt });
    }
    let too_long = HandshakeError::ReplyTooLong { opt: asked, rep: head.rep, length: head.length, most: MAX_REPLY };
    let length = usize::try_from(head.length).map_err(|_| too_long.clone())?;
    if head.length > MAX_REPLY {
        return Err(too_long);
    }
    let missing = REPLY_HEAD.saturating_add(length).saturating_sub(input.len());
    if missing > 0 {
        return Ok(Heard::Missing(missing));
    }
    input.advance(REPLY_HEAD);
    Ok(Heard::Reply(head.rep, input.split_to(length)))
}

/// NBD_REP_ACK has no data.
fn end(opt: Opt, body: &[u8]) -> Result<(), HandshakeError> {
    match body.len() {
        0 => Ok(()),
        length => Err(malformed(opt, Rep::ACK)(Malformed::Length { length, must: 0 })),
    }
}

fn malformed(opt: Opt, rep: Rep) -> impl Fn(Malformed) -> HandshakeError {
    move |cause| HandshakeError::MalformedReply { opt, rep, cause }
}

/// One more reply to `opt`, of at most `most`.
fn count(opt: Opt, replies: usize, most: usize) -> Result<usize, HandshakeError> {
    if replies >= most { Err(HandshakeError::TooMany { opt, most }) } else { Ok(replies.saturating_add(1)) }
}

fn check_export(size: u64, flags: ExportFlags) -> Result<(u64, ExportFlags), HandshakeError> {
    if size > MAX_SIZE {
        return Err(HandshakeError::SizeTooLarge { size });
    }
    if !flags.has(ExportFlags::HAS_FLAGS) {
        return Err(HandshakeError::NoFlags { flags });
    }
    Ok((size, flags))
}

impl Agreed {
    /// With what was told about the export.
    fn negotiated(self, told: Negotiated) -> Negotiated {
        let Self { framing, contexts, left_out: contexts_left_out, .. } = self;
        Negotiated { framing, contexts, contexts_left_out, ..told }
    }
}

impl Client {
    /// Consumes a state and gives the next, or waits in it for more input.
    pub(super) fn step(&mut self, state: State, input: &mut BytesMut) -> Result<Step, HandshakeError> {
        let Some(opt) = state.asked() else {
            return match state {
                State::Greeting => self.greeted(input),
                State::ExportName { agreed } => entered(agreed, input),
                secured @ State::Secured { .. } => Ok(Step::Secure(secured)),
                _ => Err(HandshakeError::Over),
            };
        };
        let (rep, body) = match hear(opt, input)? {
            Heard::Missing(more) => return Ok(Step::Wait(state, more)),
            Heard::Reply(rep, body) => (rep, body),
        };
        let next = match state {
            State::StartTls { agreed } => self.tls_answered(agreed, rep, &body)?,
            State::Framing { agreed, asked } => self.framing_answered(agreed, asked, opt, rep, &body)?,
            State::ListingContexts { agreed, names, replies } => {
                self.contexts_listed(agreed, names, replies, rep, &body)?
            }
            State::SettingContexts { agreed, asked } => self.contexts_set(agreed, asked, rep, &body)?,
            State::Exporting { opt, agreed, told, replies } => {
                return self.export_told(opt, agreed, told, replies, rep, &body);
            }
            State::Listing { exports, bytes } => return self.listed(exports, bytes, rep, &body),
            State::Greeting | State::Secured { .. } | State::ExportName { .. } | State::Over => {
                return Err(HandshakeError::Over);
            }
        };
        Ok(Step::Next(next))
    }

    fn greeted(&mut self, input: &mut BytesMut) -> Result<Step, HandshakeError> {
        self.wishes.check()?;
        // The magics are looked at as soon as they are there: what is no NBD server may never send more.
        let mut rest: &[u8] = input;
        let (magic, style) = (rest.try_get_u64().ok(), rest.try_get_u64().ok());
        match (magic, style) {
            (Some(found), _) if found != NBD_MAGIC => return Err(HandshakeError::NotNbd { found }),
            (_, Some(OLDSTYLE_MAGIC)) => return Err(HandshakeError::Oldstyle),
            (_, Some(found)) if found != OPT_MAGIC => return Err(HandshakeError::UnknownStyle { found }),
            _ => {}
        }
        let missing = GREETING.saturating_sub(input.len());
        if missing > 0 {
            return Ok(Step::Wait(State::Greeting, missing));
        }
        let flags = HandshakeFlags(rest.get_u16());
        input.advance(GREETING);
        let (fixed, no_zeroes) = (flags.has(HandshakeFlags::FIXED_NEWSTYLE), flags.has(HandshakeFlags::NO_ZEROES));
        let ours =
            ClientFlags::NONE.with_if(ClientFlags::FIXED_NEWSTYLE, fixed).with_if(ClientFlags::NO_ZEROES, no_zeroes);
        let agreed = Agreed { no_zeroes, framing: Framing::Simple, contexts: Vec::new(), left_out: 0 };
        match (fixed, self.wishes.goal) {
            (false, _) if self.wishes.tls => return Err(HandshakeError::NotFixed { opt: Opt::STARTTLS }),
            (false, Goal::Info | Goal::Watch) => return Err(HandshakeError::NotFixed { opt: Opt::INFO }),
            (false, Goal::List) => return Err(HandshakeError::NotFixed { opt: Opt::LIST }),
            _ => self.out.extend_from_slice(&ours.0.to_be_bytes()),
        }
        Ok(Step::Next(match fixed {
            false => self.ask_by_name(agreed),
            true if self.wishes.tls => {
                put_option(&mut self.out, Opt::STARTTLS, &[]);
                State::StartTls { agreed }
            }
            true => self.ask_first(agreed),
        }))
    }

    /// There is no way but TLS: whatever is not an agreement ends it (proto.md, "Downgrade attacks").
    fn tls_answered(&mut self, agreed: Agreed, rep: Rep, body: &[u8]) -> Result<State, HandshakeError> {
        match rep {
            Rep::ACK => {
                end(Opt::STARTTLS, body)?;
                Ok(State::Secured { agreed })
            }
            rep if rep.is_error() => {
                put_option(&mut self.out, Opt::ABORT, &[]);
                Err(HandshakeError::NoTls { rep, message: printable(body) })
            }
            rep => Err(HandshakeError::UnexpectedReply { opt: Opt::STARTTLS, rep }),
        }
    }

    /// The first question, in the clear or inside TLS.
    pub(super) fn ask_first(&mut self, agreed: Agreed) -> State {
        if self.wishes.goal == Goal::List {
            put_option(&mut self.out, Opt::LIST, &[]);
            return State::Listing { exports: Vec::new(), bytes: 0 };
        }
        if self.wishes.goal == Goal::Watch {
            return self.ask_export(agreed);
        }
        self.ask_framing(agreed, self.wishes.framing)
    }

    fn ask_framing(&mut self, agreed: Agreed, asked: Framing) -> State {
        match asked {
            Framing::Extended => put_option(&mut self.out, Opt::EXTENDED_HEADERS, &[]),
            Framing::Structured => put_option(&mut self.out, Opt::STRUCTURED_REPLY, &[]),
            Framing::Simple => return self.ask_export(agreed),
        }
        State::Framing { agreed, asked }
    }

    fn framing_answered(
        &mut self,
        mut agreed: Agreed,
        asked: Framing,
        opt: Opt,
        rep: Rep,
        body: &[u8],
    ) -> Result<State, HandshakeError> {
        match rep {
            Rep::ACK => {
                end(opt, body)?;
                agreed.framing = asked;
                Ok(self.ask_contexts(agreed))
            }
            // Whatever the server calls it: a framing is not needed.
            rep if rep.is_error() => {
                let lesser = if asked == Framing::Extended { Framing::Structured } else { Framing::Simple };
                Ok(self.ask_framing(agreed, lesser))
            }
            rep => Err(self.refused(opt, rep, body)),
        }
    }

    /// Contexts need structured replies: only called where those, or extended headers, were agreed on.
    fn ask_contexts(&mut self, agreed: Agreed) -> State {
        match &self.wishes.contexts {
            Contexts::None => self.ask_export(agreed),
            Contexts::All => {
                put_contexts(&mut self.out, Opt::LIST_META_CONTEXT, &self.wishes.export, &[]);
                State::ListingContexts { agreed, names: Vec::new(), replies: 0 }
            }
            Contexts::These(names) => {
                let mut once: Vec<String> = Vec::with_capacity(names.len());
                for name in names {
                    if !once.contains(name) {
                        once.push(name.clone());
                    }
                }
                self.set_contexts(agreed, once)
            }
        }
    }

    fn set_contexts(&mut self, agreed: Agreed, asked: Vec<String>) -> State {
        if asked.is_empty() {
            return self.ask_export(agreed);
        }
        put_contexts(&mut self.out, Opt::SET_META_CONTEXT, &self.wishes.export, &asked);
        State::SettingContexts { agreed, asked }
    }

    fn contexts_listed(
        &mut self,
        mut agreed: Agreed,
        mut names: Vec<String>,
        replies: usize,
        rep: Rep,
        body: &[u8],
    ) -> Result<State, HandshakeError> {
        let opt = Opt::LIST_META_CONTEXT;
        match rep {
            Rep::META_CONTEXT => {
                let replies = count(opt, replies, MAX_REPLIES)?;
                let name = MetaContext::decode(body).map_err(malformed(opt, rep))?.name;
                if name.starts_with(CONTEXT_PREFIX) || names.contains(&name) {
                    // Only for who knows them (`watch` makes BLOCK_STATUS wait), or told twice.
                } else if names.len() < MAX_CONTEXTS {
                    names.push(name);
                } else {
                    agreed.left_out = agreed.left_out.saturating_add(1);
                }
                Ok(State::ListingContexts { agreed, names, replies })
            }
            Rep::ACK => {
                end(opt, body)?;
                Ok(self.set_contexts(agreed, names))
            }
            // If it is about the export, the next question is told the same.
            rep if rep.is_error() => {
                agreed.left_out = 0;
                Ok(self.ask_export(agreed))
            }
            rep => Err(self.refused(opt, rep, body)),
        }
    }

    fn contexts_set(
        &mut self,
        mut agreed: Agreed,
        asked: Vec<String>,
        rep: Rep,
        body: &[u8],
    ) -> Result<State, HandshakeError> {
        let opt = Opt::SET_META_CONTEXT;
        match rep {
            Rep::META_CONTEXT => {
                let MetaContext { id, name } = MetaContext::decode(body).map_err(malformed(opt, rep))?;
                if !asked.contains(&name) {
                    return Err(HandshakeError::ContextNotAsked { name });
                }
                if agreed.contexts.iter().any(|(known, number)| *known == name || *number == id) {
                    return Err(HandshakeError::ContextTwice { name, id });
                }
                agreed.contexts.push((name, id));
                Ok(State::SettingContexts { agreed, asked })
            }
            Rep::ACK => {
                end(opt, body)?;
                Ok(self.ask_export(agreed))
            }
            // If it is about the export, the next question is told the same.
            rep if rep.is_error() => {
                agreed.contexts.clear();
                agreed.left_out = 0;
                Ok(self.ask_export(agreed))
            }
            rep => Err(self.refused(opt, rep, body)),
        }
    }

    fn ask_export(&mut self, agreed: Agreed) -> State {
        let opt = if self.wishes.goal == Goal::Go { Opt::GO } else { Opt::INFO };
        put_info_or_go(&mut self.out, opt, &self.wishes.export, &self.wishes.infos);
        State::Exporting { opt, agreed, told: Negotiated::default(), replies: 0 }
    }

    /// One more question about an export, where what was agreed on does not matter.
    pub(super) fn ask_again(&mut self) -> State {
        self.ask_export(Agreed { no_zeroes: false, framing: Framing::Simple, contexts: Vec::new(), left_out: 0 })
    }

    fn ask_by_name(&mut self, agreed: Agreed) -> State {
        put_option(&mut self.out, Opt::EXPORT_NAME, self.wishes.export.as_bytes());
        State::ExportName { agreed }
    }

    fn export_told(
        &mut self,
        opt: Opt,
        agreed: Agreed,
        mut told: Negotiated,
        replies: usize,
        rep: Rep,
        body: &[u8],
    ) -> Result<Step, HandshakeError> {
        match rep {
            Rep::INFO => {
                let replies = count(opt, replies, MAX_REPLIES)?;
                match InfoItem::decode(body).map_err(malformed(opt, rep))? {
                    InfoItem::Export { size, flags } => (told.size, told.flags) = check_export(size, flags)?,
                    InfoItem::BlockSize(sizes) => told.block_sizes = Some(sizes),
                    InfoItem::Name(name) => told.name = Some(name),
                    InfoItem::Description(description) => told.description = Some(description),
                    // Having asked is what opts in: unasked, it means nothing.
                    InfoItem::Resize(whole) if self.wishes.infos.contains(&Info::RESIZE) => {
                        let info = ResizeInfo::parse(&whole).map_err(Malformed::from).map_err(malformed(opt, rep))?;
                        told.resize = Some(info);
                    }
                    InfoItem::Resize(_) | InfoItem::Unknown(_) => {}
                }
                Ok(Step::Next(State::Exporting { opt, agreed, told, replies }))
            }
            Rep::ACK => {
                end(opt, body)?;
                // Without them it would not have been taken.
                if !told.flags.has(ExportFlags::HAS_FLAGS) {
                    return Err(HandshakeError::NoExport { opt });
                }
                if self.wishes.goal == Goal::Info {
                    put_option(&mut self.out, Opt::ABORT, &[]);
                }
                Ok(Step::Done(Progress::Done(agreed.negotiated(told))))
            }
            Rep::ERR_UNSUP if opt == Opt::GO && agreed.framing == Framing::Extended => {
                Err(HandshakeError::ExtendedWithoutGo)
            }
            Rep::ERR_UNSUP if opt == Opt::GO => Ok(Step::Next(self.ask_by_name(agreed))),
            rep => Err(self.refused(opt, rep, body)),
        }
    }

    fn listed(
        &mut self,
        mut exports: Vec<Listed>,
        bytes: usize,
        rep: Rep,
        body: &[u8],
    ) -> Result<Step, HandshakeError> {
        let opt = Opt::LIST;
        match rep {
            Rep::SERVER => {
                let bytes = bytes.saturating_add(body.len());
                if bytes > MAX_LISTED_BYTES || exports.len() >= MAX_LISTED {
                    return Err(HandshakeError::TooMany { opt, most: MAX_LISTED });
                }
                exports.push(Listed::decode(body).map_err(malformed(opt, rep))?);
                Ok(Step::Next(State::Listing { exports, bytes }))
            }
            Rep::ACK => {
                end(opt, body)?;
                put_option(&mut self.out, Opt::ABORT, &[]);
                Ok(Step::Done(Progress::Listed(exports)))
            }
            rep => Err(self.refused(opt, rep, body)),
        }
    }

    /// An error reply that ends the handshake, politely; or a reply that has no place here.
    fn refused(&mut self, opt: Opt, rep: Rep, body: &[u8]) -> HandshakeError {
        if !rep.is_error() {
            return HandshakeError::UnexpectedReply { opt, rep };
        }
        put_option(&mut self.out, Opt::ABORT, &[]);
        let about_export = matches!(opt, Opt::GO | Opt::INFO | Opt::LIST_META_CONTEXT | Opt::SET_META_CONTEXT);
        let export = about_export.then(|| self.wishes.export.clone());
        HandshakeError::Refused { opt, rep, export, message: printable(body) }
    }
}

/// The answer to NBD_OPT_EXPORT_NAME, which is no option reply.
fn entered(agreed: Agreed, input: &mut BytesMut) -> Result<Step, HandshakeError> {
    let whole = if agreed.no_zeroes { EXPORT } else { EXPORT.saturating_add(ZEROES) };
    let missing = whole.saturating_sub(input.len());
    if missing > 0 {
        return Ok(Step::Wait(State::ExportName { agreed }, missing));
    }
    let mut answer = input.split_to(whole);
    let (size, flags) = check_export(answer.get_u64(), ExportFlags(answer.get_u16()))?;
    Ok(Step::Done(Progress::Done(agreed.negotiated(Negotiated { size, flags, ..Negotiated::default() }))))
}
