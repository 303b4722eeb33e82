//! Promise: a backend that misbehaves fails its own requests, with an error or a closed connection and never with wrong
//! bytes; nobody else notices, and when it behaves again its export does too.

mod cut;
mod endless;
mod faults;
mod loss;
mod shutdown;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

/// Far below the deadline of a scripted peer: a client that gets no answer must not pass for one that was refused.
const PROMPT: Duration = Duration::from_secs(15);

/// A gateway with an export `good`, others with bad backends, and a session on `good` that must not notice anything.
struct Scene {
    gateway: Gateway,
    _good: Backend,
    witness: RawClient,
}

impl Scene {
    fn new(bad: &[(String, &Backend)]) -> Result<Self, Trouble> {
        let good = Backend::start(Script::default())?;
        let mut tables = export("good", &good.uri(), "");
        for (name, backend) in bad {
            tables.push_str(&export(name, &backend.uri(), "on-backend-loss = \"error\"\ndial-timeout = \"1s\""));
        }
        let gateway = Gateway::start(&tables)?.expecting_warnings();
        let (witness, _) = RawClient::open(gateway.socket(), "good", Framing::Structured)?;
        Ok(Self { gateway, _good: good, witness })
    }

    fn socket(&self) -> &Path {
        self.gateway.socket()
    }

    fn finish(mut self) -> Result<(), Trouble> {
        ensure(self.witness.read(0, 4096)? == Backend::content().bytes()[..4096], || "the witness was harmed".into())?;
        let peak = self.gateway.peak_memory()?;
        ensure(peak < 256 << 10, || format!("the gateway's memory went up to {peak} KiB"))?;
        self.gateway.end()
    }
}

/// What became of a request to a bad backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The export could not be opened.
    NotOpened,
    /// The connection ended without a reply.
    Closed,
    /// A reply with this error.
    Failed(u32),
    /// A reply with what is really on the disk.
    Right,
}

/// Opens the export and asks; wrong bytes and silence are trouble.
fn verdict(socket: &Path, export: &str, framing: Framing, ask: Ask) -> Result<Verdict, Trouble> {
    let begun = Instant::now();
    let verdict = match open(socket, export, framing) {
        Err(_) => Verdict::NotOpened,
        Ok(mut client) => match client.ask(ask, &[]) {
            Err(_) => Verdict::Closed,
            Ok(reply) if reply.error != 0 => Verdict::Failed(reply.error),
            Ok(reply) => {
                let (start, end) = (ask.offset as usize, (ask.offset + ask.length) as usize);
                ensure(reply.data.is_empty() || reply.data == Backend::content().bytes()[start..end], || {
                    format!("{export}: wrong bytes were passed on as right ones")
                })?;
                Verdict::Right
            }
        },
    };
    ensure(begun.elapsed() < PROMPT, || format!("{export}: {verdict:?} only after {:?}", begun.elapsed()))?;
    Ok(verdict)
}

fn open(socket: &Path, export: &str, framing: Framing) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(socket)?;
    client.upgrade(framing)?;
    if framing != Framing::Simple {
        client.contexts(export, &["base:allocation"])?;
    }
    client.go(export)?;
    Ok(client)
}

/// The export works again, at the latest when the gateway's patience with its backend is over.
fn recovers(socket: &Path, export: &str) -> Result<(), Trouble> {
    let mut last = Ok(Verdict::NotOpened);
    let recovered = eventually("recovery", || {
        last = verdict(socket, export, Framing::Structured, Ask::read(2, 0, 4096));
        !matches!(last, Ok(Verdict::NotOpened | Verdict::Closed | Verdict::Failed(_)))
    });
    let last = last?;
    recovered.map_err(|trouble| trouble.with(format!("{export}: {last:?}")))
}
