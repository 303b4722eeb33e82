//! Percent-encoding, strictly: what RFC 3986 does not allow unescaped is a fault that says how to write it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};

use super::UriError;

/// Everything but RFC 3986's unreserved characters and `/`, which both a path and a query may hold as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What a path or the value of a parameter may hold as it is, besides letters and digits: RFC 3986's `pchar`, `/` and
/// `?`, less `&`, which parts the parameters before this is asked.
const ALLOWED: &str = "-._~!$&'()*+,;=:@/?";

/// Escapes bytes for the path or a parameter of an URI.
pub(crate) fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, ESCAPED).to_string()
}

/// Decodes a part that is text.
pub(crate) fn decode(raw: &str) -> Result<String, UriError> {
    check(raw)?;
    match percent_decode_str(raw).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(UriError::NotUtf8),
    }
}

/// Decodes a part that is a path, which on Unix may be any bytes.
pub(crate) fn decode_path(raw: &str) -> Result<PathBuf, UriError> {
    check(raw)?;
    Ok(OsString::from_vec(percent_decode_str(raw).collect()).into())
}

fn check(raw: &str) -> Result<(), UriError> {
    let mut rest = raw.chars();
    while let Some(character) = rest.next() {
        if character == '%' {
            let digits: String = rest.clone().take(2).collect();
            if digits.len() != 2 || !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(UriError::Escape(format!("%{digits}")));
            }
            // Only the two digits: both are ASCII, checked above.
            rest = rest.as_str().get(2..).unwrap_or_default().chars();
        } else if !character.is_ascii_alphanumeric() && !ALLOWED.contains(character) {
            let encoded = utf8_percent_encode(character.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC).to_string();
            return Err(UriError::Character { character, encoded });
        }
    }
    Ok(())
}
