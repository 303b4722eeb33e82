//! A directory of one's own for sockets, disks and logs, gone when its owner is. Paths stay short: a Unix socket's
//! address holds 107 bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::trouble::Trouble;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh directory; removed on drop.
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    pub(crate) fn fresh() -> Result<Self, Trouble> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("nbdgw-{}-{number}", process::id()));
        fs::create_dir(&root).map_err(|e| Trouble::new(format!("cannot make {}: {e}", root.display())))?;
        Ok(Self { root })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A directory that cannot be removed must not hide the failure that is being reported.
        let _ = fs::remove_dir_all(&self.root);
    }
}
