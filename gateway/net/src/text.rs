//! Texts that others wrote, made fit for one line of a log.

use std::borrow::Cow;
use std::fmt::Write;

/// One line: lines joined by ` / `, other control characters (a terminal would obey them) shown as `\u{1b}`, what is no
/// UTF-8 as U+FFFD.
pub fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut out = String::new();
    for line in lines {
        if !out.is_empty() {
            out.push_str(" / ");
        }
        for character in line.chars() {
            match character {
                '\t' => out.push(' '),
                c if is_harmful(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
    }
    out
}

/// Whether a terminal obeys a character, or people are led astray by it: what turns the direction of writing around, and
/// what is not to be seen at all (joiners, tags, separators of lines). The page has the same (`plain` in words.js).
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
        // Letters that show nothing.
        || matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}')
        || matches!(c, '\u{2800}' | '\u{3164}' | '\u{ffa0}')
}

/// The same text with each harmful character but line breaks as `\u202e`: in JSON it means the same, and elsewhere people see it.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let harms = |c: char| c != '\n' && is_harmful(c);
    if !text.contains(harms) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().saturating_add(16));
    for c in text.chars() {
        if harms(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A String takes everything.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_become_one_and_nothing_commands_a_terminal() {
        assert_eq!(clean(b"  first\r\n\n\tsecond\tpart\n"), "first / second part");
        assert_eq!(clean(b"\x1b[31mred\x07\x00"), "\\u{1b}[31mred\\u{7}\\u{0}");
        assert_eq!(clean("a\u{202e}b\u{9b}c".as_bytes()), "a\\u{202e}b\\u{9b}c");
        assert_eq!(clean(b"caf\xc3\xa9 \xff"), "café \u{fffd}");
        assert_eq!(clean(b""), "");
    }

    #[test]
    fn a_text_in_json_means_the_same_when_nothing_in_it_commands_a_terminal() {
        let name = "a\u{202e}b\u{9b}c\u{e0001}é";
        let json = serde_json::to_string(name).unwrap();
        let safe = escaped(&json);
        assert_eq!(safe, "\"a\\u202eb\\u009bc\\udb40\\udc01é\"");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), name);
        assert!(matches!(escaped("two\nlines"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn whatever_was_written_is_one_line_without_control_characters(bytes: Vec<u8>) {
            prop_assert!(!clean(&bytes).contains(char::is_control));
        }
    }
}
