//! The protocol's strings: their bound, and how text of a peer is made fit to be shown.

use crate::MAX_STRING;

/// Text from a peer, fit to be shown or logged: at most 4096 bytes, no control characters, no broken UTF-8.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes.get(..longest()).unwrap_or(bytes)).chars() {
        let c = if c.is_control() { ' ' } else { c };
        if text.len().saturating_add(c.len_utf8()) > longest() {
            break;
        }
        text.push(c);
    }
    text.truncate(text.trim_end().len());
    text
}

/// The front of `text` that fits the protocol's bound for strings, cut between two characters.
pub(crate) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(longest())).unwrap_or(text)
}

/// [`MAX_STRING`], for lengths in memory.
pub(crate) fn longest() -> usize {
    usize::try_from(MAX_STRING).unwrap_or(usize::MAX)
}

/// A length as the wire has it. No body here comes near the bound of its field.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
