//! The gateway under test: its configuration written, its binary started, its addresses read from what it prints, and
//! its end watched. `serve` prints a line `listening on URI` per listener, `admin on URL`, then `ready`; what it has to
//! complain about goes to standard error, and no test may overlook a complaint that it did not expect.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::peer::Served;
use crate::place::Place;
use crate::process::{Call, DEADLINE, Running};
use crate::trouble::{Trouble, ensure};

/// How long a gateway may take to end after SIGTERM.
const BOUNDED_END: Duration = Duration::from_secs(20);

/// What an operator has to bring to change something.
pub(crate) const TOKEN: &str = "a-token-of-this-suite";

/// A gateway that says it is ready.
pub(crate) struct Gateway {
    process: Running,
    /// What it said before that.
    said: Vec<String>,
    socket: PathBuf,
    may_warn: bool,
    /// Whether it may call a person as often as it likes.
    may_call: bool,
    /// Words of the one ERROR that has to come.
    error: Option<&'static str>,
    _place: Place,
}

impl Gateway {
    /// One export, with the name that it has behind the gateway.
    pub(crate) fn in_front_of(served: &Served) -> Result<Self, Trouble> {
        Self::start(&export(served.export, &served.uri(), ""))
    }

    /// A gateway with two listeners (Unix and TCP), an admin interface, and `tables` of TOML below them.
    pub(crate) fn start(tables: &str) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let tables = usual(&place, tables)?;
        Self::start_in(place, &tables)
    }

    /// Puts another configuration in the place of the one that it was started with: the same listeners, and `tables` of
    /// TOML below them. It is not told.
    pub(crate) fn write_down(&self, tables: &str) -> Result<(), Trouble> {
        self.write_down_whole(&usual(&self._place, tables)?)
    }

    /// The same, with other listeners in `tables` too.
    pub(crate) fn write_down_whole(&self, tables: &str) -> Result<(), Trouble> {
        configuration(&self._place, tables).map(drop)
    }

    /// The path of something in its place.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self._place.path(name)
    }

    /// A gateway whose listeners stand in `tables` too.
    pub(crate) fn start_in(place: Place, tables: &str) -> Result<Self, Trouble> {
        let arguments = ["serve".into(), "--config".into(), configuration(&place, tables)?];
        Self::launch(place, &binary()?, arguments)
    }

    /// The same, by a `launcher` that becomes the gateway after it has set things up.
    pub(crate) fn launched_by(launcher: &[String], place: Place, tables: &str) -> Result<Self, Trouble> {
        let config = configuration(&place, tables)?;
        let (program, arguments) = launcher.split_first().expect("a launcher has a name");
        let gateway = [binary()?, "serve".into(), "--config".into(), config];
        Self::launch(place, Path::new(program), arguments.iter().map(PathBuf::from).chain(gateway))
    }

    fn launch(place: Place, program: &Path, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Result<Self, Trouble> {
        let mut process = Running::start_with(program, arguments, place.path("log"), Stdio::null(), Stdio::piped())?;
        let said = said_until_ready(&mut process)?;
        Ok(Self {
            process,
            said,
            socket: place.path("g"),
            may_warn: false,
            may_call: false,
            error: None,
            _place: place,
        })
    }

    /// Lets the gateway warn: a peer misbehaves on purpose. An ERROR would still call a person for nothing.
    pub(crate) fn expecting_warnings(mut self) -> Self {
        self.may_warn = true;
        self
    }

    /// Lets the gateway call a person in these words, and insists that it does so once.
    pub(crate) fn expecting_error(mut self, words: &'static str) -> Self {
        self.error = Some(words);
        self
    }

    /// Lets the gateway call a person as well: an export can't be what it was.
    pub(crate) fn expecting_errors(mut self) -> Self {
        self.may_call = true;
        self.expecting_warnings()
    }

    /// Processor time that it has used so far, in clock ticks of a hundredth of a second.
    pub(crate) fn processor_time(&mut self) -> Result<u64, Trouble> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.child().id()))?;
        // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
    }

    /// SIGKILL, and the same gateway again in the same place.
    pub(crate) fn kill_and_restart(&mut self) -> Result<(), Trouble> {
        self.kill()?;
        self.start_again()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<(), Trouble> {
        self.process.kill()
    }

    /// The same gateway again in the same place, after its end.
    pub(crate) fn start_again(&mut self) -> Result<(), Trouble> {
        self.process.start_again()?;
        self.said = said_until_ready(&mut self.process)?;
        Ok(())
    }

    /// Its process.
    pub(crate) fn id(&mut self) -> u32 {
        self.process.child().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// No file of its may become longer than so many bytes by its writing (RLIMIT_FSIZE), or there is no such bound. Until
    /// its end: then there is none.
    pub(crate) fn may_write(&mut self, bytes: Option<u64>) -> Result<(), Trouble> {
        let bound = Rlimit { current: bytes, maximum: None };
        prlimit(Some(Pid::from_child(self.process.child())), Resource::Fsize, bound)?;
        Ok(())
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn peak_memory(&mut self) -> Result<u64, Trouble> {
        self.memory_as("VmHWM:")
    }

    /// The memory that it has now, in KiB.
    pub(crate) fn memory(&mut self) -> Result<u64, Trouble> {
        self.memory_as("VmRSS:")
    }

    fn memory_as(&mut self, line: &str) -> Result<u64, Trouble> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.child().id()))?;
        let found = status.lines().find_map(|of| of.strip_prefix(line));
        found
            .and_then(|found| found.trim().strip_suffix(" kB")?.parse().ok())
            .ok_or_else(|| Trouble::new(format!("/proc does not tell {line} of the gateway")))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn tcp(&self) -> SocketAddr {
        self.told("listening on nbd://").parse().expect("it tells an IP address")
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// What follows `prefix` in what it told before it was ready.
    pub(crate) fn told(&self, prefix: &str) -> &str {
        let found = self.said.iter().find_map(|line| line.strip_prefix(prefix));
        found.unwrap_or_else(|| panic!("the gateway told no `{prefix}`; it said {:?}", self.said))
    }

    /// Whether it told anything after `prefix`.
    pub(crate) fn says(&self, prefix: &str) -> bool {
        self.said.iter().any(|line| line.starts_with(prefix))
    }

    /// The sum of the series of one metric whose labels hold all of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> Result<f64, Trouble> {
        let page = Call::new("curl")
            .args(["--silent", "--fail", "--show-error"])
            .arg(self.told("admin on ").to_owned() + "/metrics");
        let page = page.run()?.success()?.stdout;
        let series = page.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(series, _)| {
            let (of, rest) = series.split_once('{').unwrap_or((series, ""));
            of == name && labels.iter().all(|label| rest.contains(label))
        });
        let values: Vec<f64> = series.filter_map(|(_, value)| value.parse().ok()).collect();
        ensure(!values.is_empty(), || format!("no series {name} with {labels:?} in\n{page}"))?;
        Ok(values.iter().sum())
    }

    /// An operator's resize, over the admin interface.
    pub(crate) fn order_size(&self, export: &str, size: u64) -> Result<(), Trouble> {
        let url = format!("{}/api/v1/exports/{export}/resize", self.told("admin on "));
        let call = Call::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--request", "POST"])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--header", "Content-Type: application/json"])
            .args(["--data", &format!("{{\"size\":{size}}}"), &url]);
        call.run()?.success()?;
        Ok(())
    }

    pub(crate) fn whole_log(&self) -> String {
        self.process.log()
    }

    /// An operator's words, said to this gateway.
    pub(crate) fn operator(&self, words: &[&str]) -> Result<Call, Trouble> {
        let program = binary()?.display().to_string();
        let token = self._place.path("token").display().to_string();
        Ok(Call::new(&program).args(words).args(["--admin", self.told("admin on "), "--token-file", &token]))
    }

    /// The last lines that it logged.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = self.process.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// What it logged last.
    pub(crate) fn log(&self) -> String {
        self.process.last_words()
    }

    /// SIGTERM, and no waiting.
    pub(crate) fn ask_to_end(&self) {
        self.process.ask_to_end();
    }

    /// SIGTERM, then an exit by itself, with success, in bounded time, with nothing in the log that nobody expected.
    /// A test that says nothing of it proves nothing of it, so every test ends its gateway, or awaits its end.
    pub(crate) fn end(mut self) -> Result<(), Trouble> {
        self.process.ask_to_end();
        self.await_end()
    }

    /// The same, and a look at what it left before its place is gone.
    pub(crate) fn end_with(mut self, look: impl FnOnce() -> Result<(), Trouble>) -> Result<(), Trouble> {
        self.process.ask_to_end();
        self.await_end()?;
        look()
    }

    /// For a gateway that has already been told to end, and had every reason to call a person.
    pub(crate) fn await_end_whatever_it_logged(&mut self) -> Result<(), Trouble> {
        let status = self.process.await_end(BOUNDED_END)?;
        ensure(status.success(), || format!("the gateway ended with {status}\n{}", self.log()))
    }

    /// As [`Self::end`], for a gateway that has already been told to end.
    pub(crate) fn await_end(&mut self) -> Result<(), Trouble> {
        self.await_end_whatever_it_logged()?;
        let log = self.process.log();
        let (errors, warnings): (Vec<_>, Vec<_>) = log
            .lines()
            .filter(|line| line.contains(" ERROR ") || line.contains(" WARN "))
            // Many a test saves itself a server by it.
            .filter(|line| !line.contains("exports share a disk"))
            .partition(|line| line.contains(" ERROR "));
        ensure(self.may_warn || warnings.is_empty(), || format!("the gateway warned:\n{}", warnings.join("\n")))?;
        let fits = match (self.error, &errors[..]) {
            (None, []) => true,
            (Some(words), [error]) => error.contains(words),
            _ => self.may_call,
        };
        let expected = self.error.unwrap_or("none");
        ensure(fits, || format!("the errors logged, where {expected} was expected:\n{}", errors.join("\n")))
    }
}

/// An `[[export]]` table.
pub(crate) fn export(name: &str, backend: &str, more: &str) -> String {
    format!("[[export]]\nname = {name:?}\nbackend = {backend:?}\n{more}\n")
}

/// The binary to test.
pub(crate) fn binary() -> Result<PathBuf, Trouble> {
    let path = match std::env::var_os("NBD_GATEWAY_BIN") {
        Some(path) => PathBuf::from(path),
        // This binary is target/<profile>/deps/suite-<hash>.
        None => std::env::current_exe()?
            .ancestors()
            .nth(3)
            .map(|target| target.join("release/nbd-gateway"))
            .ok_or_else(|| Trouble::new("the suite runs outside a target directory; set NBD_GATEWAY_BIN"))?,
    };
    ensure(path.is_file(), || {
        format!("no gateway at {}; run: cargo build --release --locked -p nbd-gateway", path.display())
    })?;
    Ok(path)
}

/// Two listeners (Unix and TCP), an admin interface, and `tables` below them.
fn usual(place: &Place, tables: &str) -> Result<String, Trouble> {
    Ok(format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n\
         [admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {:?}\n\n{tables}",
        place.path("g").display(),
        token(place)?,
    ))
}

/// Writes the token that an operator has to bring.
pub(crate) fn token(place: &Place) -> Result<PathBuf, Trouble> {
    let token = place.path("token");
    fs::write(&token, TOKEN)?;
    Ok(token)
}

/// Writes a configuration: a state directory of its own, and `tables`.
pub(crate) fn configuration(place: &Place, tables: &str) -> Result<PathBuf, Trouble> {
    let config = place.path("config.toml");
    fs::write(&config, format!("state = {:?}\n\n{tables}", place.path("state")))?;
    Ok(config)
}

/// Standard output as it comes, line by line.
fn follow(process: &mut Running) -> Result<mpsc::Receiver<String>, Trouble> {
    let stdout = process.child().stdout.take().ok_or_else(|| Trouble::new("the gateway's output is not a pipe"))?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        // Reads to the end even if nobody listens any more: a full pipe would stop the gateway.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    Ok(lines)
}

/// What a gateway that was started with a pipe for its standard output says before it is ready.
pub(crate) fn said_until_ready(process: &mut Running) -> Result<Vec<String>, Trouble> {
    let lines = follow(process)?;
    let end = Instant::now() + DEADLINE;
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if line == "ready" => return Ok(said),
            Ok(line) => said.push(line),
            Err(_) => {
                let status = process.stop()?;
                return Err(process.trouble(&format!("never said `ready` ({status}); it said {said:?}")));
            }
        }
    }
}
