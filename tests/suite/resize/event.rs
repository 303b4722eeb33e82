//! What happens in a cell of the table.

/// The size of every disk of the table at first.
pub(super) const START: u64 = 1 << 20;

/// What a grow goes to.
pub(super) const GROWN: u64 = START + (192 << 10);

/// What a grow that has to be rounded asks for, and what it gets.
pub(super) const UNEVEN: u64 = START + 100_000;
pub(super) const ROUNDED: u64 = START + (128 << 10);
pub(super) const GRANULARITY: u64 = 64 << 10;

/// What the tenant and the export may have where growth is refused, and what is asked for in vain.
pub(super) const QUOTA: u64 = START + (64 << 10);
pub(super) const CEILING: u64 = START + (128 << 10);
pub(super) const OVER_QUOTA: u64 = START + (96 << 10);
pub(super) const OVER_CEILING: u64 = START + (256 << 10);

/// What a shrink that is forbidden asks for.
pub(super) const SHRUNK: u64 = START - (64 << 10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Grow,
    GrowRounded,
    /// A grow, a shrink back, and a grow again, which must not bring back what was cut off.
    Shrink,
    SameSize,
    /// Over the quota, over the ceiling, and a shrink where none is allowed.
    Refused,
    /// Another hand grows the backend.
    BehindTheBack,
}

impl Event {
    pub(super) const ALL: &[Self] =
        &[Self::Grow, Self::GrowRounded, Self::Shrink, Self::SameSize, Self::Refused, Self::BehindTheBack];

    /// How the table shows that it works.
    pub(super) const fn sign(self) -> char {
        match self {
            Self::Grow => 'G',
            Self::GrowRounded => 'R',
            Self::Shrink => 'S',
            Self::SameSize => '=',
            Self::Refused => 'X',
            Self::BehindTheBack => 'B',
        }
    }
}
