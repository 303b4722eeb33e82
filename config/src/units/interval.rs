//! Times: milliseconds to hours.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{UnitError, split};

const WHAT: &str = "a time: write a number and a unit, like 250ms, 30s, 5m or 1h";
const KNOWN: &str = "ms, s, m or h";

/// In milliseconds; largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A length of time in whole milliseconds, written `250ms`, `30s`, `1.5s`, `5m` or `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Interval(u64);

impl Interval {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// So many seconds; more than fit become the longest time.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    /// The number of milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The same as a std duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Interval> for Duration {
    fn from(interval: Interval) -> Self {
        interval.duration()
    }
}

impl FromStr for Interval {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, WHAT)?;
        if unit.is_empty() {
            return Err(UnitError::NoUnit { text: text.to_owned(), known: KNOWN });
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(UnitError::Unit { text: text.to_owned(), unit: unit.to_owned(), known: KNOWN });
        };
        match number.times(*scale) {
            None => Err(UnitError::TooLarge(text.to_owned())),
            Some((_, false)) => Err(UnitError::TooFine { text: text.to_owned(), finest: "one millisecond" }),
            Some((millis, true)) => Ok(Self(millis)),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, scale): &&(&str, u64)| self.0.is_multiple_of(*scale);
        match UNITS.iter().find(whole) {
            Some((unit, scale)) if self.0 != 0 => write!(f, "{}{unit}", self.0 / scale),
            _ => f.write_str("0s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> u64 {
        text.parse::<Interval>().unwrap_or_else(|fault| panic!("{fault}")).millis()
    }

    fn fault(text: &str) -> String {
        text.parse::<Interval>().unwrap_err().to_string()
    }

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(millis("250ms"), 250);
        assert_eq!(millis("30s"), 30_000);
        assert_eq!(millis("1.5s"), 1_500);
        assert_eq!(millis("5m"), 300_000);
        assert_eq!(millis("1h"), 3_600_000);
        assert_eq!(millis("0s"), 0);
        assert_eq!("30s".parse::<Interval>().map(Duration::from), Ok(Duration::from_secs(30)));
    }

    #[test]
    fn what_is_not_a_time_says_what_one_is() {
        assert_eq!(fault("soon"), "`soon` is not a time: write a number and a unit, like 250ms, 30s, 5m or 1h");
        assert_eq!(fault("30"), "`30` has no unit: use ms, s, m or h");
        assert_eq!(fault("30sec"), "`30sec` has the unknown unit `sec`: use ms, s, m or h");
        assert_eq!(fault("0.5ms"), "`0.5ms` is finer than one millisecond");
        assert_eq!(fault("18446744073709551615s"), "`18446744073709551615s` is too large: it does not fit in 64 bits");
    }

    #[test]
    fn a_time_is_printed_in_its_largest_whole_unit() {
        for text in ["0s", "250ms", "1500ms", "90s", "5m", "1h", "25h"] {
            assert_eq!(text.parse::<Interval>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_time(millis: u64, shift in 0u32..64, scale in 0usize..4) {
            let interval = Interval::from_millis((millis >> shift).saturating_mul(UNITS[scale].1));
            prop_assert_eq!(interval.to_string().parse::<Interval>(), Ok(interval));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.]{0,25} ?[a-z]{0,3}") {
            let _ = text.parse::<Interval>();
        }
    }
}
