//! Who is told of a new size beside the clients: `[[export.notify]]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::raw::notify::RawNotify;
use crate::units::Interval;

use super::backend::BackendError;
use super::driver::{Matched, command, plain};
use super::section::Section;

/// One who is told of a new size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Who, and how.
    pub way: Way,
    /// How long one attempt may take; not zero.
    pub timeout: Duration,
}

/// How somebody is told of a new size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A qemu that has the export open adopts the new size.
    Qmp {
        /// Its QMP socket.
        socket: PathBuf,
        /// Its node on the export.
        node: String,
    },
    /// A POST to a URL that begins with `http://`.
    Http {
        /// The URL.
        url: String,
    },
    /// A command.
    Exec {
        /// A program and its arguments; not empty.
        command: Vec<String>,
    },
}

impl Hook {
    /// Reads one entry.
    pub(super) fn read(raw: &RawNotify, section: &mut Section<'_>) -> Option<Self> {
        let range = Interval::from_millis(1)..=Interval::from_secs(3600);
        let timeout = section.interval("timeout", raw.timeout.as_deref(), range).unwrap_or(Duration::from_secs(30));
        let ways = [raw.qmp.is_some(), raw.http.is_some(), raw.exec.is_some()];
        if ways.iter().filter(|stated| **stated).count() != 1 {
            section.note("qmp", "this needs exactly one of `qmp`, `http` and `exec`");
            return None;
        }
        if raw.node.is_some() && raw.qmp.is_none() {
            section.note_with("node", "this goes with `qmp` only: leave it out", None);
        }
        let way = if let Some(socket) = &raw.qmp {
            let node = section.required("node", raw.node.as_deref());
            let node = plain("node", node, section);
            Way::Qmp { socket: plain("qmp", Some(socket), section).into(), node }
        } else if let Some(url) = &raw.http {
            if let Some(why) = url_fault(url) {
                section.note(
                    "http",
                    format_args!("`{url}` is not a URL that can be told: {why}; as http://HOST[:PORT]/PATH"),
                );
            }
            Way::Http { url: url.clone() }
        } else {
            Way::Exec { command: command("exec", raw.exec.as_deref(), section) }
        };
        Some(Self { way, timeout })
    }

    /// The hook for the name in which `*` matched `matched`.
    pub(super) fn fill(&self, matched: &str) -> Result<Self, BackendError> {
        let name = Matched(matched);
        let way = match &self.way {
            Way::Qmp { socket, node } => Way::Qmp { socket: name.path(socket)?, node: name.text(node)? },
            Way::Http { url } => Way::Http { url: name.escaped(url)? },
            Way::Exec { command } => Way::Exec { command: name.words(command)? },
        };
        Ok(Self { way, timeout: self.timeout })
    }
}

/// What keeps a URL from being told, if anything does.
pub(super) fn url_fault(url: &str) -> Option<&'static str> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Some(if url.starts_with("https://") {
            "TLS is not spoken here"
        } else {
            "it does not begin with http://"
        });
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A colon in an IPv6 address is none before a port.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    if url.contains(|character: char| character.is_whitespace() || character.is_control()) {
        Some("it has spaces or control characters")
    } else if authority.contains('@') {
        Some("a password in a URL is not kept from others")
    } else if host.is_empty() {
        Some("the host is missing")
    } else if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        Some("its port is not a number up to 65535")
    } else {
        None
    }
}
