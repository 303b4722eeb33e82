//! How names and moments are shown in tables: short, and harmless to a terminal.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use nbd_gateway_net::is_harmful;
use nbd_gateway_policy::types::Bytes;
use unicode_width::UnicodeWidthChar;

/// A size, rounded down.
pub(super) fn brief(bytes: u64) -> String {
    Bytes(bytes).brief()
}

/// A size that may be missing.
pub(super) fn bound(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), brief)
}

/// A moment in UTC, to the second: `2026-11-23 02:37:22`. It comes in milliseconds since 1970. After the year 9999, in seconds
/// since then, which can be asked for too.
pub(super) fn moment(millis: u64) -> String {
    let seconds = millis / 1000;
    let since = i64::try_from(seconds).ok().map(SignedDuration::from_secs);
    let at = since.and_then(|since| DateTime::constant(1970, 1, 1, 0, 0, 0, 0).checked_add(since).ok());
    at.map_or_else(|| seconds.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A text that others chose, without what would move a terminal's cursor, colour it, reverse it or not be seen at all.
pub(super) fn plain(text: &str) -> String {
    let seen: String = text.chars().map(visible).collect();
    // Blanks at an end, or nothing at all, are seen between quotes.
    if text.is_empty() || text.trim() != text { format!("\"{seen}\"") } else { seen }
}

fn visible(c: char) -> char {
    if is_harmful(c) { '\u{fffd}' } else { c }
}

/// The same of a sentence of the gateway's, which may have lines.
pub(super) fn plain_lines(text: &str) -> String {
    text.lines().map(|line| line.chars().map(visible).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// How many columns of a terminal a text takes.
pub(super) fn length(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// How many one character does: ideographs two, an accent none.
pub(super) fn columns(c: char) -> usize {
    c.width().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_is_a_date_and_a_time_of_the_day() {
        // As `date --utc --date=@SECONDS` has them.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (1_795_401_442, "2026-11-23 02:37:22"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (15_000_000_000, "2445-05-01 02:40:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
            (253_402_300_800, "253402300800"),
        ] {
            assert_eq!(moment(seconds * 1000 + 999), text);
        }
    }

    #[test]
    fn a_name_can_do_nothing_to_a_terminal() {
        assert_eq!(plain("a/b"), "a/b");
        assert_eq!(plain("é\u{1b}[31m\n\u{202e}x"), "é\u{fffd}[31m\u{fffd}\u{fffd}x");
        assert_eq!(plain(""), "\"\"");
        assert_eq!(plain(" "), "\" \"");
        assert_eq!(plain("vm "), "\"vm \"");
        for hidden in ['\u{61c}', '\u{2060}', '\u{2066}', '\u{ad}', '\u{fffa}', '\u{e0041}', '\u{9b}'] {
            assert_eq!(plain(&format!("a{hidden}b")), "a\u{fffd}b");
        }
    }

    #[test]
    fn a_sentence_of_many_lines_keeps_them() {
        assert_eq!(plain_lines("a\n\n\u{1b}b\n"), "a\n\n\u{fffd}b");
        assert_eq!(plain_lines(""), "");
    }

    #[test]
    fn a_character_takes_the_columns_that_a_terminal_gives_it() {
        for (text, columns) in
            [("a/b", 3), ("é", 1), ("e\u{301}", 1), ("ディスク", 8), ("한글", 4), ("📦", 2), ("…", 1)]
        {
            assert_eq!(length(text), columns, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_that_is_shown_can_be_asked_for(
            seconds in prop_oneof![0..253_402_300_800_u64, 253_402_000_000..253_403_000_000_u64, 0..u64::MAX / 1000],
        ) {
            let asked: nbd_gateway_config::Moment = moment(seconds * 1000).parse().unwrap();
            prop_assert_eq!(asked.millis(), seconds * 1000);
        }
    }
}
