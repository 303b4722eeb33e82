//! A file, a block device or memory as a store: what each command does, and the size.
//!
//! Owns the descriptor, its lock and what was learned about its file system. Invariant: no request works past the size,
//! and none is under way while the size changes.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use nbd_gateway_proto::handshake::BlockSizes;
use nbd_gateway_proto::{Cmd, CmdFlags, Errno, ExportFlags, MAX_SIZE};
use parking_lot::RwLock;
use rustix::fd::OwnedFd;
use rustix::fs::{Advice, FlockOperation, MemfdFlags};
use rustix::io::Errno as Os;

use super::durable::NotDurable;
use super::error::{failure, past_the_end};
use super::length::lengthen;
use super::open::{Opened, measure, open};
use super::runs::Runs;
use super::store::{Performed, Store};
use super::transfer::wide;
use super::{Admission, DiskError, Facts, MAXIMUM_PAYLOAD, PREFERRED_BLOCK, Place, Task, durable::Durable};
use crate::request::{Failure, Finished, Found, Outcome, Request, Status};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    /// A block device; only whole sectors can be discarded.
    Device {
        /// Its logical block size in bytes, at least 1.
        sector: u64,
    },
}

/// A file, a block device, or memory: a file without a name that no other process has.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) able: Abilities,
    pub(super) runs: Runs,
    /// Whether it is memory: no call waits for a disk, and only this process changes the size.
    pub(super) memory: bool,
    read_only: bool,
    size: AtomicU64,
    /// Read-locked by each request under way, write-locked to change the size.
    steady: RwLock<()>,
    durable: Durable,
    admission: Admission,
    /// The last error logged, so that a full disk is one line and not one per request.
    logged: AtomicI32,
}

/// What the file system can do; each ends as false with the first call that says so.
#[derive(Debug)]
pub(super) struct Abilities {
    pub(super) punch: AtomicBool,
    pub(super) zero_range: AtomicBool,
    pub(super) seek: AtomicBool,
    pub(super) nowait: AtomicBool,
    /// Whether there can be holes worth looking for.
    pub(super) sparse: AtomicBool,
}

impl Disk {
    /// As [`super::EmbeddedDisk::open_file`].
    pub(super) fn open(place: &Place, first_size: Option<u64>, read_only: bool) -> Result<Self, DiskError> {
        Ok(Self::over(open(place, first_size, read_only)?, &place.path, read_only))
    }

    /// As [`super::EmbeddedDisk::memory`].
    pub(super) fn memory(size: u64) -> Result<Self, DiskError> {
        let path = Path::new("memory:");
        let refused = |doing, os: Os| DiskError::Io { doing, path: path.into(), source: os.into() };
        let make = |flags| rustix::fs::memfd_create("nbd-gateway", MemfdFlags::CLOEXEC | flags);
        let file = match make(MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know that flag; some systems of today insist on it.
            Err(Os::INVAL) => make(MemfdFlags::empty()),
            made => made,
        };
        let (file, size) = (file.map_err(|os| refused("make", os))?, size.min(MAX_SIZE));
        rustix::fs::ftruncate(&file, size).map_err(|os| refused("resize", os))?;
        let opened = Opened { file, kind: Kind::Regular, size, sparse: true };
        Ok(Self { memory: true, ..Self::over(opened, path, false) })
    }

    /// A store over an open file.
    pub(super) fn over(opened: Opened, path: &Path, read_only: bool) -> Self {
        let able = Abilities {
            punch: AtomicBool::new(true),
            zero_range: AtomicBool::new(true),
            seek: AtomicBool::new(true),
            nowait: AtomicBool::new(true),
            sparse: AtomicBool::new(opened.sparse),
        };
        Self {
            file: opened.file,
            path: path.into(),
            kind: opened.kind,
            able,
            runs: Runs::default(),
            memory: false,
            read_only,
            size: AtomicU64::new(opened.size),
            steady: RwLock::new(()),
            durable: Durable::default(),
            admission: Admission::new(),
            logged: AtomicI32::new(0),
        }
    }

    /// What a client is told about a failed call; the true cause goes to the log.
    pub(super) fn failed(&self, doing: &'static str, os: Os, offset: u64) -> Failure {
        let path = self.path.display();
        if self.logged.swap(os.raw_os_error(), Ordering::Relaxed) == os.raw_os_error() {
            tracing::debug!(%path, doing, offset, error = %os, "a request to a file failed again");
        } else {
            tracing::warn!(%path, doing, offset, error = %os, "a request to a file failed");
        }
        failure(os, Some(offset))
    }

    /// What a client is told if the file ends before the size it had when opened: somebody else cut it.
    pub(super) fn cut_short(&self, at: u64) -> Failure {
        let (path, size) = (self.path.display(), self.size());
        tracing::error!(%path, at, size, "the file was cut by somebody else; what was there is lost");
        Failure { errno: Errno::EIO, message: "the disk's storage ends before the disk does".into(), offset: Some(at) }
    }

    fn answer(&self, request: &Request) -> Result<Outcome, Failure> {
        let Request { command, flags, offset, length, ref payload } = *request;
        if request.changes_data() && self.read_only {
            return Err(Failure::new(Errno::EPERM, "the disk is read-only"));
        }
        if command == Cmd::FLUSH {
            return Ok(Outcome::Done);
        }
        if request.end() > self.size() {
            return Err(past_the_end(request.changes_data(), self.size()));
        }
        if length == 0 || command == Cmd::WRITE && wide(payload.len()) != length {
            return Err(Failure::new(Errno::EINVAL, "a request of no bytes, or of others than it says"));
        }
        match command {
            Cmd::READ => self.find(offset, length, flags.has(CmdFlags::DF)).map(Outcome::Found),
            Cmd::WRITE => self.write(offset, payload).map(|()| Outcome::Done),
            Cmd::TRIM => self.trim(offset, length).map(|()| Outcome::Done),
            Cmd::WRITE_ZEROES => self.zero(offset, length, flags).map(|()| Outcome::Done),
            Cmd::CACHE => {
                let advised = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(length), Advice::WillNeed);
                advised.map(|()| Outcome::Done).map_err(|os| self.failed("read ahead", os, offset))
            }
            Cmd::BLOCK_STATUS => {
                let extents = self.extents(offset, request.end(), flags.has(CmdFlags::REQ_ONE))?;
                Ok(Outcome::Status(vec![Status { context: 0, extents }]))
            }
            _ => Err(Failure::new(Errno::EINVAL, format!("{command} is not for a disk"))),
        }
    }

    /// What becomes of a failed call that is no request.
    fn refused(&self, doing: &'static str) -> impl Fn(Os) -> DiskError {
        move |os| DiskError::Io { doing, path: self.path.clone(), source: os.into() }
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.durable.sync(&self.file, &self.path).map_err(|why| match why {
            NotDurable::Now(os) => self.refused("sync")(os),
            NotDurable::Before => DiskError::NotDurable { path: self.path.clone() },
        })
    }
}

impl Store for Disk {
    fn admission(&self) -> &Admission {
        &self.admission
    }

    fn facts(&self) -> Facts {
        let reading = ExportFlags::HAS_FLAGS
            .with(ExportFlags::SEND_FLUSH)
            .with(ExportFlags::SEND_DF)
            .with(ExportFlags::CAN_MULTI_CONN)
            .with(ExportFlags::SEND_CACHE);
        let writing = ExportFlags::SEND_FUA
            .with(ExportFlags::SEND_TRIM)
            .with(ExportFlags::SEND_WRITE_ZEROES)
            .with(ExportFlags::SEND_FAST_ZERO);
        Facts {
            size: self.size(),
            flags: reading.with(if self.read_only { ExportFlags::READ_ONLY } else { writing }),
            contexts: vec!["base:allocation".into()],
            block_sizes: BlockSizes { minimum: 1, preferred: PREFERRED_BLOCK, maximum: MAXIMUM_PAYLOAD },
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn measure(&self) -> Result<u64, DiskError> {
        let read = || measure(&self.file).map_err(self.refused("measure"));
        if read()? == self.size() {
            return Ok(self.size());
        }
        let _alone = self.steady.write();
        // Under the lock: a resize of this gateway's own may have come between.
        let size = read()?;
        if size > MAX_SIZE {
            return Err(DiskError::TooLarge { size });
        }
        if size > self.size() {
            self.able.sparse.store(self.kind == Kind::Regular, Ordering::Relaxed);
        }
        self.size.store(size, Ordering::Release);
        Ok(size)
    }

    fn set_size(&self, new: u64) -> Result<u64, DiskError> {
        let path = || self.path.clone();
        if self.read_only {
            return Err(DiskError::ReadOnly { path: path() });
        }
        if new > MAX_SIZE {
            return Err(DiskError::TooLarge { size: new });
        }
        let _alone = self.steady.write();
        if self.kind == Kind::Regular {
            let (was, found) = (self.size(), measure(&self.file).map_err(self.refused("measure"))?);
            if self.memory {
                rustix::fs::ftruncate(&self.file, new).map_err(self.refused("resize"))?;
            } else if new >= was {
                lengthen(&self.file, new).map_err(self.refused("resize"))?;
            } else if found == was {
                rustix::fs::ftruncate(&self.file, new).map_err(self.refused("resize"))?;
            } else {
                return Err(DiskError::OtherLength { path: path(), was, found, wanted: new });
            }
        }
        // What it has now, not what it was told: a device is resized by other hands, and adopted here.
        let size = measure(&self.file).map_err(self.refused("measure"))?;
        if size > self.size() {
            self.able.sparse.store(self.kind == Kind::Regular, Ordering::Relaxed);
        }
        self.size.store(size, Ordering::Release);
        if size != new && (self.kind != Kind::Regular || size < new) {
            return Err(DiskError::FixedSize { path: path(), size, wanted: new });
        }
        self.sync()?;
        Ok(size)
    }

    fn at_once(&self, request: &Request, budget: &mut u64) -> Option<Outcome> {
        let is_read = request.command == Cmd::READ;
        let waits_for_nothing =
            if self.memory { !self.may_search(request) } else { is_read && request.end() <= self.size() };
        let cost = if is_read || request.changes_data() { request.length } else { 0 };
        let left = budget.checked_sub(cost).filter(|_| waits_for_nothing)?;
        // A size change may wait long for other requests; then the pool can wait, not this thread.
        let _steady = self.steady.try_read()?;
        let outcome = if self.memory {
            self.answer(request).unwrap_or_else(Outcome::Failed)
        } else {
            Outcome::Found(Found::Whole(self.read_cached(request.offset, request.length)?.into()))
        };
        *budget = left;
        Some(outcome)
    }

    fn perform(&self, request: &Request) -> Performed {
        let answer = {
            let _steady = self.steady.read();
            self.answer(request)
        };
        let settle = request.command == Cmd::FLUSH || request.changes_data() && request.flags.has(CmdFlags::FUA);
        match answer {
            Ok(_) if settle && !self.read_only => Performed::Unsettled,
            Ok(outcome) => Performed::Answer(outcome),
            Err(failure) => Performed::Answer(Outcome::Failed(failure)),
        }
    }

    fn settle(&self, task: Task, finished: &mut Finished) {
        self.durable.settle(task, &self.file, &self.path, finished);
    }

    fn release(&self) -> Result<(), DiskError> {
        let synced = if self.read_only { Ok(()) } else { self.sync() };
        let unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        synced.and(unlocked.map_err(self.refused("unlock")))
    }
}
