//! A file's blocks: the map that clients see is the file's own, and what is discarded is freed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno as Os;

use super::*;
use crate::embedded::map::{DATA, HOLE, append};

const MIB: u64 = 0x10_0000;

fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks()
}

/// The map as the file system tells it to anybody else.
fn map_of(path: &Path, size: u64) -> Vec<Extent> {
    let file = File::open(path).unwrap();
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < size {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Os::NXIO) => size,
            Err(os) => panic!("{os}"),
        };
        if data > at {
            append(&mut extents, data - at, HOLE);
        }
        if data < size {
            let end = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
            append(&mut extents, end - data, DATA);
            at = end;
        } else {
            at = size;
        }
    }
    extents
}

#[test]
fn the_allocation_map_is_that_of_the_file() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(8 * MIB);
    for at in [MIB, 3 * MIB, 3 * MIB + 0x1_0000, 7 * MIB] {
        must(&disk, write(CmdFlags::NONE, at, vec![7; 0x1_0000]));
    }
    let all = extents(&disk, CmdFlags::NONE, 0, 8 * MIB);
    assert_eq!(all, map_of(&path, 8 * MIB));
    let expected = [(MIB, HOLE), (0x1_0000, DATA), (2 * MIB - 0x1_0000, HOLE), (0x2_0000, DATA)];
    assert_eq!(all[..4], expected.map(|(length, flags)| Extent { length, flags }));
    // From the middle of an extent, and cut at the end of the request.
    let middle = extents(&disk, CmdFlags::NONE, MIB + 0x8000, 0x1_0000);
    assert_eq!(middle, [(0x8000, DATA), (0x8000, HOLE)].map(|(length, flags)| Extent { length, flags }));
    let one = extents(&disk, CmdFlags::REQ_ONE, MIB + 0x8000, 0x1_0000);
    assert_eq!(one, [Extent { length: 0x8000, flags: DATA }]);
}

#[test]
fn a_long_read_tells_holes_and_a_short_one_or_df_does_not() {
    let directory = Directory::new();
    let (file, _) = directory.disk(4 * MIB);
    for disk in [file, EmbeddedDisk::memory(4 * MIB).unwrap()] {
        must(&disk, write(CmdFlags::NONE, MIB, vec![7; 0x1_0000]));
        let Outcome::Found(Found::Pieces(pieces)) = ask(&disk, request(Cmd::READ, CmdFlags::NONE, 0, 2 * MIB)) else {
            panic!("no pieces");
        };
        assert!(
            matches!(
                pieces[..],
                [
                    Piece::Hole { offset: 0, length: MIB },
                    Piece::Data { offset: MIB, .. },
                    Piece::Hole { offset: 0x11_0000, length: 0xf_0000 },
                ]
            ),
            "{pieces:?}"
        );
        for (flags, length) in [(CmdFlags::DF, 2 * MIB), (CmdFlags::NONE, 0x1000)] {
            let found = ask(&disk, request(Cmd::READ, flags, 0, length));
            assert!(matches!(found, Outcome::Found(Found::Whole(_))), "{found:?}");
        }
    }
}

#[test]
fn trim_and_write_zeroes_free_blocks_unless_no_hole() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(2 * MIB);
    let full = |disk: &EmbeddedDisk| must(disk, write(CmdFlags::FUA, 0, vec![7; 0x20_0000]));
    for (command, flags, freed) in [
        (Cmd::TRIM, CmdFlags::NONE, true),
        (Cmd::WRITE_ZEROES, CmdFlags::NONE, true),
        (Cmd::WRITE_ZEROES, CmdFlags::NO_HOLE, false),
    ] {
        full(&disk);
        let before = blocks(&path);
        must(&disk, request(command, flags.with(CmdFlags::FUA), MIB, MIB));
        let after = blocks(&path);
        assert_eq!(before - after >= MIB / 512, freed, "{command} {flags}: {before} to {after} blocks");
        assert_eq!(read(&disk, MIB - 1, 3), [7, 0, 0]);
    }
}

#[test]
fn write_zeroes_with_no_hole_allocates_what_was_a_hole() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(2 * MIB);
    assert!(blocks(&path) < MIB / 512);
    must(&disk, request(Cmd::WRITE_ZEROES, CmdFlags::NO_HOLE.with(CmdFlags::FUA), 0, MIB));
    assert!(blocks(&path) >= MIB / 512);
}

#[test]
fn fast_zero_fails_rather_than_write() {
    let directory = Directory::new();
    let disk = Disk::open(&Place::named(directory.path("disk")), Some(MIB), false).unwrap();
    disk.able.punch.store(false, Ordering::Relaxed);
    disk.able.zero_range.store(false, Ordering::Relaxed);
    let disk = over(disk);
    must(&disk, write(CmdFlags::NONE, 0, vec![7; 0x1000]));
    for flags in [CmdFlags::FAST_ZERO, CmdFlags::FAST_ZERO.with(CmdFlags::NO_HOLE)] {
        assert_eq!(refusal(ask(&disk, request(Cmd::WRITE_ZEROES, flags, 0, 0x1000))).errno, Errno::ENOTSUP);
    }
    assert_eq!(read(&disk, 0, 0x1000), [7; 0x1000]);
    must(&disk, request(Cmd::WRITE_ZEROES, CmdFlags::NONE, 0, 0x1000));
    assert_eq!(read(&disk, 0, 0x1000), [0; 0x1000]);
}

#[test]
fn what_a_client_wrote_is_in_the_file_and_the_reverse() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(MIB);
    must(&disk, write(CmdFlags::NONE, 4097, vec![1, 2, 3]));
    let file = File::options().write(true).read(true).open(&path).unwrap();
    let mut seen = [0; 5];
    file.read_exact_at(&mut seen, 4096).unwrap();
    assert_eq!(seen, [0, 1, 2, 3, 0]);
    file.write_all_at(&[9, 8], 4098).unwrap();
    assert_eq!(read(&disk, 4096, 5), [0, 1, 9, 8, 0]);
}

/// The file system was asked by every large READ; tmpfs looks at each page up to the end of the data for that.
#[test]
fn a_large_read_asks_where_holes_are_once_for_each_run_of_data() {
    let directory = Directory::new();
    let disk = Disk::open(&Place::named(directory.path("disk")), Some(0x100_0000), false).unwrap();
    disk.write(0, &vec![7; 0x40_0000].into()).unwrap();
    assert_eq!(disk.runs.data(0), None);
    for at in [0x10_0000, 0x20_0000, 0] {
        assert!(matches!(disk.find(at, 0x4_0000, false), Ok(Found::Whole(_))));
    }
    assert!(disk.runs.data(0).is_some_and(|end| end >= 0x40_0000), "it is remembered to its end");
    assert!(matches!(disk.find(0x3f_0000, 0x2_0000, false), Ok(Found::Pieces(_))), "a hole behind it is told");
    disk.zero(0x10_0000, 0x10_0000, CmdFlags::NONE).unwrap();
    assert_eq!(disk.runs.data(0), None, "a hole was made in it");
    assert!(matches!(disk.find(0xf_0000, 0x2_0000, false), Ok(Found::Pieces(_))));
    // Once all of it is there, nothing is looked for.
    disk.write(0, &vec![8; 0x100_0000].into()).unwrap();
    for _ in 0..65 {
        disk.find(0, 0x1_0000, false).unwrap();
    }
    assert!(!disk.able.sparse.load(Ordering::Relaxed));
}

#[test]
fn a_length_that_another_process_gave_a_file_is_in_force_once_it_is_measured() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(4 * MIB);
    let other = File::options().write(true).open(&path).unwrap();
    for length in [MIB, 8 * MIB] {
        other.set_len(length).unwrap();
        assert_ne!(disk.size(), length);
        assert_eq!((disk.measure().unwrap(), disk.size()), (length, length));
    }
}
