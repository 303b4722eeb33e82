//! What a run takes place in: a gateway with tenants whose quotas are tight, and their exports, each in front of another
//! kind of server. Every export's bytes are in a file that can be looked at without asking anybody.

use std::fs;
use std::path::{Path, PathBuf};

use super::server::{QemuNbd, Server};
use crate::gateway::{Gateway, export};
use crate::peer::nbdkit_on;
use crate::place::Place;
use crate::trouble::Trouble;

pub(super) const MIB: u64 = 1 << 20;

/// What each export begins with.
const FIRST: u64 = 2 * MIB;

/// A tenant, and the most that its files may sum to.
pub(super) const TENANTS: [(&str, u64); 3] = [("blue", 40 * MIB), ("red", 24 * MIB), ("green", 17 * MIB)];

/// Where an export's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    /// The gateway serves the file itself.
    File,
    Nbdkit,
    QemuNbd,
    /// A second gateway, which is resized over the wire.
    Gateway,
}

/// Name, tenant, server, and more of its `[export.resize]`.
const EXPORTS: [(&str, usize, Behind, &str); 13] = [
    ("blue-file", 0, Behind::File, "shrink = true"),
    ("blue-grows", 0, Behind::File, ""),
    ("blue-nbdkit", 0, Behind::Nbdkit, "shrink = true"),
    ("blue-qemu", 0, Behind::QemuNbd, ""),
    ("blue-wire", 0, Behind::Gateway, "shrink = true"),
    ("red-file", 1, Behind::File, "shrink = true\nautomatic = \"always\""),
    ("red-qemu", 1, Behind::QemuNbd, ""),
    ("red-nbdkit", 1, Behind::Nbdkit, "shrink = true"),
    ("red-writes", 1, Behind::Gateway, ""),
    ("green-file", 2, Behind::File, "shrink = true\nover-quota = \"clamp\""),
    ("green-ceiling", 2, Behind::File, "present = \"ceiling\""),
    ("green-wire", 2, Behind::Gateway, "shrink = true\nover-quota = \"clamp\""),
    ("green-nbdkit", 2, Behind::Nbdkit, "shrink = true\nover-quota = \"clamp\""),
];

/// Short waits, and nothing that grows by more than it was asked to.
const RESIZE: &str = "step = \"1MiB\"\ntimeout = \"3s\"\ngrowth-wait = \"1s\"\nshrink-grace = \"50ms\"\n\
                      granularity = \"64KiB\"\n";

/// The same for a server.
const WIRE: &str =
    "dial-timeout = \"3s\"\nidle-timeout = \"1s\"\non-backend-loss = { hold = \"3s\", durable = true }\n";

/// Ignores the signal that says that a file would become too large, and has the log written by somebody who is not bound
/// by what this one may write.
const LAUNCHER: [&str; 4] = ["/usr/bin/bash", "-c", "trap '' XFSZ; exec \"$@\" 2> >(exec setsid cat >&2)", "bash"];

/// An export, and where its bytes are.
pub(super) struct Export {
    pub(super) name: &'static str,
    pub(super) tenant: usize,
    pub(super) file: PathBuf,
}

/// All that runs.
pub(super) struct Town {
    pub(super) gateway: Gateway,
    pub(super) servers: Vec<Server>,
    /// The gateway's state directory.
    pub(super) state: PathBuf,
    pub(super) way: Way,
    _place: Place,
}

/// How clients and operators reach it; the same over every restart.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) socket: PathBuf,
    pub(super) admin: String,
    pub(super) token: String,
    /// 64 KiB to write.
    pub(super) input: PathBuf,
}

impl Way {
    pub(super) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }
}

impl Town {
    pub(super) fn build() -> Result<(Self, Vec<Export>), Trouble> {
        let place = Place::fresh()?;
        let mut servers = Vec::new();
        let mut exports = Vec::new();
        let (mut tables, mut behind) = (String::new(), String::new());
        let back = Place::fresh()?;
        let back_socket = back.path("g");
        for (name, tenant, kind, more) in EXPORTS {
            let file = place.path(name);
            fs::File::create(&file)?.set_len(FIRST)?;
            let (backend, driver) = match kind {
                Behind::File => (format!("file:{}", file.display()), String::new()),
                Behind::Nbdkit => {
                    let served = nbdkit_on(&file)?;
                    let uri = served.uri();
                    servers.push(Server::Nbdkit(served));
                    (uri, format!("driver = \"file\"\npath = {file:?}\n"))
                }
                Behind::QemuNbd => {
                    let server = QemuNbd::start(&place, name)?;
                    let driver = format!("driver = \"restart\"\npath = {file:?}\ncommand = [{:?}]\n", server.script());
                    let uri = server.uri();
                    servers.push(Server::QemuNbd(server));
                    (uri, driver)
                }
                Behind::Gateway => {
                    let offer = if name == "red-writes" { "offer = [\"automatic\", \"query\"]" } else { "" };
                    let resize = format!("[export.resize]\nshrink = true\nshrink-grace = \"0s\"\nstep = 0\n{offer}\n");
                    behind += &export(name, &format!("file:{}", file.display()), &resize);
                    (format!("nbd+unix:///{name}?socket={}", back_socket.display()), String::new())
                }
            };
            // A restart that is killed in the middle of a shrink leaves a server that shows more than there is, for an
            // operator to deal with: those grow only. What never shrinks must not take it all in the end: then nothing would
            // happen any more.
            let ceiling = TENANTS[tenant].1 / if more.contains("shrink") { 1 } else { 4 };
            let (wire, poll) = if kind == Behind::File { ("", "") } else { (WIRE, "poll = \"200ms\"\n") };
            let owner = TENANTS[tenant].0;
            let more = format!(
                "tenant = {owner:?}\nmax-size = {ceiling}\n{wire}[export.resize]\n{RESIZE}{poll}{driver}{more}\n"
            );
            tables += &export(name, &backend, &more);
            exports.push(Export { name, tenant, file });
        }
        servers.push(Server::Gateway(serve(back, &behind)?));
        for (name, quota) in TENANTS {
            tables += &format!("[[tenant]]\nname = \"{name}\"\nquota = {quota}\n");
        }
        let front = Place::fresh()?;
        let way = Way {
            socket: front.path("g"),
            admin: format!("unix:{}", front.path("a").display()),
            token: front.path("token").display().to_string(),
            input: place.path("input"),
        };
        fs::write(&way.token, "a-token-of-this-suite")?;
        fs::write(&way.input, vec![0x5a; 64 << 10])?;
        let state = front.path("state");
        let gateway = serve(front, &tables)?;
        Ok((Self { gateway, servers, state, way, _place: place }, exports))
    }
}

/// A gateway whose addresses stay the same when it is started again.
fn serve(place: Place, tables: &str) -> Result<Gateway, Trouble> {
    let address = |name: &str| format!("unix:{}", place.path(name).display());
    let settings = format!(
        "[[listener]]\naddress = {:?}\n[admin]\naddress = {:?}\ntoken-file = {:?}\n\
         [limits]\ndrain-timeout = \"2s\"\n[log]\nlevel = \"debug\"\n\n{tables}",
        address("g"),
        address("a"),
        token(&place)
    );
    Gateway::launched_by(&LAUNCHER.map(str::to_owned), place, &settings)
}

fn token(place: &Place) -> PathBuf {
    let token = place.path("token");
    // Of no use if it can't be written, and then the gateway says so.
    let _ = fs::write(&token, "a-token-of-this-suite");
    token
}

pub(super) fn length(file: &Path) -> Result<u64, Trouble> {
    Ok(fs::metadata(file)?.len())
}
