//! Where a file is, and the way to it: from the root for one that an operator named, and for one that a client named from
//! the directory that the operator meant, without a link on the way.

use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno as Os;

use super::DiskError;

/// Where a file is, and what may be made on the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Of a path that a client's name was put into: it is reached from there, and nothing on the way can be a link.
    pub(crate) beneath: Option<PathBuf>,
    /// Missing directories above the file are made together with it.
    pub(crate) makes_directories: bool,
}

impl Place {
    /// The file of that path, as an operator wrote it. Links are followed, and no directory is made.
    pub(crate) fn named(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), beneath: None, makes_directories: false }
    }

    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, DiskError> {
        let Some(beneath) = &self.beneath else {
            return rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|os| self.refused("open", os));
        };
        let (directory, name) = self.walk(false)?;
        // udev's links, like a volume group's to its volumes, are not made by who can make files there.
        let follow = if beneath.starts_with("/dev") { OFlags::empty() } else { OFlags::NOFOLLOW };
        rustix::fs::openat(&directory, name, flags | follow, Mode::empty()).map_err(|os| self.refused("open", os))
    }

    /// Makes the file, for its owner alone: it holds somebody's disk. Its name is durable when this returns.
    pub(super) fn make(&self, flags: OFlags) -> Result<OwnedFd, DiskError> {
        let (directory, name) = self.walk(true)?;
        // EXCL follows no link: what a link to nowhere would make is not what its name says.
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let file = match rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Os::EXIST) => Err(DiskError::Link { path: self.path.clone() }),
            made => made.map_err(|os| self.refused("make", os)),
        }?;
        rustix::fs::fsync(&directory).map_err(|os| self.refused("make", os))?;
        Ok(file)
    }

    /// The directory of the file, and the file's name there.
    fn walk(&self, make: bool) -> Result<(OwnedFd, &Path), DiskError> {
        let parent = match self.path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let start = self.beneath.as_deref().unwrap_or(parent);
        if make && self.makes_directories {
            std::fs::create_dir_all(start).map_err(|source| DiskError::Io {
                doing: "make",
                path: start.into(),
                source,
            })?;
        }
        // To pass through a directory is less than to read it, which only the sync of a new name needs.
        let access = if make { OFlags::RDONLY } else { OFlags::PATH };
        let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::openat(CWD, start, flags, Mode::empty()).map_err(|os| match os {
            Os::NOENT if make => DiskError::NoDirectory { path: self.path.clone(), directory: start.into() },
            os => self.refused("open", os),
        })?;
        let Some(beneath) = &self.beneath else {
            return Ok((directory, self.path.file_name().map_or(&self.path, Path::new)));
        };
        let outside = || self.refused("open", Os::XDEV);
        let below = self.path.strip_prefix(beneath).map_err(|_| outside())?;
        let mut parts = below.components().peekable();
        while let Some(Component::Normal(part)) = parts.next() {
            if parts.peek().is_none() {
                return Ok((directory, Path::new(part)));
            }
            let open =
                |directory: &OwnedFd| rustix::fs::openat(directory, part, flags | OFlags::NOFOLLOW, Mode::empty());
            let next = match open(&directory) {
                Err(Os::NOENT) if make => {
                    match rustix::fs::mkdirat(&directory, part, Mode::RWXU) {
                        Ok(()) => rustix::fs::fsync(&directory).map_err(|os| self.refused("make", os))?,
                        // Another opening was quicker.
                        Err(Os::EXIST) => {}
                        Err(os) => return Err(self.refused("make", os)),
                    }
                    open(&directory)
                }
                next => next,
            };
            directory = next.map_err(|os| self.refused("open", os))?;
        }
        // A part that is no name.
        Err(outside())
    }

    fn refused(&self, doing: &'static str, os: Os) -> DiskError {
        let path = self.path.clone();
        match os {
            Os::NOENT if doing == "open" => DiskError::Missing { path },
            Os::ISDIR => DiskError::NotADisk { path },
            Os::LOOP if self.beneath.is_some() => DiskError::Link { path },
            os => DiskError::Io { doing, path, source: os.into() },
        }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Place {
    fn from(path: &P) -> Self {
        Self::named(path.as_ref())
    }
}
