//! A stock client that never rests while something happens to its disk.

use std::path::Path;

use crate::place::Place;
use crate::process::{DEADLINE, Running};
use crate::trouble::{Trouble, ensure, eventually};

/// `load.py`, running.
pub(super) struct Load {
    process: Running,
    place: Place,
}

impl Load {
    /// On the first MiB.
    pub(super) fn start(uri: &str) -> Result<Self, Trouble> {
        Self::start_at(uri, 0)
    }

    /// On the MiB at `offset`.
    pub(super) fn start_at(uri: &str, offset: u64) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/qmp/load.py");
        let arguments = [
            script,
            uri.into(),
            offset.to_string().into(),
            place.path("progress"),
            place.path("stop"),
            place.path("content"),
        ];
        let process = Running::start(Path::new("/usr/bin/python3"), arguments, place.path("log"))?;
        let mut load = Self { process, place };
        load.goes_on()?;
        Ok(load)
    }

    /// Waits until it has written and read everything once more from now on.
    pub(super) fn goes_on(&mut self) -> Result<(), Trouble> {
        let path = self.place.path("progress");
        let rounds = || std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let seen = rounds();
        // The round that is under way began before.
        eventually("two rounds of a client's load", || rounds() >= seen + 2)
            .map_err(|trouble| trouble.with(self.process.log()))
    }

    /// Ends it; what its MiB holds.
    pub(super) fn end(mut self) -> Result<Vec<u8>, Trouble> {
        std::fs::write(self.place.path("stop"), "")?;
        let status = self.process.await_end(DEADLINE)?;
        ensure(status.success(), || self.process.trouble("met an error").to_string())?;
        Ok(std::fs::read(self.place.path("content"))?)
    }
}
