//! How amounts, counts and lengths of time are written in sentences: one way for the whole program.

use std::fmt;
use std::time::Duration;

/// The units of bytes: those of powers of 1024, in which amounts are shown, before those of powers of 1000. Largest first.
pub const BYTE_UNITS: [(&str, u64); 12] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// An amount in a unit of which it has at least one.
struct Scaled {
    unit: &'static str,
    whole: u64,
    /// Rounded down.
    thousandths: u64,
    exact: bool,
}

impl Scaled {
    fn new(bytes: u64, (unit, scale): (&'static str, u64)) -> Option<Self> {
        let whole = bytes.checked_div(scale).filter(|whole| *whole > 0)?;
        let (rest, scale) = (u128::from(bytes % scale) * 1000, u128::from(scale));
        let thousandths = u64::try_from(rest / scale).unwrap_or(999);
        Some(Self { unit, whole, thousandths, exact: rest.is_multiple_of(scale) })
    }

    /// In the largest power of 1024 that fits; none of less than 1 KiB.
    fn largest(bytes: u64) -> Option<Self> {
        BYTE_UNITS.into_iter().take(6).find_map(|unit| Self::new(bytes, unit))
    }

    /// `1`, `1.5`, `1.125`.
    fn number(&self) -> String {
        match self.thousandths {
            0 => self.whole.to_string(),
            decimals => format!("{}.{}", self.whole, format!("{decimals:03}").trim_end_matches('0')),
        }
    }
}

/// Writes bytes in the largest unit that fits: exactly if three decimals can (`1.5 GiB`), else rounded down to two and
/// followed by all bytes (`1.81 TiB (2000000000000 bytes)`). What is under 10 KiB and no whole number of KiB stays in
/// bytes. 2^64-1 is where sums end, so it says so.
pub(super) fn bytes(bytes: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if bytes == u64::MAX {
        return f.write_str("at least 16 EiB");
    }
    match Scaled::largest(bytes) {
        Some(scaled) if scaled.exact => write!(f, "{} {}", scaled.number(), scaled.unit),
        Some(Scaled { unit, whole, thousandths, .. }) if bytes >= 10 << 10 => {
            write!(f, "{whole}.{:02} {unit} ({bytes} bytes)", thousandths / 10)
        }
        _ => write!(f, "{}", Count(bytes, "byte")),
    }
}

/// In the shortest way that is exact: `1.5GiB`, `128MB`, `65537`.
pub(super) fn written(bytes: u64) -> String {
    let exact = |scaled: &Scaled| scaled.exact && (scaled.thousandths == 0 || scaled.unit.ends_with("iB"));
    let scaled = BYTE_UNITS.into_iter().filter_map(|unit| Scaled::new(bytes, unit)).filter(exact);
    // Of two that are as short, the first: the larger unit.
    let shortest = scaled.map(|scaled| scaled.number() + scaled.unit).min_by_key(String::len);
    shortest.unwrap_or_else(|| bytes.to_string())
}

/// With a digit after the point where that says more: `1.5GiB`. Rounded down, so that what is left is never more than is
/// shown. A sum that does not fit 64 bits has a mark.
pub(super) fn brief(bytes: u64) -> String {
    match Scaled::largest(bytes) {
        _ if bytes == u64::MAX => "≥16EiB".to_owned(),
        Some(Scaled { unit, whole, thousandths: 0..100, .. }) => format!("{whole}{unit}"),
        Some(Scaled { unit, whole, thousandths, .. }) => format!("{whole}.{}{unit}", thousandths / 100),
        None => format!("{bytes}B"),
    }
}

/// So many of something, whose plural ends in "s": `1 session`, `3 sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64, pub &'static str);

impl Count {
    /// The same of a length.
    #[must_use]
    pub fn of(number: usize, one: &'static str) -> Self {
        Self(u64::try_from(number).unwrap_or(u64::MAX), one)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one) = self;
        write!(f, "{number} {one}{}", if *number == 1 { "" } else { "s" })
    }
}

/// A length of time in at most two units, rounded up: `250ms`, `1.5s`, `90s`, `5m`, `1h 30m`, `2d 3h`. A client that waits
/// as long as it is told never comes too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u128 = 60;
        const HOUR: u128 = 60 * MINUTE;
        const DAY: u128 = 24 * HOUR;
        let pair = |f: &mut fmt::Formatter<'_>, large: u128, one: &str, small: u128, other: &str| match small {
            0 => write!(f, "{large}{one}"),
            _ => write!(f, "{large}{one} {small}{other}"),
        };
        let millis = self.0.as_nanos().div_ceil(1_000_000);
        let tenths = millis.div_ceil(100);
        let (seconds, minutes) = (millis.div_ceil(1000), millis.div_ceil(1000 * MINUTE));
        let hours = millis.div_ceil(1000 * HOUR);
        match () {
            () if millis == 0 => f.write_str("0s"),
            () if millis < 1000 => write!(f, "{millis}ms"),
            () if tenths < 100 && !tenths.is_multiple_of(10) => write!(f, "{}.{}s", tenths / 10, tenths % 10),
            () if seconds < 2 * MINUTE && seconds != MINUTE => write!(f, "{seconds}s"),
            () if seconds < HOUR => pair(f, seconds / MINUTE, "m", seconds % MINUTE, "s"),
            () if minutes < 2 * 24 * 60 => pair(f, minutes / 60, "h", minutes % 60, "m"),
            () => pair(f, hours * HOUR / DAY, "d", hours % 24, "h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bytes;

    #[test]
    fn bytes_are_written_in_the_unit_that_a_person_would_choose() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1000, "1000 bytes"),
            (1024, "1 KiB"),
            (1025, "1025 bytes"),
            (1536, "1.5 KiB"),
            (8 << 30, "8 GiB"),
            (1536 << 20, "1.5 GiB"),
            (125_000 << 10, "122.07 MiB (128000000 bytes)"),
            (1152 << 20, "1.125 GiB"),
            ((1 << 30) + 1, "1.00 GiB (1073741825 bytes)"),
            (2_000_000_000_000, "1.81 TiB (2000000000000 bytes)"),
            ((1 << 63) - 1, "7.99 EiB (9223372036854775807 bytes)"),
            (u64::MAX - 1, "15.99 EiB (18446744073709551614 bytes)"),
            (u64::MAX, "at least 16 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn an_amount_is_written_in_the_shortest_way_that_is_exact() {
        for (bytes, text) in [
            (0, "0"),
            (65537, "65537"),
            (1536 << 20, "1.5GiB"),
            (125_000 << 10, "128MB"),
            (1025 << 20, "1025MiB"),
            (10 << 30, "10GiB"),
            ((1 << 63) - 1, "9223372036854775807"),
        ] {
            assert_eq!(Bytes(bytes).written(), text);
        }
    }

    #[test]
    fn an_amount_in_brief_is_rounded_down() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536 << 20, "1.5GiB"),
            ((2 << 30) - 1, "1.9GiB"),
            (10 << 30, "10GiB"),
            (u64::MAX - 1, "15.9EiB"),
            (u64::MAX, "≥16EiB"),
        ] {
            assert_eq!(Bytes(bytes).brief(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_amount_in_brief_takes_more_than_nine_columns(bytes: u64) {
            proptest::prop_assert!(Bytes(bytes).brief().chars().count() <= 9, "{}", Bytes(bytes).brief());
        }
    }

    #[test]
    fn one_of_something_is_not_many() {
        assert_eq!(Count(0, "session").to_string(), "0 sessions");
        assert_eq!(Count(1, "session").to_string(), "1 session");
        assert_eq!(Count(2, "session").to_string(), "2 sessions");
    }

    #[test]
    fn a_time_has_two_units_at_most_and_is_never_too_short() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (250_000_000, "250ms"),
            (999_999_999, "1s"),
            (1_500_000_000, "1.5s"),
            (1_500_000_001, "1.6s"),
            (9_950_000_000, "10s"),
            (30_000_000_000, "30s"),
            (59_999_999_999, "1m"),
            (90_000_000_000, "90s"),
            (119_000_000_001, "2m"),
            (150_000_000_000, "2m 30s"),
            (3_599_999_999_999, "1h"),
            (5_400_000_000_000, "1h 30m"),
            (86_399_999_999_999, "24h"),
            (183_600_000_000_000, "2d 3h"),
        ] {
            assert_eq!(Span(Duration::from_nanos(nanos)).to_string(), text, "{nanos}");
        }
    }
}
