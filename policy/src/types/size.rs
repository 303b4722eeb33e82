//! Sizes of exports, the granularity they come in, and amounts of bytes.
//!
//! A [`Size`] never exceeds 2^63-1, so that it fits every peer's signed offset. It may be 0: an empty export exists (it
//! is how a growing one begins). That a client may not ask for 0 is a rule of the wire, kept where wishes are judged.

use std::fmt;

/// The size of an export in bytes: 0 to 2^63-1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// A size of 2^63 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a size of {} is more than the most there can be, 2^63-1", Bytes(*.bytes))]
pub struct SizeError {
    /// What was given, in bytes.
    pub bytes: u64,
}

impl Size {
    /// An empty export.
    pub const ZERO: Self = Self(0);
    /// 2^63-1 bytes: the largest size, and in `NBD_INFO_RESIZE` "no bound known".
    pub const MAX: Self = Self(u64::MAX >> 1);

    /// A size of so many bytes.
    ///
    /// # Errors
    /// [`SizeError`] for 2^63 and more.
    pub const fn new(bytes: u64) -> Result<Self, SizeError> {
        if bytes > Self::MAX.0 { Err(SizeError { bytes }) } else { Ok(Self(bytes)) }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// As [`Bytes::written`].
    #[must_use]
    pub fn written(self) -> String {
        Bytes(self.0).written()
    }

    /// Larger by `bytes`, at most [`Size::MAX`].
    #[must_use]
    pub fn plus(self, bytes: Bytes) -> Self {
        Self(self.0.saturating_add(bytes.0).min(Self::MAX.0))
    }

    /// How many bytes this is above `smaller`; 0 if it is not.
    #[must_use]
    pub const fn above(self, smaller: Self) -> Bytes {
        Bytes(self.0.saturating_sub(smaller.0))
    }
}

impl From<Size> for Bytes {
    fn from(size: Size) -> Self {
        Self(size.0)
    }
}

impl From<u64> for Bytes {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl TryFrom<u64> for Size {
    type Error = SizeError;

    fn try_from(bytes: u64) -> Result<Self, SizeError> {
        Self::new(bytes)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

/// An amount of bytes: what a quota allows, what a growth costs. Displayed in the unit that a person would choose, with all
/// bytes where that is not exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// In its unit and in bytes: `8 GiB (8589934592 bytes)`.
    #[must_use]
    pub fn in_full(self) -> String {
        let short = self.to_string();
        if short.contains("byte") { short } else { format!("{short} ({} bytes)", self.0) }
    }

    /// As people write it, in the shortest way that is exact: `10GiB`, `1.5GiB`, `65537`.
    #[must_use]
    pub fn written(self) -> String {
        super::shown::written(self.0)
    }

    /// For a table, in nine columns at most, rounded down: `1.9GiB`.
    #[must_use]
    pub fn brief(self) -> String {
        super::shown::brief(self.0)
    }

    /// The length of something in memory.
    #[must_use]
    pub fn of(length: usize) -> Self {
        Self(u64::try_from(length).unwrap_or(u64::MAX))
    }

    /// An amount that may be beyond 2^64-1, as sums of many exports can: at most 2^64-1.
    #[must_use]
    pub fn saturating(amount: u128) -> Self {
        Self(u64::try_from(amount).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::shown::bytes(self.0, f)
    }
}

/// A run of bytes within an export: from `start` up to, not including, `end`. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: Size,
    end: Size,
}

impl ByteRange {
    /// The bytes from `start` to `end`; none if there are none.
    #[must_use]
    pub fn new(start: Size, end: Size) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// `length` bytes from `offset` on, as far as an export can have them: none has a byte at [`Size::MAX`] or later. None if
    /// there are none.
    #[must_use]
    pub fn at(offset: u64, length: u64) -> Option<Self> {
        let start = Size::ZERO.plus(Bytes(offset));
        Self::new(start, start.plus(Bytes(length)))
    }

    /// All bytes from `offset` on that an export can have; the last one in any case.
    #[must_use]
    pub fn beyond(offset: u64) -> Self {
        Self { start: Size(offset.min(Size::MAX.0 - 1)), end: Size::MAX }
    }

    /// The first byte's offset.
    #[must_use]
    pub const fn start(self) -> Size {
        self.start
    }

    /// The offset after the last byte.
    #[must_use]
    pub const fn end(self) -> Size {
        self.end
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether it has all bytes of the other one.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The shortest range that contains both.
    #[must_use]
    pub fn cover(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(self) -> Bytes {
        self.end.above(self.start)
    }

    /// Never: an empty range can't be built. Here because a `len` without it surprises.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// What sizes are multiples of: a power of two from 1 to 2^62.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granularity(u64);

/// Not a power of two, or more than 2^62.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a granularity of {} is not a power of two between 1 and 2^62", Bytes(*.bytes))]
pub struct GranularityError {
    /// What was given, in bytes.
    pub bytes: u64,
}

impl Granularity {
    /// Every size is fine.
    pub const ONE: Self = Self(1);

    /// A granularity of so many bytes.
    ///
    /// # Errors
    /// [`GranularityError`] for 0, for what is not a power of two, and for 2^63.
    pub const fn new(bytes: u64) -> Result<Self, GranularityError> {
        if bytes.is_power_of_two() && bytes <= 1 << 62 { Ok(Self(bytes)) } else { Err(GranularityError { bytes }) }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whether an amount is a multiple.
    #[must_use]
    pub fn divides(self, amount: impl Into<Bytes>) -> bool {
        amount.into().0 & (self.0 - 1) == 0
    }

    /// The largest multiple that is not larger.
    #[must_use]
    pub const fn round_down(self, size: Size) -> Size {
        Size(size.0 & !(self.0 - 1))
    }

    /// The smallest multiple that is not smaller; none where that would be 2^63.
    #[must_use]
    pub(crate) const fn round_up(self, size: Size) -> Option<Size> {
        // Can't overflow: both terms are under 2^63.
        match Size::new((size.0 + (self.0 - 1)) & !(self.0 - 1)) {
            Ok(rounded) => Some(rounded),
            Err(SizeError { .. }) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_size() -> impl Strategy<Value = Size> {
        prop_oneof![0..=Size::MAX.0, 0..4096_u64, Size::MAX.0 - 4096..=Size::MAX.0].prop_map(|b| Size::new(b).unwrap())
    }

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![0..64_u64, Size::MAX.0 - 64..Size::MAX.0 + 64, u64::MAX - 64..=u64::MAX, any::<u64>()]
    }

    proptest! {
        #[test]
        fn rounding_meets_its_definition(size in any_size(), shift in 0..=62_u32) {
            let granularity = Granularity::new(1 << shift).unwrap();
            let down = granularity.round_down(size);
            prop_assert!(granularity.divides(down) && down <= size && size.above(down).0 < granularity.bytes());
            match granularity.round_up(size) {
                Some(up) => prop_assert!(granularity.divides(up) && up >= size && up.above(size).0 < granularity.bytes()),
                None => prop_assert!(u128::from(down.bytes()) + u128::from(granularity.bytes()) > u128::from(Size::MAX.0)),
            }
        }

        #[test]
        fn a_range_has_the_bytes_that_an_export_can_have_whatever_it_is_made_of(
            (offset, length) in (any_number(), any_number()), (other, more) in (any_number(), any_number())
        ) {
            let wide = |offset: u64, length: u64| {
                let [start, end] = [u128::from(offset), u128::from(offset) + u128::from(length)];
                let most = u128::from(Size::MAX.0);
                start.min(most)..end.min(most)
            };
            let plain = |range: ByteRange| u128::from(range.start().0)..u128::from(range.end().0);
            let (one, two) = (ByteRange::at(offset, length), ByteRange::at(other, more));
            prop_assert_eq!(one.map(plain), Some(wide(offset, length)).filter(|range| !range.is_empty()));
            let beyond = ByteRange::beyond(offset);
            prop_assert!(beyond.end() == Size::MAX && !plain(beyond).is_empty());
            let (Some(one), Some(two)) = (one, two) else { return Ok(()) };
            prop_assert_eq!(u128::from(one.len().0), plain(one).end - plain(one).start);
            let (a, b) = (plain(one), plain(two));
            let common = a.start.max(b.start)..a.end.min(b.end);
            prop_assert_eq!((one.overlaps(two), two.overlaps(one)), (!common.is_empty(), !common.is_empty()));
            prop_assert_eq!((one.contains(two), two.contains(one)), (common == b, common == a));
            let both = one.cover(two);
            prop_assert!(both.contains(one) && both.contains(two));
            prop_assert_eq!(both.len() <= Bytes(one.len().0 + two.len().0), one.overlaps(two) || a.end == b.start || b.end == a.start);
        }

        #[test]
        fn an_amount_is_shown_exactly(bytes: u64) {
            let shown = Bytes(bytes).to_string();
            if shown.contains("byte") {
                prop_assert!(shown.contains(&bytes.to_string()), "{}", shown);
                return Ok(());
            }
            let (number, unit) = shown.split_once(' ').unwrap();
            let shift = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|u| *u == unit).unwrap() * 10 + 10;
            let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
            let thousandths: u128 = format!("{whole}{decimals:0<3}").parse().unwrap();
            prop_assert_eq!(thousandths << shift, u128::from(bytes) * 1000);
        }
    }

    #[test]
    fn sizes_end_below_the_sign_bit() {
        assert_eq!(Size::new((1 << 63) - 1), Ok(Size::MAX));
        assert_eq!(Size::new(1 << 63), Err(SizeError { bytes: 1 << 63 }));
        assert_eq!(Size::new(0), Ok(Size::ZERO));
        assert_eq!(Size::MAX.plus(Bytes(1)), Size::MAX);
        assert_eq!(Size::ZERO.plus(Bytes(u64::MAX)), Size::MAX);
        let message = "a size of 8 EiB is more than the most there can be, 2^63-1";
        assert_eq!(SizeError { bytes: 1 << 63 }.to_string(), message);
    }

    #[test]
    fn a_granularity_is_a_power_of_two() {
        for bytes in [0, 3, 513, 1 << 63, u64::MAX] {
            assert_eq!(Granularity::new(bytes), Err(GranularityError { bytes }));
        }
        let message = "a granularity of 3 bytes is not a power of two between 1 and 2^62";
        assert_eq!(GranularityError { bytes: 3 }.to_string(), message);
        assert_eq!(Granularity::new(512).unwrap().round_up(Size::MAX), None);
        assert_eq!(Granularity::ONE.round_up(Size::MAX), Some(Size::MAX));
    }

    #[test]
    fn amounts_read_as_people_write_them() {
        let table =
            [(0, "0 bytes"), (1000, "1000 bytes"), (1024, "1 KiB"), (8 << 30, "8 GiB"), (1536 << 20, "1.5 GiB")];
        for (bytes, shown) in table {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
        assert_eq!(Bytes::saturating(1 << 70), Bytes(u64::MAX));
    }

    #[test]
    fn an_empty_range_cannot_be_built() {
        let (low, high) = (Size::new(1).unwrap(), Size::new(3).unwrap());
        assert_eq!(ByteRange::new(high, high), None);
        assert_eq!(ByteRange::new(high, low), None);
        let range = ByteRange::new(low, high).unwrap();
        assert_eq!((range.start(), range.end(), range.len(), range.is_empty()), (low, high, Bytes(2), false));
    }
}
