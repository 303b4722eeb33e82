//! The kernel's view of one nbd device, read from sysfs.
//!
//! Owns what the files there mean. Never remembers any of it: who wants to know reads again.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::AgentError;

/// Sizes in sysfs are in sectors of this many bytes, whatever the device's blocks are.
pub(super) const SECTOR: u64 = 512;
/// O_EXCL: of a block device, only if nothing has it mounted or otherwise in use.
const UNUSED: i32 = 0o200;

/// One nbd device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Its node, as it was named.
    pub(super) node: PathBuf,
    /// N of nbdN.
    pub(super) index: u32,
    folder: PathBuf,
}

impl Device {
    /// The device of a node like /dev/nbd0, or of a link to one. Looks at names alone.
    pub(super) fn named(node: &Path) -> Result<Self, AgentError> {
        Self::below(node, Path::new("/sys/block"))
    }

    fn below(node: &Path, sysfs: &Path) -> Result<Self, AgentError> {
        let real = fs::canonicalize(node).unwrap_or_else(|_| node.to_owned());
        let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let index = name.strip_prefix("nbd").and_then(|number| number.parse().ok());
        // What `parse` takes and the kernel would not write: `nbd+1`, `nbd01`.
        match index.filter(|index: &u32| format!("nbd{index}") == name) {
            Some(index) => Ok(Self { node: node.to_owned(), index, folder: sysfs.join(name) }),
            None => Err(AgentError::NoNbdDevice { node: node.to_owned() }),
        }
    }

    /// Whether the kernel has it.
    pub(super) fn exists(&self) -> bool {
        self.folder.is_dir()
    }

    /// Whether it is attached to a server, by whoever and in whichever way. Its connection may be dead.
    pub(super) fn attached(&self) -> bool {
        self.folder.join("pid").exists()
    }

    /// For whom it was attached, if that was said (kernels since 5.14 keep it).
    pub(super) fn backend(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("backend")).ok()?;
        let text = text.trim_end_matches('\n');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> Result<u64, AgentError> {
        Ok(self.number("size")?.saturating_mul(SECTOR))
    }

    /// What requests are multiples of, in bytes.
    pub(super) fn block_size(&self) -> Result<u64, AgentError> {
        Ok(self.number("queue/logical_block_size")?.max(SECTOR))
    }

    /// Whether it refuses writes.
    pub(super) fn read_only(&self) -> Result<bool, AgentError> {
        Ok(self.number("ro")? != 0)
    }

    /// Bounds the kernel's requests to so many bytes, where they would be longer.
    pub(super) fn bound_requests(&self, bytes: u32) -> Result<(), AgentError> {
        let kib = u64::from(bytes) / 1024;
        if kib < self.number("queue/max_sectors_kb")? {
            let file = self.folder.join("queue/max_sectors_kb");
            fs::write(&file, kib.to_string()).map_err(|cause| AgentError::Sysfs { file, cause })?;
        }
        Ok(())
    }

    fn number(&self, file: &str) -> Result<u64, AgentError> {
        let file = self.folder.join(file);
        let number = fs::read_to_string(&file).and_then(|text| text.trim().parse().map_err(io::Error::other));
        number.map_err(|cause| AgentError::Sysfs { file, cause })
    }

    /// Keeps others from using the device, if nobody does; what was written to it is with the server then. Blocks.
    pub(super) fn unused(&self) -> Result<fs::File, AgentError> {
        let opened = fs::OpenOptions::new().read(true).custom_flags(UNUSED).open(&self.node);
        let failed = |cause| AgentError::InUse { node: self.node.clone(), cause };
        let file = opened.map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like /sys/block, gone with the test.
    struct Sysfs(PathBuf);

    impl Sysfs {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("nbdgw-agent-{}-{name}", std::process::id()));
            fs::create_dir_all(folder.join("nbd3/queue")).unwrap();
            Self(folder)
        }

        fn put(&self, file: &str, text: &str) {
            fs::write(self.0.join("nbd3").join(file), text).unwrap();
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn index(node: &str) -> Option<u32> {
        Device::named(Path::new(node)).ok().map(|device| device.index)
    }

    #[test]
    fn only_whole_nbd_devices_are_taken() {
        assert_eq!(index("/dev/nbd0"), Some(0));
        assert_eq!(index("/dev/nbd15"), Some(15));
        for other in ["/dev/sda", "/dev/nbd", "/dev/nbd0p1", "/dev/nbd+1", "/dev/nbd01", "/dev/nbd99999999999", "/", ""]
        {
            assert_eq!(index(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_kernel_says_is_read_each_time() {
        let sysfs = Sysfs::new("reads");
        let device = Device::below(Path::new("/dev/nbd3"), &sysfs.0).unwrap();
        assert!(device.exists() && !device.attached());
        for (file, text) in [
            ("size", "131072\n"),
            ("ro", "0\n"),
            ("pid", "77\n"),
            ("backend", "\n"),
            ("queue/logical_block_size", "4096\n"),
        ] {
            sysfs.put(file, text);
        }
        assert!(device.attached() && !device.read_only().unwrap());
        assert_eq!((device.size().unwrap(), device.block_size().unwrap()), (64 << 20, 4096));
        assert_eq!(device.backend(), None);
        sysfs.put("backend", "nbd://h/x\n");
        sysfs.put("size", "262144\n");
        assert_eq!(device.backend().as_deref(), Some("nbd://h/x"));
        assert_eq!(device.size().unwrap(), 128 << 20);
    }

    #[test]
    fn requests_are_bounded_only_where_they_would_be_longer() {
        let sysfs = Sysfs::new("bounds");
        let device = Device::below(Path::new("/dev/nbd3"), &sysfs.0).unwrap();
        sysfs.put("queue/max_sectors_kb", "1280\n");
        device.bound_requests(32 << 20).unwrap();
        assert_eq!(device.number("queue/max_sectors_kb").unwrap(), 1280);
        device.bound_requests(64 << 10).unwrap();
        assert_eq!(device.number("queue/max_sectors_kb").unwrap(), 64);
    }

    #[test]
    fn a_file_that_says_no_number_is_named() {
        let sysfs = Sysfs::new("bad");
        let device = Device::below(Path::new("/dev/nbd3"), &sysfs.0).unwrap();
        sysfs.put("size", "many\n");
        let said = device.size().unwrap_err().to_string();
        assert!(said.contains("nbd3/size"), "{said}");
        assert!(device.read_only().is_err());
    }
}
