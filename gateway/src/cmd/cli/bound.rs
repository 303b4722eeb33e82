//! The bound that `quota` is given: a size, or none.

use std::fmt;
use std::str::FromStr;

use nbd_gateway_config::{UnitError, bytes};
use nbd_gateway_policy::types::Bytes;

/// So much at most, or as much as there is: `2TiB`, `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// So much.
    At(Bytes),
    /// No bound.
    None,
}

impl FromStr for Bound {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "none" { Ok(Self::None) } else { bytes(text).map(Self::At) }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(size) => f.write_str(&size.written()),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_size_or_none() {
        for (text, bound) in [("2TiB", Bound::At(Bytes(2 << 40))), ("0", Bound::At(Bytes(0))), ("none", Bound::None)] {
            assert_eq!((text.parse(), bound.to_string()), (Ok(bound), text.to_owned()));
        }
        for text in ["", "None", "-1", "+1GiB", "2T"] {
            text.parse::<Bound>().unwrap_err();
        }
    }
}
