//! Handles of the metrics, and the buckets of histograms. The tables of the others are `families` and `export_families`.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::PREFIX;
use crate::catalogue::{Catalogue, text};
use crate::export_families::{FAMILIES, Family};
use crate::exports::{Exports, Gauge, Growth, Hooks, Sizes, Traffic};
use crate::families::Families;
use crate::guards::Part;
use crate::labels::{
    Command, Direction, HookResult, HookWay, LossReason, Outcome, RefusedConnection, ResizeDriver, ResizeResult,
    ResizeStyle,
};
use crate::looked::{Looked, Looks};

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
    pub(crate) all: Families,
    /// By command.
    durations: Arc<[Histogram]>,
    /// By driver, then by result.
    resize_durations: Arc<[Arc<[Histogram]>]>,
    exports: Arc<Exports>,
    /// What is looked at before each page.
    looks: Looks,
}

/// The handles of one export.
#[derive(Debug, Clone)]
pub struct ExportMetrics {
    traffic: Arc<Traffic>,
    duration: Arc<[Histogram]>,
    /// How long the oldest request has waited for the backend's answer, in seconds.
    pub oldest: Part,
    /// 1 while the backend can be used; always 1 for embedded ones.
    pub lane_up: Part,
    /// Requests of lost connections that the backend may still carry out.
    pub late_writes: Part,
}

impl Deref for ExportMetrics {
    type Target = Traffic;

    fn deref(&self) -> &Traffic {
        &self.traffic
    }
}

/// The handles of one export's size.
#[derive(Debug, Clone)]
pub struct ResizeMetrics {
    growth: Arc<Growth>,
    sizes: Arc<Sizes>,
    duration: Arc<[Histogram]>,
    denials: IntCounterVec,
    tenant: String,
    /// The size that is shown, in bytes.
    pub size: Part,
    /// How often it has changed.
    pub generation: Part,
    /// What the backend has more than is shown, in bytes; negative: less.
    pub drift: Part,
    /// 1 while nobody knows what a resize did.
    pub unsettled: Part,
    /// 1 while the backend says a size that can't be.
    pub quarantined: Part,
    /// 1 while the gateway would notice that another hand resizes the backend, by its notices or by asking.
    pub looked_at: Part,
}

impl Deref for ResizeMetrics {
    type Target = Growth;

    fn deref(&self) -> &Growth {
        &self.growth
    }
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
    hooks: Arc<Hooks>,
    /// Hooks of this export that have not heard of its size yet.
    pub behind: Arc<Gauge>,
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
        let registry = Catalogue::new(PREFIX)?;
        let histogram = |name: &str, help: &str, labels: &[&str], buckets| -> Result<HistogramVec, prometheus::Error> {
            let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let resize_duration = histogram(
            "resize_duration_seconds",
            "Time from the moment that a resize's turn comes to its end, by what resizes the backend and how it ended.",
            &["driver", "result"],
            RESIZE_BUCKETS.to_vec(),
        )?;
        let took = |d: &ResizeDriver| -> Arc<[Histogram]> {
            let of = |r: &ResizeResult| resize_duration.with_label_values(&[d.as_str(), r.as_str()]);
            ResizeResult::ALL.iter().map(of).collect()
        };
        let duration = histogram(
            "request_duration_seconds",
            "Time from a request's admission to its reply being queued, by command; each end may be told early, by what 32 small requests or 128 KiB take.",
            &["command"],
            latency_buckets(),
        )?;
        let durations = Command::ALL.iter().map(|c| duration.with_label_values(&[c.as_str()])).collect();
        let all = Families::new(&registry)?;
        all.build.with_label_values(&[version]).set(1);
        let resize_durations = ResizeDriver::ALL.iter().map(took).collect();
        Ok(Self { registry, all, durations, resize_durations, exports: Arc::default(), looks: Looks::default() })
    }

    /// An export could not be opened. A name that fits a template has no series for that: clients make it up.
    pub fn open_failed(&self, name: &str, template: Option<&str>) {
        self.exports.known_or_template(name, template).open_failures.inc();
    }

    /// The series that count the openings of a template's names that failed exist from now on, at 0.
    pub fn template(&self, template: &str) {
        drop(self.exports.series(template, None));
    }

    /// The handles of an export's size; its series exist from now on, at 0.
    pub fn resize(&self, name: &str, template: Option<&str>, tenant: &str, driver: ResizeDriver) -> ResizeMetrics {
        let (series, shared) = self.exports.series(name, template);
        let growth = Arc::clone(series.growth.get_or_init(Arc::default));
        let sizes = Arc::clone(series.tenants.lock().entry(tenant.into()).or_default());
        let part = |gauge| Part::new(gauge, shared);
        ResizeMetrics {
            denials: self.all.denials.clone(),
            tenant: tenant.to_owned(),
            duration: self.resize_durations.get(driver.index()).cloned().unwrap_or_default(),
            size: part(&sizes.size),
            generation: part(&growth.generation),
            looked_at: part(&growth.looked_at),
            drift: part(&growth.drift),
            unsettled: part(&growth.unsettled),
            quarantined: part(&growth.quarantined),
            growth,
            sizes,
        }
    }

    /// The handles of an export, with the template that its name fits if it has no entry of its own; its series exist from
    /// now on, at 0; those of a command from its first request on.
    pub fn export(&self, name: &str, template: Option<&str>) -> ExportMetrics {
        let (series, shared) = self.exports.series(name, template);
        let traffic = Arc::clone(series.traffic.get_or_init(Arc::default));
        ExportMetrics {
            duration: Arc::clone(&self.durations),
            oldest: Part::new(&traffic.oldest, shared),
            lane_up: Part::new(&traffic.lane_up, shared),
            late_writes: Part::new(&traffic.late_writes, shared),
            traffic,
        }
    }

    /// Takes the series of an export or of a template away, and makes room for another name. An export that shares those of
    /// its template has none. Who still holds handles counts into nothing; under the same name they begin at 0 again.
    pub fn forget_export(&self, name: &str) {
        self.exports.forget(name);
    }

    /// Takes a tenant's series away; `reasons` as in [`tenant`](Self::tenant).
    pub fn forget_tenant(&self, name: &str, reasons: &[&'static str]) {
        // A missing file need not go.
        for reason in reasons {
            let _ = self.all.denials.remove_label_values(&[name, reason]);
        }
        let all = &self.all;
        for gauge in
            [&all.tenant_quota, &all.tenant_used, &all.tenant_reserved, &all.tenant_unsettled, &all.tenant_unmeasured]
        {
            let _ = gauge.remove_label_values(&[name]);
        }
    }

    /// The handles of a tenant; its series exist from now on, at 0. `reasons` are the labels of all that it can be refused.
    pub fn tenant(&self, name: &str, reasons: &[&'static str]) -> TenantMetrics {
        let label = &[name];
        reasons.iter().for_each(|reason| drop(self.all.denials.with_label_values(&[name, reason])));
        TenantMetrics {
            tenant: name.to_owned(),
            denials: self.all.denials.clone(),
            quota: self.all.tenant_quota.clone(),
            used: self.all.tenant_used.with_label_values(label),
            reserved: self.all.tenant_reserved.with_label_values(label),
            unsettled: self.all.tenant_unsettled.with_label_values(label),
            unmeasured: self.all.tenant_unmeasured.with_label_values(label),
        }
    }

    /// The handles of an export's hooks; their series exist from now on, at 0.
    pub fn hooks(&self, name: &str, template: Option<&str>) -> HookMetrics {
        let (series, _) = self.exports.series(name, template);
        let hooks = Arc::clone(series.hooks.get_or_init(Arc::default));
        HookMetrics { behind: Arc::clone(&hooks.behind), hooks }
    }

    /// The handles of a listener, by its address as configured.
    pub fn listener(&self, address: &str) -> ListenerMetrics {
        let refused = RefusedConnection::ALL.iter().map(|r| self.all.refused.with_label_values(&[address, r.as_str()]));
        ListenerMetrics {
            sessions: self.all.sessions.with_label_values(&[address]),
            handshakes: self.all.handshakes.with_label_values(&[address]),
            refused: refused.collect(),
        }
    }

    /// Whether the ledger can be written, as it was found last.
    pub fn ledger(&self, up: bool) {
        self.all.ledger_up.set(i64::from(up));
    }

    /// Counts log lines that were lost on their way out.
    pub fn log_dropped(&self) -> IntCounter {
        self.all.log_dropped.clone()
    }

    /// Counts log lines that were left out because similar ones came too fast.
    pub fn log_suppressed(&self) -> IntCounter {
        self.all.log_suppressed.clone()
    }

    /// The configuration was read: `at`, in seconds of Unix time, and is in force from then on.
    pub fn config_in_force(&self, at: i64) {
        self.all.last_reload.set(at);
        self.all.reload_success.set(1);
    }

    /// It was to be read anew, and what is in the file can't be in force.
    pub fn config_refused(&self) {
        self.all.reload_success.set(0);
    }

    /// Each metric as `name{labels} type help`, sorted; also those that have no series yet.
    pub fn catalogue(&self) -> Vec<String> {
        let mut lines = self.registry.lines();
        lines.extend(FAMILIES.iter().map(Family::describe));
        lines.sort();
        lines
    }

    /// Until when what a file of certificates holds is valid. The files are those in the configuration's directories.
    pub fn certificate_expiry(&self, file: &str) -> IntGauge {
        self.all.certificates.with_label_values(&[file])
    }

    /// The file is not one of those any more.
    pub fn forget_certificate(&self, file: &str) {
        // There may have been no series of it.
        let _ = self.all.certificates.remove_label_values(&[file]);
    }

    /// Has `thing` looked at before each page, as long as somebody has it.
    pub fn look_at(&self, thing: Weak<dyn Looked>) {
        self.looks.add(thing);
    }

    /// All of it in Prometheus' text format. Looks at what has to be looked at, which may read small files.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        text(|page| self.render_to(page))
    }

    /// The same, written piece by piece.
    pub fn render_to(&self, to: &mut impl std::io::Write) -> Result<(), prometheus::Error> {
        self.looks.look();
        self.registry.render_to(to)?;
        Ok(self.exports.render_to(to)?)
    }
}

impl ExportMetrics {
    /// One request answered: how, after how many seconds, and the payload bytes that went with it.
    pub fn answered(&self, command: Command, outcome: Outcome, seconds: f64, bytes: Option<(Direction, u64)>) {
        if let Some(counter) = self.traffic.requests.get(command.index()).and_then(|r| r.get(outcome.index())) {
            counter.inc();
        }
        if let Some(histogram) = self.duration.get(command.index()) {
            histogram.observe(seconds);
        }
        if let Some((direction, bytes)) = bytes
            && let Some(counter) = self.traffic.bytes.get(direction.index())
        {
            counter.inc_by(bytes);
        }
    }

    /// A backend connection has to be made anew.
    pub fn reconnect(&self, reason: LossReason) {
        if let Some(counter) = self.traffic.reconnects.get(reason.index()) {
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
        if let Some(counter) = self.hooks.attempts.get(way.index()).and_then(|r| r.get(result.index())) {
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
        if let Some(counter) = self.sizes.resizes.get(style.index()).and_then(|r| r.get(result.index())) {
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
    fn the_series_of_an_export_exist_from_the_start_and_those_of_a_command_from_its_first_request() {
        let metrics = Metrics::new("1.2.3").unwrap();
        let export = metrics.export("di\"sk", None);
        let text = metrics.render().unwrap();
        assert!(text.contains("nbd_gateway_in_flight_requests{export=\"di\\\"sk\"} 0\n"), "{text}");
        assert!(!text.contains("nbd_gateway_requests_total{"), "{text}");
        assert!(text.contains(r#"nbd_gateway_build_info{version="1.2.3"} 1"#));
        export.answered(Command::Read, Outcome::Ok, 0.001, Some((Direction::Read, 4096)));
        let text = metrics.render().unwrap();
        for line in [
            "nbd_gateway_bytes_total{direction=\"read\",export=\"di\\\"sk\"} 4096\n",
            "nbd_gateway_requests_total{command=\"read\",export=\"di\\\"sk\",result=\"ok\"} 1\n",
            "nbd_gateway_requests_total{command=\"read\",export=\"di\\\"sk\",result=\"enospc\"} 0\n",
            "nbd_gateway_request_duration_seconds_count{command=\"read\"} 1\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        assert!(!text.contains("command=\"write\",export"), "{text}");
    }
}
