//! Quantities as people write them: `10GiB`, `250ms`, `20/s`, `50GiB/h`.
//!
//! Owns parsing and printing (of sizes: [`Bytes::written`](nbd_gateway_policy::types::Bytes::written)); what is printed
//! parses to the same value. No arithmetic here can overflow: a number that
//! does not fit is a fault that says so. Never decides which values are sane: that is the model's.

mod interval;
mod moment;
mod rate;
mod size;

pub use interval::Interval;
pub use moment::{Moment, When};
pub use rate::{Per, Rate, SizeRate};
pub use size::bytes;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number at the start, or a number with more digits than there can be.
    #[error("`{text}` is not {what}")]
    Number {
        /// What was written.
        text: String,
        /// What should have been, with examples.
        what: &'static str,
    },
    /// A number followed by a unit that is none.
    #[error("`{text}` has the unknown unit `{unit}`: use {known}")]
    Unit {
        /// What was written.
        text: String,
        /// The part that is not a unit.
        unit: String,
        /// The units there are.
        known: &'static str,
    },
    /// A number without the unit that it needs.
    #[error("`{text}` has no unit: use {known}")]
    NoUnit {
        /// What was written.
        text: String,
        /// The units there are.
        known: &'static str,
    },
    /// `10G`: some programs mean 1000s, others 1024s.
    #[error("`{text}` could mean two things: write {letter}iB for powers of 1024 or {letter}B for powers of 1000")]
    Ambiguous {
        /// What was written.
        text: String,
        /// The letter that stands alone.
        letter: String,
    },
    /// Does not fit: sizes end at 2^64 - 1 bytes, times at 2^64 - 1 milliseconds, counts at 2^64 - 1.
    #[error("`{0}` is too large: it does not fit in 64 bits")]
    TooLarge(String),
    /// `1.5` bytes, `0.1ms`.
    #[error("`{text}` is finer than {finest}")]
    TooFine {
        /// What was written.
        text: String,
        /// The smallest step there is.
        finest: &'static str,
    },
    /// A rate of 0, which would never let anything through.
    #[error("`{0}` would never let anything through: a rate is at least 1")]
    Never(String),
}

/// A decimal number, not yet multiplied by its unit: `whole + fraction / scale`.
#[derive(Clone, Copy)]
struct Decimal {
    whole: u64,
    fraction: u64,
    scale: u64,
}

impl Decimal {
    /// The number times `unit`, rounded down, and whether that was exact. None: it does not fit in 64 bits.
    fn times(self, unit: u64) -> Option<(u64, bool)> {
        // Fits in 128 bits: (2^64 - 1)^2 + 2^64 < 2^128, and the fraction is less than its scale.
        let part = u128::from(self.fraction) * u128::from(unit);
        let scale = u128::from(self.scale.max(1));
        let total = u128::from(self.whole) * u128::from(unit) + part / scale;
        u64::try_from(total).ok().map(|fits| (fits, part % scale == 0))
    }
}

/// Splits `1.5GiB` or `1.5 GiB` into number and unit; `what` says what should have been written.
fn split<'a>(text: &'a str, what: &'static str) -> Result<(Decimal, &'a str), UnitError> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(UnitError::Number { text: text.to_owned(), what });
    }
    let scale = u32::try_from(fraction.len()).ok().filter(|places| *places <= 9).map(|places| 10u64.pow(places));
    match (whole.parse(), fraction.parse(), scale) {
        (Ok(whole), Ok(fraction), Some(scale)) => {
            Ok((Decimal { whole, fraction, scale }, rest.strip_prefix(' ').unwrap_or(rest)))
        }
        // More than 64 bits, or than nine decimal places.
        _ => Err(UnitError::TooLarge(text.to_owned())),
    }
}
