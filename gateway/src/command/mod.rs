//! Programs of the operator's: a driver's, a hook's.
//!
//! Owns one run from start to end: no shell, a process group of its own, bounds on time and on what is kept of its output,
//! and one sentence for each way in which it can fail. Never leaves a process behind that it was not told to leave, nor a
//! zombie, also when whoever waits for it is dropped; if the gateway itself is killed, its program runs on. Never decides
//! what an output means.
//!
//! A program gets the gateway's own environment, as an operator who writes `Environment=` into a unit expects, but for what
//! systemd says to the gateway alone (`LISTEN_FDS`, `NOTIFY_SOCKET`, `WATCHDOG_USEC` and so on), and with what its
//! [`Occasion`] tells.

mod occasion;
mod run;

use nbd_gateway_policy::types::Span;
use std::io;
use std::time::Duration;

pub(crate) use occasion::Occasion;
pub(crate) use run::run;

use crate::fault::Fault;

/// The most that a program may write to its standard output, in bytes.
pub(crate) const MOST_OUTPUT: usize = 64 * 1024;
/// How much is kept of what it wrote to its standard error last, in bytes.
pub(crate) const KEPT_COMPLAINT: usize = 4 * 1024;
/// How long a program that is told to end has for it, before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// A program to be run to its end.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    /// The program (with a slash: its path; else it is looked for on the gateway's `PATH`) and its arguments.
    pub words: &'a [String],
    /// Variables beside those of the gateway.
    pub environment: Vec<(&'static str, String)>,
    /// What it can read from its standard input, and need not.
    pub input: Vec<u8>,
    /// How long it may take. Then it is told to end, and killed after [`GRACE`].
    pub limit: Duration,
    /// What becomes of processes that it started and left in its group when it ends with success.
    pub left: Left,
}

impl<'a> Call<'a> {
    /// A program that is told of `occasion`, in its environment and as JSON on its standard input.
    pub(crate) fn telling(words: &'a [String], occasion: &Occasion, limit: Duration, left: Left) -> Self {
        Self { words, environment: occasion.environment(), input: occasion.json(), limit, left }
    }
}

/// What becomes of a program's own processes after it has succeeded. After a failure they are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Killed,
    /// They run on: it was to start a server. One that still writes to the program's standard output or error finds
    /// nobody there.
    Alone,
}

/// Why there is no success; each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("`{program}` can't be run: {why}")]
    NotRun {
        /// What was to be run.
        program: String,
        /// Why not, and what to do.
        why: String,
    },
    /// It ended, and says that it failed.
    #[error("`{program}` {how}{said}")]
    Failed {
        program: String,
        /// Its exit code, or the signal.
        how: String,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// It was ended, because it took too long.
    #[error("`{program}` did not end within {} and was killed{said}", Span(*.limit))]
    Late {
        program: String,
        limit: Duration,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// It was ended, because it wrote too much.
    #[error("`{program}` wrote more than {MOST_OUTPUT} bytes to its standard output and was killed{said}")]
    TooMuch {
        program: String,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// It was ended, because the gateway ends.
    #[error("`{program}` was killed: the gateway ends")]
    Ending { program: String },
}

impl From<CommandError> for Fault {
    fn from(error: CommandError) -> Self {
        let fault = Self::host(error.to_string());
        match error {
            CommandError::NotRun { .. } | CommandError::Failed { .. } => fault,
            // Ended in the middle of it.
            CommandError::Late { .. } | CommandError::TooMuch { .. } | CommandError::Ending { .. } => fault.or_done(),
        }
    }
}

impl CommandError {
    fn not_run(program: &str, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such program (or what its first line names is missing)".to_owned(),
            io::ErrorKind::PermissionDenied => "it is not executable for this user; see its mode and owner".to_owned(),
            // ENOEXEC
            _ if error.raw_os_error() == Some(8) => {
                "it is no program for this machine; a script needs a first line as `#!/bin/sh`".to_owned()
            }
            _ => error.to_string(),
        };
        Self::NotRun { program: program.to_owned(), why }
    }
}

#[cfg(test)]
pub(crate) mod place;
#[cfg(test)]
mod tests;
