//! One run. A task of its own keeps the program: it sees it to its end also when nobody waits for it any more.
//!
//! The group is signalled only while its leader has not been waited for, so that its number can't be another's by then.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nbd_gateway_net::clean;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Call, CommandError, GRACE, KEPT_COMPLAINT, Left, MOST_OUTPUT, occasion};

/// What systemd says to the gateway, and to no one else.
const SYSTEMD: &[&str] =
    &["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// How long a program that was killed is waited for.
const REAPED: Duration = Duration::from_secs(1);

/// Runs a program to its end: what it wrote to its standard output, if its exit code is 0. Cancel-safe: dropped, the
/// program is told to end, and killed after [`GRACE`]. Takes at most that and a second longer than the call's limit.
pub(crate) async fn run(call: Call<'_>) -> Result<Vec<u8>, CommandError> {
    let program = call.words.first().cloned().unwrap_or_default();
    let run = Run::start(&call).map_err(|error| CommandError::not_run(&program, &error))?;
    let (interest, abandoned) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let (limit, left, input) = (call.limit, call.left, call.input);
    tokio::spawn(async move {
        let (mut run, stdin) = run;
        let why = tokio::select! {
            // A program that has ended is not late.
            biased;
            why = run.watch(stdin, input) => why,
            () = sleep(limit) => Why::Late,
            // Its sender is never used, only dropped.
            _ = abandoned => Why::Late,
        };
        if why != Why::Ended {
            run.tell_to_end().await;
        }
        let ended = run.end(why, left).await;
        // Nobody may be left to hear it.
        let _ = tell.send(run.sum_up(why, ended));
        run.reap().await;
    });
    let told = told.await;
    drop(interest);
    // Else the task is gone, and so is its runtime.
    let Ok(Told { why, status, output, complaint }) = told else { return Err(CommandError::Ending { program }) };
    let said = complaint_of(&complaint);
    match why {
        Why::Ended if status.is_some_and(|status| status.success()) => Ok(output),
        Why::Ended => Err(CommandError::Failed { program, how: describe(status), said }),
        Why::TooMuch => Err(CommandError::TooMuch { program, said }),
        Why::Late => Err(CommandError::Late { program, limit, said }),
    }
}

/// Why a program is no longer waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Ended,
    TooMuch,
    Late,
}

/// What came of it.
struct Told {
    why: Why,
    /// None if it can't be told: killed, and not gone yet.
    status: Option<ExitStatus>,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

/// A program that runs, and what it has written.
struct Run {
    // Dropped first: it kills.
    group: Group,
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

impl Run {
    fn start(call: &Call<'_>) -> io::Result<(Self, Option<ChildStdin>)> {
        let Some((program, arguments)) = call.words.split_first() else {
            return Err(io::Error::other("it has no name"));
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        for name in std::env::vars_os().map(|(name, _)| name) {
            if occasion::is_ours(&name) || SYSTEMD.iter().any(|theirs| name == *theirs) {
                command.env_remove(name);
            }
        }
        command.envs(call.environment.iter().map(|(name, value)| (name, value)));
        let deaths = unix::signal(unix::SignalKind::child())?;
        let mut child = command.spawn()?;
        let group = Group::of(&child, deaths)?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok((Self { group, child, stdout, stderr, output: Vec::new(), complaint: Vec::new() }, stdin))
    }

    /// Until it has ended, or written too much. Cancel-safe: yes, what was read is kept.
    async fn watch(&mut self, stdin: Option<ChildStdin>, input: Vec<u8>) -> Why {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program need not read it.
                let _ = stdin.write_all(&input).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // Its end first: what is left in the pipes is read afterwards, up to the same bound.
            biased;
            () = self.group.exited() => Why::Ended,
            () = read(self.stdout.as_mut(), all(&mut self.output)) => Why::TooMuch,
            () = read(self.stderr.as_mut(), end(&mut self.complaint)) => Why::Ended,
            () = feed => Why::Ended,
        }
    }

    /// Asks all of the group to end, and gives them time for it.
    async fn tell_to_end(&mut self) {
        self.group.signal(Signal::TERM);
        tokio::select! {
            // What it writes comes last: it may write for ever.
            biased;
            () = self.group.exited() => {}
            () = sleep(GRACE) => {}
            // Last words.
            () = read(self.stderr.as_mut(), end(&mut self.complaint)) => {}
        }
    }

    /// Sees to it that nothing is left that should not be.
    async fn end(&mut self, why: Why, left: Left) -> Option<ExitStatus> {
        // What it wrote lies in the pipes. Whoever else holds their other end is not waited for.
        if let Some(stdout) = &self.stdout {
            drain(stdout, all(&mut self.output));
        }
        if let Some(stderr) = &self.stderr {
            drain(stderr, end(&mut self.complaint));
        }
        let alone = left == Left::Alone && why == Why::Ended && self.group.succeeded();
        if !alone {
            self.group.signal(Signal::KILL);
        }
        self.status().await
    }

    /// One who sits in the kernel can't be killed at once, and is not waited for by others.
    async fn status(&mut self) -> Option<ExitStatus> {
        let status = timeout(REAPED, self.child.wait()).await.ok()?.ok()?;
        self.group.gone = true;
        Some(status)
    }

    fn sum_up(&mut self, why: Why, status: Option<ExitStatus>) -> Told {
        let why = if why == Why::Ended && self.output.len() > MOST_OUTPUT { Why::TooMuch } else { why };
        Told { why, status, output: std::mem::take(&mut self.output), complaint: std::mem::take(&mut self.complaint) }
    }

    async fn reap(&mut self) {
        if !self.group.gone && self.child.wait().await.is_ok() {
            self.group.gone = true;
        }
    }
}

/// The processes that a program started, itself among them, as far as they stayed in its group.
struct Group {
    leader: Pid,
    /// The leader; its number can't become another's as long as it has not been waited for.
    process: OwnedFd,
    /// Wakes when any child of this process has ended.
    deaths: unix::Signal,
    /// The leader has been waited for.
    gone: bool,
}

impl Group {
    /// `deaths` was there before the child.
    fn of(child: &Child, deaths: unix::Signal) -> io::Result<Self> {
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let leader = leader.ok_or_else(|| io::Error::other("it ended before it was there"))?;
        // One that can't be watched is not left alone either.
        let process = pidfd_open(leader, PidfdFlags::empty())
            .inspect_err(|_| kill_process_group(leader, Signal::KILL).unwrap_or_default())?;
        Ok(Self { leader, process, deaths, gone: false })
    }

    /// Its leader has ended, and not been waited for. Cancel-safe: yes.
    async fn exited(&mut self) {
        while self.exit().is_none() {
            if self.deaths.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How its leader ended, which stays to be waited for.
    fn exit(&self) -> Option<WaitIdStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        waitid(WaitId::PidFd(self.process.as_fd()), options).ok().flatten()
    }

    fn succeeded(&self) -> bool {
        self.exit().is_some_and(|status| status.exit_status() == Some(0))
    }

    fn signal(&self, signal: Signal) {
        if !self.gone {
            // An error means that nobody is there.
            let _ = kill_process_group(self.leader, signal);
        }
    }
}

impl Drop for Group {
    /// Only where the task was dropped midway: the gateway ends.
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Takes all of it; has had enough when there is too much.
fn all(into: &mut Vec<u8>) -> impl FnMut(&[u8]) -> bool {
    |bytes| {
        into.extend_from_slice(bytes);
        into.len() <= MOST_OUTPUT
    }
}

/// Keeps the end; never has enough.
fn end(kept: &mut Vec<u8>) -> impl FnMut(&[u8]) -> bool {
    |bytes| {
        kept.extend_from_slice(bytes);
        // One byte more than is shown says that there was more.
        let excess = kept.len().saturating_sub(KEPT_COMPLAINT + 1);
        kept.drain(..excess);
        true
    }
}

/// Reads until `take` has had enough. Cancel-safe: yes.
async fn read(pipe: Option<&mut (impl AsyncRead + Unpin)>, mut take: impl FnMut(&[u8]) -> bool) {
    let Some(pipe) = pipe else { return std::future::pending().await };
    let mut buffer = vec![0; 4096];
    loop {
        match pipe.read(&mut buffer).await {
            // Closing its output is not the end of a program.
            Ok(0) | Err(_) => std::future::pending().await,
            Ok(read) => {
                if !take(buffer.get(..read).unwrap_or_default()) {
                    return;
                }
            }
        }
    }
}

/// Takes what is in a pipe now.
fn drain(pipe: impl AsFd, mut take: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    // As much as a pipe holds, and no more: others may go on writing.
    for _ in 0..256 {
        let read = rustix::io::read(&pipe, &mut buffer).unwrap_or(0);
        if read == 0 || !take(buffer.get(..read).unwrap_or_default()) {
            return;
        }
    }
}

fn complaint_of(kept: &[u8]) -> String {
    let said = match kept.split_at_checked(kept.len().saturating_sub(KEPT_COMPLAINT)) {
        Some((cut, end)) if !cut.is_empty() => format!("… {}", clean(end)),
        _ => clean(kept),
    };
    if said.is_empty() { ", and wrote nothing to its standard error".to_owned() } else { format!(": {said}") }
}

fn describe(status: Option<ExitStatus>) -> String {
    let status = status.map(|status| (status.code(), status.signal()));
    match status {
        Some((Some(code), _)) => format!("failed with exit code {code}"),
        Some((None, Some(signal))) => format!("was ended by signal {signal}"),
        Some((None, None)) | None => "ended, and nobody can tell how".to_owned(),
    }
}
