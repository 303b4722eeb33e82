//! How fast a session, an export or a tenant may read and write.

use std::time::Duration;

use nbd_gateway_policy::rate::{Oversize, Rate};

use crate::raw::io::RawIo;
use crate::units::{self, Interval, SizeRate};

use super::section::Section;

/// How fast somebody may read and write; None: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoRates {
    /// Requests of any kind.
    pub requests: Option<Rate>,
    /// READ requests.
    pub reads: Option<Rate>,
    /// WRITE, WRITE_ZEROES and TRIM requests.
    pub writes: Option<Rate>,
    /// Payload bytes, read and written.
    pub bytes: Option<Rate>,
    /// Payload bytes read.
    pub bytes_read: Option<Rate>,
    /// Payload bytes written.
    pub bytes_written: Option<Rate>,
}

/// As much as in this time may come at once if the configuration says nothing.
const BURST: Duration = Duration::from_millis(100);

impl IoRates {
    /// No bound.
    pub const NONE: Self =
        Self { requests: None, reads: None, writes: None, bytes: None, bytes_read: None, bytes_written: None };

    /// Whether there is any bound.
    pub fn any(&self) -> bool {
        *self != Self::NONE
    }

    /// Reads `io` or `session-io`.
    pub(super) fn read(raw: Option<&RawIo>, section: &mut Section<'_>) -> Option<Self> {
        let raw = raw?;
        let most = Interval::from_secs(3600);
        let burst = section.interval("burst", raw.burst.as_deref(), Interval::from_millis(0)..=most).unwrap_or(BURST);
        let mut requests = |key, text: Option<&String>| {
            let rate = section.accept(key, text?.parse::<units::Rate>())?;
            section.accept(key, rate_of(rate, burst))
        };
        let (all, reads, writes) = (
            requests("iops", raw.iops.as_ref()),
            requests("read-iops", raw.read_iops.as_ref()),
            requests("write-iops", raw.write_iops.as_ref()),
        );
        let mut bytes = |key, text: Option<&String>| {
            let SizeRate(rate) = section.accept(key, text?.parse())?;
            section.accept(key, rate_of(rate, burst))
        };
        Some(Self {
            requests: all,
            reads,
            writes,
            bytes: bytes("bandwidth", raw.bandwidth.as_ref()),
            bytes_read: bytes("read-bandwidth", raw.read_bandwidth.as_ref()),
            bytes_written: bytes("write-bandwidth", raw.write_bandwidth.as_ref()),
        })
    }
}

/// As written, and at once what fits in `burst`, at least one unit. A request larger than that borrows.
fn rate_of(rate: units::Rate, burst: Duration) -> Result<Rate, nbd_gateway_policy::rate::RateError> {
    let (amount, per) = (rate.count.get(), rate.per.duration());
    let units = u128::from(amount) * burst.as_nanos() / per.as_nanos().max(1);
    let units = u64::try_from(units).unwrap_or(u64::MAX).max(1);
    Rate::new(amount, per, units, Oversize::Borrow)
}
