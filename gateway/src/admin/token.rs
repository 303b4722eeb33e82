//! Who may change something: whoever brings the token of the token file. Checked before a body is read.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;

use super::answer::{Answer, refuse};
use crate::token::{TokenFile, read_token_file, token_in};

/// Lets a request pass that brings the token.
pub(super) async fn require(State(token): State<TokenFile>, request: Request, next: Next) -> Answer {
    let forbidden = |says: &str| refuse(StatusCode::FORBIDDEN, says);
    let no_file = || forbidden("nothing can be changed here: set admin.token-file in the configuration");
    let path = token.path().ok_or_else(no_file)?;
    let text = read_token_file(&path).await.map_err(|error| {
        tracing::error!(path = %path.display(), %error, "the admin token can't be read");
        forbidden("the token file can't be read; the gateway's log says why")
    })?;
    let wanted = token_in(&text);
    let brought = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(bearer)
        .unwrap_or("");
    if wanted.is_empty() || !same(wanted.as_bytes(), brought.trim().as_bytes()) {
        return Err(refuse(StatusCode::UNAUTHORIZED, "bring the token: Authorization: Bearer TOKEN"));
    }
    Ok(next.run(request).await)
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
    use super::{bearer, same};

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
