//! Where a request comes from.

use std::fmt;
use std::num::NonZeroU64;

/// A client connection, by a number that no other of this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct SessionId(NonZeroU64);

impl SessionId {
    /// The session that comes after so many others.
    pub(crate) const fn after(others: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(others))
    }

    /// Never 0.
    pub(crate) const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a request comes from: as large as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    Session(SessionId),
    Gateway,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_knows_its_origin_by_eight_bytes() {
        assert_eq!(size_of::<Origin>(), 8);
        assert_eq!([SessionId::after(0), SessionId::after(6)].map(SessionId::get), [1, 7]);
    }
}
