//! Promise: a client that misbehaves gets a clear error in step where the protocol allows it, else its connection ends;
//! nobody else notices, and nothing is allocated because it claimed a length.

mod cut;
mod handshake;
mod transmission;

use std::path::Path;

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// A gateway with an export `disk`, and a session on it that must not notice anything.
struct Scene {
    gateway: Gateway,
    backend: Backend,
    witness: RawClient,
}

impl Scene {
    fn new() -> Result<Self, Trouble> {
        let backend = Backend::start(Script { framing: Framing::Extended, ..Script::default() })?;
        // A short deadline for handshakes, so that those that hang are seen to be ended.
        let tables = format!("[limits]\nhandshake-timeout = \"2s\"\n\n{}", export("disk", &backend.uri(), ""));
        let gateway = Gateway::start(&tables)?.expecting_warnings();
        let (witness, _) = RawClient::open(gateway.socket(), "disk", Framing::Structured)?;
        Ok(Self { gateway, backend, witness })
    }

    fn socket(&self) -> &Path {
        self.gateway.socket()
    }

    /// The witness still reads what is on the disk, somebody new does too, and the gateway ends in peace and small.
    fn finish(mut self) -> Result<(), Trouble> {
        let expected = Backend::content().bytes()[..4096].to_vec();
        ensure(self.witness.read(0, 4096)? == expected, || "the witness read other bytes".into())?;
        let (mut newcomer, _) = RawClient::open(self.gateway.socket(), "disk", Framing::Structured)?;
        ensure(newcomer.read(0, 4096)? == expected, || "the newcomer read other bytes".into())?;
        newcomer.leave()?;
        let peak = self.gateway.peak_memory()?;
        ensure(peak < 256 << 10, || format!("the gateway's memory went up to {peak} KiB"))?;
        self.gateway.end()
    }
}
