//! The gateway's metrics as one table: field, kind, name, labels, help.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::catalogue::Catalogue;

macro_rules! family {
    ($kind:ident, $opts:expr, []) => {
        $kind::with_opts($opts)
    };
    ($kind:ident, $opts:expr, [$($label:literal),+]) => {
        $kind::new($opts, &[$($label),+])
    };
}

macro_rules! families {
    ($($field:ident: $kind:ident $name:literal $labels:tt $help:literal,)*) => {
        /// Every metric but the histograms, which have buckets.
        #[derive(Debug, Clone)]
        pub(crate) struct Families {
            $(pub(crate) $field: $kind,)*
        }

        impl Families {
            /// Registers them. Fails only if two have one name.
            pub(crate) fn new(registry: &Catalogue) -> Result<Self, prometheus::Error> {
                $(
                    let $field = family!($kind, Opts::new($name, $help), $labels)?;
                    registry.register(Box::new($field.clone()))?;
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

families! {
    build: IntGaugeVec "build_info" ["version"]
        "Always 1; the label says which version runs.",
    requests: IntCounterVec "requests_total" ["export", "command", "result"]
        "Requests answered, by command and result.",
    bytes: IntCounterVec "bytes_total" ["export", "direction"]
        "Payload bytes of successful READs and WRITEs.",
    sessions: IntGaugeVec "sessions" ["listener"]
        "Client connections open, handshakes included.",
    handshakes: IntGaugeVec "handshakes" ["listener"]
        "Client connections that are in their handshake.",
    refused: IntCounterVec "connections_refused_total" ["listener", "reason"]
        "Client connections refused, or closed in their handshake, because a bound was reached, by bound.",
    in_flight: IntGaugeVec "in_flight_requests" ["export"]
        "Requests admitted and not yet answered.",
    oldest: IntGaugeVec "oldest_request_seconds" ["export"]
        "Time that the oldest unanswered request has waited for the backend, in whole seconds; 0 without one.",
    lane_up: IntGaugeVec "lane_up" ["export"]
        "1 while the backend can be used, 0 while it is away; always 1 for embedded backends.",
    late_writes: IntGaugeVec "late_writes" ["export"]
        "Number of writes of lost connections that the backend may still carry out; requests that overlap them wait.",
    reconnects: IntCounterVec "lane_reconnects_total" ["export", "reason"]
        "Backend connections that had to be made anew, by reason.",
    opened: IntGaugeVec "export_open" ["export"]
        "1 while the export is open: it has clients, or had some lately.",
    open_failures: IntCounterVec "export_open_failures_total" ["export"]
        "Times that an export could not be opened for a client.",
    resizes: IntCounterVec "resize_requests_total" ["export", "tenant", "style", "result"]
        "Resizes that ended, by who wished for them and how they ended.",
    denials: IntCounterVec "quota_denials_total" ["tenant", "reason"]
        "Resizes, exports and sessions refused, by reason.",
    size: IntGaugeVec "export_size_bytes" ["export", "tenant"]
        "The size that clients are shown, in bytes.",
    generation: IntGaugeVec "export_generation" ["export"]
        "Number of changes of the export's size, continued over openings and restarts.",
    claims_lost: IntCounterVec "backend_resize_claims_lost_total" ["export"]
        "Times that a backend claimed to resize and turned out not to; it is taken as fixed from then on.",
    looked_at: IntGaugeVec "backend_size_watched" ["export"]
        "1 while a size that another hand gives the backend would be noticed; 0 where polling is off or the backend takes one connection only.",
    drift: IntGaugeVec "size_drift_bytes" ["export"]
        "What the backend has more than clients are shown, in bytes; negative: it has less.",
    unsettled: IntGaugeVec "export_unsettled" ["export"]
        "1 while nobody knows whether the backend did what a resize asked of it; its bytes stay counted.",
    quarantined: IntGaugeVec "export_quarantined" ["export"]
        "1 while the backend says a size that can't be, smaller than clients rely on; nothing is resized.",
    notices_sent: IntCounterVec "notices_sent_total" ["export"]
        "Size notices sent to clients.",
    notices_merged: IntCounterVec "notices_merged_total" ["export"]
        "Changes of size told together with a later one.",
    backend_notices: IntCounterVec "backend_notices_total" ["export"]
        "Size notices received from the backend.",
    certificates: IntGaugeVec "certificate_expiry_seconds" ["file"]
        "When what a file holds stops being valid, as Unix time: a certificate (of several the first; of CAs the earliest), or a list of revoked ones.",
    backend_notices_dropped: IntCounterVec "backend_notices_dropped_total" ["export"]
        "Size notices from the backend that a later one took the place of before they were looked at.",
    hook_attempts: IntCounterVec "hook_attempts_total" ["export", "way", "result"]
        "Attempts to tell a hook of a size, by way and result.",
    hooks_behind: IntGaugeVec "hooks_behind" ["export"]
        "Hooks that have not heard of the export's size yet.",
    tenant_quota: IntGaugeVec "tenant_quota_bytes" ["tenant"]
        "The quota, in bytes; no series where there is none.",
    tenant_used: IntGaugeVec "tenant_used_bytes" ["tenant"]
        "What the sizes of the tenant's exports sum to, in bytes.",
    tenant_reserved: IntGaugeVec "tenant_reserved_bytes" ["tenant"]
        "What grows in flight hold on top, in bytes.",
    tenant_unsettled: IntGaugeVec "tenant_unsettled_bytes" ["tenant"]
        "What grows of unknown outcome hold on top, in bytes.",
    tenant_unmeasured: IntGaugeVec "tenant_unmeasured_exports" ["tenant"]
        "Exports of a tenant with a quota that count nothing: their servers could not be measured yet.",
    ledger_up: IntGauge "ledger_up" []
        "1 if the last write to the ledger succeeded; 0 while it can't be written, and nothing grows.",
    log_dropped: IntCounter "log_lines_dropped_total" []
        "Number of log lines lost because standard error did not take them in time or was broken.",
    log_suppressed: IntCounter "log_lines_suppressed_total" []
        "Number of log lines left out because similar lines about the same export, address or tenant came too fast.",
    reload_success: IntGauge "config_reload_success" []
        "1 if the configuration was in order when it was last read; 0 after a reload that changed nothing because it was not.",
    last_reload: IntGauge "config_last_reload_success_timestamp_seconds" []
        "When the configuration that is in force was read, as Unix time.",
}
