//! What the suites of the disk share: temporary directories, and asking an disk something.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_gateway_proto::{Cmd, CmdFlags, Payload, Piece};
use tokio::sync::oneshot;

use super::*;
use crate::request::{Extent, Found, Outcome, Request};

mod capacity;
mod faults;
mod file;
mod model;
mod opening;
mod threads;

/// A directory of this test's own, removed with all that is in it.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nbd-gateway-disk-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A new file of `size` bytes and its path.
    pub(super) fn disk(&self, size: u64) -> (EmbeddedDisk, PathBuf) {
        let path = self.path("disk");
        (EmbeddedDisk::open_file(&path, Some(size), false).unwrap(), path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn request(command: Cmd, flags: CmdFlags, offset: u64, length: u64) -> Request {
    Request::new(command, flags, offset, length)
}

pub(super) fn write(flags: CmdFlags, offset: u64, payload: impl Into<Payload>) -> Request {
    Request::write(flags, offset, payload.into())
}

/// Submits all as one batch.
pub(super) fn begin(
    disk: &EmbeddedDisk,
    requests: impl IntoIterator<Item = Request>,
) -> Vec<oneshot::Receiver<Outcome>> {
    let (mut jobs, answers): (Vec<_>, Vec<_>) = requests.into_iter().map(Job::for_task).unzip();
    disk.submit(&mut jobs);
    assert!(jobs.is_empty());
    answers
}

pub(super) fn ask(disk: &EmbeddedDisk, request: Request) -> Outcome {
    begin(disk, [request]).remove(0).blocking_recv().unwrap()
}

/// Asks for something that must succeed without data.
pub(super) fn must(disk: &EmbeddedDisk, request: Request) {
    let outcome = ask(disk, request);
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
}

pub(super) fn refusal(outcome: Outcome) -> Failure {
    let Outcome::Failed(failure) = outcome else { panic!("did not fail: {outcome:?}") };
    assert!(!failure.message.is_empty());
    failure
}

/// The bytes of a READ's outcome, whose pieces must follow each other from `offset` on.
pub(super) fn bytes(outcome: Outcome, offset: u64) -> Vec<u8> {
    let pieces = match outcome {
        Outcome::Found(Found::Whole(payload)) => return payload.to_contiguous().to_vec(),
        Outcome::Found(Found::Pieces(pieces)) => pieces,
        other => panic!("not found: {other:?}"),
    };
    let mut all = Vec::new();
    for piece in pieces {
        let end = offset + u64::try_from(all.len()).unwrap();
        match piece {
            Piece::Data { offset, payload } => {
                assert_eq!(offset, end);
                all.extend_from_slice(&payload.to_contiguous());
            }
            Piece::Hole { offset, length } => {
                assert_eq!(offset, end);
                all.resize(all.len() + usize::try_from(length).unwrap(), 0);
            }
        }
    }
    all
}

pub(super) fn read(disk: &EmbeddedDisk, offset: u64, length: u64) -> Vec<u8> {
    bytes(ask(disk, request(Cmd::READ, CmdFlags::NONE, offset, length)), offset)
}

pub(super) fn extents(disk: &EmbeddedDisk, flags: CmdFlags, offset: u64, length: u64) -> Vec<Extent> {
    match ask(disk, request(Cmd::BLOCK_STATUS, flags, offset, length)) {
        Outcome::Status(mut all) if all.len() == 1 && all[0].context == 0 => all.remove(0).extents,
        other => panic!("not one context: {other:?}"),
    }
}

/// An disk over an open descriptor, for devices that can't be opened as disks.
pub(super) fn over(disk: Disk) -> EmbeddedDisk {
    EmbeddedDisk::over(disk).unwrap()
}
