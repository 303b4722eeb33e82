//! Making a file longer without ever making it shorter, whatever another hand does to it meanwhile.

use rustix::fd::OwnedFd;
use rustix::fs::FallocateFlags;
use rustix::io::Errno as Os;

use super::open::measure;

/// Gives a regular file at least `to` bytes. What is added reads as zeroes; but for its last block it takes no space.
///
/// To allocate the last byte makes a file longer or leaves it as it is; to set a length could cut what another hand added
/// since it was measured, and is done only where the file system can't allocate.
pub(crate) fn lengthen(file: &OwnedFd, to: u64) -> rustix::io::Result<()> {
    let Some(last) = to.checked_sub(1) else { return Ok(()) };
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), last, 1)) {
        Err(Os::OPNOTSUPP | Os::NOSYS | Os::NODEV) if measure(file)? < to => rustix::fs::ftruncate(file, to),
        Err(Os::OPNOTSUPP | Os::NOSYS | Os::NODEV) => Ok(()),
        done => done,
    }
}
