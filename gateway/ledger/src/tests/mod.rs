//! What a ledger in a real file promises.

mod calls;
mod crash;
mod group;
mod history;
mod trouble;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_gateway_policy::types::{ByteRange, Bytes, ExportName, Size, TenantId};

use super::writer::Look;
use super::*;

/// A directory of its own, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nbd-gateway-ledger-{}-{number}", std::process::id()));
        // One of a test run that was killed and whose process number has come round.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// What a machine that stops right now would find after its start: the database and the log, not the index of the
    /// log, which is memory.
    fn of_a_crash(ledger: &Path) -> Self {
        let copy = Self::new();
        for file in ["ledger.sqlite", "ledger.sqlite-wal"] {
            if ledger.join(file).exists() {
                fs::copy(ledger.join(file), copy.0.join(file)).unwrap();
            }
        }
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn size(bytes: u64) -> Size {
    Size::new(bytes).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(size(start), size(end)).unwrap()
}

fn export(name: &str) -> ExportName {
    ExportName::new(name).unwrap()
}

fn blue() -> TenantId {
    TenantId::new("blue").unwrap()
}

fn known(bytes: u64) -> Known {
    Known { size: size(bytes), generation: 1, at: UnixMillis(1_000), ..Known::default() }
}

fn grow(name: &str, from: u64, to: u64) -> Reserve {
    Reserve {
        export: export(name),
        tenant: blue(),
        bytes: Bytes(to - from),
        from: size(from),
        to: size(to),
        zeroes: Some(range(from, to)),
        at: UnixMillis(1_000),
    }
}

/// A grow that is over; what it exposed up to there reads as zeroes.
fn grown(id: ReservationId, bytes: u64) -> Commit {
    Commit { id, known: known(bytes), zeroed: vec![range(0, bytes)] }
}

fn note(name: &str, range: ByteRange) -> Zeroing {
    Zeroing { export: export(name), range }
}

/// Does something with the database of a ledger that is open.
async fn look<T: Send + 'static>(ledger: &Ledger, look: impl FnOnce(&Store) -> T + Send + 'static) -> T {
    let looked = |reply: Reply<T>| Query::Inspect(Look(Box::new(move |store| drop(reply.send(Ok(look(store)))))));
    ledger.read(looked).await.unwrap()
}

fn measured(name: &str, bytes: u64) -> RecordSize {
    RecordSize { export: export(name), tenant: blue(), known: known(bytes) }
}

fn order(tenant: &str, quota: Option<u64>, soft: Option<u64>) -> QuotaOrder {
    QuotaOrder {
        tenant: TenantId::new(tenant).unwrap(),
        ordered: Quotas { quota: quota.map(size), soft: soft.map(size) },
        configured: Quotas { quota: Some(size(1)), soft: None },
        at: UnixMillis(1_000),
    }
}

fn owed(snapshot: &Snapshot) -> Vec<(&str, u64, u64)> {
    let plain = |note: &'_ Zeroing| (note.range.start().bytes(), note.range.end().bytes());
    snapshot.zeroing.iter().map(|note| (note.export.as_str(), plain(note).0, plain(note).1)).collect()
}
