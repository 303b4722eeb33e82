//! The gateway under test: its configuration written, its binary started, its addresses read from what it prints, and
//! its end watched. `serve` prints a line `listening on URI` per listener, `admin on URL`, then `ready`; what it has to
//! complain about goes to standard error, and no test may overlook a complaint that it did not expect.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::peer::Served;
use crate::place::Place;
use crate::process::{DEADLINE, Running};
use crate::trouble::{Trouble, ensure};

/// How long a gateway may take to end after SIGTERM.
const BOUNDED_END: Duration = Duration::from_secs(20);

/// What an operator has to bring to change something.
const TOKEN: &str = "a-token-of-this-suite";

/// A gateway that says it is ready.
pub(crate) struct Gateway {
    process: Running,
    socket: PathBuf,
    tcp: SocketAddr,
    admin: SocketAddr,
    may_warn: bool,
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
        let socket = place.path("g");
        let config = place.path("config.toml");
        let token = place.path("token");
        fs::write(&token, TOKEN)?;
        fs::write(
            &config,
            format!(
                "state = {:?}\n\n[[listener]]\naddress = \"unix:{}\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n\
                 [admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {token:?}\n\n{tables}",
                place.path("state"),
                socket.display(),
            ),
        )?;
        let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let mut process = Running::start_with(&binary()?, arguments, place.path("log"), Stdio::null(), Stdio::piped())?;
        let lines = follow(&mut process)?;
        let said = await_ready(&mut process, &lines)?;
        let after = |prefix: &str| said.iter().find_map(|line| line.strip_prefix(prefix)).and_then(|a| a.parse().ok());
        let (Some(tcp), Some(admin)) = (after("listening on nbd://"), after("admin on http://")) else {
            return Err(process.trouble(&format!("did not tell its TCP addresses; it said {said:?}")));
        };
        Ok(Self { process, socket, tcp, admin, may_warn: false, _place: place })
    }

    /// Lets the gateway warn: a peer misbehaves on purpose. An ERROR would still call a person for nothing.
    pub(crate) fn expecting_warnings(mut self) -> Self {
        self.may_warn = true;
        self
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn peak_memory(&mut self) -> Result<u64, Trouble> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.child().id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
            .ok_or_else(|| Trouble::new("/proc does not tell the gateway's peak memory"))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) const fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// The URI of one of its exports.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// An operator's resize, over the admin interface.
    pub(crate) fn order_size(&self, export: &str, size: u64) -> Result<(), Trouble> {
        let answer =
            self.over_http(&format!("POST /api/v1/exports/{export}/resize"), &format!("{{\"size\":{size}}}"))?;
        ensure(answer.starts_with("HTTP/1.1 200 "), || format!("an operator's resize was answered {answer}"))
    }

    fn over_http(&self, what: &str, body: &str) -> Result<String, Trouble> {
        let mut stream = TcpStream::connect(self.admin)?;
        let length = body.len();
        write!(
            stream,
            "{what} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The sum of a metric over all its series.
    pub(crate) fn metric(&self, name: &str) -> Result<f64, Trouble> {
        let text = self.over_http("GET /metrics", "")?;
        let value = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name)?;
            ensure(rest.starts_with(['{', ' ']), String::new).ok()?;
            rest.rsplit_once(' ')?.1.parse().ok()
        };
        let values: Vec<f64> = text.lines().filter_map(value).collect();
        ensure(!values.is_empty(), || format!("there is no metric {name} in\n{text}"))?;
        Ok(values.iter().sum())
    }

    /// What it said last.
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

    /// The same for a gateway that has already been told to end.
    pub(crate) fn await_end(&mut self) -> Result<(), Trouble> {
        let status = self.process.await_end(BOUNDED_END)?;
        ensure(status.success(), || format!("the gateway ended with {status}\n{}", self.log()))?;
        let log = self.process.log();
        let complaints: Vec<_> =
            log.lines().filter(|line| line.contains(" ERROR ") || line.contains(" WARN ") && !self.may_warn).collect();
        ensure(complaints.is_empty(), || format!("the gateway complained:\n{}", complaints.join("\n")))
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

/// All lines up to `ready`.
fn await_ready(process: &mut Running, lines: &mpsc::Receiver<String>) -> Result<Vec<String>, Trouble> {
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
