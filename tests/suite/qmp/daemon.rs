//! A qemu-storage-daemon that takes QMP: one monitor for the gateway, one for the test. `NBD_SUITE_STORAGE_DAEMON` names
//! another one than the installed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::{Trouble, ensure, eventually};

/// How large its disks are at first.
pub(super) const SIZE: u64 = 8 << 20;

/// The daemon to test with.
pub(super) fn program() -> Result<PathBuf, Trouble> {
    match std::env::var_os("NBD_SUITE_STORAGE_DAEMON") {
        Some(program) => Ok(program.into()),
        None => installed("qemu-storage-daemon"),
    }
}

/// A running daemon with one disk, `disk`, on the node `node`, by the export `id`.
pub(super) struct Daemon {
    pub(super) process: Running,
    pub(super) test: Monitor,
    pub(super) file: PathBuf,
    pub(super) place: Place,
}

impl Daemon {
    /// On a file of this format; `export` goes on with the export's options.
    pub(super) fn start(format: &str, export: &str) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let file = place.path("disk");
        let size = SIZE.to_string();
        Call::new("qemu-img").args(["create", "-q", "-f", format]).arg(&file).arg(size).run()?.success()?;
        if format == "qcow2" {
            Call::new("qemu-img").args(["bitmap", "--add"]).arg(&file).arg("since").run()?.success()?;
        }
        let monitor = |name: &str| {
            let path = place.path(name).display().to_string();
            [format!("--chardev=socket,id={name},path={path},server=on,wait=off"), format!("--monitor=chardev={name}")]
        };
        let mut arguments = vec![
            format!("--pidfile={}", place.path("pid").display()),
            format!("--blockdev=driver=file,node-name=file,filename={}", file.display()),
            format!("--blockdev=driver={format},node-name=node,file=file"),
            format!("--nbd-server=addr.type=unix,addr.path={},max-connections=0", place.path("s").display()),
            format!("--export=type=nbd,id=id,node-name=node,name=disk,{export}"),
        ];
        arguments.extend(monitor("qmp").into_iter().chain(monitor("test")));
        let mut process = Running::start(&program()?, arguments, place.path("log"))?;
        process.await_ready("its pid file", || place.path("pid").exists())?;
        let test = Monitor::connect(&place.path("test"))?;
        Ok(Self { process, test, file, place })
    }

    /// The NBD URI of its disk.
    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.place.path("s").display())
    }

    /// The keys of `[export.resize]` for it, with what differs.
    pub(super) fn driver(&self, node: &str, export: &str) -> String {
        driver(&self.place.path("qmp"), node, export)
    }
}

/// The keys of `[export.resize]`.
pub(super) fn driver(socket: &Path, node: &str, export: &str) -> String {
    format!("[export.resize]\ndriver = \"qmp\"\nsocket = {socket:?}\nnode = {node:?}\nexport = {export:?}\n")
}

/// A QMP connection of the test's own.
pub(crate) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub(crate) fn connect(path: &Path) -> Result<Self, Trouble> {
        let mut stream = None;
        eventually("a QMP socket that takes a connection", || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        })?;
        let stream = stream.expect("it has just connected");
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.0.read_line(&mut String::new())?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// What a command returns.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Trouble> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.0.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = String::new();
            ensure(self.0.read_line(&mut answer)? > 0, || format!("qemu closed its QMP socket at {line}"))?;
            let answer: Value = serde_json::from_str(&answer)?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            ensure(answer.get("error").is_none(), || format!("{line}: {answer}"))?;
        }
    }

    pub(crate) fn size_of(&mut self, node: &str) -> Result<u64, Trouble> {
        let nodes = self.ask("query-named-block-nodes", json!({ "flat": true }))?;
        let found = nodes.as_array().into_iter().flatten().find(|it| it["node-name"] == node);
        found.and_then(|it| it["image"]["virtual-size"].as_u64()).ok_or_else(|| Trouble::new(format!("no node {node}")))
    }
}
