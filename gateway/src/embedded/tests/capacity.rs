//! The size: growing exposes zeroes, shrinking discards, and nothing is done past the end.

use std::os::unix::fs::MetadataExt;

use nbd_gateway_proto::MAX_SIZE;

use super::*;
use crate::embedded::disk::Kind;

const MIB: u64 = 0x10_0000;

#[test]
fn what_a_shrink_cut_off_reads_as_zeroes_after_a_grow() {
    let directory = Directory::new();
    let (file, path) = directory.disk(2 * MIB);
    for disk in [&file, &EmbeddedDisk::memory(2 * MIB).unwrap()] {
        must(disk, write(CmdFlags::NONE, 0, vec![7; 0x20_0000]));
        assert_eq!(disk.set_size(MIB + 3).unwrap(), MIB + 3);
        assert_eq!((disk.size(), disk.facts().size), (MIB + 3, MIB + 3));
        assert_eq!(refusal(ask(disk, write(CmdFlags::NONE, MIB, vec![1; 4]))).errno, Errno::ENOSPC);
        assert_eq!(refusal(ask(disk, request(Cmd::READ, CmdFlags::NONE, MIB, 4))).errno, Errno::EINVAL);
        let kept = extents(disk, CmdFlags::NONE, 0, MIB + 3);
        assert_eq!(disk.set_size(2 * MIB).unwrap(), 2 * MIB);
        assert_eq!(read(disk, 0, MIB + 3), vec![7; 0x10_0003]);
        assert_eq!(read(disk, MIB + 3, MIB - 3), vec![0; 0xf_fffd]);
        let grown = extents(disk, CmdFlags::NONE, 0, 2 * MIB);
        // Only the last block of a file is allocated: that is how it is made longer without ever making it shorter.
        assert_eq!((kept.len(), grown[0].flags, grown[1].flags), (1, 0, 3), "{kept:?} {grown:?}");
        assert!(grown[1].length >= MIB - 0x2_0000, "{grown:?}");
    }
    let blocks = std::fs::metadata(path).unwrap().blocks();
    assert!(blocks * 512 < 2 * MIB, "a shrink kept {blocks} blocks");
}

#[test]
fn a_request_that_overflows_or_reaches_over_the_end_is_refused_with_the_end() {
    for disk in [EmbeddedDisk::memory(MIB).unwrap(), Directory::new().disk(MIB).0] {
        for (offset, length) in [(MIB, 1), (MIB - 1, 2), (u64::MAX, u64::MAX), (1, u64::MAX), (0, MIB + 1)] {
            for (command, errno) in [(Cmd::TRIM, Errno::ENOSPC), (Cmd::READ, Errno::EINVAL)] {
                let told = refusal(ask(&disk, request(command, CmdFlags::NONE, offset, length)));
                assert_eq!((told.errno, told.offset), (errno, Some(MIB)), "{command} {offset} {length}");
            }
        }
        let nothing = refusal(ask(&disk, request(Cmd::READ, CmdFlags::NONE, 0, 0)));
        assert_eq!(nothing.errno, Errno::EINVAL);
    }
}

#[test]
fn a_read_over_the_largest_payload_is_refused_before_memory_is_taken() {
    for disk in [EmbeddedDisk::memory(1 << 50).unwrap(), Directory::new().disk(1 << 40).0] {
        let most = u64::from(disk.facts().block_sizes.maximum);
        assert_eq!(refusal(ask(&disk, request(Cmd::READ, CmdFlags::DF, 0, most + 1))).errno, Errno::EINVAL);
        assert_eq!(bytes(ask(&disk, request(Cmd::READ, CmdFlags::NONE, 0, most)), 0).len(), 0x200_0000);
    }
}

#[test]
fn a_huge_sparse_memory_disk_is_discarded_and_mapped_at_once() {
    let disk = EmbeddedDisk::memory(MAX_SIZE).unwrap();
    let far = MAX_SIZE - 0x1000;
    must(&disk, write(CmdFlags::NONE, far, vec![7; 0x1000]));
    assert_eq!(extents(&disk, CmdFlags::NONE, 0, MAX_SIZE).len(), 2);
    must(&disk, request(Cmd::WRITE_ZEROES, CmdFlags::NONE, 0, MAX_SIZE));
    assert_eq!(read(&disk, far, 0x1000), [0; 0x1000]);
    assert_eq!(disk.set_size(0).unwrap(), 0);
    assert!(matches!(disk.set_size(MAX_SIZE + 1), Err(DiskError::TooLarge { size }) if size == MAX_SIZE + 1));
}

#[test]
fn a_device_is_never_resized_but_its_new_size_is_adopted() {
    let directory = Directory::new();
    let path = directory.path("disk");
    let mut disk = Disk::open(&Place::named(&path), Some(MIB), false).unwrap();
    disk.kind = Kind::Device { sector: 512 };
    let disk = over(disk);
    let error = disk.set_size(2 * MIB).unwrap_err();
    assert!(matches!(error, DiskError::FixedSize { size: MIB, wanted, .. } if wanted == 2 * MIB), "{error}");
    assert_eq!(disk.size(), MIB);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(2 * MIB).unwrap();
    assert_eq!(disk.set_size(2 * MIB).unwrap(), 2 * MIB);
    assert_eq!(disk.size(), 2 * MIB);
}

/// Growth by another hand was cut off by the next grow through the gateway.
#[test]
fn what_another_hand_added_to_a_file_is_never_cut() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(MIB);
    let other = std::fs::File::options().write(true).open(&path).unwrap();
    other.set_len(4 * MIB).unwrap();
    let length = || std::fs::metadata(&path).unwrap().len();
    assert_eq!((disk.set_size(2 * MIB).unwrap(), disk.size(), length()), (4 * MIB, 4 * MIB, 4 * MIB));
    other.set_len(5 * MIB).unwrap();
    let error = disk.set_size(MIB).unwrap_err();
    assert!(matches!(error, DiskError::OtherLength { .. }), "{error}");
    assert_eq!((disk.size(), length()), (4 * MIB, 5 * MIB));
    other.set_len(4 * MIB).unwrap();
    assert_eq!((disk.set_size(MIB).unwrap(), length()), (MIB, MIB));
}
