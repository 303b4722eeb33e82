//! The size that a resize asks for: a new one, or so much more.

use std::fmt;
use std::str::FromStr;

use nbd_gateway_policy::types::{Bytes, Size};

use crate::units::{self, UnitError};

/// The largest size that an export can have.
const LARGEST: u64 = Size::MAX.bytes();

/// To which size, or by how much: `10GiB`, `+1GiB`. Never 0, never more than 2^63-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSize {
    /// This size.
    To(Bytes),
    /// So much more than the size now.
    By(Bytes),
}

/// Why a text is no [`NewSize`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NewSizeFault {
    /// What it says is not a size.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A size with a minus.
    #[error("`{0}` is no size: give the size that the export is to have after it shrank, like 10GiB")]
    Less(String),
    /// A size that no export can have, or no growth at all.
    #[error("`{0}` is out of range: an export is resized to at least 1 byte, and to at most 2^63-1")]
    Range(String),
}

impl FromStr for NewSize {
    type Err = NewSizeFault;

    fn from_str(text: &str) -> Result<Self, NewSizeFault> {
        let (more, number) = text.strip_prefix('+').map_or((false, text), |number| (true, number));
        if number.starts_with(['-', '−']) {
            return Err(NewSizeFault::Less(text.to_owned()));
        }
        let size = units::bytes(number)?;
        match size.0 {
            1..=LARGEST => Ok(if more { Self::By(size) } else { Self::To(size) }),
            _ => Err(NewSizeFault::Range(text.to_owned())),
        }
    }
}

impl fmt::Display for NewSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(size) => f.write_str(&size.written()),
            Self::By(size) => write!(f, "+{}", size.written()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(text: &str) -> String {
        text.parse::<NewSize>().unwrap_err().to_string()
    }

    #[test]
    fn a_plus_makes_it_more_than_the_size_now() {
        assert_eq!("8GiB".parse(), Ok(NewSize::To(Bytes(8 << 30))));
        assert_eq!("4096".parse(), Ok(NewSize::To(Bytes(4096))));
        assert_eq!("+1.5GiB".parse(), Ok(NewSize::By(Bytes(1536 << 20))));
        assert_eq!("9223372036854775807".parse(), Ok(NewSize::To(Bytes(LARGEST))));
    }

    #[test]
    fn what_no_export_can_be_resized_to_is_refused() {
        let says = "is out of range: an export is resized to at least 1 byte, and to at most 2^63-1";
        for text in ["0", "+0", "0.0001KiB", "9223372036854775808", "+8EiB"] {
            assert_eq!(fault(text), format!("`{text}` {says}"));
        }
        assert!(fault("+1G").contains("`1G` could mean two things"));
        assert!(fault("++1GiB").contains("is not a size"));
        let less = "`-1GiB` is no size: give the size that the export is to have after it shrank, like 10GiB";
        assert_eq!(fault("-1GiB"), less);
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_change(bytes in 1..=LARGEST, shift in 0u32..63, more: bool) {
            let size = Bytes((bytes >> shift).max(1));
            let change = if more { NewSize::By(size) } else { NewSize::To(size) };
            prop_assert_eq!(change.to_string().parse::<NewSize>(), Ok(change));
        }
    }
}
