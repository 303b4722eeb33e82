//! Who may change something: whoever brings the token of the token file. Checked before a body is read.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::RwLock;
use rustix::fs::OFlags;

use super::answer::refuse;

/// The most that is read of a token's file, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The token's file, if there is one; read anew at each request, so that a token can be changed without a restart. Cheap to
/// clone: all clones name the same file.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile(Arc<RwLock<Option<PathBuf>>>);

impl TokenFile {
    /// It is this one.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self(Arc::new(RwLock::new(path)))
    }

    /// It is this one from now on.
    pub(crate) fn set(&self, path: Option<PathBuf>) {
        *self.0.write() = path;
    }
}

/// Lets a request pass that brings the token.
pub(super) async fn require(State(token): State<TokenFile>, request: Request, next: Next) -> Response {
    let path = token.0.read().clone();
    let Some(path) = path else {
        return refuse(StatusCode::FORBIDDEN, "nothing can be changed here: set admin.token-file in the configuration");
    };
    let text = match read_token_file(&path).await {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the admin token can't be read");
            return refuse(StatusCode::FORBIDDEN, "the token file can't be read; the gateway's log says why");
        }
    };
    let wanted = token_in(&text);
    let brought = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(bearer)
        .unwrap_or("");
    if wanted.is_empty() || !same(wanted.as_bytes(), brought.trim().as_bytes()) {
        return refuse(StatusCode::UNAUTHORIZED, "bring the token: Authorization: Bearer TOKEN");
    }
    next.run(request).await
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

/// The token of a header's value. The scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token)
}

/// Compares in a time that depends on the lengths alone.
fn same(wanted: &[u8], brought: &[u8]) -> bool {
    let differing = wanted.iter().zip(brought).fold(0u8, |all, (a, b)| all | (a ^ b));
    wanted.len() == brought.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::{bearer, read_token_file, same};

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

    #[test]
    fn a_token_is_brought_by_its_scheme() {
        for value in ["Bearer a b", "bearer a b", "BEARER a b"] {
            assert_eq!(bearer(value), Some("a b"));
        }
        for value in ["", "Bearer", "Basic a b", "a b"] {
            assert_eq!(bearer(value), None);
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secre", b"secrets", b""] {
            assert!(!same(b"secret", other));
        }
    }
}
