//! Every metric: name, help, unit and buckets.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::catalogue::Catalogue;
use crate::guards::Part;
use crate::labels::{
    Command, Direction, HookResult, HookWay, LossReason, Outcome, RefusedConnection, ResizeDriver, ResizeResult,
    ResizeStyle,
};
use crate::looked::{Looked, Looks};

/// Open exports of templates beyond this many have no series of their own: clients make up their names.
const MOST_OF_TEMPLATES: usize = 1000;

/// Names that have series. Exports that the configuration names always have; those of templates while they are open, and
/// beyond the bound they share the series of their template, whose name has a `*` and so is no export's.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Exports with an entry of their own, and templates.
    pub(crate) named: HashSet<String>,
    /// Names that fit a template.
    pub(crate) made_up: HashSet<String>,
}

/// From 50 us (memory behind a Unix socket) to 26 s (a backend that is away within `hold`), doubling: latency is read in
/// ratios, and twenty buckets times eight commands stay a small page.
fn latency_buckets() -> Vec<f64> {
    (0..20).map(|n| 50e-6 * f64::from(1u32 << n)).collect()
}

/// A file's length is set within milliseconds; qemu and a restarted server take tenths of a second; a write waits a second
/// for growth (`growth-wait`) and a server has half a minute (`timeout`) unless configured otherwise; what takes longer than
/// two minutes is a configuration that wants it so. Each of these is a bound.
const RESIZE_BUCKETS: [f64; 11] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0];

/// All metrics of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Catalogue,
    pub(crate) requests: IntCounterVec,
    duration: HistogramVec,
    pub(crate) bytes: IntCounterVec,
    sessions: IntGaugeVec,
    handshakes: IntGaugeVec,
    refused: IntCounterVec,
    pub(crate) in_flight: IntGaugeVec,
    pub(crate) oldest: IntGaugeVec,
    pub(crate) lane_up: IntGaugeVec,
    pub(crate) late_writes: IntGaugeVec,
    pub(crate) reconnects: IntCounterVec,
    pub(crate) opened: IntGaugeVec,
    pub(crate) open_failures: IntCounterVec,
    pub(crate) resizes: IntCounterVec,
    /// By driver, then by result.
    resize_durations: Vec<Vec<Histogram>>,
    pub(crate) denials: IntCounterVec,
    pub(crate) size: IntGaugeVec,
    pub(crate) generation: IntGaugeVec,
    pub(crate) claims_lost: IntCounterVec,
    pub(crate) looked_at: IntGaugeVec,
    pub(crate) drift: IntGaugeVec,
    pub(crate) unsettled: IntGaugeVec,
    pub(crate) quarantined: IntGaugeVec,
    pub(crate) notices_sent: IntCounterVec,
    pub(crate) notices_merged: IntCounterVec,
    pub(crate) backend_notices: IntCounterVec,
    certificates: IntGaugeVec,
    pub(crate) backend_notices_dropped: IntCounterVec,
    pub(crate) tenants: [IntGaugeVec; 5],
    pub(crate) hook_attempts: IntCounterVec,
    pub(crate) hooks_behind: IntGaugeVec,
    ledger_up: IntGauge,
    log_dropped: IntCounter,
    log_suppressed: IntCounter,
    reload_success: IntGauge,
    last_reload: IntGauge,
    pub(crate) exports: Arc<Mutex<Shown>>,
    /// What is looked at before each page.
    looks: Looks,
}

/// The handles of one export.
#[derive(Debug, Clone)]
pub struct ExportMetrics {
    requests: Vec<Vec<IntCounter>>,
    duration: Vec<Histogram>,
    bytes: Vec<IntCounter>,
    reconnects: Vec<IntCounter>,
    /// Requests admitted and not yet answered.
    pub in_flight: IntGauge,
    /// How long the oldest request has waited for the backend's answer, in seconds.
    pub oldest: Part,
    /// 1 while the backend can be used; always 1 for embedded ones.
    pub lane_up: Part,
    /// Requests of lost connections that the backend may still carry out.
    pub late_writes: Part,
    /// 1 while the export is open.
    pub open: IntGauge,
}

/// The handles of one export's size.
#[derive(Debug, Clone)]
pub struct ResizeMetrics {
    resizes: Vec<Vec<IntCounter>>,
    duration: Vec<Histogram>,
    denials: IntCounterVec,
    tenant: String,
    /// The size that is shown, in bytes.
    pub size: Part,
    /// How often it has changed since the export was opened.
    pub generation: Part,
    /// What the backend has more than is shown, in bytes; negative: less.
    pub drift: Part,
    /// 1 while nobody knows what a resize did.
    pub unsettled: Part,
    /// 1 while the backend says a size that can't be.
    pub quarantined: Part,
    /// Times that a backend claimed to resize and turned out not to.
    pub claims_lost: IntCounter,
    /// 1 while the gateway would notice that another hand resizes the backend, by its notices or by asking.
    pub looked_at: Part,
    /// RESIZE chunks sent to standing NOTIFY requests, and long polls answered.
    pub notices_sent: IntCounter,
    /// Changes that were told together with a later one.
    pub notices_merged: IntCounter,
    /// Notices received from the backend.
    pub backend_notices: IntCounter,
    /// Those of them that a later one took the place of before anybody looked.
    pub backend_notices_dropped: IntCounter,
}

/// The handles of one tenant: what its exports sum to, in bytes.
#[derive(Debug, Clone)]
pub struct TenantMetrics {
    tenant: String,
    denials: IntCounterVec,
    quota: IntGaugeVec,
    used: IntGauge,
    reserved: IntGauge,
    unsettled: IntGauge,
    unmeasured: IntGauge,
}

/// The handles of an export's hooks.
#[derive(Debug, Clone)]
pub struct HookMetrics {
    attempts: Vec<Vec<IntCounter>>,
    /// Hooks of this export that have not heard of its size yet.
    pub behind: IntGauge,
}

/// The handles of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Connections open.
    pub sessions: IntGauge,
    /// Those of them in their handshake.
    pub handshakes: IntGauge,
    refused: Vec<IntCounter>,
}

impl Metrics {
    /// A new set, registered with the prefix `nbd_gateway_`. Fails only if two metrics have one name.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Catalogue::new("nbd_gateway")?;
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets| -> Result<HistogramVec, prometheus::Error> {
            let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let build = gauge("build_info", "Always 1; the label says which version runs.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let ledger_up = IntGauge::new(
            "ledger_up",
            "1 if the last write to the ledger succeeded; 0 while it can't be written, and nothing grows.",
        )?;
        registry.register(Box::new(ledger_up.clone()))?;
        let log_dropped = IntCounter::new(
            "log_lines_dropped_total",
            "Number of log lines lost because standard error did not take them in time or was broken.",
        )?;
        registry.register(Box::new(log_dropped.clone()))?;
        let log_suppressed = IntCounter::new(
            "log_lines_suppressed_total",
            "Number of log lines left out because similar lines about the same export, address or tenant came too fast.",
        )?;
        registry.register(Box::new(log_suppressed.clone()))?;
        let reload_success = IntGauge::new(
            "config_reload_success",
            "1 if the configuration was in order when it was last read; 0 after a reload that changed nothing because it was not.",
        )?;
        registry.register(Box::new(reload_success.clone()))?;
        let last_reload = IntGauge::new(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration that is in force was read, as Unix time.",
        )?;
        registry.register(Box::new(last_reload.clone()))?;
        let resize_duration = histogram(
            "resize_duration_seconds",
            "Time from the moment that a resize's turn comes to its end, by what resizes the backend and how it ended.",
            &["driver", "result"],
            RESIZE_BUCKETS.to_vec(),
        )?;
        let took = |d: &ResizeDriver| -> Vec<Histogram> {
            let of = |r: &ResizeResult| resize_duration.with_label_values(&[d.as_str(), r.as_str()]);
            ResizeResult::ALL.iter().map(of).collect()
        };
        let metrics = Self {
            requests: counter(
                "requests_total",
                "Requests answered, by command and result.",
                &["export", "command", "result"],
            )?,
            bytes: counter("bytes_total", "Payload bytes of successful READs and WRITEs.", &["export", "direction"])?,
            sessions: gauge("sessions", "Client connections open, handshakes included.", &["listener"])?,
            handshakes: gauge("handshakes", "Client connections that are in their handshake.", &["listener"])?,
            refused: counter(
                "connections_refused_total",
                "Client connections refused, or closed in their handshake, because a bound was reached, by bound.",
                &["listener", "reason"],
            )?,
            in_flight: gauge("in_flight_requests", "Requests admitted and not yet answered.", &["export"])?,
            oldest: gauge(
                "oldest_request_seconds",
                "Time that the oldest unanswered request has waited for the backend, in whole seconds; 0 without one.",
                &["export"],
            )?,
            lane_up: gauge(
                "lane_up",
                "1 while the backend can be used, 0 while it is away; always 1 for embedded backends.",
                &["export"],
            )?,
            late_writes: gauge(
                "late_writes",
                "Number of writes of lost connections that the backend may still carry out; requests that overlap them wait.",
                &["export"],
            )?,
            reconnects: counter(
                "lane_reconnects_total",
                "Backend connections that had to be made anew, by reason.",
                &["export", "reason"],
            )?,
            opened: gauge(
                "export_open",
                "1 while the export is open: it has clients, or had some lately.",
                &["export"],
            )?,
            open_failures: counter(
                "export_open_failures_total",
                "Times that an export could not be opened for a client.",
                &["export"],
            )?,
            resizes: counter(
                "resize_requests_total",
                "Resizes that ended, by who wished for them and how they ended.",
                &["export", "tenant", "style", "result"],
            )?,
            resize_durations: ResizeDriver::ALL.iter().map(took).collect(),
            denials: counter(
                "quota_denials_total",
                "Resizes, exports and sessions refused, by reason.",
                &["tenant", "reason"],
            )?,
            size: gauge("export_size_bytes", "The size that clients are shown, in bytes.", &["export", "tenant"])?,
            generation: gauge("export_generation", "Changes of size since the export was opened.", &["export"])?,
            claims_lost: counter(
                "backend_resize_claims_lost_total",
                "Times that a backend claimed to resize and turned out not to; it is taken as fixed from then on.",
                &["export"],
            )?,
            looked_at: gauge(
                "backend_size_watched",
                "1 while a size that another hand gives the backend would be noticed; 0 where polling is off or the backend takes one connection only.",
                &["export"],
            )?,
            drift: gauge(
                "size_drift_bytes",
                "What the backend has more than clients are shown, in bytes; negative: it has less.",
                &["export"],
            )?,
            unsettled: gauge(
                "export_unsettled",
                "1 while nobody knows whether the backend did what a resize asked of it; its bytes stay counted.",
                &["export"],
            )?,
            quarantined: gauge(
                "export_quarantined",
                "1 while the backend says a size that can't be, smaller than clients rely on; nothing is resized.",
                &["export"],
            )?,
            notices_sent: counter("notices_sent_total", "Size notices sent to clients.", &["export"])?,
            notices_merged: counter(
                "notices_merged_total",
                "Changes of size told together with a later one.",
                &["export"],
            )?,
            backend_notices: counter("backend_notices_total", "Size notices received from the backend.", &["export"])?,
            certificates: gauge(
                "certificate_expiry_seconds",
                "When what a file holds stops being valid, as Unix time: a certificate (of several the first; of CAs the earliest), or a list of revoked ones.",
                &["file"],
            )?,
            backend_notices_dropped: counter(
                "backend_notices_dropped_total",
                "Size notices from the backend that a later one took the place of before they were looked at.",
                &["export"],
            )?,
            tenants: [
                gauge("tenant_quota_bytes", "The quota, in bytes; no series where there is none.", &["tenant"])?,
                gauge("tenant_used_bytes", "What the sizes of the tenant's exports sum to, in bytes.", &["tenant"])?,
                gauge("tenant_reserved_bytes", "What grows in flight hold on top, in bytes.", &["tenant"])?,
                gauge("tenant_unsettled_bytes", "What grows of unknown outcome hold on top, in bytes.", &["tenant"])?,
                gauge(
                    "tenant_unmeasured_exports",
                    "Exports of a tenant with a quota that count nothing: their servers could not be measured yet.",
                    &["tenant"],
                )?,
            ],
            hook_attempts: counter(
                "hook_attempts_total",
                "Attempts to tell a hook of a size, by way and result.",
                &["export", "way", "result"],
            )?,
            hooks_behind: gauge("hooks_behind", "Hooks that have not heard of the export's size yet.", &["export"])?,
            duration: histogram(
                "request_duration_seconds",
                "Time from a request's admission to its reply being queued, by command; each end may be told early, by what 32 small requests or 128 KiB take.",
                &["command"],
                latency_buckets(),
            )?,
            ledger_up,
            log_dropped,
            log_suppressed,
            reload_success,
            last_reload,
            registry: registry.clone(),
            exports: Arc::default(),
            looks: Looks::default(),
        };
        Command::ALL.iter().for_each(|c| drop(metrics.duration.with_label_values(&[c.as_str()])));
        Ok(metrics)
    }

    /// The export's label value, its name or its template's; and whether others may have the same.
    fn label<'a>(&self, name: &'a str, template: Option<&'a str>) -> (&'a str, bool) {
        let mut shown = self.exports.lock();
        let Some(template) = template else {
            shown.made_up.remove(name);
            shown.named.insert(name.to_owned());
            return (name, false);
        };
        let room = shown.made_up.len() < MOST_OF_TEMPLATES;
        // A client may ask for the template's own name.
        let own =
            !name.contains('*') && (shown.made_up.contains(name) || (room && shown.made_up.insert(name.to_owned())));
        if own {
            return (name, false);
        }
        shown.named.insert(template.to_owned());
        (template, true)
    }

    /// An export could not be opened. A name that fits a template has no series for that: clients make it up.
    pub fn open_failed(&self, name: &str, template: Option<&str>) {
        let known = self.exports.lock().made_up.contains(name);
        let label = template.filter(|_| !known).unwrap_or(name);
        self.open_failures.with_label_values(&[label]).inc();
    }

    /// The series that count the openings of a template's names that failed exist from now on, at 0.
    pub fn template(&self, template: &str) {
        self.exports.lock().named.insert(template.to_owned());
        drop(self.open_failures.with_label_values(&[template]));
    }

    /// The handles of an export's size; its series exist from now on, at 0.
    pub fn resize(&self, name: &str, template: Option<&str>, tenant: &str, driver: ResizeDriver) -> ResizeMetrics {
        let (label, shared) = self.label(name, template);
        let part = |gauge: &IntGaugeVec| Part::new(gauge.with_label_values(&[label]), shared);
        let of = |s: &ResizeStyle| {
            let one = |r: &ResizeResult| self.resizes.with_label_values(&[label, tenant, s.as_str(), r.as_str()]);
            ResizeResult::ALL.iter().map(one).collect()
        };
        ResizeMetrics {
            resizes: ResizeStyle::ALL.iter().map(of).collect(),
            denials: self.denials.clone(),
            tenant: tenant.to_owned(),
            duration: self.resize_durations.get(driver.index()).cloned().unwrap_or_default(),
            size: Part::new(self.size.with_label_values(&[label, tenant]), shared),
            generation: part(&self.generation),
            looked_at: part(&self.looked_at),
            drift: part(&self.drift),
            unsettled: part(&self.unsettled),
            quarantined: part(&self.quarantined),
            claims_lost: self.claims_lost.with_label_values(&[label]),
            notices_sent: self.notices_sent.with_label_values(&[label]),
            notices_merged: self.notices_merged.with_label_values(&[label]),
            backend_notices: self.backend_notices.with_label_values(&[label]),
            backend_notices_dropped: self.backend_notices_dropped.with_label_values(&[label]),
        }
    }

    /// The handles of an export, with the template that its name fits if it has no entry of its own; its series exist from
    /// now on, at 0.
    pub fn export(&self, name: &str, template: Option<&str>) -> ExportMetrics {
        let (label, shared) = self.label(name, template);
        drop(self.open_failures.with_label_values(&[label]));
        let requests = Command::ALL.iter().map(|c| {
            let of = |o: &Outcome| self.requests.with_label_values(&[label, c.as_str(), o.as_str()]);
            Outcome::ALL.iter().map(of).collect()
        });
        ExportMetrics {
            requests: requests.collect(),
            duration: Command::ALL.iter().map(|c| self.duration.with_label_values(&[c.as_str()])).collect(),
            bytes: Direction::ALL.iter().map(|d| self.bytes.with_label_values(&[label, d.as_str()])).collect(),
            reconnects: LossReason::ALL
                .iter()
                .map(|r| self.reconnects.with_label_values(&[label, r.as_str()]))
                .collect(),
            in_flight: self.in_flight.with_label_values(&[label]),
            oldest: Part::new(self.oldest.with_label_values(&[label]), shared),
            lane_up: Part::new(self.lane_up.with_label_values(&[label]), shared),
            late_writes: Part::new(self.late_writes.with_label_values(&[label]), shared),
            open: self.opened.with_label_values(&[label]),
        }
    }

    /// The handles of a tenant; its series exist from now on, at 0. `reasons` are the labels of all that it can be refused.
    pub fn tenant(&self, name: &str, reasons: &[&'static str]) -> TenantMetrics {
        let [quota, used, reserved, unsettled, unmeasured] = &self.tenants;
        let label = &[name];
        reasons.iter().for_each(|reason| drop(self.denials.with_label_values(&[name, reason])));
        TenantMetrics {
            tenant: name.to_owned(),
            denials: self.denials.clone(),
            quota: quota.clone(),
            used: used.with_label_values(label),
            reserved: reserved.with_label_values(label),
            unsettled: unsettled.with_label_values(label),
            unmeasured: unmeasured.with_label_values(label),
        }
    }

    /// The handles of an export's hooks; their series exist from now on, at 0.
    pub fn hooks(&self, name: &str, template: Option<&str>) -> HookMetrics {
        let (label, _) = self.label(name, template);
        let of = |w: &HookWay| {
            let one = |r: &HookResult| self.hook_attempts.with_label_values(&[label, w.as_str(), r.as_str()]);
            HookResult::ALL.iter().map(one).collect()
        };
        HookMetrics {
            attempts: HookWay::ALL.iter().map(of).collect(),
            behind: self.hooks_behind.with_label_values(&[label]),
        }
    }

    /// The handles of a listener, by its address as configured.
    pub fn listener(&self, address: &str) -> ListenerMetrics {
        let refused = RefusedConnection::ALL.iter().map(|r| self.refused.with_label_values(&[address, r.as_str()]));
        ListenerMetrics {
            sessions: self.sessions.with_label_values(&[address]),
            handshakes: self.handshakes.with_label_values(&[address]),
            refused: refused.collect(),
        }
    }

    /// Whether the ledger can be written, as it was found last.
    pub fn ledger(&self, up: bool) {
        self.ledger_up.set(i64::from(up));
    }

    /// Counts log lines that were lost on their way out.
    pub fn log_dropped(&self) -> IntCounter {
        self.log_dropped.clone()
    }

    /// Counts log lines that were left out because similar ones came too fast.
    pub fn log_suppressed(&self) -> IntCounter {
        self.log_suppressed.clone()
    }

    /// The configuration was read: `at`, in seconds of Unix time, and is in force from then on.
    pub fn config_in_force(&self, at: i64) {
        self.last_reload.set(at);
        self.reload_success.set(1);
    }

    /// It was to be read anew, and what is in the file can't be in force.
    pub fn config_refused(&self) {
        self.reload_success.set(0);
    }

    /// Each metric as `name{labels} type help`, sorted; also those that have no series yet.
    pub fn catalogue(&self) -> Vec<String> {
        self.registry.lines()
    }

    /// Until when what a file of certificates holds is valid. The files are those in the configuration's directories.
    pub fn certificate_expiry(&self, file: &str) -> IntGauge {
        self.certificates.with_label_values(&[file])
    }

    /// The file is not one of those any more.
    pub fn forget_certificate(&self, file: &str) {
        // There may have been no series of it.
        let _ = self.certificates.remove_label_values(&[file]);
    }

    /// Has `thing` looked at before each page, as long as somebody has it.
    pub fn look_at(&self, thing: Weak<dyn Looked>) {
        self.looks.add(thing);
    }

    /// All of it in Prometheus' text format. Looks at what has to be looked at, which may read small files.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        self.looks.look();
        self.registry.render()
    }

    /// The same, written piece by piece.
    pub fn render_to(&self, to: &mut impl std::io::Write) -> Result<(), prometheus::Error> {
        self.looks.look();
        self.registry.render_to(to)
    }
}

impl ExportMetrics {
    /// One request answered: how, after how many seconds, and the payload bytes that went with it.
    pub fn answered(&self, command: Command, outcome: Outcome, seconds: f64, bytes: Option<(Direction, u64)>) {
        if let Some(counter) = self.requests.get(command.index()).and_then(|r| r.get(outcome.index())) {
            counter.inc();
        }
        if let Some(histogram) = self.duration.get(command.index()) {
            histogram.observe(seconds);
        }
        if let Some((direction, bytes)) = bytes
            && let Some(counter) = self.bytes.get(direction.index())
        {
            counter.inc_by(bytes);
        }
    }

    /// A backend connection has to be made anew.
    pub fn reconnect(&self, reason: LossReason) {
        if let Some(counter) = self.reconnects.get(reason.index()) {
            counter.inc();
        }
    }
}

impl ListenerMetrics {
    /// One connection was refused, or closed in its handshake.
    pub fn refused(&self, reason: RefusedConnection) {
        if let Some(counter) = self.refused.get(reason.index()) {
            counter.inc();
        }
    }
}

impl TenantMetrics {
    /// What it uses now, in bytes; no quota is none.
    pub fn uses(&self, quota: Option<u64>, used: u64, reserved: u64, unsettled: u64) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        match quota {
            Some(quota) => self.quota.with_label_values(&[&self.tenant]).set(gauge(quota)),
            // There was none before, or it has been taken away.
            None => drop(self.quota.remove_label_values(&[&self.tenant])),
        }
        self.used.set(gauge(used));
        self.reserved.set(gauge(reserved));
        self.unsettled.set(gauge(unsettled));
    }

    /// So many of its exports count nothing.
    pub fn unmeasured(&self, exports: u32) {
        self.unmeasured.set(exports.into());
    }

    /// Something was refused; `reason` is one of the policy's closed set of labels.
    pub fn denied(&self, reason: &'static str) {
        self.denials.with_label_values(&[self.tenant.as_str(), reason]).inc();
    }
}

impl HookMetrics {
    /// One attempt ended.
    pub fn attempted(&self, way: HookWay, result: HookResult) {
        if let Some(counter) = self.attempts.get(way.index()).and_then(|r| r.get(result.index())) {
            counter.inc();
        }
    }
}

impl ResizeMetrics {
    /// One resize took so many seconds, from when its turn came.
    pub fn took(&self, result: ResizeResult, seconds: f64) {
        if let Some(histogram) = self.duration.get(result.index()) {
            histogram.observe(seconds);
        }
    }

    /// One resize ended.
    pub fn ended(&self, style: ResizeStyle, result: ResizeResult) {
        if let Some(counter) = self.resizes.get(style.index()).and_then(|r| r.get(result.index())) {
            counter.inc();
        }
    }

    /// One was refused; `reason` is one of the policy's closed set of labels.
    pub fn denied(&self, reason: &'static str) {
        self.denials.with_label_values(&[self.tenant.as_str(), reason]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_of_an_export_exists_from_the_start() {
        let metrics = Metrics::new("1.2.3").unwrap();
        let export = metrics.export("disk", None);
        let text = metrics.render().unwrap();
        assert!(
            text.contains(r#"nbd_gateway_requests_total{command="write_zeroes",export="disk",result="enospc"} 0"#),
            "{text}"
        );
        assert!(text.contains(r#"nbd_gateway_build_info{version="1.2.3"} 1"#));
        export.answered(Command::Read, Outcome::Ok, 0.001, Some((Direction::Read, 4096)));
        let text = metrics.render().unwrap();
        assert!(text.contains(r#"nbd_gateway_bytes_total{direction="read",export="disk"} 4096"#), "{text}");
        assert!(text.contains(r#"nbd_gateway_request_duration_seconds_count{command="read"} 1"#));
    }
}
