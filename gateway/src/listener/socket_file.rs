//! The files of Unix sockets: removed only when they are still the ones that this process bound.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::BindError;

/// Device and inode: a path can lead to another file by now.
type Identity = (u64, u64);

/// The path of a Unix socket that this process bound; the file is removed when this is dropped, unless another file has
/// taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// None: it was gone before it could be looked at.
    identity: Option<Identity>,
}

impl SocketFile {
    /// The file at `path`, which has just been bound.
    pub(crate) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Somebody else may have removed it since.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Which socket is at `path` itself, not where a link leads.
fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    meta.file_type().is_socket().then(|| (meta.dev(), meta.ino()))
}

/// Removes a socket that nobody listens on any more; anything else in the way is an error.
pub(crate) async fn clear_way(path: &Path) -> Result<(), BindError> {
    let shown = path.display().to_string();
    let found = identity(path);
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if !meta.file_type().is_socket() => Err(BindError::NotASocket(shown)),
        Ok(_) => match tokio::net::UnixStream::connect(path).await {
            // Another process may have replaced it just now.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && identity(path) == found => {
                std::fs::remove_file(path).map_err(|error| BindError::Bind { address: format!("unix:{shown}"), error })
            }
            // Its end came in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A queue that is full, or a socket that others may not use, has an owner too.
            Ok(_) | Err(_) => Err(BindError::Busy(shown)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_file_that_belongs_to_a_successor_by_now_stays() {
        let path = std::env::temp_dir().join(format!("nbd-gateway-socket-file-{}", std::process::id()));
        let ours = UnixListener::bind(&path).unwrap();
        let file = SocketFile::of(&path);
        std::fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path).unwrap();
        drop((file, ours));
        assert!(path.exists(), "the successor's");
        assert!(matches!(clear_way(&path).await, Err(BindError::Busy(_))));
        drop(successor);
        clear_way(&path).await.unwrap();
        assert!(!path.exists(), "nobody's");
        let ours = UnixListener::bind(&path).unwrap();
        let file = SocketFile::of(&path);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        drop((file, ours));
        assert!(path.exists(), "no socket at all");
        std::fs::remove_file(&path).unwrap();
    }
}
