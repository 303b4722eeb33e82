//! Stock NBD clients, each doing what it is used for. An *observer* says what it saw, and must see the same through the
//! gateway as without it; a *worker* reads what was there, changes it, and says what the disk must hold afterwards.

mod fio;
mod libnbd;
mod nbd_client;
pub(crate) mod parity;
mod qemu;

pub(crate) use libnbd::{map_of, run_python};

use serde_json::Value;

use crate::image::Image;
use crate::place::Place;
use crate::route::Target;
use crate::trouble::Trouble;

/// What a worker finds.
pub(crate) struct Scene {
    /// What the disk holds.
    pub(crate) before: Image,
    pub(crate) writable: bool,
    /// For files of its own.
    pub(crate) place: Place,
}

impl Scene {
    fn file(&self, name: &str, image: &Image) -> Result<std::path::PathBuf, Trouble> {
        let path = self.place.path(name);
        image.write_to(&path)?;
        Ok(path)
    }
}

/// How a client is put to the test.
pub(crate) enum Task {
    Observe(fn(&Target) -> Result<Value, Trouble>),
    Work(fn(&Target, &Scene) -> Result<Image, Trouble>),
}

/// The clients of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    QemuImgInfo,
    QemuImgConvert,
    QemuImgCompare,
    QemuImgMap,
    QemuIo,
    Nbdinfo,
    NbdinfoMap,
    Nbdcopy,
    Libnbd,
    Fio,
    NbdClientList,
}

impl Client {
    pub(crate) const ALL: &[Self] = &[
        Self::QemuImgInfo,
        Self::QemuImgConvert,
        Self::QemuImgCompare,
        Self::QemuImgMap,
        Self::QemuIo,
        Self::Nbdinfo,
        Self::NbdinfoMap,
        Self::Nbdcopy,
        Self::Libnbd,
        Self::Fio,
        Self::NbdClientList,
    ];

    /// What the table in the README calls it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::QemuImgInfo => "qemu-img info",
            Self::QemuImgConvert => "qemu-img convert",
            Self::QemuImgCompare => "qemu-img compare",
            Self::QemuImgMap => "qemu-img map",
            Self::QemuIo => "qemu-io",
            Self::Nbdinfo => "nbdinfo",
            Self::NbdinfoMap => "nbdinfo --map",
            Self::Nbdcopy => "nbdcopy",
            Self::Libnbd => "libnbd (Python)",
            Self::Fio => "fio",
            Self::NbdClientList => "nbd-client -l",
        }
    }

    pub(crate) const fn task(self) -> Task {
        match self {
            Self::QemuImgInfo => Task::Observe(qemu::info),
            Self::QemuImgConvert => Task::Work(qemu::convert),
            Self::QemuImgCompare => Task::Work(qemu::compare),
            Self::QemuImgMap => Task::Observe(qemu::map),
            Self::QemuIo => Task::Work(qemu::io),
            Self::Nbdinfo => Task::Observe(libnbd::info),
            Self::NbdinfoMap => Task::Observe(libnbd::map),
            Self::Nbdcopy => Task::Work(libnbd::copy),
            Self::Libnbd => Task::Work(libnbd::python),
            Self::Fio => Task::Work(fio::verify),
            Self::NbdClientList => Task::Observe(nbd_client::list),
        }
    }
}
