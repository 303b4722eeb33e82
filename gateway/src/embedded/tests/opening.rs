//! Opening and closing: what is made, what is kept, who may have it.

use std::os::unix::fs::PermissionsExt;

use nbd_gateway_proto::MAX_SIZE;

use super::*;

const MIB: u64 = 0x10_0000;

#[test]
fn a_missing_file_is_made_for_its_owner_only_and_directories_above_it_only_where_they_may_be() {
    let directory = Directory::new();
    let path = directory.path("tenant/blue/disk");
    let error = EmbeddedDisk::open_file(&path, Some(MIB), false).unwrap_err();
    assert!(matches!(error, DiskError::NoDirectory { .. }), "{error}");
    assert!(error.to_string().contains("tenant/blue` does not exist"), "{error}");
    assert!(!directory.path("tenant").exists());
    let disk =
        EmbeddedDisk::open_file(Place { makes_directories: true, ..Place::named(&path) }, Some(MIB), false).unwrap();
    let made = std::fs::metadata(&path).unwrap();
    assert_eq!((disk.size(), made.len()), (MIB, MIB));
    assert_eq!(made.permissions().mode() & 0o077, 0);
}

#[test]
fn a_missing_file_is_not_made_without_a_size_or_to_read_only() {
    let directory = Directory::new();
    let path = directory.path("absent/disk");
    for (size, read_only) in [(None, false), (None, true), (Some(MIB), true)] {
        let error = EmbeddedDisk::open_file(&path, size, read_only).unwrap_err();
        assert!(matches!(error, DiskError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("absent/disk"));
    }
    assert!(!directory.path("absent").exists());
}

#[test]
fn the_first_size_is_for_empty_files_only() {
    let directory = Directory::new();
    let path = directory.path("disk");
    std::fs::write(&path, b"").unwrap();
    assert_eq!(EmbeddedDisk::open_file(&path, None, false).unwrap().size(), 0);
    assert_eq!(EmbeddedDisk::open_file(&path, Some(MIB), false).unwrap().size(), MIB);
    assert_eq!(EmbeddedDisk::open_file(&path, Some(2 * MIB), false).unwrap().size(), MIB);
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let directory = Directory::new();
    for path in [directory.path("."), "/dev/null".into()] {
        for read_only in [false, true] {
            let error = EmbeddedDisk::open_file(&path, Some(MIB), read_only).unwrap_err();
            assert!(matches!(error, DiskError::NotADisk { .. }), "{error}");
        }
    }
    std::fs::write(directory.path("plain"), b"x").unwrap();
    let error = EmbeddedDisk::open_file(&directory.path("plain/disk"), Some(MIB), false).unwrap_err();
    assert!(matches!(error, DiskError::Io { .. }) && error.to_string().contains("plain/disk"), "{error}");
    let error = EmbeddedDisk::open_file(&directory.path("large"), Some(MAX_SIZE + 1), false).unwrap_err();
    assert!(matches!(error, DiskError::TooLarge { .. }), "{error}");
    assert!(!directory.path("large").exists());
}

#[test]
fn a_file_has_one_writer_or_many_readers() {
    let directory = Directory::new();
    let (writer, path) = directory.disk(MIB);
    for read_only in [false, true] {
        let error = EmbeddedDisk::open_file(&path, None, read_only).unwrap_err();
        assert!(matches!(error, DiskError::Locked { .. }), "{error}");
        let told = error.to_string();
        assert!(told.contains(path.to_str().unwrap()) && told.contains("(another export of this gateway)"), "{told}");
    }
    drop(writer);
    let readers = [(); 2].map(|()| EmbeddedDisk::open_file(&path, None, true).unwrap());
    assert!(matches!(EmbeddedDisk::open_file(&path, None, false), Err(DiskError::Locked { .. })));
    drop(readers);
    EmbeddedDisk::open_file(&path, None, false).unwrap();
}

#[test]
fn a_read_only_file_is_read_and_never_changed() {
    let directory = Directory::new();
    let path = directory.path("disk");
    std::fs::write(&path, [7; 0x1000]).unwrap();
    let disk = EmbeddedDisk::open_file(&path, Some(MIB), true).unwrap();
    let flags = disk.facts().flags;
    assert!(flags.has(ExportFlags::READ_ONLY) && flags.has(ExportFlags::SEND_FLUSH));
    assert!(!flags.any(ExportFlags::SEND_TRIM.with(ExportFlags::SEND_WRITE_ZEROES).with(ExportFlags::SEND_FUA)));
    assert_eq!(read(&disk, 0, 0x1000), [7; 0x1000]);
    must(&disk, request(Cmd::FLUSH, CmdFlags::NONE, 0, 0));
    for change in [
        write(CmdFlags::FUA, 0, vec![1]),
        request(Cmd::TRIM, CmdFlags::NONE, 0, 1),
        request(Cmd::WRITE_ZEROES, CmdFlags::NONE, 0, 1),
    ] {
        assert_eq!(refusal(ask(&disk, change)).errno, Errno::EPERM);
    }
    assert!(matches!(disk.set_size(MIB), Err(DiskError::ReadOnly { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), [7; 0x1000]);
}

#[test]
fn what_an_origin_offers_is_what_it_answers() {
    let directory = Directory::new();
    for disk in [directory.disk(MIB).0, EmbeddedDisk::memory(MIB).unwrap()] {
        let facts = disk.facts();
        assert_eq!((facts.size, facts.block_sizes.minimum, facts.block_sizes.preferred), (MIB, 1, 4096));
        assert_eq!(facts.contexts, ["base:allocation"]);
        // flush fua trim zeroes df multi-conn cache fast-zero
        assert_eq!(facts.flags.0, 0x0ded);
        for command in [Cmd::FLUSH, Cmd::TRIM, Cmd::CACHE, Cmd::WRITE_ZEROES] {
            let length = if command == Cmd::FLUSH { 0 } else { 0x1000 };
            must(&disk, request(command, CmdFlags::NONE, 0, length));
        }
        assert_eq!(refusal(ask(&disk, request(Cmd::RESIZE, CmdFlags::NONE, 0, 1))).errno, Errno::EINVAL);
        assert_eq!(refusal(ask(&disk, request(Cmd(0x7777), CmdFlags::NONE, 0, 1))).errno, Errno::EINVAL);
    }
}

#[tokio::test]
async fn close_finishes_what_was_submitted_then_releases_the_lock() {
    let directory = Directory::new();
    let (disk, path) = directory.disk(MIB);
    let mut answers = begin(&disk, (0..200).map(|n| write(CmdFlags::NONE, n * 0x1000, vec![7; 0x1000])));
    disk.close().await.unwrap();
    for answer in &mut answers {
        assert!(matches!(answer.try_recv(), Ok(Outcome::Done)));
    }
    let next = EmbeddedDisk::open_file(&path, None, false).unwrap();
    let mut late = begin(&disk, [request(Cmd::READ, CmdFlags::NONE, 0, 1)]);
    assert_eq!(refusal(late.remove(0).try_recv().unwrap()).errno, Errno::ESHUTDOWN);
    assert!(matches!(disk.set_size(1), Err(DiskError::Closed)));
    drop(next);
}

#[test]
fn a_link_to_nowhere_makes_no_file_where_it_leads() {
    let directory = Directory::new();
    std::os::unix::fs::symlink(directory.path("elsewhere"), directory.path("disk")).unwrap();
    let error = EmbeddedDisk::open_file(&directory.path("disk"), Some(MIB), false).unwrap_err();
    assert!(matches!(error, DiskError::Link { .. }), "{error}");
    assert!(!directory.path("elsewhere").exists());
    // One that an operator named is followed to a file that is there.
    std::fs::write(directory.path("elsewhere"), [7; 0x1000]).unwrap();
    assert_eq!(EmbeddedDisk::open_file(&directory.path("disk"), None, false).unwrap().size(), 0x1000);
}

#[test]
fn a_template_s_file_is_reached_over_no_link() {
    let directory = Directory::new();
    for made in ["secret", "disks", "disks/plain", "other"] {
        std::fs::create_dir(directory.path(made)).unwrap();
    }
    std::fs::write(directory.path("secret/file"), [7; 0x1000]).unwrap();
    std::fs::write(directory.path("disks/plain/disk"), [7; 0x1000]).unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(directory.path(to), directory.path(at)).unwrap();
    link("secret/file", "disks/file");
    link("secret", "disks/directory");
    link("secret/none", "disks/dangling");
    link("disks", "named");
    let open = |path: &str, size| {
        let place =
            Place { beneath: Some(directory.path("named")), ..Place::named(directory.path("named").join(path)) };
        EmbeddedDisk::open_file(place, size, false).map(|disk| disk.size())
    };
    // What the operator wrote may be a link.
    assert_eq!(open("plain/disk", None).unwrap(), 0x1000);
    assert_eq!(open("fresh/disk", Some(MIB)).unwrap(), MIB);
    for path in ["file", "directory/file", "directory/fresh", "dangling", "../secret/file", "../secret/fresh"] {
        for size in [None, Some(MIB)] {
            let error = open(path, size).unwrap_err();
            assert!(matches!(error, DiskError::Link { .. } | DiskError::Io { .. }), "{path}: {error}");
        }
    }
    assert_eq!(std::fs::read_dir(directory.path("secret")).unwrap().count(), 1);
}
