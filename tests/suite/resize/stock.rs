//! A stock libnbd client that follows a size: a Python process that takes a line and gives a line.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::place::Place;
use crate::process::{DEADLINE, Running};
use crate::trouble::{Trouble, ensure};

/// The process.
pub(super) struct Stock {
    process: Running,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _place: Place,
}

impl Stock {
    /// The client and the size that its handshake told.
    pub(super) fn connect(uri: &str) -> Result<(Self, u64), Trouble> {
        let place = Place::fresh()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/resize/stock.py");
        let arguments = [script.as_os_str(), uri.as_ref()];
        // Debian's own interpreter: another one on the path would not see Debian's module.
        let python = Path::new("/usr/bin/python3");
        let mut process = Running::start_with(python, arguments, place.path("log"), Stdio::piped(), Stdio::piped())?;
        let stdin = process.child().stdin.take();
        let stdout = process.child().stdout.take().ok_or_else(|| Trouble::new("python's output is not a pipe"))?;
        let mut stock = Self { process, stdin, stdout: BufReader::new(stdout), _place: place };
        let told = stock.line()?.map_err(|(_, why)| Trouble::new(why))?;
        Ok((stock, told))
    }

    /// One command: its number, or an errno and libnbd's words.
    pub(super) fn ask(&mut self, command: &str) -> Result<Result<u64, (u32, String)>, Trouble> {
        let stdin = self.stdin.as_mut().ok_or_else(|| Trouble::new("python's input is closed"))?;
        writeln!(stdin, "{command}")?;
        self.line()
    }

    fn line(&mut self) -> Result<Result<u64, (u32, String)>, Trouble> {
        let timeout = Timespec::try_from(DEADLINE).map_err(|e| Trouble::new(e.to_string()))?;
        let mut line = String::new();
        // Each command gives one line, so nothing is ever left in the buffer.
        if poll(&mut [PollFd::from_borrowed_fd(self.stdout.get_ref().as_fd(), PollFlags::IN)], Some(&timeout))? > 0 {
            self.stdout.read_line(&mut line)?;
        }
        let parsed = match line.trim().split_once(' ') {
            Some(("ok", number)) => number.parse().ok().map(Ok),
            Some(("error", rest)) => {
                rest.split_once(' ').and_then(|(errno, why)| Some(Err((errno.parse().ok()?, why.to_owned()))))
            }
            _ => None,
        };
        parsed.ok_or_else(|| self.process.trouble(&format!("said {line:?}; it needs the package python3-libnbd")))
    }

    /// Closes both connections with a goodbye.
    pub(super) fn leave(mut self) -> Result<(), Trouble> {
        self.stdin = None;
        let status = self.process.await_end(DEADLINE)?;
        ensure(status.success(), || self.process.last_words())
    }
}
