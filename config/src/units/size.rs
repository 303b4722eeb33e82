//! Sizes: bytes.

use std::fmt;
use std::str::FromStr;

use super::{Number, UnitError, split};

const WHAT: &str = "a size: write a number and a unit, like 10GiB, 512MiB or 1TB, or plain bytes";
const KNOWN: &str =
    "KiB, MiB, GiB, TiB, PiB, EiB (powers of 1024), kB, MB, GB, TB, PB, EB (powers of 1000) or plain bytes";

/// Largest first, so that printing finds the shortest text; powers of 1024 before powers of 1000.
const UNITS: [(&str, u64); 12] = [
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

/// A number of bytes, written `10GiB`, `512MiB`, `1TB`, `1.5GiB` (rounded down to a whole byte) or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many KiB; more than fit become the largest size.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    /// So many MiB; more than fit become the largest size.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// So many GiB; more than fit become the largest size.
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let number = match number {
            Number::Some(number) => number,
            Number::TooLarge => return Err(UnitError::TooLarge(text.to_owned())),
            Number::None => return Err(UnitError::Number { text: text.to_owned(), what: WHAT }),
        };
        let scale = if unit.is_empty() || unit == "B" {
            1
        } else if let Some((_, scale)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            *scale
        } else if unit.len() == 1 && "KMGTPE".contains(&unit.to_ascii_uppercase()) {
            return Err(UnitError::Ambiguous { text: text.to_owned(), letter: unit.to_ascii_uppercase() });
        } else {
            return Err(UnitError::Unit { text: text.to_owned(), unit: unit.to_owned(), known: KNOWN });
        };
        match number.times(scale) {
            None => Err(UnitError::TooLarge(text.to_owned())),
            Some((_, false)) if scale == 1 => Err(UnitError::TooFine { text: text.to_owned(), finest: "one byte" }),
            Some((bytes, _)) => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = UNITS.iter().filter_map(|(unit, scale)| Some(format!("{}{unit}", exactly(self.0, *scale)?)));
        // Of two that are as short, the first: the larger unit.
        match texts.min_by_key(String::len) {
            Some(shortest) => f.write_str(&shortest),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A number of bytes in a unit, of powers of 1024 with three decimals at most; none if that is not exact, or less than one.
fn exactly(bytes: u64, scale: u64) -> Option<String> {
    let whole = bytes.checked_div(scale).filter(|whole| *whole > 0)?;
    let thousandths = u128::from(bytes % scale) * 1000;
    match thousandths / u128::from(scale) {
        _ if !thousandths.is_multiple_of(u128::from(scale)) => None,
        0 => Some(whole.to_string()),
        _ if !scale.is_power_of_two() => None,
        decimals => Some(format!("{whole}.{}", format!("{decimals:03}").trim_end_matches('0'))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> u64 {
        text.parse::<Size>().unwrap_or_else(|fault| panic!("{fault}")).bytes()
    }

    fn fault(text: &str) -> String {
        text.parse::<Size>().unwrap_err().to_string()
    }

    #[test]
    fn units_of_1024_and_of_1000_are_told_apart() {
        assert_eq!(bytes("10GiB"), 10 << 30);
        assert_eq!(bytes("512MiB"), 512 << 20);
        assert_eq!(bytes("64 KiB"), 65536);
        assert_eq!(bytes("1TB"), 1_000_000_000_000);
        assert_eq!(bytes("1kb"), 1000);
        assert_eq!(bytes("4096"), 4096);
        assert_eq!(bytes("0"), 0);
        assert_eq!(bytes("512B"), 512);
    }

    #[test]
    fn a_fraction_is_rounded_down_to_a_whole_byte() {
        assert_eq!(bytes("1.5GiB"), 3 << 29);
        assert_eq!(bytes("1.8TiB"), 1_979_120_929_996);
        assert_eq!(bytes("0.0001KiB"), 0);
    }

    #[test]
    fn what_is_not_a_size_says_what_one_is() {
        assert_eq!(
            fault("big"),
            "`big` is not a size: write a number and a unit, like 10GiB, 512MiB or 1TB, or plain bytes"
        );
        assert_eq!(
            fault("10XiB"),
            "`10XiB` has the unknown unit `XiB`: use KiB, MiB, GiB, TiB, PiB, EiB (powers of 1024), kB, MB, GB, TB, \
             PB, EB (powers of 1000) or plain bytes"
        );
        assert_eq!(fault("10G"), "`10G` could mean two things: write GiB for powers of 1024 or GB for powers of 1000");
        assert_eq!(fault("16EiB"), "`16EiB` is too large: it does not fit in 64 bits");
        assert_eq!(fault("1.5"), "`1.5` is finer than one byte");
        for text in ["", "-1", ".5GiB", "1.GiB", "1..5GiB", "1.2.3GiB", " 1GiB", "GiB", "٣GiB"] {
            assert!(fault(text).contains("is not a size"), "{text}");
        }
        for text in ["1GiB ", "1  GiB", "1GiB/s", "1e3"] {
            assert!(fault(text).contains("unknown unit"), "{text}");
        }
        assert!(fault("1.0123456789GiB").contains("too large"));
    }

    #[test]
    fn a_size_is_printed_in_the_shortest_way_that_is_exact() {
        for (bytes, text) in [
            (0, "0"),
            (65537, "65537"),
            (1536 << 20, "1.5GiB"),
            (125_000 << 10, "128MB"),
            (1025 << 20, "1025MiB"),
            (10 << 30, "10GiB"),
            ((1 << 63) - 1, "9223372036854775807"),
        ] {
            assert_eq!(Size::from_bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn the_largest_size_is_all_64_bits() {
        assert_eq!(bytes("18446744073709551615"), u64::MAX);
        assert!(fault("18446744073709551616").contains("too large"));
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_size(bytes: u64, shift in 0u32..64) {
            let size = Size::from_bytes(bytes >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        }

        #[test]
        fn a_number_times_its_unit_is_exact_or_refused(number: u64, unit in 0usize..12) {
            let (name, scale) = UNITS[unit];
            prop_assert_eq!(format!("{number}{name}").parse::<Size>().ok().map(Size::bytes), number.checked_mul(scale));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.]{0,25} ?[a-zA-Z]{0,4}") {
            let _ = text.parse::<Size>();
        }
    }
}
