//! What the agent did, told as it happens: a sentence for people, or a JSON object for programs, one a line.

use core::fmt;
use nbd_gateway_policy::types::Bytes;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::output::shown;

/// One thing that happened.
pub(super) enum Event<'a> {
    /// The page of metrics is served.
    Metrics { address: SocketAddr },
    /// The device is attached, and was not.
    Attached { size: u64, block_size: u64, read_only: bool },
    /// The device was attached already.
    Followed { size: u64, by: Option<&'a str> },
    /// The server's sizes come in this way.
    Listening { how: &'static str, words: &'a str },
    /// The server's sizes do not come now.
    Deaf { why: &'a dyn fmt::Display },
    /// The device has another size.
    Resized { from: u64, to: u64, told: u64 },
    /// The device did not get a size that was told.
    Refused { told: u64, size: u64, reason: &'static str, why: &'a dyn fmt::Display },
    /// The device lost connections.
    LinkDead { dead: usize },
    /// The server did not give another, or gave one that does not fit; it is tried again.
    LinkFailed { why: &'a dyn fmt::Display },
    /// A dead connection was replaced.
    Reconnected { size: u64 },
    /// The device was detached, as ordered.
    Detached,
    /// The agent ends, and the device stays attached.
    Left { size: u64 },
}

impl Event<'_> {
    /// The object for programs.
    fn json(&self, device: &str) -> Value {
        let mut object = match self {
            Self::Metrics { address } => json!({ "event": "metrics", "url": format!("http://{address}/metrics") }),
            Self::Attached { size, block_size, read_only } => {
                json!({ "event": "attached", "size": size, "block_size": block_size, "read_only": read_only })
            }
            Self::Followed { size, by } => json!({ "event": "following", "size": size, "attached_for": by }),
            Self::Listening { how, .. } => json!({ "event": "listening", "how": how }),
            Self::Deaf { why } => json!({ "event": "deaf", "reason": why.to_string() }),
            Self::Resized { from, to, told } => {
                let event = if to > from { "grown" } else { "shrunk" };
                json!({ "event": event, "from": from, "size": to, "told": told })
            }
            Self::Refused { told, size, reason, why } => {
                json!({ "event": "refused", "told": told, "size": size, "reason": reason, "message": why.to_string() })
            }
            Self::LinkDead { dead } => json!({ "event": "link-dead", "connections": dead }),
            Self::LinkFailed { why } => json!({ "event": "link-failed", "reason": why.to_string() }),
            Self::Reconnected { size } => json!({ "event": "reconnected", "size": size }),
            Self::Detached => json!({ "event": "detached" }),
            Self::Left { size } => json!({ "event": "left-attached", "size": size }),
        };
        if let Some(fields) = object.as_object_mut() {
            fields.insert("device".to_owned(), device.into());
        }
        object
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metrics { address } => write!(f, "metrics are on http://{address}/metrics"),
            Self::Attached { size, block_size, read_only } => {
                let how = if *read_only { ", read-only" } else { "" };
                write!(f, "attached: {}, in blocks of {}{how}", shown(*size), Bytes(*block_size))
            }
            Self::Followed { size, by: Some(by) } => {
                write!(f, "is attached for {by}, with {}: following", shown(*size))
            }
            Self::Followed { size, by: None } => write!(f, "is attached already, with {}: following", shown(*size)),
            Self::Listening { words, .. } => write!(f, "sizes are {words}"),
            Self::Deaf { why } => write!(f, "no sizes are told now, trying again: {why}"),
            Self::Resized { from, to, told } => {
                let word = if to > from { "grown" } else { "shrunk" };
                write!(f, "{word} from {} to {}", shown(*from), shown(*to))?;
                if told == to {
                    Ok(())
                } else {
                    write!(f, "; the export has {}, the rest fills no block", shown(*told))
                }
            }
            Self::Refused { told, size, why, .. } => {
                write!(f, "stays at {}: the export says {}, and {why}", shown(*size), shown(*told))
            }
            Self::LinkDead { dead: 1 } => f.write_str("lost its connection; requests wait for another"),
            Self::LinkDead { dead } => write!(f, "lost {dead} connections; requests wait for others"),
            Self::LinkFailed { why } => write!(f, "gets no other connection yet, trying again: {why}"),
            Self::Reconnected { size } => write!(f, "reconnected; the export has {}", shown(*size)),
            Self::Detached => f.write_str("detached"),
            Self::Left { size } => {
                write!(f, "stays attached, with {}; nobody follows it or mends its connection now", shown(*size))
            }
        }
    }
}

/// Where events are told.
pub(super) struct Teller<'a> {
    /// Stdout, or what stands for it.
    pub(super) out: &'a mut (dyn Write + Send),
    /// The device's node.
    pub(super) device: String,
    /// Whether objects are wanted.
    pub(super) json: bool,
}

impl<'a> Teller<'a> {
    /// Tells of this device.
    pub(super) fn new(out: &'a mut (dyn Write + Send), device: &Path, json: bool) -> Self {
        Self { out, device: device.display().to_string(), json }
    }

    /// Tells it at once. That nobody reads is no reason to leave a disk alone.
    pub(super) fn tell(&mut self, event: &Event<'_>) {
        let line = if self.json { event.json(&self.device).to_string() } else { format!("{} {event}", self.device) };
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn each_event_is_a_line_for_people_and_an_object_for_programs() {
        let why = "the server says no";
        for (event, line, object) in [
            (
                Event::Attached { size: GIB, block_size: 512, read_only: true },
                "attached: 1 GiB (1073741824 bytes), in blocks of 512 bytes, read-only",
                json!({ "event": "attached", "size": GIB, "block_size": 512, "read_only": true }),
            ),
            (
                Event::Followed { size: GIB, by: Some("nbd://h/x") },
                "is attached for nbd://h/x, with 1 GiB (1073741824 bytes): following",
                json!({ "event": "following", "size": GIB, "attached_for": "nbd://h/x" }),
            ),
            (
                Event::Listening { how: "notify", words: "told by the server" },
                "sizes are told by the server",
                json!({ "event": "listening", "how": "notify" }),
            ),
            (
                Event::Deaf { why: &why },
                "no sizes are told now, trying again: the server says no",
                json!({ "event": "deaf", "reason": why }),
            ),
            (
                Event::Resized { from: GIB, to: 2 * GIB, told: 2 * GIB + 100 },
                "grown from 1 GiB (1073741824 bytes) to 2 GiB (2147483648 bytes); \
                 the export has 2.00 GiB (2147483748 bytes), the rest fills no block",
                json!({ "event": "grown", "from": GIB, "size": 2 * GIB, "told": 2 * GIB + 100 }),
            ),
            (
                Event::Resized { from: 2 * GIB, to: GIB, told: GIB },
                "shrunk from 2 GiB (2147483648 bytes) to 1 GiB (1073741824 bytes)",
                json!({ "event": "shrunk", "from": 2 * GIB, "size": GIB, "told": GIB }),
            ),
            (
                Event::Refused { told: 0, size: GIB, reason: "too-small", why: &why },
                "stays at 1 GiB (1073741824 bytes): the export says 0 bytes, and the server says no",
                json!({ "event": "refused", "told": 0, "size": GIB, "reason": "too-small", "message": why }),
            ),
            (
                Event::LinkDead { dead: 1 },
                "lost its connection; requests wait for another",
                json!({ "event": "link-dead", "connections": 1 }),
            ),
            (
                Event::Reconnected { size: GIB },
                "reconnected; the export has 1 GiB (1073741824 bytes)",
                json!({ "event": "reconnected", "size": GIB }),
            ),
            (Event::Detached, "detached", json!({ "event": "detached" })),
            (
                Event::Left { size: GIB },
                "stays attached, with 1 GiB (1073741824 bytes); nobody follows it or mends its connection now",
                json!({ "event": "left-attached", "size": GIB }),
            ),
        ] {
            let told = |json| {
                let mut out = Vec::new();
                Teller::new(&mut out, Path::new("/dev/nbd0"), json).tell(&event);
                String::from_utf8(out).unwrap()
            };
            assert_eq!(told(false), format!("/dev/nbd0 {line}\n"));
            let mut expected = object;
            expected["device"] = "/dev/nbd0".into();
            assert_eq!(serde_json::from_str::<Value>(&told(true)).unwrap(), expected);
        }
    }
}
