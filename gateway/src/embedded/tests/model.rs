//! Random requests against a plain vector of bytes: what an disk keeps must be what a disk keeps.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::embedded::disk::Kind;
use crate::embedded::map::{DATA, HOLE};

const LARGEST: u64 = 0x6_0000;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, segments: Vec<(usize, u8)>, flags: CmdFlags },
    Trim { at: u64, length: u64 },
    Zero { at: u64, length: u64, flags: CmdFlags },
    Read { at: u64, length: u64, flags: CmdFlags },
    Status { at: u64, length: u64, flags: CmdFlags },
    Resize { size: u64 },
    Flush,
    Cache { at: u64, length: u64 },
}

/// Positions on and beside the edges of blocks and chunks, and anywhere.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..LARGEST,
        (0..LARGEST / 0x1000).prop_map(|n| n * 0x1000),
        (0..LARGEST / 0x1_0000, 0_u64..3).prop_map(|(n, d)| (n * 0x1_0000 + d).saturating_sub(1)),
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![1_u64..0x200, (1_u64..0x18).prop_map(|n| n * 0x1000), 1..LARGEST]
}

fn flags(all: &'static [CmdFlags]) -> impl Strategy<Value = CmdFlags> {
    proptest::collection::vec(proptest::sample::select(all), 0..=all.len())
        .prop_map(|some| some.into_iter().fold(CmdFlags::NONE, CmdFlags::with))
}

fn step() -> impl Strategy<Value = Step> {
    let segment = (prop_oneof![1_usize..0x300, 1_usize..0x9000], 1_u8..);
    prop_oneof![
        4 => (position(), proptest::collection::vec(segment, 1..20), flags(&[CmdFlags::FUA]))
            .prop_map(|(at, segments, flags)| Step::Write { at, segments, flags }),
        2 => (position(), length()).prop_map(|(at, length)| Step::Trim { at, length }),
        2 => (position(), length(), flags(&[CmdFlags::NO_HOLE, CmdFlags::FUA]))
            .prop_map(|(at, length, flags)| Step::Zero { at, length, flags }),
        4 => (position(), length(), flags(&[CmdFlags::DF])).prop_map(|(at, length, flags)| Step::Read { at, length, flags }),
        2 => (position(), length(), flags(&[CmdFlags::REQ_ONE]))
            .prop_map(|(at, length, flags)| Step::Status { at, length, flags }),
        1 => (0..LARGEST).prop_map(|size| Step::Resize { size }),
        1 => Just(Step::Flush),
        1 => (position(), length()).prop_map(|(at, length)| Step::Cache { at, length }),
    ]
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

/// Performs a step on both; the disk must refuse exactly what is past the end, with `past`.
fn perform(disk: &EmbeddedDisk, model: &mut Vec<u8>, step: Step) {
    let size = u64::try_from(model.len()).unwrap();
    let past = |at: u64, length: u64| at + length > size;
    let refused = |request: Request, errno| assert_eq!(refusal(ask(disk, request)).errno, errno);
    match step {
        Step::Write { at, segments, flags } => {
            let payload: Payload = segments.iter().map(|&(len, byte)| Bytes::from(vec![byte; len])).collect();
            let data = payload.to_contiguous();
            let write = write(flags, at, payload);
            if past(at, write.length) {
                return refused(write, Errno::ENOSPC);
            }
            must(disk, write);
            model[index(at)..index(at) + data.len()].copy_from_slice(&data);
        }
        Step::Trim { at, length } => {
            let trim = request(Cmd::TRIM, CmdFlags::NONE, at, length);
            if past(at, length) {
                return refused(trim, Errno::ENOSPC);
            }
            must(disk, trim);
            // TRIM may leave any byte as it was or zero it; nothing else.
            let now = read(disk, at, length);
            for (was, is) in model[index(at)..index(at + length)].iter_mut().zip(now) {
                assert!(is == 0 || is == *was);
                *was = is;
            }
        }
        Step::Zero { at, length, flags } => {
            let zero = request(Cmd::WRITE_ZEROES, flags, at, length);
            if past(at, length) {
                return refused(zero, Errno::ENOSPC);
            }
            must(disk, zero);
            model[index(at)..index(at + length)].fill(0);
        }
        Step::Read { at, length, flags } => {
            let read = request(Cmd::READ, flags, at, length);
            if past(at, length) {
                return refused(read, Errno::EINVAL);
            }
            let found = ask(disk, read);
            if flags.has(CmdFlags::DF) {
                assert!(matches!(found, Outcome::Found(Found::Whole(_))));
            }
            assert!(bytes(found, at) == model[index(at)..index(at + length)], "wrong bytes");
        }
        Step::Status { at, length, flags } => {
            if past(at, length) {
                return refused(request(Cmd::BLOCK_STATUS, flags, at, length), Errno::EINVAL);
            }
            let extents = extents(disk, flags, at, length);
            assert!(!flags.has(CmdFlags::REQ_ONE) || extents.len() == 1);
            let mut from = at;
            for extent in &extents {
                assert!(extent.length > 0 && (extent.flags == DATA || extent.flags == HOLE));
                let to = from + extent.length;
                let zero = model[index(from)..index(to)].iter().all(|&byte| byte == 0);
                assert!(extent.flags == DATA || zero, "a hole over data");
                from = to;
            }
            assert!(flags.has(CmdFlags::REQ_ONE) && from <= at + length || from == at + length);
            assert!(extents.windows(2).all(|pair| pair[0].flags != pair[1].flags), "extents not joined");
        }
        Step::Resize { size } => {
            assert_eq!(disk.set_size(size).unwrap(), size);
            assert_eq!(disk.size(), size);
            model.resize(index(size), 0);
        }
        Step::Flush => must(disk, request(Cmd::FLUSH, CmdFlags::NONE, 0, 0)),
        Step::Cache { at, length } if past(at, length) => {
            refused(request(Cmd::CACHE, CmdFlags::NONE, at, length), Errno::EINVAL);
        }
        Step::Cache { at, length } => must(disk, request(Cmd::CACHE, CmdFlags::NONE, at, length)),
    }
}

fn agree(disk: &EmbeddedDisk, steps: Vec<Step>) {
    let mut model = vec![0; index(LARGEST)];
    for step in steps {
        perform(disk, &mut model, step);
    }
    let size = disk.size();
    assert_eq!(model.len(), index(size));
    if size > 0 {
        assert!(read(disk, 0, size) == model, "wrong bytes at the end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn memory_keeps_what_a_disk_keeps(steps in proptest::collection::vec(step(), 0..40)) {
        agree(&EmbeddedDisk::memory(LARGEST).unwrap(), steps);
    }

    #[test]
    fn a_file_keeps_what_a_disk_keeps(steps in proptest::collection::vec(step(), 0..40)) {
        let directory = Directory::new();
        let (disk, path) = directory.disk(LARGEST);
        agree(&disk, steps);
        prop_assert_eq!(std::fs::metadata(path).unwrap().len(), disk.size());
    }

    /// What a file system without holes gets: every way to zero ends in writing.
    #[test]
    fn a_file_that_can_do_nothing_but_read_and_write_keeps_it_too(steps in proptest::collection::vec(step(), 0..30)) {
        let directory = Directory::new();
        let disk = Disk::open(&Place::named(directory.path("disk")), Some(LARGEST), false).unwrap();
        for ability in [&disk.able.punch, &disk.able.zero_range, &disk.able.seek, &disk.able.nowait] {
            ability.store(false, Ordering::Relaxed);
        }
        agree(&over(disk), steps);
    }

    /// A regular file in the role of a device: the edges that are no whole sectors are written.
    #[test]
    fn a_device_of_whole_sectors_keeps_it_too(
        steps in proptest::collection::vec(step().prop_filter("fixed size", |s| !matches!(s, Step::Resize { .. })), 0..30),
    ) {
        let directory = Directory::new();
        let mut disk = Disk::open(&Place::named(directory.path("disk")), Some(LARGEST), false).unwrap();
        disk.kind = Kind::Device { sector: 4096 };
        agree(&over(disk), steps);
    }
}
