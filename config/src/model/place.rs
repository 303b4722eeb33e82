//! Which files exports open: that no two of them are one, and that no name which a client makes up leads to what the
//! gateway or its operator keeps.
//!
//! Owns the rules. Never looks at a disk: what is behind links is told by whoever asks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::uri::Endpoint;

use super::address::{AdminAddress, ListenAddress};
use super::backend::{Backend, Target, name_of_file};
use super::driver::Driver;
use super::export::{Entry, Name};
use super::notify::Way;
use super::template::{Blanks, Template};
use super::tls::{Listener, ListenerTls};

/// Directories in which the files of a template can't be, each with what is kept there.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Reserved(Vec<(PathBuf, &'static str)>);

impl Reserved {
    /// Those of the gateway itself.
    pub(super) fn new(
        state: &Path,
        file: &Path,
        token: Option<&Path>,
        listeners: &[Listener],
        admin: Option<&AdminAddress>,
    ) -> Self {
        let mut reserved = Self::default();
        reserved.directory(state, "the state directory, with the ledger");
        // Notes of qmp, which put a server's export back.
        reserved.directory(&state.join("taken-off"), "a part of the state directory");
        reserved.file(file, "the directory of the configuration");
        if let Some(token) = token {
            reserved.file(token, "the directory of the token file");
        }
        for listener in listeners {
            if let ListenAddress::Unix(socket) = &listener.address {
                reserved.file(socket, "the directory of a listener's socket");
            }
            if let ListenerTls::On { certificates, .. } = &listener.tls {
                reserved.directory(certificates, "a directory of certificates");
            }
        }
        if let Some(AdminAddress::Unix(socket)) = admin {
            reserved.file(socket, "the directory of the admin interface's socket");
        }
        reserved
    }

    /// Adds those of one export.
    pub(super) fn add(&mut self, entry: &Entry) {
        if let Some(certificates) = entry.backend.tls().and_then(|tls| tls.certificates.as_deref()) {
            self.directory(certificates, "a directory of certificates");
        }
        // What a template makes of a socket's path is looked at as the directory above its blanks.
        let mut socket = |path: &Path| match path.to_str() {
            Some(text) if text.contains("{}") => self.directory(&blanks(path).directory(), "a directory of sockets"),
            _ => self.file(path, "the directory of a socket"),
        };
        match &entry.backend {
            Target::Fixed(Backend::Nbd(uri)) => {
                if let Endpoint::Unix(path) = uri.endpoint() {
                    socket(path);
                }
            }
            Target::Unix { socket: path, .. } => socket(Path::new(&path.fill("{}"))),
            Target::Fixed(Backend::File { .. } | Backend::Memory { .. }) | Target::Tcp { .. } | Target::File { .. } => {
            }
        }
        if let Driver::Qmp(qmp) = &entry.resize.driver {
            socket(&qmp.socket);
        }
        for hook in &entry.notify {
            if let Way::Qmp { socket: path, .. } = &hook.way {
                socket(path);
            }
        }
    }

    fn file(&mut self, path: &Path, what: &'static str) {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.directory(parent.unwrap_or(Path::new(".")), what);
    }

    fn directory(&mut self, path: &Path, what: &'static str) {
        let path: PathBuf = path.components().collect();
        self.0.push((path, what));
    }
}

/// A file that an export can't have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misplaced {
    /// Which export, in the order in which they were looked at.
    pub(super) at: usize,
    /// The key, below the export's.
    pub(super) key: &'static str,
    /// Why not.
    pub(super) what: String,
    /// What could stand there.
    pub(super) example: &'static str,
}

/// A file of one export, or of each name of a template.
enum Opens {
    One(PathBuf),
    Each(Blanks),
}

/// Everything that is wrong with where files are. Each export comes with what it is called in the sentences; `real` tells what
/// a path is without links.
pub(super) fn misplaced(
    entries: &[(String, &Entry)],
    reserved: &Reserved,
    real: &dyn Fn(&Path) -> PathBuf,
) -> Vec<Misplaced> {
    let mut found = Vec::new();
    if entries.iter().all(|(_, entry)| of_names(entry).is_empty() && opens(entry, &Path::to_owned).is_none()) {
        return found;
    }
    let kept: Vec<_> = reserved.0.iter().map(|(path, what)| (real(path), *what)).collect();
    for (at, (_, entry)) in entries.iter().enumerate() {
        for (key, path) in of_names(entry) {
            let (directory, inner) = (real(&path.directory()), path.names_directories());
            let reached = kept.iter().find(|(kept, _)| *kept == directory || inner && kept.starts_with(&directory));
            if let Some((kept, what)) = reached {
                let what = format!(
                    "with `{}`, clients could name files in `{}`, which is {what}: use a directory that holds nothing but \
                     disks",
                    path.fill("{}"),
                    kept.display()
                );
                found.push(Misplaced { at, key, what, example: "backend = \"file:disks/{}.img\"" });
            }
        }
    }
    shared(entries, real, &mut found);
    found
}

/// Where names that clients make up become files that are opened or resized: the keys, and the paths.
fn of_names(entry: &Entry) -> Vec<(&'static str, Blanks)> {
    let mut paths = Vec::new();
    if matches!(entry.name, Name::Exact(_)) {
        return paths;
    }
    if let Target::File { path, .. } = &entry.backend {
        paths.push(("backend", path.clone()));
    }
    if let Driver::File { path } | Driver::Restart { path: Some(path), .. } = &entry.resize.driver {
        paths.push(("resize.path", blanks(path)));
    }
    paths
}

fn blanks(path: &Path) -> Blanks {
    // It came out of the file, which is UTF-8.
    Blanks::plain(path.to_str().unwrap_or_default())
}

/// Adds files that two exports would open, at the later export.
fn shared(entries: &[(String, &Entry)], real: &dyn Fn(&Path) -> PathBuf, found: &mut Vec<Misplaced>) {
    let (mut ones, mut each) = (Vec::new(), Vec::new());
    for (at, (_, entry)) in entries.iter().enumerate() {
        match (&entry.name, opens(entry, real)) {
            (Name::Exact(name), Some(Opens::One(path))) => ones.push((at, name, path)),
            (Name::Template(name), Some(Opens::Each(path))) => each.push((at, name, path)),
            _ => {}
        }
    }
    let mut note = |one: usize, other: usize, file: &str| {
        let (first, last) = (one.min(other), one.max(other));
        let first = entries.get(first).map_or("", |(label, _)| label.as_str());
        let what =
            format!("`file:{file}` is the backend of {first} too: two exports on one file destroy each other's data");
        found.push(Misplaced { at: last, key: "backend", what, example: "backend = \"file:another.img\"" });
    };
    let mut fixed: HashMap<&Path, usize> = HashMap::new();
    for (at, _, path) in &ones {
        match fixed.get(path.as_path()) {
            Some(first) => note(*at, *first, &path.display().to_string()),
            None => _ = fixed.insert(path, *at),
        }
    }
    for (place, (at, name, path)) in each.iter().enumerate() {
        let name: &Template = name;
        for (first, before, others) in each.iter().take(place) {
            if others == path || name.shares(path, before, others) {
                note(*at, *first, &path.fill("{}"));
            }
        }
        // A template opens the file of an exact name if the name that leads there is another one.
        for (other, exact, file) in &ones {
            let part = file.to_str().and_then(|file| path.matched(file)).filter(|part| !part.contains('/'));
            if part.and_then(name_of_file).is_some_and(|matched| name.name_of(&matched) != exact.as_str()) {
                note(*at, *other, &file.display().to_string());
            }
        }
    }
}

fn opens(entry: &Entry, real: &dyn Fn(&Path) -> PathBuf) -> Option<Opens> {
    match &entry.backend {
        Target::Fixed(Backend::File { path, .. }) => Some(Opens::One(real(path))),
        Target::File { path, .. } => {
            let (directory, text) = (path.directory(), path.fill("{}"));
            let below = Path::new(&text).strip_prefix(&directory).unwrap_or(Path::new(&text));
            Some(Opens::Each(Blanks::plain(&real(&directory).join(below).to_string_lossy())))
        }
        _ => None,
    }
}
