//! What a gateway must know that was killed while it had an export of qemu's off: how to put it back.
//!
//! One small file for each export in `taken-off/` of the state directory, written durably before the export is taken off
//! and removed when it is back. A gateway that finds it, and does not find the export at qemu, puts that back: this is no
//! guessing, for nobody else writes such a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nbd_gateway_proto::Errno;
use serde_json::{Value, json};

use crate::fault::Fault;

/// Where it is noted for one export of the gateway's.
#[derive(Clone, Debug)]
pub(super) struct Memo {
    path: PathBuf,
    export: String,
}

impl Memo {
    /// For this export, in this state directory.
    pub(super) fn of(state: &Path, export: &str) -> Self {
        // A name can be longer than that of a file, and have slashes; the whole name is in the file.
        let number = export
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { path: state.join("taken-off").join(format!("{number:016x}.json")), export: export.to_owned() }
    }

    /// Notes the arguments of block-export-add; durable when it returns.
    pub(super) async fn write(&self, arguments: &Value) -> Result<(), Fault> {
        let (path, text) = (self.path.clone(), json!({ "export": self.export, "arguments": arguments }).to_string());
        let written = tokio::task::spawn_blocking(move || durable(&path, &text)).await;
        let written = written.unwrap_or_else(|_| Err(io::Error::other("the gateway ends")));
        written.map_err(|error| {
            Fault::host(format!("{} can't be written: {error}", self.path.display())).with_errno(Errno::ENOSPC)
        })
    }

    pub(super) async fn read(&self) -> Option<Value> {
        let text = tokio::fs::read(&self.path).await.ok()?;
        let noted: Value = serde_json::from_slice(&text).ok()?;
        noted.get("arguments").filter(|_| noted.get("export").is_some_and(|export| *export == self.export)).cloned()
    }

    /// The export is there again.
    pub(super) async fn remove(&self) {
        if let Err(error) = tokio::fs::remove_file(&self.path).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a note of an export that is back can't be removed; remove it");
        }
    }
}

fn durable(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::Place;

    #[tokio::test]
    async fn a_note_is_there_until_it_is_removed_and_is_its_own_exports_only() {
        let place = Place::fresh();
        let memo = Memo::of(&place.path("state"), "blue/vm 1");
        assert_eq!(memo.read().await, None);
        memo.remove().await;
        let arguments = json!({ "id": "e0", "name": "disk" });
        memo.write(&arguments).await.unwrap();
        memo.write(&arguments).await.unwrap();
        assert_eq!(memo.read().await, Some(arguments));
        let other = Memo { export: "blue/vm 2".to_owned(), ..memo.clone() };
        assert_eq!(other.read().await, None);
        memo.remove().await;
        assert_eq!(memo.read().await, None);
    }

    #[tokio::test]
    async fn what_can_not_be_noted_is_said() {
        let place = Place::fresh();
        fs::write(place.path("state"), "a file").unwrap();
        let why = Memo::of(&place.path("state"), "vm").write(&json!({})).await.unwrap_err();
        assert!(why.message().contains("taken-off") && why.message().contains("can't be written"), "{why}");
    }
}
