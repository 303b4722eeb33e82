//! Handles of the metrics, and the buckets of histograms. The table of the others is `families`.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::catalogue::Catalogue;
use crate::families::Families;
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
    pub(crate) all: Families,
    duration: HistogramVec,
    /// By driver, then by result.
    resize_durations: Vec<Vec<Histogram>>,
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
    /// How often it has changed.
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
        let took = |d: &ResizeDriver| -> Vec<Histogram> {
            let of = |r: &ResizeResult| resize_duration.with_label_values(&[d.as_str(), r.as_str()]);
            ResizeResult::ALL.iter().map(of).collect()
        };
        let duration = histogram(
            "request_duration_seconds",
            "Time from a request's admission to its reply being queued, by command; each end may be told early, by what 32 small requests or 128 KiB take.",
            &["command"],
            latency_buckets(),
        )?;
        Command::ALL.iter().for_each(|c| drop(duration.with_label_values(&[c.as_str()])));
        let all = Families::new(&registry)?;
        all.build.with_label_values(&[version]).set(1);
        let resize_durations = ResizeDriver::ALL.iter().map(took).collect();
        Ok(Self { registry, all, duration, resize_durations, exports: Arc::default(), looks: Looks::default() })
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
        self.all.open_failures.with_label_values(&[label]).inc();
    }

    /// The series that count the openings of a template's names that failed exist from now on, at 0.
    pub fn template(&self, template: &str) {
        self.exports.lock().named.insert(template.to_owned());
        drop(self.all.open_failures.with_label_values(&[template]));
    }

    /// The handles of an export's size; its series exist from now on, at 0.
    pub fn resize(&self, name: &str, template: Option<&str>, tenant: &str, driver: ResizeDriver) -> ResizeMetrics {
        let (label, shared) = self.label(name, template);
        let part = |gauge: &IntGaugeVec| Part::new(gauge.with_label_values(&[label]), shared);
        let of = |s: &ResizeStyle| {
            let one = |r: &ResizeResult| self.all.resizes.with_label_values(&[label, tenant, s.as_str(), r.as_str()]);
            ResizeResult::ALL.iter().map(one).collect()
        };
        ResizeMetrics {
            resizes: ResizeStyle::ALL.iter().map(of).collect(),
            denials: self.all.denials.clone(),
            tenant: tenant.to_owned(),
            duration: self.resize_durations.get(driver.index()).cloned().unwrap_or_default(),
            size: Part::new(self.all.size.with_label_values(&[label, tenant]), shared),
            generation: part(&self.all.generation),
            looked_at: part(&self.all.looked_at),
            drift: part(&self.all.drift),
            unsettled: part(&self.all.unsettled),
            quarantined: part(&self.all.quarantined),
            claims_lost: self.all.claims_lost.with_label_values(&[label]),
            notices_sent: self.all.notices_sent.with_label_values(&[label]),
            notices_merged: self.all.notices_merged.with_label_values(&[label]),
            backend_notices: self.all.backend_notices.with_label_values(&[label]),
            backend_notices_dropped: self.all.backend_notices_dropped.with_label_values(&[label]),
        }
    }

    /// The handles of an export, with the template that its name fits if it has no entry of its own; its series exist from
    /// now on, at 0.
    pub fn export(&self, name: &str, template: Option<&str>) -> ExportMetrics {
        let (label, shared) = self.label(name, template);
        drop(self.all.open_failures.with_label_values(&[label]));
        let requests = Command::ALL.iter().map(|c| {
            let of = |o: &Outcome| self.all.requests.with_label_values(&[label, c.as_str(), o.as_str()]);
            Outcome::ALL.iter().map(of).collect()
        });
        ExportMetrics {
            requests: requests.collect(),
            duration: Command::ALL.iter().map(|c| self.duration.with_label_values(&[c.as_str()])).collect(),
            bytes: Direction::ALL.iter().map(|d| self.all.bytes.with_label_values(&[label, d.as_str()])).collect(),
            reconnects: LossReason::ALL
                .iter()
                .map(|r| self.all.reconnects.with_label_values(&[label, r.as_str()]))
                .collect(),
            in_flight: self.all.in_flight.with_label_values(&[label]),
            oldest: Part::new(self.all.oldest.with_label_values(&[label]), shared),
            lane_up: Part::new(self.all.lane_up.with_label_values(&[label]), shared),
            late_writes: Part::new(self.all.late_writes.with_label_values(&[label]), shared),
            open: self.all.opened.with_label_values(&[label]),
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
        let (label, _) = self.label(name, template);
        let of = |w: &HookWay| {
            let one = |r: &HookResult| self.all.hook_attempts.with_label_values(&[label, w.as_str(), r.as_str()]);
            HookResult::ALL.iter().map(one).collect()
        };
        HookMetrics {
            attempts: HookWay::ALL.iter().map(of).collect(),
            behind: self.all.hooks_behind.with_label_values(&[label]),
        }
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
        self.registry.lines()
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
