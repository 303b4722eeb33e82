//! A limiter of a rate.

use std::time::Duration;

use nbd_gateway_policy::rate::{Limiter, Oversize, Rate, RateError};
use nbd_gateway_policy::types::Moment;
use serde::{Deserialize, Serialize};

use super::nanos;

/// A rate, and what is owed to it, as [`Limiter::owed_now`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LimiterState {
    rate: RateState,
    #[serde(with = "decimal")]
    owed: u128,
}

/// The limiters of reading and writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IoState {
    pub requests: Option<LimiterState>,
    pub reads: Option<LimiterState>,
    pub writes: Option<LimiterState>,
    pub bytes: Option<LimiterState>,
    pub bytes_read: Option<LimiterState>,
    pub bytes_written: Option<LimiterState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Parts", try_from = "Parts")]
struct RateState(Rate);

#[derive(Serialize, Deserialize)]
struct Parts {
    amount: u64,
    /// In nanoseconds.
    per: u64,
    burst: u64,
    borrows: bool,
}

impl LimiterState {
    pub(crate) fn of(limiter: &Limiter, now: Moment) -> Self {
        Self { rate: RateState(limiter.rate()), owed: limiter.owed_now(now) }
    }

    pub(crate) const fn limiter(self, now: Moment) -> Limiter {
        let Self { rate: RateState(rate), owed } = self;
        Limiter::owing(rate, owed, now)
    }
}

impl From<RateState> for Parts {
    fn from(RateState(rate): RateState) -> Self {
        let borrows = rate.oversize() == Oversize::Borrow;
        Self { amount: rate.amount(), per: nanos(rate.per()), burst: rate.burst(), borrows }
    }
}

impl TryFrom<Parts> for RateState {
    type Error = RateError;

    fn try_from(Parts { amount, per, burst, borrows }: Parts) -> Result<Self, RateError> {
        let oversize = if borrows { Oversize::Borrow } else { Oversize::Refuse };
        Rate::new(amount, Duration::from_nanos(per), burst, oversize).map(Self)
    }
}

/// More than a JSON number is safe for: digits.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(number: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
