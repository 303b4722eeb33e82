//! For tests: scripts in a directory of the test's own.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, Mode};
use tokio::net::unix::pipe;

/// A directory, gone when its owner is.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("nbdgw-command-{}-{number}", std::process::id()));
        fs::create_dir(&root).unwrap();
        Self(root)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The words that run this script.
    pub(crate) fn script(&self, text: &str) -> Vec<String> {
        let path = self.path("script");
        fs::write(&path, text).unwrap();
        vec!["/bin/sh".to_owned(), path.display().to_string(), self.0.display().to_string()]
    }

    /// A FIFO that scripts hold open, from its reading end.
    pub(crate) fn fifo(&self) -> pipe::Receiver {
        let path = self.path("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        pipe::OpenOptions::new().open_receiver(&path).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}
