//! Stock NBD servers, started in the ways that vary what they can do. A [`Served`] is one of them with one disk on a
//! Unix socket, and it can tell what that disk holds by a way that does not lead through the gateway.

mod nbd_server;
pub(crate) mod nbdkit;
pub(crate) mod qemu;

use std::fs;
use std::path::{Path, PathBuf};

use crate::image::Image;
use crate::place::Place;
use crate::process::{Call, Running};
use crate::trouble::Trouble;

pub(crate) use nbdkit::{nbdkit, nbdkit_as_it_is, nbdkit_on};
pub(crate) use qemu::with_tls as qemu_with_tls;

/// The servers of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    NbdkitMemory,
    NbdkitFile,
    NbdkitData,
    NbdkitReadOnly,
    NbdkitNoParallel,
    NbdkitNoMultiConn,
    NbdkitSimple,
    NbdkitBlocks,
    NbdkitDelay,
    NbdkitNoZero,
    NbdkitNoFua,
    NbdkitEmulated,
    QemuNbd,
    QemuNbdShared,
    QemuNbdQcow2,
    StorageDaemon,
    Reference,
}

impl Server {
    pub(crate) const ALL: &[Self] = &[
        Self::NbdkitMemory,
        Self::NbdkitFile,
        Self::NbdkitData,
        Self::NbdkitReadOnly,
        Self::NbdkitNoParallel,
        Self::NbdkitNoMultiConn,
        Self::NbdkitSimple,
        Self::NbdkitBlocks,
        Self::NbdkitDelay,
        Self::NbdkitNoZero,
        Self::NbdkitNoFua,
        Self::NbdkitEmulated,
        Self::QemuNbd,
        Self::QemuNbdShared,
        Self::QemuNbdQcow2,
        Self::StorageDaemon,
        Self::Reference,
    ];

    /// What the table in the README calls it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::NbdkitMemory => "nbdkit memory",
            Self::NbdkitFile => "nbdkit file",
            Self::NbdkitData => "nbdkit data",
            Self::NbdkitReadOnly => "nbdkit file, read-only",
            Self::NbdkitNoParallel => "nbdkit memory, one request at a time (noparallel)",
            Self::NbdkitNoMultiConn => "nbdkit memory, no multi-conn",
            Self::NbdkitSimple => "nbdkit file, simple replies only (`--no-sr`)",
            Self::NbdkitBlocks => "nbdkit memory, blocks of 4 KiB to 1 MiB (blocksize-policy)",
            Self::NbdkitDelay => "nbdkit memory, slow (delay)",
            Self::NbdkitNoZero => "nbdkit memory, no write-zeroes, no extents",
            Self::NbdkitNoFua => "nbdkit file, no FUA, no cache",
            Self::NbdkitEmulated => "nbdkit file, zeroes and FUA emulated",
            Self::QemuNbd => "qemu-nbd, raw, one connection (`-e 1`)",
            Self::QemuNbdShared => "qemu-nbd, raw, shared (`-e 16`)",
            Self::QemuNbdQcow2 => "qemu-nbd, qcow2 with a dirty bitmap and allocation depth",
            Self::StorageDaemon => "qemu-storage-daemon",
            Self::Reference => "nbd-server",
        }
    }

    pub(crate) const fn writable(self) -> bool {
        !matches!(self, Self::NbdkitReadOnly)
    }

    /// Starts it with `image` on its disk.
    pub(crate) fn start(self, image: &Image) -> Result<Served, Trouble> {
        match self {
            Self::NbdkitMemory => nbdkit(&[], &["memory", "8M"], image),
            Self::NbdkitFile => nbdkit(&[], &["file", "DISK"], image),
            Self::NbdkitData => nbdkit(&[], &["data", "size=8M", "data=@0x100000 1 2 3"], image),
            Self::NbdkitReadOnly => nbdkit(&["--readonly"], &["file", "DISK"], image),
            Self::NbdkitNoParallel => {
                nbdkit(&["--filter=noparallel"], &["memory", "8M", "serialize=all-requests"], image)
            }
            Self::NbdkitNoMultiConn => {
                nbdkit(&["--filter=multi-conn"], &["memory", "8M", "multi-conn-mode=disable"], image)
            }
            Self::NbdkitSimple => nbdkit(&["--no-sr"], &["file", "DISK"], image),
            Self::NbdkitBlocks => nbdkit(
                &["--filter=blocksize-policy"],
                &[
                    "memory",
                    "8M",
                    "blocksize-minimum=4096",
                    "blocksize-preferred=64K",
                    "blocksize-maximum=1M",
                    "blocksize-error-policy=error",
                ],
                image,
            ),
            Self::NbdkitDelay => nbdkit(&["--filter=delay"], &["memory", "8M", "rdelay=2ms", "wdelay=2ms"], image),
            Self::NbdkitNoZero => nbdkit(&["--filter=nozero", "--filter=noextents"], &["memory", "8M"], image),
            Self::NbdkitNoFua => nbdkit(&["--filter=fua", "--filter=nocache"], &["file", "DISK"], image),
            Self::NbdkitEmulated => nbdkit(
                &["--filter=nozero", "--filter=fua", "--filter=nocache"],
                &["file", "DISK", "zeromode=emulate", "fuamode=emulate", "cachemode=emulate"],
                image,
            ),
            Self::QemuNbd => qemu::raw(1, image),
            Self::QemuNbdShared => qemu::raw(16, image),
            Self::QemuNbdQcow2 => qemu::qcow2(image),
            Self::StorageDaemon => qemu::storage_daemon(image),
            Self::Reference => nbd_server::start(image),
        }
    }
}

/// Where the bytes of a server's disk are to be found without asking the gateway.
enum Disk {
    /// Only the server itself has them.
    InServer,
    /// In this file, in this format of qemu's.
    File(PathBuf, &'static str),
}

/// A server that is up.
pub(crate) struct Served {
    pub(crate) process: Running,
    pub(crate) export: &'static str,
    pub(crate) socket: PathBuf,
    disk: Disk,
    place: Place,
}

impl Served {
    /// The NBD URI of its export.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    /// Ends the server as a failing host would: SIGKILL, and no goodbye to anybody.
    pub(crate) fn kill(&mut self) -> Result<(), Trouble> {
        self.process.kill()?;
        // nbdkit does not replace what it left behind.
        for left in [self.socket.clone(), self.place.path("pid")] {
            if left.exists() {
                fs::remove_file(left)?;
            }
        }
        Ok(())
    }

    /// Starts it again, with the disk that it had.
    pub(crate) fn start_again(&mut self) -> Result<(), Trouble> {
        let pidfile = self.place.path("pid");
        self.process.start_again()?;
        self.process.await_ready("its pid file", || pidfile.exists())
    }

    /// The file that the disk is in.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.disk {
            Disk::InServer => None,
            Disk::File(path, _) => Some(path),
        }
    }

    /// What the disk holds. Stops the server if the disk is a file, so nobody may need it any more.
    pub(crate) fn content(&mut self) -> Result<Image, Trouble> {
        let copy = self.place.path("content.raw");
        match &self.disk {
            Disk::InServer => {
                Call::new("nbdcopy").arg(self.uri()).arg(&copy).run()?.success()?;
            }
            Disk::File(path, format) => {
                let path = path.clone();
                let format = *format;
                self.process.stop()?;
                Call::new("qemu-img")
                    .args(["convert", "-f", format, "-O", "raw"])
                    .arg(path)
                    .arg(&copy)
                    .run()?
                    .success()?;
            }
        }
        Image::read_from(&copy)
    }
}
