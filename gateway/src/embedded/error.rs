//! What can go wrong with a disk, for operators (with paths) and for clients (the protocol's numbers, no paths).

use nbd_gateway_policy::types::Bytes;
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use nbd_gateway_proto::Errno;
use rustix::io::Errno as Os;

use crate::fault::Fault;
use crate::request::Failure;

/// Why a disk could not be opened, resized or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DiskError {
    /// There is no such file, and no size to make one with.
    #[error("file `{}` does not exist; make it, or say its `size` so that it is made", path.display())]
    Missing { path: PathBuf },
    /// There is no directory to make it in.
    #[error(
        "can't make `{}`: directory `{}` does not exist; create it, or mount what belongs there",
        path.display(),
        directory.display()
    )]
    NoDirectory { path: PathBuf, directory: PathBuf },
    /// A symbolic link where there can be none.
    #[error(
        "can't open `{}`: it is or leads over a symbolic link, which is not followed for a template's file nor to make a \
         missing file; replace the link by what it leads to, or give it an export of its own",
        path.display()
    )]
    Link { path: PathBuf },
    /// Neither a regular file nor a block device.
    #[error("`{}` is neither a regular file nor a block device; name one of these", path.display())]
    NotADisk { path: PathBuf },
    /// Another process, or another export of this one, serves it.
    #[error(
        "`{}` is locked: another process or export serves it{holder}; stop that one, or serve it read-only in both",
        path.display()
    )]
    Locked {
        path: PathBuf,
        /// As [`holder()`](super::holder()) has it.
        holder: String,
    },
    /// A size that no export can have.
    #[error("a size of {} is more than an export can have, 2^63-1 bytes; choose a smaller size", Bytes(*.size))]
    TooLarge {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The size of a block device is not ours to set.
    #[error("block device `{}` has {}; resize the device itself to {} first", path.display(), Bytes(*.size), Bytes(*.wanted).in_full())]
    FixedSize {
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The size asked for, in bytes.
        wanted: u64,
    },
    /// Another hand changed the length of a file that is to be shortened.
    #[error(
        "`{}` has {found} bytes and had {was}: what would be cut off is not known, so it is not shortened to {wanted}; adopt \
         its size first, or close and open the export",
        path.display()
    )]
    OtherLength {
        path: PathBuf,
        /// Its size as far as was known, in bytes.
        was: u64,
        /// Its size in bytes.
        found: u64,
        /// The size asked for, in bytes.
        wanted: u64,
    },
    /// It was opened to read only.
    #[error("`{}` is served read-only; its size can't be changed", path.display())]
    ReadOnly { path: PathBuf },
    /// An earlier fsync failed.
    #[error("`{}` failed to become durable earlier and may have lost writes; check its disk, then open it again", path.display())]
    NotDurable { path: PathBuf },
    #[error("the origin is closed; open it again")]
    Closed,
    /// The operating system refused.
    #[error("can't {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// What a client is told about an operating system's error at an offset (absolute, in bytes).
pub(super) fn failure(os: Os, offset: Option<u64>) -> Failure {
    let (errno, message) = match os {
        // EFBIG is the file system's own limit: for a disk that is no space left, which lets a machine pause and not fail.
        Os::NOSPC | Os::DQUOT | Os::FBIG => (Errno::ENOSPC, "the disk's storage has no space left"),
        Os::ROFS | Os::ACCESS | Os::PERM => (Errno::EPERM, "the disk's storage can't be written"),
        Os::NOMEM => (Errno::ENOMEM, "out of memory"),
        _ => (Errno::EIO, "the disk's storage failed"),
    };
    Failure { errno, message: Cow::Borrowed(message), offset }
}

/// What a client is told about a request that reaches over the end: ENOSPC if it would change data. proto.md, "Error values".
pub(super) fn past_the_end(changes_data: bool, size: u64) -> Failure {
    let errno = if changes_data { Errno::ENOSPC } else { Errno::EINVAL };
    Failure { errno, message: format!("the request reaches over the disk's end at {size}").into(), offset: Some(size) }
}

impl DiskError {
    /// What a client is told. proto.md, "Error values".
    pub(crate) fn errno(&self) -> Errno {
        match self {
            DiskError::TooLarge { .. } => Errno::ENOSPC,
            DiskError::FixedSize { .. } | DiskError::ReadOnly { .. } => Errno::EPERM,
            DiskError::OtherLength { .. } => Errno::EIO,
            DiskError::Closed => Errno::ESHUTDOWN,
            DiskError::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                ) =>
            {
                Errno::ENOSPC
            }
            DiskError::Missing { .. } | DiskError::NoDirectory { .. } | DiskError::Link { .. } => Errno::EIO,
            DiskError::NotADisk { .. } | DiskError::Locked { .. } => Errno::EIO,
            DiskError::NotDurable { .. } | DiskError::Io { .. } => Errno::EIO,
        }
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Self {
        Self::host(error.to_string()).with_errno(error.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_os_error_becomes_the_number_that_tells_a_client_what_to_do() {
        let table = [
            (Os::NOSPC, Errno::ENOSPC),
            (Os::DQUOT, Errno::ENOSPC),
            (Os::FBIG, Errno::ENOSPC),
            (Os::ROFS, Errno::EPERM),
            (Os::ACCESS, Errno::EPERM),
            (Os::PERM, Errno::EPERM),
            (Os::NOMEM, Errno::ENOMEM),
            (Os::IO, Errno::EIO),
            (Os::STALE, Errno::EIO),
            (Os::BADF, Errno::EIO),
        ];
        for (os, errno) in table {
            let told = failure(os, Some(7));
            assert_eq!((told.errno, told.offset), (errno, Some(7)), "{os}");
            assert!(!told.message.is_empty());
        }
        assert_eq!(past_the_end(true, 9).errno, Errno::ENOSPC);
        assert_eq!(past_the_end(false, 9).errno, Errno::EINVAL);
    }
}
