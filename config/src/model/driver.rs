//! How a backend is resized, and what each way needs to know.
//!
//! Owns which keys go with which `driver`, and puts what a template's `*` matched into them. What the backend makes of it
//! is the gateway's to find out.

use std::path::{Path, PathBuf};

use nbd_gateway_policy::types::Size;

use crate::raw::resize::{RawDriver, RawResize};
use crate::uri::encode;

use super::backend::{BackendError, fill_path, fit_for_a_path};
use super::section::Section;
use super::template::Blanks;

/// How a backend is resized.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Driver {
    /// It is the gateway's own file or memory.
    Origin,
    /// By `NBD_CMD_RESIZE`, if the NBD server turns out to know it.
    Wire,
    /// By writing zeroes past the end of an NBD server that grows by writes only.
    Automatic,
    /// Not at all: its first bytes are shown, and more of them after a resize.
    Window {
        /// How many are shown as long as nothing else is on record.
        size: Size,
    },
    /// By the length of the file that the NBD server serves.
    File {
        /// The file or block device, as this host sees it.
        path: PathBuf,
    },
    /// By QMP.
    Qmp(Qmp),
    /// By the length of the file, and a command that restarts the NBD server.
    Restart {
        /// The file; None: the command resizes it too.
        path: Option<PathBuf>,
        /// What restarts the server.
        command: Vec<String>,
    },
    /// By a command.
    Exec {
        /// A program and its arguments; not empty.
        command: Vec<String>,
    },
    /// Not at all, and clients are offered nothing of the extension.
    None,
}

impl Driver {
    /// The word for it in a configuration; None: nobody writes it, it is the gateway's own disk.
    pub const fn key(&self) -> Option<&'static str> {
        match self {
            Self::Origin => None,
            Self::Wire => Some("wire"),
            Self::Automatic => Some("automatic"),
            Self::Window { .. } => Some("window"),
            Self::File { .. } => Some("file"),
            Self::Qmp(_) => Some("qmp"),
            Self::Restart { .. } => Some("restart"),
            Self::Exec { .. } => Some("exec"),
            Self::None => Some("none"),
        }
    }
}

/// Where a node of qemu's is, and its NBD export.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Qmp {
    /// The QMP socket.
    pub socket: PathBuf,
    /// The block node.
    pub node: String,
    /// The id of the block export.
    pub export: String,
}

impl Driver {
    /// The driver for the name in which `*` matched `matched`.
    pub(super) fn fill(&self, matched: &str) -> Result<Self, BackendError> {
        let name = Matched(matched);
        Ok(match self {
            Self::File { path } => Self::File { path: name.path(path)? },
            Self::Qmp(Qmp { socket, node, export }) => {
                Self::Qmp(Qmp { socket: name.path(socket)?, node: name.text(node)?, export: name.text(export)? })
            }
            Self::Restart { path, command } => Self::Restart {
                path: path.as_ref().map(|path| name.path(path)).transpose()?,
                command: name.words(command)?,
            },
            Self::Exec { command } => Self::Exec { command: name.words(command)? },
            Self::Origin | Self::Wire | Self::Automatic | Self::Window { .. } | Self::None => self.clone(),
        })
    }

    /// Whether the way needs a template's `{}` somewhere, and has none: all names would resize the same thing.
    pub(super) fn lacks_blank(&self) -> bool {
        let any = |texts: &[&str]| texts.iter().any(|text| text.contains("{}"));
        match self {
            Self::File { path } => !any(&[&path.to_string_lossy()]),
            Self::Qmp(qmp) => !any(&[&qmp.node]) && !any(&[&qmp.socket.to_string_lossy()]),
            Self::Restart { path: Some(path), .. } => !any(&[&path.to_string_lossy()]),
            // A command gets the export's name in its environment.
            Self::Restart { path: None, .. } | Self::Exec { .. } => false,
            Self::Origin | Self::Wire | Self::Automatic | Self::Window { .. } | Self::None => false,
        }
    }
}

/// What a template's `*` matched, on its way into texts; a text without `{}` stays as it is.
pub(super) struct Matched<'a>(pub(super) &'a str);

impl Matched<'_> {
    pub(super) fn text(&self, text: &str) -> Result<String, BackendError> {
        if !text.contains("{}") {
            return Ok(text.to_owned());
        }
        // A name that could mean another path could mean another thing elsewhere too.
        fit_for_a_path(self.0)?;
        Ok(text.replace("{}", self.0))
    }

    /// In a URL, where it is one part of a path or one value, whatever it holds.
    pub(super) fn escaped(&self, url: &str) -> Result<String, BackendError> {
        if url.contains("{}") {
            fit_for_a_path(self.0)?;
        }
        Ok(url.replace("{}", &encode(self.0.as_bytes())))
    }

    pub(super) fn path(&self, path: &Path) -> Result<PathBuf, BackendError> {
        // It came out of the file, which is UTF-8.
        let text = path.to_str().unwrap_or_default();
        fill_path(&Blanks::plain(text), self.0)
    }

    pub(super) fn words(&self, words: &[String]) -> Result<Vec<String>, BackendError> {
        words.iter().map(|word| self.text(word)).collect()
    }
}

/// Reads `driver` of an export with an NBD server, and the keys that go with it.
pub(super) fn read(raw: &RawResize, size: Option<Size>, section: &mut Section<'_>) -> Driver {
    let (driver, keys): (Driver, &[&str]) = match raw.driver {
        Some(RawDriver::Wire) | None => (Driver::Wire, &[]),
        Some(RawDriver::Automatic) => (Driver::Automatic, &[]),
        Some(RawDriver::None) => (Driver::None, &[]),
        // That `size` is missing is told where it belongs.
        Some(RawDriver::Window) => (Driver::Window { size: size.unwrap_or(Size::ZERO) }, &[]),
        Some(RawDriver::File) => {
            let path = section.required("path", raw.path.as_deref());
            (Driver::File { path: plain("path", path, section).into() }, &["path"])
        }
        Some(RawDriver::Qmp) => {
            let mut text = |key, value: Option<&str>| {
                let value = section.required(key, value);
                plain(key, value, section)
            };
            let qmp = Qmp {
                socket: text("socket", raw.socket.as_deref()).into(),
                node: text("node", raw.node.as_deref()),
                export: text("export", raw.export.as_deref()),
            };
            (Driver::Qmp(qmp), &["socket", "node", "export"])
        }
        Some(RawDriver::Restart) => {
            let path = raw.path.as_deref().map(|path| plain("path", Some(path), section).into());
            let command = command("command", raw.command.as_deref(), section);
            (Driver::Restart { path, command }, &["path", "command"])
        }
        Some(RawDriver::Exec) => {
            (Driver::Exec { command: command("command", raw.command.as_deref(), section) }, &["command"])
        }
    };
    section.note_stated(|key| {
        let with = match key {
            "path" => "\"file\" or \"restart\"",
            "command" => "\"restart\" or \"exec\"",
            _ => "\"qmp\"",
        };
        let other = OWN.contains(&key) && !keys.contains(&key);
        other.then(|| format!("this goes with driver = {with} only: leave it out"))
    });
    driver
}

/// The keys that belong to one driver or another.
pub(super) const OWN: [&str; 5] = ["path", "socket", "node", "export", "command"];

/// A text that can be a path or a name.
pub(super) fn plain(key: &str, text: Option<&str>, section: &mut Section<'_>) -> String {
    if text.is_some_and(|text| text.is_empty() || text.contains('\0')) {
        section.note(key, "this cannot be empty or have a NUL byte");
    }
    text.unwrap_or_default().to_owned()
}

/// A program and its arguments.
pub(super) fn command(key: &str, words: Option<&[String]>, section: &mut Section<'_>) -> Vec<String> {
    let Some(words) = section.required(key, words) else { return Vec::new() };
    if words.first().is_none_or(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        section.note(key, "this needs a program and its arguments, each a text without NUL byte");
    }
    words.to_vec()
}
