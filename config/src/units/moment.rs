//! Points in time: as people write them (RFC 3339), as programs do (seconds since 1970), or so long ago.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;

use super::{Interval, UnitError};

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

const WHAT: &str = "a point in time: write it like 2026-11-23T14:30:00Z, 2026-11-23T15:30:00+01:00, 2026-11-23, or in \
                    seconds since 1970";
const WHAT_OR_AGO: &str = "a point in time: write it like 2026-11-23T14:30:00Z, 2026-11-23, in seconds since 1970, or \
                           like 10m, which is 10 minutes ago";
/// The longest text that is looked at, in bytes.
const LONGEST: usize = 64;

/// A point in time, in whole milliseconds since 1970 began in UTC.
///
/// Parses RFC 3339, with a space or a `T`; where the zone is missing it is UTC, where the time is missing it is midnight.
/// Also seconds since 1970, with up to three digits after a point; that is how it is printed. What is before 1970 is no
/// moment of this kind, and a leap second is the second after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// So many milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl FromStr for Moment {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let read = if text.len() > LONGEST { None } else { seconds(text).or_else(|| calendar(text.trim())) };
        read.map(Self).ok_or_else(|| UnitError::Number { text: text.to_owned(), what: WHAT })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        if millis == 0 { write!(f, "{seconds}") } else { write!(f, "{seconds}.{millis:03}") }
    }
}

/// A point in time, given as such or by how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Then.
    At(Moment),
    /// So long before now.
    Ago(Interval),
}

impl When {
    /// The moment that it is, were it now so long after 1970.
    #[must_use]
    pub(crate) fn seen_at(self, now: Duration) -> Moment {
        match self {
            Self::At(moment) => moment,
            Self::Ago(interval) => {
                let millis = now.saturating_sub(interval.duration()).as_millis();
                Moment(u64::try_from(millis).unwrap_or(u64::MAX))
            }
        }
    }

    /// The moment that it is.
    #[must_use]
    pub fn seen_now(self) -> Moment {
        self.seen_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl FromStr for When {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match (text.parse::<Moment>(), text.parse::<Interval>()) {
            (Ok(moment), _) => Ok(Self::At(moment)),
            (Err(_), Ok(interval)) => Ok(Self::Ago(interval)),
            (Err(_), Err(_)) => Err(UnitError::Number { text: text.to_owned(), what: WHAT_OR_AGO }),
        }
    }
}

/// Reads seconds since 1970, as milliseconds.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 3 {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths(fraction)?)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The digits after a point, as thousandths; what is finer is cut off.
fn thousandths(fraction: &str) -> Option<u64> {
    let padded: String = fraction.chars().chain("00".chars()).take(3).collect();
    padded.parse().ok()
}

/// Reads RFC 3339, as milliseconds since 1970. jiff counts the days; it also reads much that RFC 3339 has not, so the shape
/// is looked at first. A zone is counted here: jiff's own moments end a day before the year 9999 does.
fn calendar(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, rest) = match rest.strip_prefix(['T', 't', ' ']) {
        Some(rest) => rest.split_at_checked(8)?,
        None if rest.is_empty() => ("00:00:00", rest),
        None => return None,
    };
    let zone = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at_checked(zone)?;
    let zone = if zone.is_empty() { "Z" } else { zone };
    let digits =
        if fraction.is_empty() { "0" } else { fraction.strip_prefix('.').filter(|digits| is_number(digits))? };
    if !is_shaped(date, "0000-00-00") || !is_shaped(clock, "00:00:00") {
        return None;
    }
    let local: DateTime = format!("{date}T{clock}").parse().ok()?;
    let leap_second = i64::from(clock.ends_with(":60"));
    let seconds = local.duration_since(EPOCH).as_secs() + leap_second - east_of_utc(zone)?;
    u64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(thousandths(digits)?)
}

/// How many seconds a zone's clocks are ahead of UTC's.
fn east_of_utc(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..).filter(|clock| is_shaped(clock, "00:00"))?.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Whether `text` is `shape`, with digits where that has 0.
fn is_shaped(text: &str, shape: &str) -> bool {
    let fits = |(byte, shape): (u8, u8)| if shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> u64 {
        text.parse::<Moment>().unwrap_or_else(|fault| panic!("{fault}")).millis()
    }

    #[test]
    fn a_moment_is_read_as_people_and_programs_write_it() {
        // As `date --utc --date=TEXT +%s` has them.
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29", 951_782_400_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
            ("2026-11-23T02:37:22Z", 1_795_401_442_000),
            ("2026-11-23 02:37:22", 1_795_401_442_000),
            ("2026-11-23t02:37:22z", 1_795_401_442_000),
            ("2026-11-23T03:37:22+01:00", 1_795_401_442_000),
            ("2026-11-22T21:07:22-05:30", 1_795_401_442_000),
            ("2026-11-23T02:37:22.5Z", 1_795_401_442_500),
            ("2026-11-23T02:37:22.123456+00:00", 1_795_401_442_123),
            ("2026-11-23T02:37:22.1234567890123456789Z", 1_795_401_442_123),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("2016-12-31T23:59:60.25Z", 1_483_228_800_250),
            ("9999-12-31", 253_402_214_400_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
            ("0", 0),
            ("1795401442", 1_795_401_442_000),
            ("1795401442.05", 1_795_401_442_050),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_says_what_is_one() {
        for text in [
            "",
            "now",
            "-1",
            "1.2345",
            "1.",
            "2026-11",
            "2026-13-01",
            "2026-02-29",
            "2026-11-31",
            "2026-00-10",
            "2026-11-23T24:00:00Z",
            "2026-11-23T02:37Z",
            "2026-11-23T02:37:22.Z",
            "2026-11-23T02:37:22.1.2Z",
            "2026-11-23T02:37:22.123456789.5Z",
            "10000-01-01",
            "2026-11-23T02:37:22+24:00",
            "2026-11-23T02:37:22+01:60",
            "2026-11-23T02:37:22ZZ",
            "2026-11-23T02:37:22 01:00",
            "2026-11-23T02:37:22+1:00",
            "1969-12-31",
            "2026-11-23Z",
            "2026-1-23",
            "2026-11-23T02:37:22+01",
            "2026-11-23T02:37:22Z[UTC]",
            "1970-01-01T00:00:00+01:00",
            "18446744073709551616",
            "ÄÄÄÄÄÄÄÄÄÄ",
        ] {
            let fault = text.parse::<Moment>().unwrap_err().to_string();
            assert!(fault.starts_with(&format!("`{text}` is not a point in time: write it like 2026-")), "{fault}");
        }
    }

    #[test]
    fn a_time_alone_is_so_long_ago() {
        let now = Duration::from_secs(10_000);
        for (text, at) in
            [("10m", 9_400_000), ("1s", 9_999_000), ("1000h", 0), ("7", 7_000), ("1970-01-02", 86_400_000)]
        {
            assert_eq!(text.parse::<When>().unwrap().seen_at(now).millis(), at, "{text}");
        }
        assert!("a while".parse::<When>().unwrap_err().to_string().ends_with("10 minutes ago"));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(millis: u64) {
            prop_assert_eq!(Moment(millis).to_string().parse::<Moment>().unwrap(), Moment(millis));
        }

        #[test]
        fn no_text_does_harm(text: String) {
            let _ = text.parse::<Moment>();
        }

        #[test]
        fn nothing_like_a_date_does_harm(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.+Zz-]{0,20}") {
            let _ = text.parse::<Moment>();
        }
    }
}
