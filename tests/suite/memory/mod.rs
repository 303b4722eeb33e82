//! Promise: what the gateway holds for clients that do not read is bounded, and by what the documentation says.
//!
//! Every kind of request and answer there is, from clients that read nothing, in each framing; then the process's largest
//! size is held against the bound that is computed from its configuration, as `gateway/src/lib.rs` tells it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::{cmd, cmd_flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient, option_bytes};
use crate::trouble::{Trouble, ensure, eventually};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LARGEST: u64 = 64 * KIB;
const SESSION: u64 = MIB;
/// What the headers and sentences of a session's 256 answers take.
const ANSWERS: u64 = 256 * 512;
const TENANT: u64 = 2 * MIB;
/// Clients of each kind.
const CROWD: u64 = 4;
/// Receive buffers that the pool keeps, and as many that payloads point into.
const POOL: u64 = 32 * MIB;
/// One receive buffer for each socket, and what its last message was cut into.
const SOCKET: u64 = 192 * KIB;
/// What the allocator keeps, and what a build without optimisation takes on its stacks.
const SLACK: u64 = 24 * MIB;
/// Exports that a LIST tells of, each with a description of 4000 bytes.
const LISTED: usize = 400;

/// What a client asks for, again and again.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Shredded,
    Status,
    Refused,
    Failed,
    Write,
    Query,
    Notify,
    Resize,
    Sizes,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Read,
        Self::Shredded,
        Self::Status,
        Self::Refused,
        Self::Failed,
        Self::Write,
        Self::Query,
        Self::Notify,
        Self::Resize,
        Self::Sizes,
    ];

    fn export(self) -> &'static str {
        match self {
            Self::Read | Self::Refused | Self::Write | Self::Status => "fragmented",
            Self::Shredded => "shredded",
            Self::Failed => "wordy",
            Self::Query | Self::Notify | Self::Resize | Self::Sizes => "own",
        }
    }

    fn contexts(self) -> &'static [&'static str] {
        match self {
            Self::Status => &["base:allocation", "x:a", "x:b"],
            Self::Sizes => &["x-resize:size-low", "x-resize:size-high"],
            _ => &[],
        }
    }

    fn ask(self, cookie: u64) -> (Ask, u64) {
        let ask = Ask { cookie, ..Ask::default() };
        match self {
            Self::Read | Self::Shredded | Self::Failed => (Ask::read(cookie, 0, LARGEST), 0),
            Self::Status => (Ask { command: cmd::BLOCK_STATUS, length: 4 * MIB, ..ask }, 0),
            Self::Refused => (Ask::read(cookie, 1 << 50, 512), 0),
            Self::Write => (Ask { command: cmd::WRITE, length: 1, offset: cookie * 512, ..ask }, 1),
            Self::Query => (Ask { command: cmd::RESIZE, flags: cmd_flag::QUERY, ..ask }, 0),
            Self::Notify => (Ask { command: cmd::RESIZE, flags: cmd_flag::NOTIFY, ..ask }, 0),
            Self::Resize => (Ask { command: cmd::RESIZE, offset: 8 * MIB, ..ask }, 0),
            Self::Sizes => (Ask { command: cmd::BLOCK_STATUS, length: 4096, ..ask }, 0),
        }
    }

    /// Whether clients of this framing can ask so.
    fn fits(self, framing: Framing) -> bool {
        framing != Framing::Simple || !matches!(self, Self::Status | Self::Query | Self::Notify | Self::Sizes)
    }
}

fn unread(socket: &std::path::Path, kind: Kind, framing: Framing) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(socket)?;
    client.upgrade(framing)?;
    if !kind.contexts().is_empty() {
        client.contexts(kind.export(), kind.contexts())?;
    }
    client.learn(opt::GO, kind.export(), &[info::RESIZE])?;
    let mut bytes = Vec::new();
    for cookie in 0..256 {
        let (ask, payload) = kind.ask(cookie);
        let flags = match (kind, framing) {
            (Kind::Write, Framing::Extended) => ask.flags | cmd_flag::PAYLOAD_LEN,
            _ => ask.flags,
        };
        bytes.extend(Ask { flags, ..ask }.encode(framing));
        bytes.extend(vec![7; payload as usize]);
    }
    client.link().send_until_stuck(&bytes, 8 << 20)?;
    Ok(client)
}

#[test]
fn what_a_crowd_of_clients_used_goes_back_to_the_host_when_they_have_left() -> Result<(), Trouble> {
    let mut gateway = Gateway::start(&export("own", "memory:", "size = \"1MiB\""))?;
    let before = gateway.memory()?;
    let open = |_| RawClient::open(gateway.socket(), "own", Framing::Structured).map(|(client, _)| client);
    // A socket for each, beside those of the tests that run meanwhile.
    let sockets = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: sockets.maximum, ..sockets })?;
    let mut crowd = (0..800).map(open).collect::<Result<Vec<_>, Trouble>>()?;
    // One that stays, in the middle of what is given back.
    let stays = crowd.remove(200);
    let used = gateway.memory()? - before;
    drop(crowd);
    let given_back = || gateway.memory().is_ok_and(|now| now <= before + used * 2 / 3);
    eventually("a third of the memory of 800 clients is with the host again", given_back)?;
    stays.leave()?;
    gateway.end()
}

#[test]
fn clients_that_read_nothing_hold_no_more_than_the_documentation_says() -> Result<(), Trouble> {
    for framing in Framing::ALL {
        let serve = |fault| {
            let contexts: &[&str] = &["base:allocation", "x:a", "x:b"];
            Backend::start(Script { contexts, fault: Some(fault), ..Script::default() })
        };
        let [fragmented, shredded, wordy] = [Fault::StatusShredded, Fault::DataShredded, Fault::ErrorWordy].map(serve);
        let (fragmented, shredded, wordy) = (fragmented?, shredded?, wordy?);
        let mut tables = format!(
            "[limits]\nlargest-payload = {LARGEST}\nsession-bytes = {SESSION}\ntenant-bytes = {TENANT}\n\
             [[tenant]]\nname = \"blue\"\n[[tenant]]\nname = \"many\"\n"
        );
        let blue = "tenant = \"blue\"";
        tables += &export("fragmented", &fragmented.uri(), blue);
        tables += &export("shredded", &shredded.uri(), blue);
        tables += &export("wordy", &wordy.uri(), blue);
        tables += &export("own", "memory:", &format!("{blue}\nsize = {}", 8 * MIB));
        for number in 0..LISTED {
            let words = "w".repeat(4000);
            let more = format!("tenant = \"many\"\nsize = \"1MiB\"\ndescription = \"{words}\"");
            tables += &export(&format!("listed-{number}"), "memory:", &more);
        }
        let mut gateway = Gateway::start(&tables)?.expecting_warnings();
        let before = gateway.peak_memory()?;
        let mut crowd = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.fits(framing)) {
            let begun = gateway.peak_memory()?;
            for _ in 0..CROWD {
                crowd.push(
                    unread(gateway.socket(), kind, framing).map_err(|t| t.with(format!("{kind:?} {framing:?}")))?,
                );
            }
            eprintln!("{framing:?} {kind:?}: {} KiB more", gateway.peak_memory()? - begun);
        }
        let begun = gateway.peak_memory()?;
        for _ in 0..4 * CROWD {
            let mut client = RawClient::connect(gateway.socket())?;
            client.link().send_until_stuck(&option_bytes(opt::LIST, 0, &[]), 16 * 900)?;
            crowd.push(client);
        }
        eprintln!("{framing:?} LIST: {} KiB more", gateway.peak_memory()? - begun);
        let sockets = crowd.len() as u64;
        let bound = TENANT + sockets * (LARGEST + ANSWERS + SOCKET) + POOL + SLACK;
        let grown = (gateway.peak_memory()? - before) * KIB;
        ensure(grown <= bound, || {
            format!("{framing:?}: {sockets} clients that read nothing hold {grown} bytes, where {bound} is the bound")
        })?;
        // Nobody else has been kept waiting.
        let (mut other, _) = RawClient::open(gateway.socket(), "listed-0", framing)?;
        other.read(0, 4096)?;
        other.leave()?;
        drop(crowd);
        gateway.end()?;
    }
    Ok(())
}
