//! Opening a file or block device: makes what is missing, locks it, and finds out what it is.

use nbd_gateway_proto::MAX_SIZE;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno as Os;

use super::disk::Kind;
use super::{DiskError, Place, holder};

/// An open and locked file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) kind: Kind,
    /// Size in bytes.
    pub(super) size: u64,
    /// Whether it has fewer blocks than bytes.
    pub(super) sparse: bool,
}

/// As [`super::EmbeddedDisk::open_file`].
pub(super) fn open(place: &Place, first_size: Option<u64>, read_only: bool) -> Result<Opened, DiskError> {
    if let Some(size) = first_size.filter(|&size| size > MAX_SIZE) {
        return Err(DiskError::TooLarge { size });
    }
    let path = &place.path;
    let refused = |doing, source: Os| DiskError::Io { doing, path: path.into(), source: source.into() };
    // Without NONBLOCK, opening a FIFO by mistake would wait for its other end.
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match place.open(flags) {
        Err(DiskError::Missing { .. }) if first_size.is_some() && !read_only => place.make(flags)?,
        opened => opened?,
    };
    let stat = rustix::fs::fstat(&file).map_err(|os| refused("examine", os))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::Regular,
        FileType::BlockDevice => {
            let sector = rustix::fs::ioctl_blksszget(&file).map_err(|os| refused("examine", os))?;
            Kind::Device { sector: u64::from(sector).max(1) }
        }
        _ => return Err(DiskError::NotADisk { path: path.into() }),
    };
    let lock = if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match rustix::fs::flock(&file, lock) {
        Ok(()) => {}
        Err(Os::WOULDBLOCK) => return Err(DiskError::Locked { path: path.into(), holder: holder(&file) }),
        Err(os) => return Err(refused("lock", os)),
    }
    // Only under the lock: its last owner may have resized it until then.
    let sized = || {
        let mut size = measure(&file).map_err(|os| refused("measure", os))?;
        if let (Kind::Regular, 0, Some(first @ 1..), false) = (kind, size, first_size, read_only) {
            rustix::fs::ftruncate(&file, first).map_err(|os| refused("resize", os))?;
            rustix::fs::fsync(&file).map_err(|os| refused("sync", os))?;
            size = first;
        }
        if size > MAX_SIZE { Err(DiskError::TooLarge { size }) } else { Ok(size) }
    };
    let size = sized().inspect_err(|_| {
        // A child process that is just being started has the descriptor for longer, and by it the lock.
        let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
    })?;
    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    Ok(Opened { file, kind, size, sparse: kind == Kind::Regular && allocated < size })
}

/// The size in bytes, of a file or a device.
pub(super) fn measure(file: &OwnedFd) -> rustix::io::Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0))
}
