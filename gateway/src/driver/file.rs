//! `driver = "file"`: the length of the file that the NBD server serves.
//!
//! A grow never shortens and a shrink never lengthens, whatever the file has become since its size was read; a file whose
//! length is not what its server shows is not touched: it is another one, or an image of a format. A block device is only
//! looked at: it is another's to grow. The new bytes are a hole but for the last block, so no space is reserved: a full disk
//! shows when the hole is written, as ENOSPC from the server. Never opens what is neither a file nor a device for long. A
//! shrink takes the lock (flock(2)) that other tools can take to keep it away; a grow can't harm, and takes none.

use nbd_gateway_policy::types::{Bytes, Span};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd_gateway_proto::Errno;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno as Os;

use super::Order;
use crate::embedded::{holder, lengthen};
use crate::fault::Fault;

/// Servers round a file's length to whole blocks, and no block is larger (proto.md, "Size constraints").
const LARGEST_BLOCK: u64 = 64 * 1024;

/// A file or block device that this host sees.
#[derive(Clone, Debug)]
pub(crate) struct File(pub(super) PathBuf);

impl File {
    /// Whether what a grow exposes reads as zeroes by itself: that of a file is a hole, that of a device is what was there.
    pub(super) async fn exposes_zeroes(&self) -> bool {
        tokio::fs::metadata(&self.0).await.is_ok_and(|found| found.is_file())
    }

    /// How long it is, in bytes, if it is a file: a device is not made longer here.
    pub(super) async fn length(&self, limit: Duration) -> Option<u64> {
        let found = tokio::time::timeout(limit, tokio::fs::metadata(&self.0)).await.ok()?.ok()?;
        found.is_file().then_some(found.len())
    }

    /// Carries an order out. Cancel-safe: dropped, or over its limit, a change that hangs in the file system may still come.
    pub(super) async fn resize(&self, order: &Order) -> Result<(), Fault> {
        let (path, from, to) = (self.0.clone(), order.from, order.to);
        let set = tokio::task::spawn_blocking(move || set(&path, from, to));
        match tokio::time::timeout(order.limit, set).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Fault::us("the gateway ends").or_done()),
            Err(_) => {
                let (path, limit) = (self.0.display(), Span(order.limit));
                Err(Fault::host(format!("`{path}` could not be resized within {limit}; see its file system")).or_done())
            }
        }
    }
}

fn set(path: &Path, from: u64, to: u64) -> Result<(), Fault> {
    let shown = path.display();
    let refused = |doing, os| refusal(path, doing, os);
    // Without NONBLOCK, opening a FIFO by mistake would wait for its other end.
    let open =
        |access| rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty());
    // Looked at before it is opened to write, which some devices take for a command.
    let kind = rustix::fs::stat(path).map_err(|os| refused("examine", os))?.st_mode;
    match FileType::from_raw_mode(kind) {
        FileType::RegularFile => regular(path, open(OFlags::RDWR).map_err(|os| refused("open", os))?, from, to),
        FileType::BlockDevice => {
            let size = measure(&open(OFlags::RDONLY).map_err(|os| refused("open", os))?);
            device(path, size.map_err(|os| refused("measure", os))?, from, to)
        }
        _ => Err(Fault::host(format!(
            "`{shown}` is neither a regular file nor a block device; `path` has to name what the server serves"
        ))),
    }
}

fn regular(path: &Path, file: OwnedFd, from: u64, to: u64) -> Result<(), Fault> {
    let done = change(path, &file, from, to);
    // A child process that is just being started has the descriptor for longer, and by it the lock.
    let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
    done
}

fn change(path: &Path, file: &OwnedFd, from: u64, to: u64) -> Result<(), Fault> {
    let shown = path.display();
    let refused = |doing, os| refusal(path, doing, os);
    let stat = rustix::fs::fstat(file).map_err(|os| refused("examine", os))?;
    let length = measure(file).map_err(|os| refused("measure", os))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Fault::host(format!("`{shown}` became another file while it was opened")));
    }
    let grows = to >= from;
    if grows && length >= to || length == to {
        return Ok(());
    }
    if grows && length.saturating_add(LARGEST_BLOCK) <= from {
        let message = format!(
            "`{shown}` has {} and its server shows {}: it is not what is served there, or not as it is (an \
             image of a format can't be grown by its length); correct `path`, or take another driver",
            Bytes(length),
            Bytes(from)
        );
        return Err(Fault::host(message));
    }
    if grows {
        lengthen(file, to).map_err(|os| refused("resize", os))?;
    } else {
        shorten(path, file, from, to)?;
    }
    rustix::fs::fsync(file).map_err(|os| {
        Fault::host(format!(
            "`{shown}` was resized to {}, and that may not be durable: fsync: {}",
            Bytes(to),
            cause(os)
        ))
        .or_done()
    })
}

/// Cuts a file that is as long as its server shows, while nobody who goes by its lock has it.
fn shorten(path: &Path, file: &OwnedFd, from: u64, to: u64) -> Result<(), Fault> {
    let shown = path.display();
    let refused = |doing, os| refusal(path, doing, os);
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Os::WOULDBLOCK) => {
            let message = format!(
                "`{shown}` is locked by another process{}, which may be changing it: it is not shortened to {}; stop \
                 that process, or try again later",
                holder(file),
                Bytes(to)
            );
            return Err(Fault::host(message));
        }
        // A file system without locks has nobody who goes by them.
        Err(Os::OPNOTSUPP | Os::NOSYS | Os::NOLCK) => {}
        Err(os) => return Err(refused("lock", os)),
    }
    // Only now: whoever had the lock may have changed it until then. The lock goes with the descriptor.
    let length = measure(file).map_err(|os| refused("measure", os))?;
    if length != from {
        let message = format!(
            "`{shown}` has {} and its server shows {}: what would be cut off is not known, so it is not shortened to {}; \
             correct `path`, or have the server look at its file again",
            Bytes(length),
            Bytes(from),
            Bytes(to)
        );
        return Err(Fault::host(message));
    }
    rustix::fs::ftruncate(file, to).map_err(|os| refused("resize", os))
}

fn device(path: &Path, size: u64, from: u64, to: u64) -> Result<(), Fault> {
    let shown = path.display();
    if to < from && size > to {
        let message = format!(
            "block device `{shown}` has {} and is not made smaller by its length; reduce it to {} by its \
             own tool (for LVM: lvreduce)",
            Bytes(size),
            Bytes(to).in_full()
        );
        return Err(Fault::host(message).with_errno(Errno::EPERM));
    }
    if size < to {
        let message = format!(
            "block device `{shown}` has {}, {} are wanted; extend the device first (for LVM: lvextend --size \
             {to}b {shown}), or have it done by driver = \"exec\"",
            Bytes(size),
            Bytes(to)
        );
        return Err(Fault::host(message).with_errno(Errno::ENOSPC));
    }
    Ok(())
}

/// The size in bytes, of a file or a device.
fn measure(file: &OwnedFd) -> rustix::io::Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0))
}

fn refusal(path: &Path, doing: &str, os: Os) -> Fault {
    let shown = path.display();
    let (errno, advice) = match os {
        Os::NOENT | Os::NOTDIR => {
            (Errno::EIO, "; `path` has to name, as this host sees it, the file or device that the server serves")
        }
        Os::NOSPC | Os::DQUOT => (Errno::ENOSPC, "; make room in its file system, or raise the quota on it"),
        Os::FBIG => {
            (Errno::ENOSPC, "; its file system has no files of that size, or LimitFSIZE= of the gateway is lower")
        }
        Os::ACCESS | Os::PERM => (
            Errno::EPERM,
            "; the gateway's user needs to be allowed to write it, and it can't be immutable or append-only (lsattr)",
        ),
        Os::ROFS => (Errno::EPERM, "; its file system is mounted read-only"),
        Os::TXTBSY => (Errno::EPERM, "; it is in use as a program or as swap"),
        _ => (Errno::EIO, ""),
    };
    Fault::host(format!("can't {doing} `{shown}`: {}{advice}", cause(os))).with_errno(errno)
}

fn cause(os: Os) -> io::Error {
    os.into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::driver::tests::{Place, order};

    async fn resized(path: &Path, from: u64, to: u64) -> Result<u64, Fault> {
        File(path.into()).resize(&order(from, to)).await?;
        Ok(fs::metadata(path).unwrap().len())
    }

    /// A file of this length with a mark at its start and its end.
    fn file(place: &Place, length: u64) -> PathBuf {
        let path = place.path("disk");
        let file = fs::File::create(&path).unwrap();
        file.set_len(length).unwrap();
        for at in [0, length - 4] {
            file.write_all_at(b"mark", at).unwrap();
        }
        path
    }

    #[tokio::test]
    async fn a_file_grows_by_a_hole_and_keeps_what_it_has() {
        let place = Place::fresh();
        let path = file(&place, 1 << 20);
        assert_eq!(resized(&path, 1 << 20, 3 << 30).await, Ok(3 << 30));
        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 1 << 20, "no space is taken");
        let mut read = [0; 8];
        fs::File::open(&path).unwrap().read_exact_at(&mut read, (1 << 20) - 4).unwrap();
        assert_eq!(&read, b"mark\0\0\0\0");
    }

    #[tokio::test]
    async fn a_grow_never_shortens_what_another_hand_has_grown_further() {
        let place = Place::fresh();
        let path = file(&place, 8 << 20);
        assert_eq!(resized(&path, 1 << 20, 4 << 20).await, Ok(8 << 20));
        assert_eq!(resized(&path, 8 << 20, 8 << 20).await, Ok(8 << 20));
    }

    /// Between the look at its length and the change of it, another hand made it longer.
    #[test]
    fn to_lengthen_never_shortens_whatever_the_file_has_become_since_it_was_measured() {
        let place = Place::fresh();
        let path = file(&place, 8 << 20);
        let open = fs::File::options().write(true).open(&path).unwrap().into();
        lengthen(&open, 4 << 20).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 20);
        lengthen(&open, (9 << 20) + 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), (9 << 20) + 1);
        lengthen(&open, 0).unwrap();
        let mut read = [1; 5];
        fs::File::open(&path).unwrap().read_exact_at(&mut read, (8 << 20) - 4).unwrap();
        assert_eq!(&read, b"mark\0");
    }

    #[tokio::test]
    async fn a_shrink_waits_for_whoever_has_the_lock_to_be_gone() {
        let place = Place::fresh();
        let path = file(&place, 8 << 20);
        let other = fs::File::open(&path).unwrap();
        rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();
        let why = resized(&path, 8 << 20, 2 << 20).await.unwrap_err();
        assert!(!why.is_unknown() && why.message().contains("is locked by another process"), "{why:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 20);
        drop(other);
        assert_eq!(resized(&path, 8 << 20, 2 << 20).await, Ok(2 << 20));
    }

    #[test]
    fn a_file_is_free_after_a_shrink_and_one_that_was_refused_while_a_child_process_has_its_descriptor() {
        let place = Place::fresh();
        let path = file(&place, 8 << 20);
        let open = || OwnedFd::from(fs::File::options().read(true).write(true).open(&path).unwrap());
        for from in [8 << 20, 7 << 20] {
            let opened = open();
            let inherited = opened.try_clone().unwrap();
            assert_eq!(regular(&path, opened, from, 2 << 20).is_ok(), from == 8 << 20);
            rustix::fs::flock(open(), FlockOperation::NonBlockingLockExclusive).unwrap();
            drop(inherited);
            fs::File::options().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_that_its_server_rounds_up_can_grow() {
        let place = Place::fresh();
        let path = file(&place, 1000);
        assert_eq!(resized(&path, 1024, 1 << 20).await, Ok(1 << 20));
    }

    #[tokio::test]
    async fn a_file_shorter_than_its_server_shows_is_another_one() {
        let place = Place::fresh();
        let path = file(&place, 200 << 10);
        let why = resized(&path, 1 << 30, 2 << 30).await.unwrap_err();
        assert_eq!((why.errno(), why.is_unknown(), fs::metadata(&path).unwrap().len()), (Errno::EIO, false, 200 << 10));
        assert!(why.message().contains("has 200 KiB and its server shows 1 GiB"), "{why}");
    }

    #[tokio::test]
    async fn a_shrink_cuts_only_a_file_that_has_the_length_that_was_read() {
        let place = Place::fresh();
        let path = file(&place, 8 << 20);
        let why = resized(&path, 4 << 20, 2 << 20).await.unwrap_err();
        assert!(why.message().contains("has 8 MiB and its server shows 4 MiB"), "{why}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 20);
        assert_eq!(resized(&path, 8 << 20, 2 << 20).await, Ok(2 << 20));
        // Once more, as after an answer that was lost.
        assert_eq!(resized(&path, 8 << 20, 2 << 20).await, Ok(2 << 20));
        // Already shorter: not lengthened.
        resized(&path, 8 << 20, 4 << 20).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_cannot_be_resized_says_its_path_and_what_to_do() {
        let place = Place::fresh();
        let fifo = place.path("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let disk = file(&place, 1 << 20);
        for (path, says) in [
            (place.path("none"), "none`: No such file or directory (os error 2); `path` has to name"),
            (disk.join("below"), "below`: Not a directory"),
            (place.path(""), "is neither a regular file nor a block device"),
            (fifo, "is neither a regular file nor a block device"),
            ("/dev/null".into(), "`/dev/null` is neither a regular file nor a block device"),
        ] {
            let why = resized(&path, 1 << 20, 2 << 20).await.unwrap_err();
            assert!(why.errno() == Errno::EIO && why.message().contains(says) && !why.is_unknown(), "{why:?}");
        }
    }

    #[test]
    fn each_error_of_the_system_tells_a_client_whether_there_is_no_space() {
        for (os, errno) in [
            (Os::NOSPC, Errno::ENOSPC),
            (Os::DQUOT, Errno::ENOSPC),
            (Os::FBIG, Errno::ENOSPC),
            (Os::PERM, Errno::EPERM),
            (Os::ACCESS, Errno::EPERM),
            (Os::ROFS, Errno::EPERM),
            (Os::TXTBSY, Errno::EPERM),
            (Os::IO, Errno::EIO),
        ] {
            assert_eq!(refusal(Path::new("/x"), "open", os).errno(), errno, "{os}");
        }
    }

    #[test]
    fn a_device_is_believed_when_it_has_grown_and_else_named_with_what_to_do() {
        let path = Path::new("/dev/vg0/vm1");
        assert_eq!(device(path, 2 << 30, 1 << 30, 2 << 30), Ok(()));
        assert_eq!(device(path, 1 << 30, 2 << 30, 1 << 30), Ok(()));
        let small = device(path, 1 << 30, 1 << 30, 2 << 30).unwrap_err();
        assert_eq!(
            (small.errno(), small.message()),
            (
                Errno::ENOSPC,
                "block device `/dev/vg0/vm1` has 1 GiB, 2 GiB are wanted; extend the device first (for \
                 LVM: lvextend --size 2147483648b /dev/vg0/vm1), or have it done by driver = \"exec\""
            )
        );
        let large = device(path, 2 << 30, 2 << 30, 1 << 30).unwrap_err();
        assert!(large.errno() == Errno::EPERM && large.message().contains("lvreduce"), "{large}");
    }
}
