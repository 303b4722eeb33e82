//! Which process listens on a Unix socket, so that the gateway can tell whether that process has ended since.
//!
//! The kernel names the process that called listen(2). Three cases follow from that. A server that opened its own socket
//! is that process. A socket that a service manager opened belongs to the manager, which outlives the server: the process
//! never changes, and proves nothing. A launcher that opened the socket and left a daemon behind is gone at once: that it
//! is gone proves nothing either. So [`Server::ended_before`] asks for both: another process has the socket now, and the
//! earlier one is gone.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::OnceLock;

use nbd_gateway_net::{Peer, Stream};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The process behind a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Which boot of the host it ran in; empty where the kernel does not say.
    boot: String,
    pid: i32,
    /// Clock ticks from the boot to the start of the process; none where /proc does not show it.
    start: Option<u64>,
}

impl Server {
    /// The process at the other end of a connection. None over TCP, and for a process in a PID namespace that can't be
    /// seen from here.
    pub(crate) fn of(stream: &Stream) -> Option<Self> {
        let Peer::Unix { pid: Some(pid), .. } = stream.identity() else { return None };
        (pid > 0).then(|| Self { boot: boot().to_owned(), pid, start: look_up(pid).map(|(start, _)| start) })
    }

    /// Whether the process may still run. Unknown counts as running.
    pub(crate) fn is_alive(&self) -> bool {
        if self.boot != boot() {
            return false;
        }
        let gone = Pid::from_raw(self.pid).is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH));
        match (gone, look_up(self.pid), self.start) {
            (true, ..) => false,
            // A process that has ended and waits for its parent.
            (false, Some((_, 'Z' | 'X')), _) => false,
            // The number belongs to a later process.
            (false, Some((now, _)), Some(start)) => now == start,
            (false, ..) => true,
        }
    }

    /// Whether this process has ended, given the process that has its socket now.
    pub(crate) fn ended_before(&self, now: &Self) -> bool {
        let same_start = match (self.start, now.start) {
            (Some(was), Some(is)) => was == is,
            // A launcher that has gone meanwhile looks like this too.
            _ => true,
        };
        let same = self.boot == now.boot && self.pid == now.pid && same_start;
        !same && !self.is_alive()
    }
}

/// As the ledger keeps it.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boot = if self.boot.is_empty() { "-" } else { &self.boot };
        match self.start {
            Some(start) => write!(f, "{boot} {} {start}", self.pid),
            None => write!(f, "{boot} {} -", self.pid),
        }
    }
}

/// The text is not one that [`Server`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl FromStr for Server {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let mut words = text.split(' ');
        let (Some(boot), Some(pid), Some(start), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Unreadable);
        };
        let start = match start {
            "-" => None,
            ticks => Some(ticks.parse().map_err(|_| Unreadable)?),
        };
        let boot = if boot == "-" { "" } else { boot }.to_owned();
        Ok(Self { boot, pid: pid.parse().map_err(|_| Unreadable)?, start })
    }
}

fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        read.map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// When a process started, and its state: fields 22 and 3 of proc_pid_stat(5), counted from behind the name.
fn look_up(pid: i32) -> Option<(u64, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn of(pid: u32) -> Server {
        let pid = i32::try_from(pid).unwrap();
        Server { boot: boot().to_owned(), pid, start: look_up(pid).map(|(start, _)| start) }
    }

    #[test]
    fn a_process_that_has_ended_is_gone_also_before_its_parent_asks() {
        let (mut first, mut second) = (sleeper(), sleeper());
        let (was, now) = (of(first.id()), of(second.id()));
        assert!(was.is_alive() && was.start.is_some() && !was.ended_before(&now), "both run");
        first.kill().unwrap();
        while was.is_alive() {
            std::thread::yield_now();
        }
        assert!(was.ended_before(&now), "a zombie");
        first.wait().unwrap();
        assert!(was.ended_before(&now) && !was.is_alive());
        assert!(!was.ended_before(&was), "a launcher that has gone still has its socket");
        second.kill().unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn the_same_number_is_another_process_only_if_it_started_at_another_time() {
        let own = of(std::process::id());
        let earlier = Server { start: own.start.map(|start| start - 1), ..own.clone() };
        assert!(earlier.ended_before(&own) && !earlier.is_alive());
        let unknown = Server { start: None, ..own.clone() };
        assert!(!unknown.ended_before(&own) && !own.ended_before(&unknown));
        let before_the_boot = Server { boot: "another".to_owned(), ..own.clone() };
        assert!(before_the_boot.ended_before(&own));
    }

    #[test]
    fn a_server_is_read_back_as_it_was_written() {
        let own = of(std::process::id());
        for server in [own.clone(), Server { start: None, ..own.clone() }, Server { boot: String::new(), ..own }] {
            assert_eq!(server.to_string().parse(), Ok(server));
        }
        for text in ["", "a b", "a b c", "a 1 x", "a 1 2 3"] {
            assert_eq!(text.parse::<Server>(), Err(Unreadable), "{text}");
        }
    }
}
