//! Rates: so many, or so many bytes, per time.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use nbd_gateway_policy::types::Bytes;
use nbd_gateway_policy::words;

use super::{UnitError, bytes};

const WHAT: &str = "a rate: write a number per time, like 20/s, 10/min or 5/h";
const WHAT_SIZE: &str = "a rate of bytes: write a size per time, like 100MiB/s or 50GiB/h";
const KNOWN: &str = "/s, /min, /h or /d";

words! {
    /// The time that a rate counts over.
    #[derive(Hash)]
    pub enum Per {
        /// `/s`
        Second => "s",
        /// `/min`
        Minute => "min",
        /// `/h`
        Hour => "h",
        /// `/d`, 24 hours
        Day => "d",
    }
}

impl Per {
    /// The length of that time.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        })
    }

    fn read(unit: &str) -> Option<Self> {
        let unit = if unit == "m" { "min" } else { unit };
        Self::ALL.iter().copied().find(|per| per.as_str() == unit)
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// So many per time, at least one: `20/s`, `10/min`, `5/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU64,
    /// In which time.
    pub per: Per,
}

/// So many bytes per time, at least one: `100MiB/s`, `50GiB/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SizeRate(pub Rate);

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, per) = halves(text, WHAT)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UnitError::Number { text: text.to_owned(), what: WHAT });
        }
        let count: u64 = number.parse().map_err(|_| UnitError::TooLarge(text.to_owned()))?;
        NonZeroU64::new(count).map(|count| Self { count, per }).ok_or_else(|| UnitError::Never(text.to_owned()))
    }
}

impl FromStr for SizeRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (size, per) = halves(text, WHAT_SIZE)?;
        let bytes = bytes(size)?.0;
        NonZeroU64::new(bytes).map(|count| Self(Rate { count, per })).ok_or_else(|| UnitError::Never(text.to_owned()))
    }
}

fn halves<'a>(text: &'a str, what: &'static str) -> Result<(&'a str, Per), UnitError> {
    let (number, unit) = text.split_once('/').ok_or_else(|| UnitError::Number { text: text.to_owned(), what })?;
    let unknown = || UnitError::Unit { text: text.to_owned(), unit: format!("/{unit}"), known: KNOWN };
    Ok((number, Per::read(unit).ok_or_else(unknown)?))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

impl fmt::Display for SizeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Bytes(self.0.count.get()).written(), self.0.per)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn per() -> impl Strategy<Value = Per> {
        proptest::sample::select(vec![Per::Second, Per::Minute, Per::Hour, Per::Day])
    }

    #[test]
    fn a_rate_is_a_number_per_time() {
        let rate: Rate = "10/min".parse().unwrap();
        assert_eq!((rate.count.get(), rate.per.duration()), (10, Duration::from_secs(60)));
        let rate: SizeRate = "50GiB/h".parse().unwrap();
        assert_eq!((rate.0.count.get(), rate.0.per), (50 << 30, Per::Hour));
    }

    #[test]
    fn what_is_not_a_rate_says_what_one_is() {
        let fault = |text: &str| text.parse::<Rate>().unwrap_err().to_string();
        assert_eq!(fault("20"), "`20` is not a rate: write a number per time, like 20/s, 10/min or 5/h");
        assert_eq!(fault("1.5/s"), "`1.5/s` is not a rate: write a number per time, like 20/s, 10/min or 5/h");
        assert_eq!(fault("20/week"), "`20/week` has the unknown unit `/week`: use /s, /min, /h or /d");
        assert_eq!(fault("0/s"), "`0/s` would never let anything through: a rate is at least 1");
        assert_eq!(
            fault("18446744073709551616/s"),
            "`18446744073709551616/s` is too large: it does not fit in 64 bits"
        );
        let fault = |text: &str| text.parse::<SizeRate>().unwrap_err().to_string();
        assert_eq!(fault("50GiB"), "`50GiB` is not a rate of bytes: write a size per time, like 100MiB/s or 50GiB/h");
        assert_eq!(fault("0/s"), "`0/s` would never let anything through: a rate is at least 1");
        assert!(fault("50G/h").contains("`50G` could mean two things"));
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_rate(count in 1u64.., per in per()) {
            let count = NonZeroU64::new(count).unwrap();
            let rate = Rate { count, per };
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
            let rate = SizeRate(rate);
            prop_assert_eq!(rate.to_string().parse::<SizeRate>(), Ok(rate));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "[0-9.]{0,25}[a-zA-Z]{0,3}/?[a-z]{0,3}") {
            let _ = (text.parse::<Rate>(), text.parse::<SizeRate>());
        }
    }
}
