//! An export that was taken off, and how it comes back: as it was, or with an error that a person can act on.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nbd_gateway_config as config;
use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_proto::ExportFlags;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::BackendSnapshot;
use super::ids;
use super::memo::Memo;
use crate::fault::Fault;
use crate::qmp::{Qemu, QmpError, SOON};

/// How long it is tried to put an export back before a person is called.
const AT_LAST: Duration = Duration::from_secs(600);
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The arguments that make the export anew.
#[derive(Clone, Debug)]
pub(super) struct Export {
    socket: PathBuf,
    id: String,
    arguments: Value,
}

impl Export {
    /// As it was when its backend was opened.
    pub(super) fn of(at: &config::Qmp, was: &BackendSnapshot) -> Self {
        let mut export = Self::plain(at, &was.name);
        let bitmaps = was.contexts.iter().filter_map(|name| name.strip_prefix("qemu:dirty-bitmap:"));
        let bitmaps: Vec<&str> = bitmaps.collect();
        let Value::Object(arguments) = &mut export.arguments else { return export };
        let mut set = |key: &str, value: Value| arguments.insert(key.to_owned(), value);
        set("writable", json!(!was.flags.has(ExportFlags::READ_ONLY)));
        if was.contexts.iter().any(|name| name == "qemu:allocation-depth") {
            set("allocation-depth", json!(true));
        }
        if !bitmaps.is_empty() {
            set("bitmaps", json!(bitmaps));
        }
        if let Some(description) = was.description.as_ref().filter(|it| !it.is_empty()) {
            set("description", json!(description));
        }
        export
    }

    /// With nothing but its names, and writable.
    pub(super) fn plain(at: &config::Qmp, name: &str) -> Self {
        let arguments = json!({ "type": "nbd", "id": at.export, "node-name": at.node, "name": name, "writable": true });
        Self { socket: at.socket.clone(), id: at.export.clone(), arguments }
    }

    /// As it was noted, if what is noted is of this id.
    pub(super) fn noted(at: &config::Qmp, arguments: Value) -> Option<Self> {
        let same = arguments.get("id").is_some_and(|id| *id == at.export);
        same.then(|| Self { socket: at.socket.clone(), id: at.export.clone(), arguments })
    }

    pub(super) async fn note(&self, memo: &Memo) -> Result<(), Fault> {
        memo.write(&self.arguments).await
    }

    /// Puts it back, over `qemu` if that still answers. Once, and once more over a new connection.
    pub(super) async fn put_back(&self, qemu: Option<Qemu>) -> Result<(), QmpError> {
        if let Some(mut qemu) = qemu {
            match self.add(&mut qemu).await {
                Err(error) if error.refusal().is_none() => {}
                done => return done,
            }
        }
        self.add(&mut Qemu::connect(&self.socket).await?).await
    }

    async fn add(&self, qemu: &mut Qemu) -> Result<(), QmpError> {
        let Err(error) = qemu.execute("block-export-add", self.arguments.clone(), SOON).await else { return Ok(()) };
        if error.refusal().is_none() {
            return Err(error);
        }
        // Somebody else was faster, or it never was off.
        let exports = qemu.execute("query-block-exports", Value::Null, SOON).await?;
        if ids(&exports).any(|id| id == self.id) { Ok(()) } else { Err(error) }
    }

    /// Tries until it is back, with pauses that get longer. `export` is the gateway's name of it, for the log.
    /// Whether it is.
    pub(super) async fn put_back_at_last(&self, export: &str) -> bool {
        let over = Instant::now() + AT_LAST;
        let mut backoff = Backoff::named(SHORTEST_PAUSE, LONGEST_PAUSE, export);
        loop {
            sleep(backoff.next_delay()).await;
            match self.put_back(None).await {
                Ok(()) => {
                    tracing::info!(export, id = self.id, "an export that was taken off for a resize is back");
                    return true;
                }
                Err(error) if Instant::now() >= over => {
                    tracing::error!(export, id = self.id, %error, command = %self, "an export that was taken off for a resize can't be put back; do it by hand");
                    return false;
                }
                Err(_) => {}
            }
        }
    }
}

impl fmt::Display for Export {
    /// The QMP command that puts it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        json!({ "execute": "block-export-add", "arguments": self.arguments }).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_comes_back_with_everything_that_its_clients_saw() {
        let at = config::Qmp { socket: "/run/q".into(), node: "d0".into(), export: "e0".into() };
        let was = |flags, contexts: &[&str], description: Option<&str>| BackendSnapshot {
            name: "disk".to_owned(),
            flags,
            contexts: contexts.iter().map(|name| (*name).to_owned()).collect(),
            description: description.map(str::to_owned),
        };
        let plain = Export::of(&at, &was(ExportFlags::READ_ONLY, &["base:allocation"], Some(""))).arguments;
        let names = json!({ "type": "nbd", "id": "e0", "node-name": "d0", "name": "disk", "writable": false });
        assert_eq!(plain, names);
        let contexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b c"];
        let full = Export::of(&at, &was(ExportFlags::NONE, &contexts, Some("a disk"))).arguments;
        let mut all = names;
        for (key, value) in [
            ("writable", json!(true)),
            ("allocation-depth", json!(true)),
            ("bitmaps", json!(["a", "b c"])),
            ("description", json!("a disk")),
        ] {
            all[key] = value;
        }
        assert_eq!(full, all);
    }
}
