//! Sizes: bytes.

use nbd_gateway_policy::types::{BYTE_UNITS, Bytes};

use super::{UnitError, split};

const WHAT: &str = "a size: write a number and a unit, like 10GiB, 512MiB or 1TB, or plain bytes";
const KNOWN: &str =
    "KiB, MiB, GiB, TiB, PiB, EiB (powers of 1024), kB, MB, GB, TB, PB, EB (powers of 1000) or plain bytes";

/// Reads a number of bytes: `10GiB`, `512MiB`, `1TB`, `1.5GiB` (rounded down to a whole byte) or `4096`.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<Bytes, UnitError> {
    let (number, unit) = split(text, WHAT)?;
    let scale = if unit.is_empty() || unit == "B" {
        1
    } else if let Some((_, scale)) = BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        *scale
    } else if unit.len() == 1 && "KMGTPE".contains(&unit.to_ascii_uppercase()) {
        return Err(UnitError::Ambiguous { text: text.to_owned(), letter: unit.to_ascii_uppercase() });
    } else {
        return Err(UnitError::Unit { text: text.to_owned(), unit: unit.to_owned(), known: KNOWN });
    };
    match number.times(scale) {
        None => Err(UnitError::TooLarge(text.to_owned())),
        Some((_, false)) if scale == 1 => Err(UnitError::TooFine { text: text.to_owned(), finest: "one byte" }),
        Some((bytes, _)) => Ok(Bytes(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> u64 {
        bytes(text).unwrap_or_else(|fault| panic!("{fault}")).0
    }

    fn fault(text: &str) -> String {
        bytes(text).unwrap_err().to_string()
    }

    #[test]
    fn units_of_1024_and_of_1000_are_told_apart() {
        assert_eq!(read("10GiB"), 10 << 30);
        assert_eq!(read("512MiB"), 512 << 20);
        assert_eq!(read("64 KiB"), 65536);
        assert_eq!(read("1TB"), 1_000_000_000_000);
        assert_eq!(read("1kb"), 1000);
        assert_eq!(read("4096"), 4096);
        assert_eq!(read("0"), 0);
        assert_eq!(read("512B"), 512);
    }

    #[test]
    fn a_fraction_is_rounded_down_to_a_whole_byte() {
        assert_eq!(read("1.5GiB"), 3 << 29);
        assert_eq!(read("1.8TiB"), 1_979_120_929_996);
        assert_eq!(read("0.0001KiB"), 0);
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
    fn the_largest_size_is_all_64_bits() {
        assert_eq!(read("18446744073709551615"), u64::MAX);
        assert!(fault("18446744073709551616").contains("too large"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_size(amount: u64, shift in 0u32..64) {
            let amount = Bytes(amount >> shift << (shift / 2));
            prop_assert_eq!(bytes(&amount.written()), Ok(amount));
        }

        #[test]
        fn a_number_times_its_unit_is_exact_or_refused(number: u64, unit in 0usize..12) {
            let (name, scale) = BYTE_UNITS[unit];
            prop_assert_eq!(bytes(&format!("{number}{name}")).ok().map(|bytes| bytes.0), number.checked_mul(scale));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.]{0,25} ?[a-zA-Z]{0,4}") {
            let _ = bytes(&text);
        }
    }
}
