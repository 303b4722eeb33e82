//! The ways in which backends are resized and tell their size, each behind a gateway of its own.

use std::fs;
use std::path::PathBuf;

use super::client::Hand;
use super::event::START;
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::scripted::backend::{Backend as Scripted, Resizing, Script};
use crate::scripted::numbers::{cmd, flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// The export's name at every gateway of the table.
pub(super) const NAME: &str = "disk";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backend {
    /// The gateway's own.
    Memory,
    File,
    /// Another gateway, whose clients are offered so much.
    Notify,
    Query,
    Explicit,
    Automatic,
    Fixed,
    /// Native servers that know nothing of NBD_INFO_RESIZE.
    Draft,
    DraftDirty,
    DraftLiar,
    ByWrites,
    Stock,
}

/// What a test of the table says in the configuration.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules {
    pub(super) granularity: Option<u64>,
    pub(super) shrink: bool,
    pub(super) max_size: Option<u64>,
    pub(super) quota: Option<u64>,
}

impl Backend {
    pub(super) const ALL: &[Self] = &[
        Self::Memory,
        Self::File,
        Self::Notify,
        Self::Query,
        Self::Explicit,
        Self::Automatic,
        Self::Fixed,
        Self::Draft,
        Self::DraftDirty,
        Self::DraftLiar,
        Self::ByWrites,
        Self::Stock,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Memory => "`memory:`",
            Self::File => "`file:`",
            Self::Notify => "extension: explicit, query, notify",
            Self::Query => "extension: explicit, query",
            Self::Explicit => "extension: explicit",
            Self::Automatic => "extension: automatic",
            Self::Fixed => "extension: nothing",
            Self::Draft => "draft: bit 9, simple replies",
            Self::DraftDirty => "draft: the same, and what a grow exposes is not zero",
            Self::DraftLiar => "bit 9 by mistake",
            Self::ByWrites => "grows by writes, says nothing (`driver = \"automatic\"`)",
            Self::Stock => "never heard of it",
        }
    }

    /// Whether it takes to another size, by whatever way.
    pub(super) const fn grows(self) -> bool {
        !matches!(self, Self::Fixed | Self::DraftLiar | Self::Stock)
    }

    pub(super) const fn shrinks(self) -> bool {
        self.grows() && !matches!(self, Self::Automatic | Self::ByWrites)
    }

    /// What a first gateway offers to the second.
    const fn offer(self) -> Option<&'static str> {
        match self {
            Self::Notify => Some("offer = [\"explicit\", \"query\", \"notify\"]"),
            Self::Query => Some("offer = [\"explicit\", \"query\"]"),
            Self::Explicit => Some("offer = [\"explicit\"]"),
            Self::Automatic => Some("offer = [\"automatic\"]"),
            Self::Fixed => Some("driver = \"none\""),
            _ => None,
        }
    }

    const fn script(self) -> Option<(Framing, Resizing)> {
        match self {
            Self::Draft => Some((Framing::Simple, Resizing::Explicit { exposes: 0 })),
            Self::DraftDirty => Some((Framing::Simple, Resizing::Explicit { exposes: 0xdd })),
            Self::DraftLiar | Self::Stock => Some((Framing::Structured, Resizing::No)),
            Self::ByWrites => Some((Framing::Structured, Resizing::ByWrites)),
            _ => None,
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "there is one per test")]
enum Behind {
    Nothing,
    File { path: PathBuf, _place: Place },
    Gateway(Gateway),
    Scripted(Scripted),
}

/// A backend, and the gateway in front of it.
pub(super) struct Stage {
    pub(super) backend: Backend,
    pub(super) gateway: Gateway,
    behind: Behind,
}

impl Stage {
    pub(super) fn start(backend: Backend, rules: Rules) -> Result<Self, Trouble> {
        let embedded = format!("size = \"{START}\"\n");
        let (behind, uri, size) = if let Some(offer) = backend.offer() {
            let more = match backend {
                Backend::Fixed => format!("{embedded}[export.resize]\n{offer}\n"),
                _ => {
                    let rules = Rules { shrink: true, granularity: rules.granularity, ..Rules::default() };
                    format!("{embedded}{}{offer}\n", resize_table(rules))
                }
            };
            let first = Gateway::start(&export(NAME, "memory:", &more))?;
            let uri = first.uri(NAME);
            (Behind::Gateway(first), uri, String::new())
        } else if let Some((framing, resizing)) = backend.script() {
            let mut script = Script { framing, resizing, ..Script::default() };
            if !matches!(backend, Backend::Stock | Backend::ByWrites) {
                script.flags |= flag::SEND_RESIZE;
            }
            let scripted = Scripted::start(script)?;
            scripted.meddle(|disk| {
                disk.truncate(START as usize);
                disk.fill(0);
            });
            let uri = scripted.uri();
            (Behind::Scripted(scripted), uri, String::new())
        } else if backend == Backend::File {
            let place = Place::fresh()?;
            let path = place.path("disk");
            let uri = format!("file:{}", path.display());
            (Behind::File { path, _place: place }, uri, embedded)
        } else {
            (Behind::Nothing, "memory:".to_owned(), embedded)
        };
        let mut tables = String::new();
        let mut more = size;
        if let Some(quota) = rules.quota {
            tables = format!("[[tenant]]\nname = \"tenant\"\nquota = \"{quota}\"\n\n");
            more.push_str("tenant = \"tenant\"\n");
        }
        if let Some(max_size) = rules.max_size {
            more.push_str(&format!("max-size = \"{max_size}\"\n"));
        }
        // The configuration would not take `shrink` from a backend that grows by writes.
        let shrink = rules.shrink && backend != Backend::ByWrites;
        more.push_str(&resize_table(Rules { shrink, ..rules }));
        if !matches!(backend, Backend::Memory | Backend::File) {
            more.push_str("poll = \"20ms\"\n");
        }
        if backend == Backend::ByWrites {
            more.push_str("driver = \"automatic\"\n");
        }
        tables.push_str(&export(NAME, &uri, &more));
        let mut gateway = Gateway::start(&tables)?;
        if backend == Backend::DraftLiar {
            gateway = gateway.expecting_warnings();
        }
        Ok(Self { backend, gateway, behind })
    }

    /// How large the disk is where it is.
    pub(super) fn size(&self) -> Result<u64, Trouble> {
        let ask = |gateway: &Gateway| -> Result<u64, Trouble> {
            let mut client = RawClient::connect(gateway.socket())?;
            Ok(client.learn(opt::INFO, NAME, &[])?.size)
        };
        match &self.behind {
            Behind::Nothing => ask(&self.gateway),
            Behind::File { path, .. } => Ok(fs::metadata(path)?.len()),
            Behind::Gateway(first) => ask(first),
            Behind::Scripted(scripted) => Ok(scripted.story(|story| story.disk.len() as u64)),
        }
    }

    /// The bytes where they are, if a test can see them there.
    pub(super) fn disk(&self) -> Result<Option<Vec<u8>>, Trouble> {
        match &self.behind {
            Behind::File { path, .. } => Ok(Some(fs::read(path)?)),
            Behind::Scripted(scripted) => Ok(Some(scripted.story(|story| story.disk.clone()))),
            Behind::Nothing | Behind::Gateway(_) => Ok(None),
        }
    }

    /// Another hand makes it larger, with zeroes; the one at hand, where the backend is the gateway's own.
    pub(super) fn meddle(&self, hand: &mut Hand, to: u64) -> Result<(), Trouble> {
        match &self.behind {
            Behind::Nothing | Behind::File { .. } => hand.resize(to).map(|_| ()),
            Behind::Gateway(first) => {
                let mut other = RawClient::connect(first.socket())?;
                other.upgrade(Framing::Structured)?;
                let size = other.learn(opt::GO, NAME, &[info::RESIZE])?.size;
                let ask = if self.backend == Backend::Automatic {
                    Ask { command: cmd::WRITE_ZEROES, cookie: 1, offset: size, length: to - size, flags: 0 }
                } else {
                    Ask { command: cmd::RESIZE, cookie: 1, offset: to, length: 0, flags: 0 }
                };
                other.ask(ask, &[])?.success()?;
                other.leave()
            }
            Behind::Scripted(scripted) => {
                scripted.meddle(|disk| disk.resize(to as usize, 0));
                Ok(())
            }
        }
    }

    /// How often a native server was asked for another size.
    pub(super) fn resizes_seen(&self) -> Option<usize> {
        match &self.behind {
            Behind::Scripted(scripted) => Some(scripted.story(|story| story.count(cmd::RESIZE))),
            Behind::Nothing | Behind::File { .. } | Behind::Gateway(_) => None,
        }
    }

    /// Ends it all; nobody may have complained.
    pub(super) fn end(self) -> Result<(), Trouble> {
        self.gateway.end()?;
        match self.behind {
            Behind::Gateway(first) => first.end(),
            Behind::Scripted(scripted) => {
                ensure(scripted.story(|story| story.count(cmd::DISC) > 0), || "the backend got no DISC".into())
            }
            Behind::Nothing | Behind::File { .. } => Ok(()),
        }
    }
}

/// `[export.resize]`; growth by writes goes by what each write needs, so that sizes can be told exactly.
fn resize_table(rules: Rules) -> String {
    let mut table = format!("[export.resize]\nstep = \"0\"\nshrink = {}\n", rules.shrink);
    if let Some(granularity) = rules.granularity {
        table.push_str(&format!("granularity = \"{granularity}\"\n"));
    }
    table
}
