//! Bounds: what the process, a tenant and an export may take, and how one completes the other.

use std::time::Duration;

use nbd_gateway_policy::rate::Rate;
use nbd_gateway_policy::types::Bytes;

use crate::raw::{RawExportLimits, RawLimits, RawTenantLimits};
use crate::units::Interval;

use super::io::IoRates;
use super::section::Section;
use super::tenant::count_rate;

/// Every bound there is. Global ones are the same in the limits of each tenant and export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// From accepting a connection to the end of its handshake. Global.
    pub handshake_timeout: Duration,
    /// The longest payload of an option in the handshake, in bytes; at least 12 KiB. Global.
    pub option_length: u32,
    /// Sessions of one listener in transmission at a time, at least 1. Global.
    pub sessions_per_listener: u32,
    /// Requests of one session in flight, at least 1.
    pub session_requests: u32,
    /// Payload bytes of one session in memory; at least `largest_payload`.
    pub session_bytes: u64,
    /// Payload bytes of one tenant's sessions in memory; at least `largest_payload`. The same for all exports of a tenant.
    pub tenant_bytes: u64,
    /// The longest READ or WRITE for which every session has room of its own, in bytes: 64 KiB to 64 MiB, a multiple of 64 KiB.
    pub largest_payload: u32,
    /// How fast each session may read and write.
    pub session_io: IoRates,
    /// Notices of a new size to each session. As many as in the rate's time may come at once.
    pub session_notices: Option<Rate>,
    /// Notices of a new size to all sessions of the export together.
    pub export_notices: Option<Rate>,
    /// How fast all sessions of the tenant together may read and write. The same for all exports of a tenant.
    pub tenant_io: IoRates,
    /// How fast all sessions of the export together may read and write.
    pub export_io: IoRates,
    /// From the order to end to closing what is not finished. Global.
    pub drain_timeout: Duration,
    /// Connections before and beside their sessions. Global.
    pub arrivals: Arrivals,
}

/// Connections that clients make, before and beside their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrivals {
    /// Connections that the kernel keeps for one listening socket until they are accepted, at least 1.
    pub backlog: u32,
    /// Handshakes of one listener at a time, at least 1. Sessions in transmission do not count.
    pub handshakes: u32,
    /// How long the host of a TCP client may answer nothing before its connection is closed.
    pub keepalive: Duration,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { backlog: 4096, handshakes: 2048, keepalive: Duration::from_secs(60) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            option_length: 64 << 10,
            sessions_per_listener: 1024,
            session_requests: 256,
            session_bytes: 64 << 20,
            tenant_bytes: 1 << 30,
            largest_payload: 32 << 20,
            session_io: IoRates::default(),
            session_notices: None,
            export_notices: None,
            tenant_io: IoRates::default(),
            export_io: IoRates::default(),
            drain_timeout: Duration::from_secs(30),
            arrivals: Arrivals::default(),
        }
    }
}

/// What a tenant or an export states for itself; None: it takes what stands above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitOverrides {
    /// See [`Limits::session_requests`].
    pub session_requests: Option<u32>,
    /// See [`Limits::session_bytes`].
    pub session_bytes: Option<u64>,
    /// See [`Limits::tenant_bytes`]. Only a tenant states it.
    pub tenant_bytes: Option<u64>,
    /// See [`Limits::largest_payload`].
    pub largest_payload: Option<u32>,
    /// See [`Limits::session_io`].
    pub session_io: Option<IoRates>,
    /// See [`Limits::session_notices`].
    pub session_notices: Option<Rate>,
    /// See [`Limits::export_notices`]. Only an export states it.
    pub export_notices: Option<Rate>,
    /// See [`Limits::tenant_io`]. Only a tenant states it.
    pub tenant_io: Option<IoRates>,
    /// See [`Limits::export_io`]. Only an export states it.
    pub export_io: Option<IoRates>,
}

/// What every table of limits can state of each session.
macro_rules! of_sessions {
    ($raw:ident, $section:ident) => {
        LimitOverrides {
            session_requests: $section.count("session-requests", $raw.session_requests, 1..=65_536),
            session_bytes: $section.size("session-bytes", $raw.session_bytes.as_ref()),
            largest_payload: largest_payload($raw.largest_payload.as_ref(), $section),
            session_io: IoRates::read($raw.session_io.as_ref(), &mut $section.inner("session-io")),
            session_notices: count_rate("session-notice-rate", $raw.session_notice_rate.as_ref(), $section),
            ..LimitOverrides::default()
        }
    };
}

impl Limits {
    /// These limits, less what `nearer` states for itself. Global, then tenant, then export:
    /// `global.with(&tenant).with(&export)`.
    pub fn with(self, nearer: &LimitOverrides) -> Self {
        Self {
            session_requests: nearer.session_requests.unwrap_or(self.session_requests),
            session_bytes: nearer.session_bytes.unwrap_or(self.session_bytes),
            tenant_bytes: nearer.tenant_bytes.unwrap_or(self.tenant_bytes),
            largest_payload: nearer.largest_payload.unwrap_or(self.largest_payload),
            session_io: nearer.session_io.unwrap_or(self.session_io),
            session_notices: nearer.session_notices.or(self.session_notices),
            export_notices: nearer.export_notices.or(self.export_notices),
            tenant_io: nearer.tenant_io.unwrap_or(self.tenant_io),
            export_io: nearer.export_io.unwrap_or(self.export_io),
            ..self
        }
    }

    pub(super) fn read(raw: RawLimits, section: &mut Section<'_>) -> Self {
        let default = Self::default();
        let (least, most) = (Interval::from_millis(1), Interval::from_secs(3600));
        let own = LimitOverrides {
            tenant_bytes: section.size("tenant-bytes", raw.tenant_bytes.as_ref()),
            ..of_sessions!(raw, section)
        };
        let limits = Self {
            handshake_timeout: section
                .interval("handshake-timeout", raw.handshake_timeout.as_deref(), least..=most)
                .unwrap_or(default.handshake_timeout),
            option_length: section
                .size_in("option-length", raw.option_length.as_ref(), 12 << 10..=16 << 20)
                .unwrap_or(default.option_length),
            sessions_per_listener: section
                .count("sessions-per-listener", raw.sessions_per_listener, 1..=1_000_000)
                .unwrap_or(default.sessions_per_listener),
            drain_timeout: section
                .interval("drain-timeout", raw.drain_timeout.as_deref(), Interval::from_millis(0)..=most)
                .unwrap_or(default.drain_timeout),
            arrivals: Arrivals::read(&raw, section),
            ..default.with(&own)
        };
        limits.check(&own, section);
        limits
    }

    /// A payload has to fit in what its session and its tenant may hold. Told where the nearest of the two is stated,
    /// and not again where neither is.
    pub(super) fn check(&self, own: &LimitOverrides, section: &mut Section<'_>) {
        let largest = u64::from(self.largest_payload);
        for (key, bytes, stated) in [
            ("session-bytes", self.session_bytes, own.session_bytes.is_some()),
            ("tenant-bytes", self.tenant_bytes, own.tenant_bytes.is_some()),
        ] {
            if bytes < largest && (stated || own.largest_payload.is_some()) {
                let [bytes, largest] = [bytes, largest].map(|bytes| Bytes(bytes).written());
                section.note(
                    if stated { key } else { "largest-payload" },
                    format_args!(
                        "{key} ({bytes}) is less than largest-payload ({largest}), so the largest request could never be \
                         admitted: raise {key} or lower largest-payload"
                    ),
                );
            }
        }
    }
}

impl Arrivals {
    fn read(raw: &RawLimits, section: &mut Section<'_>) -> Self {
        let default = Self::default();
        // The kernel counts a third of it in whole seconds.
        let times = Interval::from_secs(3)..=Interval::from_secs(3600);
        Self {
            backlog: section.count("listen-backlog", raw.listen_backlog, 1..=65_535).unwrap_or(default.backlog),
            handshakes: section
                .count("handshakes-per-listener", raw.handshakes_per_listener, 1..=1_000_000)
                .unwrap_or(default.handshakes),
            keepalive: section
                .interval("tcp-keepalive", raw.tcp_keepalive.as_deref(), times)
                .unwrap_or(default.keepalive),
        }
    }
}

impl LimitOverrides {
    /// Reads `[tenant.limits]`.
    pub(super) fn of_tenant(raw: &RawTenantLimits, section: &mut Section<'_>) -> Self {
        Self {
            tenant_bytes: section.size("tenant-bytes", raw.tenant_bytes.as_ref()),
            tenant_io: IoRates::read(raw.io.as_ref(), &mut section.inner("io")),
            ..of_sessions!(raw, section)
        }
    }

    /// Reads `[export.limits]`.
    pub(super) fn of_export(raw: &RawExportLimits, section: &mut Section<'_>) -> Self {
        Self {
            export_notices: count_rate("notice-rate", raw.notice_rate.as_ref(), section),
            export_io: IoRates::read(raw.io.as_ref(), &mut section.inner("io")),
            ..of_sessions!(raw, section)
        }
    }
}

/// A multiple of 64 KiB, so that it is one of any minimum block size, as proto.md asks ("Block size constraints").
fn largest_payload(raw: Option<&crate::raw::RawSize>, section: &mut Section<'_>) -> Option<u32> {
    let bytes: u32 = section.size_in("largest-payload", raw, 64 << 10..=64 << 20)?;
    if bytes.is_multiple_of(64 << 10) {
        return Some(bytes);
    }
    let size = Bytes(bytes.into()).written();
    section.note(
        "largest-payload",
        format_args!("{size} is not a multiple of 64KiB, which a maximum block size has to be"),
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_nearer_wins_and_the_rest_is_taken_from_above() {
        let tenant =
            LimitOverrides { session_requests: Some(8), tenant_bytes: Some(1 << 28), ..LimitOverrides::default() };
        let export =
            LimitOverrides { session_requests: Some(4), largest_payload: Some(1 << 20), ..LimitOverrides::default() };
        let global = Limits { session_bytes: 1 << 27, drain_timeout: Duration::ZERO, ..Limits::default() };
        let expected = Limits { session_requests: 4, tenant_bytes: 1 << 28, largest_payload: 1 << 20, ..global };
        assert_eq!(global.with(&tenant).with(&export), expected);
    }
}
