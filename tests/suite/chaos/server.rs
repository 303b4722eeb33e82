//! The servers behind the gateway, and what happens to them: they are killed, stopped for a while, and healed.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::gateway::Gateway;
use crate::peer::Served;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::Trouble;

/// A server that can be killed.
pub(super) enum Server {
    Nbdkit(Served),
    QemuNbd(QemuNbd),
    Gateway(Gateway),
}

impl Server {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Nbdkit(_) => "nbdkit",
            Self::QemuNbd(_) => "qemu-nbd",
            Self::Gateway(_) => "the second gateway",
        }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> Result<(), Trouble> {
        match self {
            Self::Nbdkit(served) => served.kill(),
            Self::QemuNbd(server) => server.signal(Signal::KILL),
            Self::Gateway(gateway) => gateway.kill(),
        }
    }

    /// Starts what was killed.
    pub(super) fn heal(&mut self) -> Result<(), Trouble> {
        match self {
            Self::Nbdkit(served) => served.start_again(),
            Self::QemuNbd(server) => server.restart(),
            Self::Gateway(gateway) => gateway.start_again(),
        }
    }

    /// Starts what is gone although nobody here killed it: a restart that died with the gateway leaves no server behind.
    pub(super) fn revive(&self) -> Result<bool, Trouble> {
        match self {
            Self::QemuNbd(server) if !server.runs() => server.restart().map(|()| true),
            Self::Nbdkit(_) | Self::QemuNbd(_) | Self::Gateway(_) => Ok(false),
        }
    }

    /// SIGSTOP: it answers nothing, and closes nothing; or SIGCONT.
    pub(super) fn pause(&mut self, pause: bool) -> Result<(), Trouble> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        match self {
            Self::Nbdkit(served) => served.process.signal(signal),
            Self::QemuNbd(server) => server.signal(signal)?,
            Self::Gateway(gateway) => gateway.signal(signal),
        }
        Ok(())
    }
}

/// A qemu-nbd that the gateway restarts whenever it wants another size, and that the test restarts when it has killed it.
pub(super) struct QemuNbd {
    folder: PathBuf,
}

/// As in the README; and by one at a time, on a host where nobody may reap what was killed, with no bound on files.
const START: &str = r#"#!/bin/bash
ulimit -S -f unlimited
cd "${0%/*}"
exec 9>lock
flock 9
gone() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }
if server=$(cat server.pid 2>/dev/null); then
    kill -CONT "$server" && kill "$server"
    until gone "$server"; do sleep 0.02; done
fi 2>/dev/null
rm -f server.pid
# Not in place of this shell: that would let go of the lock before the server has written down which it is.
qemu-nbd --fork --pid-file=server.pid --persistent --format=raw --socket="$PWD/s" disk 9>&-
"#;

impl QemuNbd {
    /// On the file of this name, with a folder of its own beside it.
    pub(super) fn start(place: &Place, name: &str) -> Result<Self, Trouble> {
        let folder = place.path(&format!("{name}.d"));
        fs::create_dir(&folder)?;
        std::os::unix::fs::symlink(place.path(name), folder.join("disk"))?;
        let server = Self { folder };
        fs::write(server.script(), START)?;
        Call::new("chmod").arg("+x").arg(server.script()).run()?.success()?;
        server.restart()?;
        Ok(server)
    }

    pub(super) fn script(&self) -> PathBuf {
        self.folder.join("start")
    }

    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.folder.join("s").display())
    }

    /// More than once: one that was killed while it started another may have left it half done.
    fn restart(&self) -> Result<(), Trouble> {
        let start = || Call::new("bash").arg(self.script()).run()?.success().map(drop);
        start().or_else(|_| start()).or_else(|_| start())
    }

    fn runs(&self) -> bool {
        self.pid().is_some_and(|pid| test_kill_process(pid).is_ok())
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(fs::read_to_string(self.folder.join("server.pid")).ok()?.trim().parse().ok()?)
    }

    /// To whichever runs now; none, while it is being restarted.
    fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        let Some(pid) = self.pid() else { return Ok(()) };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        // It is nobody's child.
        let _ = self.signal(Signal::KILL);
    }
}
