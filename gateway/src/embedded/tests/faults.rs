//! Storage that fails: full, cut, or not durable. The kernel's own devices fail for real: /dev/full and /dev/null.

use std::fs::File;
use std::path::Path;

use super::*;
use crate::embedded::disk::Kind;
use crate::embedded::open::Opened;

const MIB: u64 = 0x10_0000;

/// A disk over a character device.
fn device(path: &str) -> EmbeddedDisk {
    let file = File::options().read(true).write(true).open(path).unwrap().into();
    over(Disk::over(Opened { file, kind: Kind::Regular, size: MIB, sparse: false }, Path::new(path), false))
}

#[test]
fn a_full_disk_is_enospc_with_the_offset() {
    let disk = device("/dev/full");
    for change in [
        write(CmdFlags::NONE, 0x3000, vec![7; 0x1000]),
        write(CmdFlags::FUA, 0x3000, vec![7; 0x1000]),
        request(Cmd::WRITE_ZEROES, CmdFlags::NONE, 0x3000, 0x1000),
        request(Cmd::WRITE_ZEROES, CmdFlags::NO_HOLE, 0x3000, 0x1000),
    ] {
        let told = refusal(ask(&disk, change));
        assert_eq!((told.errno, told.offset), (Errno::ENOSPC, Some(0x3000)));
    }
    // Advice that can't be followed.
    must(&disk, request(Cmd::TRIM, CmdFlags::NONE, 0x3000, 0x1000));
}

/// /dev/null takes writes and refuses fdatasync.
#[test]
fn after_a_failed_flush_no_flush_and_no_fua_succeeds() {
    let disk = device("/dev/null");
    must(&disk, write(CmdFlags::NONE, 0, vec![7]));
    let first = refusal(ask(&disk, request(Cmd::FLUSH, CmdFlags::NONE, 0, 0)));
    assert_eq!(first.errno, Errno::EIO);
    for again in [request(Cmd::FLUSH, CmdFlags::NONE, 0, 0), write(CmdFlags::FUA, 0, vec![7])] {
        let told = refusal(ask(&disk, again));
        assert_eq!(told.errno, Errno::EIO);
        assert!(told.message.contains("earlier"), "{}", told.message);
    }
    must(&disk, write(CmdFlags::NONE, 0, vec![7]));
}

#[tokio::test]
async fn closing_tells_that_an_earlier_flush_failed() {
    let disk = device("/dev/null");
    let answers = begin(&disk, [request(Cmd::FLUSH, CmdFlags::NONE, 0, 0)]);
    for answer in answers {
        assert_eq!(refusal(answer.await.unwrap()).errno, Errno::EIO);
    }
    assert!(matches!(disk.close().await, Err(DiskError::NotDurable { .. })));
    let unsynced = device("/dev/null");
    assert!(matches!(unsynced.close().await, Err(DiskError::Io { doing: "sync", .. })));
}

/// /dev/null in the role of a device of no bytes.
#[test]
fn a_resize_that_is_not_durable_is_an_error() {
    let file = File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let opened = Opened { file, kind: Kind::Device { sector: 512 }, size: MIB, sparse: false };
    let disk = over(Disk::over(opened, Path::new("/dev/null"), false));
    assert!(matches!(disk.set_size(0), Err(DiskError::Io { doing: "sync", .. })));
    assert_eq!(disk.size(), 0, "what is in force is told all the same");
    assert!(matches!(disk.set_size(0), Err(DiskError::NotDurable { .. })));
}

#[test]
fn a_file_cut_behind_its_back_is_eio_where_it_ends_now() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(2 * MIB);
    must(&disk, write(CmdFlags::NONE, 0, vec![7; 0x1000]));
    File::options().write(true).open(&path).unwrap().set_len(0x800).unwrap();
    for (offset, length, end) in [(0, 0x1000, 0x800), (0, MIB, 0x800), (0x1000, 0x1000, 0x1000), (MIB, MIB, MIB)] {
        for flags in [CmdFlags::NONE, CmdFlags::DF] {
            let told = refusal(ask(&disk, request(Cmd::READ, flags, offset, length)));
            assert_eq!((told.errno, told.offset), (Errno::EIO, Some(end)), "{offset} {length} {flags}");
        }
    }
    let told = refusal(ask(&disk, request(Cmd::BLOCK_STATUS, CmdFlags::NONE, 0, MIB)));
    assert_eq!((told.errno, told.offset), (Errno::EIO, Some(0x800)));
    assert_eq!(read(&disk, 0, 0x800), [7; 0x800]);
}

#[test]
fn a_payload_that_is_not_as_long_as_it_says_is_refused() {
    let directory = Directory::new();
    for disk in [directory.disk(MIB).0, EmbeddedDisk::memory(MIB).unwrap()] {
        let mut lie = write(CmdFlags::NONE, 0, vec![7; 0x1000]);
        lie.length = 0x800;
        assert_eq!(refusal(ask(&disk, lie)).errno, Errno::EINVAL);
        assert_eq!(read(&disk, 0, 0x1000), [0; 0x1000]);
    }
}
