//! Programs that a test starts: found or reported missing with the line that installs them, run in a process group of
//! their own, waited for with a deadline, and never left behind. It knows nothing of NBD.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::trouble::{Trouble, ensure};

/// Long enough for a loaded machine with two cores; nothing waits this long when all is well.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How long a program may take to end after it was told to.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The pace at which a condition that raises no event is looked at.
const PACE: Duration = Duration::from_millis(5);

/// Which Debian package brings a program.
const PACKAGES: &[(&str, &str)] = &[
    ("chromedriver", "chromium-driver"),
    ("fio", "fio"),
    ("groff", "groff-base"),
    ("nbd-client", "nbd-client"),
    ("nbd-server", "nbd-server"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("systemd-analyze", "systemd"),
    // In Debian 12; in qemu-utils later.
    ("qemu-storage-daemon", "qemu-system-common"),
];

/// Where `program` is; a missing peer is a failure, not a reason to skip.
pub(crate) fn installed(program: &str) -> Result<PathBuf, Trouble> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps nbd-client in /usr/sbin, which is not on everybody's path.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
            Trouble::new(format!("`{program}` is not installed; run: apt-get install --yes {package}"))
        })
}

/// A program that ran to its end.
pub(crate) struct Output {
    pub(crate) line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The output of a program that succeeded; anything else is trouble.
    pub(crate) fn success(self) -> Result<Self, Trouble> {
        if self.status.success() { Ok(self) } else { Err(self.trouble("failed")) }
    }

    pub(crate) fn trouble(&self, what: &str) -> Trouble {
        let Self { line, status, stdout, stderr } = self;
        Trouble::new(format!("`{line}` {what} ({status})\n{stdout}{stderr}"))
    }
}

/// A program to be run to its end.
pub(crate) struct Call {
    program: String,
    arguments: Vec<OsString>,
    folder: Option<PathBuf>,
    input: Option<PathBuf>,
}

impl Call {
    pub(crate) fn new(program: &str) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), folder: None, input: None }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// The working directory, for programs that leave files behind.
    pub(crate) fn inside(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// A file for its standard input.
    pub(crate) fn reading(mut self, file: &Path) -> Self {
        self.input = Some(file.to_owned());
        self
    }

    /// Runs it; the whole group is killed when the deadline passes.
    pub(crate) fn run(self) -> Result<Output, Trouble> {
        let mut command = Command::new(installed(&self.program)?);
        let input = self.input.map(File::open).transpose()?;
        command
            .args(&self.arguments)
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let words: Vec<_> = self.arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        let line = format!("{} {}", self.program, words.join(" "));
        let mut child = command.process_group(0).spawn().map_err(|e| Trouble::new(format!("`{line}`: {e}")))?;
        let stdout = gather(child.stdout.take());
        let stderr = gather(child.stderr.take());
        let in_time = exits_within(&child, DEADLINE)?;
        if !in_time {
            end_group(&child, Signal::KILL);
        }
        let status = child.wait()?;
        // Whoever still holds the pipes (a forgotten child of the program) would keep the readers waiting.
        end_group(&child, Signal::KILL);
        let text = |reader: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
        };
        let output = Output { line, status, stdout: text(stdout), stderr: text(stderr) };
        if in_time { Ok(output) } else { Err(output.trouble(&format!("did not end within {DEADLINE:?}"))) }
    }
}

/// A server that runs until it is stopped, its standard error in a file.
pub(crate) struct Running {
    name: String,
    command: Command,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts `program`; it dies with the thread that started it, even if that thread is killed.
    pub(crate) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        log: PathBuf,
    ) -> Result<Self, Trouble> {
        Self::start_with(program, arguments, log, Stdio::null(), Stdio::null())
    }

    /// The same, with a say in its standard input and output.
    pub(crate) fn start_with(
        program: &Path,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        log: PathBuf,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self, Trouble> {
        let stderr = File::create(&log)?;
        Self::start_to(program, arguments, log, stdin, [stdout, stderr.into()])
    }

    /// The same, with a say in its standard error too: `log` is shown if the test fails, and need not be it.
    pub(crate) fn start_to(
        program: &Path,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        log: PathBuf,
        stdin: Stdio,
        [stdout, stderr]: [Stdio; 2],
    ) -> Result<Self, Trouble> {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().map_err(|e| Trouble::new(format!("cannot start {name}: {e}")))?;
        Ok(Self { name, command, child, log, ended: None })
    }

    /// SIGKILL to all of it, and its end.
    pub(crate) fn kill(&mut self) -> Result<(), Trouble> {
        end_group(&self.child, Signal::KILL);
        self.ended = Some(self.child.wait()?);
        Ok(())
    }

    /// The same program again, after its end; its log goes on where it was.
    pub(crate) fn start_again(&mut self) -> Result<(), Trouble> {
        ensure(self.ended.is_some(), || format!("{} still runs", self.name))?;
        self.child = self.command.spawn()?;
        self.ended = None;
        Ok(())
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Looks at `ready` until it holds; gives up at once if the program ends first.
    pub(crate) fn await_ready(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<(), Trouble> {
        let end = Instant::now() + DEADLINE;
        while !ready() {
            if exits_within(&self.child, PACE)? {
                let status = self.child.wait()?;
                self.ended = Some(status);
                return Err(self.trouble(&format!("ended ({status}) before {what}")));
            }
            if Instant::now() > end {
                return Err(self.trouble(&format!("took more than {DEADLINE:?} for {what}")));
            }
        }
        Ok(())
    }

    /// What it wrote to standard error so far. A gateway's lines are written by a thread of its own, which sleeps once it has
    /// written all of them.
    pub(crate) fn log(&self) -> String {
        let end = Instant::now() + LAST_WORDS;
        while self.still_writes() && Instant::now() < end {
            thread::park_timeout(PACE);
        }
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it has a thread that writes its log, and that thread runs.
    fn still_writes(&self) -> bool {
        let Ok(mut threads) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return false };
        threads.any(|thread| {
            let stat = thread.and_then(|thread| fs::read_to_string(thread.path().join("stat"))).unwrap_or_default();
            // NUMBER (NAME) STATE ...
            stat.contains(" (log) ") && !stat.contains(" (log) S ")
        })
    }

    /// The end of that: enough to see what was going on when a test failed.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub(crate) fn trouble(&self, what: &str) -> Trouble {
        Trouble::new(format!("{} {what}", self.name)).with(self.last_words())
    }

    /// SIGTERM, then its exit status; the group is killed if it does not end in time.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus, Trouble> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        end_group(&self.child, Signal::TERM);
        self.await_end(LAST_WORDS)
    }

    /// Its exit status; killed, with trouble, if it does not end in time.
    pub(crate) fn await_end(&mut self, deadline: Duration) -> Result<ExitStatus, Trouble> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let in_time = exits_within(&self.child, deadline)?;
        end_group(&self.child, Signal::KILL);
        let status = self.child.wait()?;
        self.ended = Some(status);
        if in_time { Ok(status) } else { Err(self.trouble(&format!("did not end within {deadline:?}"))) }
    }

    /// A signal to all of it.
    pub(crate) fn signal(&self, signal: Signal) {
        end_group(&self.child, signal);
    }

    /// SIGTERM alone; whoever sends it wants to watch.
    pub(crate) fn ask_to_end(&self) {
        end_group(&self.child, Signal::TERM);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let stopped = self.stop();
        // Shown only if the test failed.
        match stopped {
            Ok(_) => eprintln!("--- {} said:\n{}", self.name, self.last_words()),
            Err(trouble) => eprintln!("--- {trouble}"),
        }
    }
}

/// Waits for the end of `child` without reaping it.
fn exits_within(child: &Child, deadline: Duration) -> Result<bool, Trouble> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(deadline).map_err(|e| Trouble::new(e.to_string()))?;
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
    Ok(ready > 0)
}

/// A group that has gone is what the sender wanted, so the error says nothing.
fn end_group(child: &Child, signal: Signal) {
    let _ = kill_process_group(Pid::from_child(child), signal);
}

fn gather(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before a broken pipe is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
