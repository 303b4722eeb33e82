//! Embedded disks: backends that live in this process, a file or block device (`file:PATH`) and memory (`memory:`, a file
//! without a name).
//!
//! Owns the bytes of an export, their allocation map and their durability. Takes jobs in batches and finishes each
//! exactly once, in any order. Never blocks who submits, never talks to a socket, never decides about a size: a resize
//! driver asks, it obeys. A file is locked while it is open, so that two processes never serve it.

use std::sync::Arc;

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::handshake::BlockSizes;
use nbd_gateway_proto::{Cookie, Errno, ExportFlags};

use crate::request::{Failure, Finished, Job, SessionId};

mod admission;
mod buffers;
mod disk;
mod durable;
mod error;
mod holder;
mod length;
mod map;
mod open;
mod place;
mod pool;
mod runs;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod zero;

pub(crate) use error::DiskError;
pub(crate) use holder::holder;
pub(crate) use length::lengthen;
pub(crate) use place::Place;

use admission::Admission;
use disk::Disk;
use pool::Pool;
use store::{Admitted, Store, Task};

/// The largest payload of one request, in bytes: 32 MiB, which stock clients and servers agree on.
const MAXIMUM_PAYLOAD: u32 = 0x0200_0000;
/// The block size to prefer, in bytes: a page, below which the page cache reads before it writes.
const PREFERRED_BLOCK: u32 = 4096;
/// Payload bytes that may be served in the thread that submits, per batch. More is worth a thread of the pool.
const INLINE_BUDGET: u64 = 0x4_0000;

/// What a disk can do: what a handshake with an NBD server would have told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Size in bytes.
    pub size: u64,
    pub flags: ExportFlags,
    /// Metadata contexts, in the order of [`crate::request::Status::context`].
    pub contexts: Vec<String>,
    pub block_sizes: BlockSizes,
}

/// An open embedded disk. Dropping it without [`EmbeddedDisk::close`] finishes what was submitted, but does not wait for it.
#[derive(Debug)]
pub(crate) struct EmbeddedDisk {
    store: Arc<dyn Store>,
    pool: Arc<Pool>,
}

impl EmbeddedDisk {
    /// Opens a file or block device and locks it: exclusively, or shared with other readers if `read_only`.
    ///
    /// With `first_size`, in bytes, a missing file is made and an empty file gets that size; its directory has to be there,
    /// unless the place says otherwise. The size of any other file stays as it is. Blocks.
    pub(crate) fn open_file(
        place: impl Into<Place>,
        first_size: Option<u64>,
        read_only: bool,
    ) -> Result<Self, DiskError> {
        Self::over(Disk::open(&place.into(), first_size, read_only)?)
    }

    /// A memory disk of `size` bytes, all zero. Takes memory only for what is written, in pages.
    pub(crate) fn memory(size: u64) -> Result<Self, DiskError> {
        Self::over(Disk::memory(size)?)
    }

    fn over(disk: Disk) -> Result<Self, DiskError> {
        let path = disk.path.clone();
        let pool = Pool::shared().map_err(|source| DiskError::Io { doing: "start threads for", path, source })?;
        Ok(Self { store: Arc::new(disk), pool })
    }

    /// What it can do now.
    pub(crate) fn facts(&self) -> Facts {
        self.store.facts()
    }

    /// Takes all of `jobs`. What needs no disk (memory, reads of cached pages) is finished before this returns, within a
    /// bound; the rest goes to the pool. After [`EmbeddedDisk::close`] jobs end with ESHUTDOWN.
    pub(crate) fn submit(&self, jobs: &mut Vec<Job>) {
        let mut finished = Finished::default();
        let mut budget = INLINE_BUDGET;
        let mut queued = Vec::new();
        for job in jobs.drain(..) {
            let Some(admitted) = Admitted::enter(&self.store) else {
                job.fail(Failure::new(Errno::ESHUTDOWN, "the disk is closed"), &mut finished);
                continue;
            };
            match self.store.at_once(&job.request, &mut budget) {
                Some(outcome) => Task::new(job, admitted).answer(outcome, &mut finished),
                None => queued.push(Task::new(job, admitted)),
            }
        }
        if !queued.is_empty() {
            self.pool.submit(self.store.admission().id(), queued);
        }
        finished.flush();
    }

    /// What a session's requests in flight may still change: cookie, first byte, first byte after.
    pub(crate) fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        self.store.admission().ranges_of(session)
    }

    /// Whether no job is inside: all are answered.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.store.admission().is_empty()
    }

    #[cfg(test)]
    fn size(&self) -> u64 {
        self.store.size()
    }

    /// Size in bytes, read anew: another process may have changed a file. What is found is in force from then on; it waits for
    /// requests under way. Blocks.
    pub(crate) fn measure(&self) -> Result<u64, DiskError> {
        let _admitted = Admitted::enter(&self.store).ok_or(DiskError::Closed)?;
        self.store.measure()
    }

    /// Grows or shrinks to `new` bytes, durably, and tells the size that is now in force: more, where another hand has made the
    /// file longer already. New bytes read as zeroes; what a shrink cuts off is gone, and a file that does not have the length
    /// that it had is not shortened. Waits for requests under way. After an error [`EmbeddedDisk::measure`] reads what is in force; a block
    /// device is not resized, but a size that other hands gave it is adopted. Blocks.
    pub(crate) fn set_size(&self, new: u64) -> Result<u64, DiskError> {
        let _admitted = Admitted::enter(&self.store).ok_or(DiskError::Closed)?;
        self.store.set_size(new)
    }

    /// Takes no more jobs, waits until all submitted ones are finished, makes what they wrote durable and releases the lock.
    ///
    /// Cancel-safe: yes; once it was polled no more jobs are taken, and a second call does what the first left undone.
    pub(crate) async fn close(&self) -> Result<(), DiskError> {
        self.store.admission().close().await;
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || store.release()).await.unwrap_or(Err(DiskError::Closed))
    }
}
