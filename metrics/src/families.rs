//! The gateway's metrics that no export has, as one table: field, kind, name, labels, help.

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
        /// Every metric but those of an export (`export_families`) and the histograms, which have buckets.
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
    sessions: IntGaugeVec "sessions" ["listener"]
        "Client connections open, handshakes included.",
    handshakes: IntGaugeVec "handshakes" ["listener"]
        "Client connections that are in their handshake.",
    refused: IntCounterVec "connections_refused_total" ["listener", "reason"]
        "Client connections refused, or closed in their handshake, because a bound was reached, by bound.",
    denials: IntCounterVec "quota_denials_total" ["tenant", "reason"]
        "Resizes, exports and sessions refused, by reason.",
    certificates: IntGaugeVec "certificate_expiry_seconds" ["file"]
        "When what a file holds stops being valid, as Unix time: a certificate (of several the first; of CAs the earliest), or a list of revoked ones.",
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
