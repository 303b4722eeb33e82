//! The connecting side of the handshake, sans-IO: bytes of the backend in, bytes for it and a result out.
//!
//! Owns what is asked, in which order, and what is made of each answer. Never reads more than the handshake's own bytes:
//! what follows them stays in the buffer for the transmission phase. Never allocates for a length before it has been
//! held against its bound. The caller owns sockets, deadlines, and what to do after an error.
//! Source: proto.md, "Newstyle negotiation", "Option types"; branch extension-ext-header for NBD_OPT_EXTENDED_HEADERS.

use bytes::{Bytes, BytesMut};

use crate::handshake::BlockSizes;
use crate::handshake::info::Listed;
use crate::resize::ResizeInfo;
use crate::{ExportFlags, Framing, Info, Opt};

mod asks;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod states;
#[cfg(test)]
mod tests;

use asks::put_option;
pub use error::{Closed, HandshakeError};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{fuzz_client, fuzz_seeds};
use states::{State, Step};

/// The most metadata contexts that are selected on one connection.
pub const MAX_CONTEXTS: usize = 64;
/// The most exports of one NBD_OPT_LIST.
pub const MAX_LISTED: usize = 100_000;

/// What to get out of a handshake.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The export's name; "" is the default export. Not looked at by [`Goal::List`].
    pub export: String,
    /// The most capable framing wanted. A backend that lacks it is asked for the next one down.
    pub framing: Framing,
    /// Which metadata contexts to select. None are where only simple replies could be agreed on.
    pub contexts: Contexts,
    /// Which information to ask for besides NBD_INFO_EXPORT. Asking for BLOCK_SIZE is a promise to abide by it.
    pub infos: Vec<Info>,
    /// Where it ends.
    pub goal: Goal,
    /// Whether TLS comes before anything else. If it does, nothing goes on without it.
    pub tls: bool,
}

impl Wishes {
    /// Enters transmission with `export`: the best framing, no contexts, everything that is known about it.
    pub fn go(export: impl Into<String>) -> Self {
        Self {
            export: export.into(),
            framing: Framing::Extended,
            contexts: Contexts::None,
            infos: vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE],
            goal: Goal::Go,
            tls: false,
        }
    }

    /// The same without what an export can be served without.
    #[must_use]
    pub fn only_what_is_needed(self) -> Self {
        Self { framing: Framing::Simple, contexts: Contexts::None, infos: Vec::new(), ..self }
    }
}

/// Which metadata contexts to select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contexts {
    /// None at all.
    None,
    /// Those that the backend lists, at most [`MAX_CONTEXTS`] and none of `x-resize:`, some of which change what
    /// the connection does.
    All,
    /// These, as far as the backend has them.
    These(Vec<String>),
}

/// Where a handshake ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// In the transmission phase.
    Go,
    /// With what NBD_OPT_INFO says. Some servers say size 0 there for every export: take 0 for "unknown".
    Info,
    /// The same, and the connection stays in its negotiation for [`Client::ask_info`]. No framing is asked for.
    Watch,
    /// With the list of exports.
    List,
}

/// What was agreed on, and what the export is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Size in bytes, at most 2^63-1.
    pub size: u64,
    /// What the export can do.
    pub flags: ExportFlags,
    /// How requests and replies are framed.
    pub framing: Framing,
    /// The contexts selected, in the backend's order, each with its number; names and numbers are unique.
    pub contexts: Vec<(String, u32)>,
    /// How many contexts were listed beyond [`MAX_CONTEXTS`] and therefore not selected.
    pub contexts_left_out: usize,
    /// Block sizes, if the backend states them.
    pub block_sizes: Option<BlockSizes>,
    /// The canonical name, if the backend states one.
    pub name: Option<String>,
    /// A description for people, if the backend states one. Made by the backend: escape it before showing it.
    pub description: Option<String>,
    /// What the size can do, if it was asked for and answered. After [`Goal::Go`] this is an opt-in to all of it.
    pub resize: Option<ResizeInfo>,
}

/// How far a handshake has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least so many more bytes must be appended to the input before it can go on.
    Need(usize),
    /// The backend has agreed to TLS, which is the caller's: [`Client::secured`], then shake hands for it, and on inside.
    StartTls,
    /// Done. After [`Goal::Go`] the input starts with the first byte of the transmission phase, and output may be left
    /// to send; after [`Goal::Info`] what is left to send is NBD_OPT_ABORT, then the connection is to be closed.
    Done(Negotiated),
    /// The exports. What is left to send is NBD_OPT_ABORT, then the connection is to be closed.
    Listed(Vec<Listed>),
}

/// One handshake.
#[derive(Debug)]
pub struct Client {
    wishes: Wishes,
    state: State,
    out: BytesMut,
}

impl Client {
    /// Starts by waiting for the backend's greeting.
    pub fn new(wishes: Wishes) -> Self {
        Self { wishes, state: State::Greeting, out: BytesMut::new() }
    }

    /// Takes what it can from the front of `input`. Call it again with more bytes after [`Progress::Need`], but send
    /// [`take_output`](Self::take_output) first: the backend waits for it.
    ///
    /// After an error, and after it is done, it answers [`HandshakeError::Over`]. Output may remain after an error: a
    /// polite NBD_OPT_ABORT.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Progress, HandshakeError> {
        loop {
            let state = core::mem::replace(&mut self.state, State::Over);
            match self.step(state, input)? {
                Step::Wait(state, more) => {
                    self.state = state;
                    return Ok(Progress::Need(more));
                }
                Step::Next(state) => self.state = state,
                Step::Secure(state) => {
                    self.state = state;
                    return Ok(Progress::StartTls);
                }
                Step::Done(progress) => return Ok(progress),
            }
        }
    }

    /// Goes on inside TLS: what there is to say from here on is for there. `input` is what has been received in the clear behind the backend's agreement; it
    /// must be nothing, and is never used.
    pub fn secured(&mut self, input: &BytesMut) -> Result<(), HandshakeError> {
        match core::mem::replace(&mut self.state, State::Over) {
            State::Secured { .. } if !input.is_empty() => Err(HandshakeError::Injected { bytes: input.len() }),
            State::Secured { agreed } => {
                self.state = self.ask_first(agreed);
                Ok(())
            }
            _ => Err(HandshakeError::Over),
        }
    }

    /// The backend has closed the connection: what that means here.
    pub fn handle_eof(&mut self) -> HandshakeError {
        match core::mem::replace(&mut self.state, State::Over) {
            State::Over => HandshakeError::Over,
            State::Greeting => HandshakeError::Closed { when: Closed::InGreeting },
            State::Secured { .. } => HandshakeError::Closed { when: Closed::BeforeTls },
            State::ExportName { .. } => {
                HandshakeError::Closed { when: Closed::AfterExportName(self.wishes.export.clone()) }
            }
            waiting => match waiting.asked() {
                Some(opt) => HandshakeError::Closed { when: Closed::InReply(opt) },
                None => HandshakeError::Over,
            },
        }
    }

    /// The option whose answer is awaited.
    pub fn asked(&self) -> Option<Opt> {
        self.state.asked()
    }

    /// After [`Goal::Watch`] is done: asks about an export once more.
    pub fn ask_info(&mut self, export: &str) {
        if export != self.wishes.export {
            export.clone_into(&mut self.wishes.export);
        }
        self.state = self.ask_again();
    }

    /// Leaves: NBD_OPT_ABORT is what is to be sent.
    pub fn abort(&mut self) {
        put_option(&mut self.out, Opt::ABORT, &[]);
        self.state = State::Over;
    }

    /// What is to be sent now.
    pub fn take_output(&mut self) -> Option<Bytes> {
        if self.out.is_empty() { None } else { Some(self.out.split().freeze()) }
    }
}
