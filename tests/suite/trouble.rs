//! What went wrong, in words. A `Trouble` is a finished sentence: it names the command and what it said, because the
//! reader of a failed run has nothing else. It is never matched on.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::DEADLINE;

/// One failure, told to a person.
#[derive(Clone)]
pub(crate) struct Trouble(String);

impl Trouble {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }

    /// The same trouble with more to read below it.
    pub(crate) fn with(self, more: impl fmt::Display) -> Self {
        Self(format!("{}\n{more}", self.0))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `unwrap` prints the debug form: let it be the sentence, not an escaped string.
impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.to_string())
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("not the JSON that was expected: {error}"))
    }
}

/// Fails with `sentence` unless `holds`.
pub(crate) fn ensure(holds: bool, sentence: impl FnOnce() -> String) -> Result<(), Trouble> {
    if holds { Ok(()) } else { Err(Trouble::new(sentence())) }
}

/// Asks again until it holds, for what shows itself only to those who ask.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Trouble> {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        ensure(Instant::now() < end, || format!("{what}: not within {DEADLINE:?}"))?;
        // Asking costs the other side something too.
        thread::park_timeout(Duration::from_millis(5));
    }
    Ok(())
}
