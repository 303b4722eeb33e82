//! The token of `admin.token-file`: without it the admin interface changes nothing.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::OFlags;

/// The most that is read of a token's file, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The token's file, if there is one; read anew at each request, so that a token can be changed without a restart. Cheap to
/// clone: all clones name the same file.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile(Arc<RwLock<Option<PathBuf>>>);

impl TokenFile {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self(Arc::new(RwLock::new(path)))
    }

    /// It is this one from now on.
    pub(crate) fn set(&self, path: Option<PathBuf>) {
        *self.0.write() = path;
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.0.read().clone()
    }
}

/// Reads a token's file. Anything but a regular file is refused: a FIFO would keep a thread until somebody writes to it.
pub(crate) async fn read_token_file(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let read = move || {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

/// The token of a file's text: its first line, without the space around it; empty if there is none.
pub(crate) fn token_in(text: &str) -> &str {
    text.lines().next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::read_token_file;

    #[tokio::test]
    async fn a_token_file_that_is_a_fifo_or_a_directory_is_refused_at_once() {
        let place = std::env::temp_dir().join(format!("nbd-gateway-token-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let fifo = place.join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [&fifo, &place] {
            assert_eq!(read_token_file(path).await.unwrap_err().to_string(), "it is not a regular file");
        }
        std::fs::write(place.join("token"), "secret\n").unwrap();
        assert_eq!(read_token_file(&place.join("token")).await.unwrap(), "secret\n");
        std::fs::remove_dir_all(place).unwrap();
    }
}
