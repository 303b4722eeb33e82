//! Exports with one disk behind them: the same export of the same server in whatever spelling, or one file by several paths.
//!
//! Owns when two are one, and the sentence about it. Looks at names and files as they are now; connects to nothing and
//! refuses nothing, for whoever uses each at its time may mean it so. The names of a template are not looked at: nobody
//! knows them beforehand.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nbd_gateway_config::{Backend, Config, Endpoint, Host, NbdUri};

use crate::log::ORDERED;

/// How many names a sentence has.
const NAMED: usize = 4;

/// Two exports or more with one disk behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aliases {
    /// Their names, in the order of the file.
    pub exports: Vec<String>,
    /// The disk, as the first of them calls it.
    pub disk: String,
}

impl fmt::Display for Aliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> = self.exports.iter().take(NAMED).map(|name| format!("{name:?}")).collect();
        let (named, more) = (named.join(", "), self.exports.len().saturating_sub(NAMED));
        write!(f, "exports {named}")?;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        write!(
            f,
            " have one disk behind them ({}): it counts against quotas once for each, and after a grow one of them may \
             zero what another has written there; serve a disk as one export",
            self.disk
        )
    }
}

/// What a disk is known by.
#[derive(PartialEq, Eq, Hash)]
enum Disk {
    Tcp { host: Host, port: u16, export: String },
    Unix { socket: PathBuf, export: String },
    File { device: u64, inode: u64 },
}

/// All of them. Blocks, as a look at a file does.
pub(crate) fn aliases(config: &Config) -> Vec<Aliases> {
    let mut places: HashMap<Disk, usize> = HashMap::new();
    let mut found: Vec<Aliases> = Vec::new();
    for name in config.listable() {
        let Ok(export) = config.export_for(name) else { continue };
        let Some(disk) = disk(&export.backend) else { continue };
        let place = *places.entry(disk).or_insert_with(|| {
            found.push(Aliases { exports: Vec::new(), disk: export.backend.to_string() });
            found.len() - 1
        });
        if let Some(aliases) = found.get_mut(place) {
            aliases.exports.push(name.to_owned());
        }
    }
    found.retain(|aliases| aliases.exports.len() > 1);
    found
}

/// Warns of those that `before` has not told of. Blocks.
pub(crate) fn warn(config: &Config, before: &[Aliases]) {
    for aliases in aliases(config).iter().filter(|aliases| !before.contains(aliases)) {
        tracing::warn!(target: ORDERED, twins = %aliases, "exports share a disk");
    }
}

/// The files of some backends, by whatever paths.
#[derive(Default)]
pub(super) struct Files {
    /// A path can name a file that does not exist yet.
    paths: HashSet<PathBuf>,
    disks: HashSet<Disk>,
}

impl Files {
    /// Blocks.
    pub(super) fn of(backends: impl IntoIterator<Item = Backend>) -> Self {
        let mut files = Self::default();
        for backend in backends {
            if let Backend::File { path, .. } = &backend {
                files.disks.extend(disk(&backend));
                files.paths.insert(path.clone());
            }
        }
        files
    }

    /// Whether a backend is one of them. Blocks.
    pub(super) fn have(&self, backend: &Backend) -> bool {
        matches!(backend, Backend::File { path, .. } if self.paths.contains(path))
            || !self.disks.is_empty() && disk(backend).is_some_and(|file| self.disks.contains(&file))
    }
}

/// None: nothing that another could have too, or that can be looked at now.
fn disk(backend: &Backend) -> Option<Disk> {
    match backend {
        Backend::Nbd(uri) => Some(served(uri)),
        Backend::File { path, .. } => {
            let file = std::fs::metadata(path).ok()?;
            Some(Disk::File { device: file.dev(), inode: file.ino() })
        }
        Backend::Memory { .. } => None,
    }
}

/// The same server whatever TLS is spoken with it.
fn served(uri: &NbdUri) -> Disk {
    let export = uri.export().as_str().to_owned();
    match uri.endpoint() {
        Endpoint::Tcp { host, port } => Disk::Tcp { host: plain(host), port: *port, export },
        Endpoint::Unix(socket) => Disk::Unix { socket: resolved(socket), export },
    }
}

/// Names of hosts know no case, and may end in the dot of the root (RFC 1034, 3.1).
fn plain(host: &Host) -> Host {
    match host {
        Host::Name(name) => {
            let name = name.to_ascii_lowercase();
            Host::Name(name.strip_suffix('.').map_or_else(|| name.clone(), str::to_owned))
        }
        Host::Address(address) => Host::Address(address.to_canonical()),
        Host::Zoned(..) => host.clone(),
    }
}

/// Without links; of what is not there yet, as much of its path without them as is there. Blocks.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = |above: &Path| Some(above.canonicalize().ok()?.join(path.strip_prefix(above).ok()?));
    // Joined with nothing, a path ends with a slash.
    path.ancestors().find_map(there).map(|path| path.components().collect()).unwrap_or_else(|| path.clone())
}

/// What is wrong with where files are once links are followed: see [`Config::misplaced_files`]. Blocks.
pub(crate) fn misplaced_files(config: &Config) -> Vec<String> {
    config.misplaced_files(&resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(backends: &[&str]) -> Vec<Vec<String>> {
        let mut text = "[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned();
        for (number, backend) in backends.iter().enumerate() {
            text += &format!("[[export]]\nname = \"{number}\"\nbackend = {backend:?}\n");
        }
        let config = Config::parse(&text, Path::new("config.toml")).unwrap();
        aliases(&config).into_iter().map(|aliases| aliases.exports).collect()
    }

    #[test]
    fn an_export_of_a_server_is_one_in_whatever_spelling() {
        for spelling in [
            "nbd://host.example/disk",
            "nbd://HOST.example/disk",
            "nbd://host.example.:10809/disk",
            "nbd://host.example/d%69sk",
            "nbds://host.example/disk?tls-verify-peer=0",
        ] {
            assert_eq!(told(&["nbd://host.example/disk", spelling]), [["0", "1"]], "{spelling}");
        }
        let others = ["nbd://host.example/other", "nbd://host.example:1/disk", "nbd://10.0.0.1/disk"];
        for other in others {
            assert_eq!(told(&["nbd://host.example/disk", other]).len(), 0, "{other}");
        }
        assert_eq!(told(&["nbd://10.0.0.1/", "nbd://[::ffff:10.0.0.1]/"]), [["0", "1"]]);
    }

    #[test]
    fn a_file_is_one_by_a_link_of_either_kind_and_so_is_a_socket() {
        let place = std::env::temp_dir().join(format!("nbd-gateway-aliases-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let of = |name: &str| place.join(name);
        std::fs::write(of("disk"), [0; 512]).unwrap();
        std::fs::write(of("other"), [0; 512]).unwrap();
        std::fs::hard_link(of("disk"), of("hard")).unwrap();
        std::os::unix::fs::symlink(of("disk"), of("soft")).unwrap();
        std::os::unix::fs::symlink(&place, of("here")).unwrap();
        let file = |name: &str| format!("file:{}", of(name).display());
        let files = ["disk", "hard", "other", "soft", "missing"].map(file);
        assert_eq!(told(&files.each_ref().map(String::as_str)), [["0", "1", "3"]]);
        // One that is not there yet, too.
        let socket = |path: &str| format!("nbd+unix:///a?socket={}/{path}", place.display());
        assert_eq!(told(&[&socket("s"), &socket("t"), &socket("here/s")]), [["0", "2"]]);
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn the_sentence_names_a_few_and_tells_how_many_more() {
        let exports = (0..6).map(|number| number.to_string()).collect();
        let aliases = Aliases { exports, disk: "nbd://h/".to_owned() };
        let sentence = aliases.to_string();
        assert!(sentence.starts_with("exports \"0\", \"1\", \"2\", \"3\" and 2 more have one disk"), "{sentence}");
    }
}
