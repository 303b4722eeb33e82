//! Who may change something: whoever brings the token of the token file. Checked before a body is read. A token is an
//! operator's own business, but for the gateway that was given no configuration: that makes itself one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::RwLock;

use super::answer::refuse;

/// The token's file, if there is one; read anew at each request, so that a token can be changed without a restart. Cheap to
/// clone: all clones name the same file.
#[derive(Clone, Debug)]
pub struct TokenFile(Arc<RwLock<Option<PathBuf>>>);

impl TokenFile {
    /// It is this one.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self(Arc::new(RwLock::new(path)))
    }

    /// It is this one from now on.
    pub fn set(&self, path: Option<PathBuf>) {
        *self.0.write() = path;
    }
}

/// Lets a request pass that brings the token.
pub(super) async fn require(State(token): State<TokenFile>, request: Request, next: Next) -> Response {
    let path = token.0.read().clone();
    let Some(path) = path else {
        return refuse(StatusCode::FORBIDDEN, "nothing can be changed here: set admin.token-file in the configuration");
    };
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the admin token can't be read");
            return refuse(StatusCode::FORBIDDEN, "the token file can't be read; the gateway's log says why");
        }
    };
    let wanted = text.lines().next().unwrap_or("").trim();
    let brought = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or("");
    if wanted.is_empty() || !same(wanted.as_bytes(), brought.trim().as_bytes()) {
        return refuse(StatusCode::UNAUTHORIZED, "bring the token: Authorization: Bearer TOKEN");
    }
    next.run(request).await
}

/// Writes a token that nobody knows to a file that only its owner can read, in place of whatever was there.
pub fn write_fresh_token(path: &Path) -> io::Result<()> {
    let mut secret = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let mut line: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    line.push('\n');
    // Not over what is there: that could be a link, or a file that others have open.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(line.as_bytes())
}

/// Compares in a time that depends on the lengths alone.
fn same(wanted: &[u8], brought: &[u8]) -> bool {
    let differing = wanted.iter().zip(brought).fold(0u8, |all, (a, b)| all | (a ^ b));
    wanted.len() == brought.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{same, write_fresh_token};

    #[test]
    fn a_fresh_token_takes_the_place_of_what_is_there_and_is_its_owners_alone() {
        let folder = std::env::temp_dir().join(format!("nbd-gateway-token-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (path, other) = (folder.join("token"), folder.join("other"));
        fs::write(&other, "theirs").unwrap();
        symlink(&other, &path).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            write_fresh_token(&path).unwrap();
            let about = fs::symlink_metadata(&path).unwrap();
            assert!(about.is_file());
            assert_eq!(about.permissions().mode() & 0o777, 0o600);
            seen.push(fs::read_to_string(&path).unwrap());
        }
        assert_ne!(seen[0], seen[1]);
        assert_eq!(seen[0].trim_end().len(), 48);
        assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
        fs::remove_dir_all(&folder).unwrap();
        assert!(write_fresh_token(&path).is_err());
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secre", b"secrets", b""] {
            assert!(!same(b"secret", other));
        }
    }
}
