//! Every metric: name, help, unit and buckets.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::labels::{Command, Direction, LossReason, Outcome};

/// Exports beyond this many share the label value `other`: templates can make any number of names.
const MOST_EXPORTS: usize = 1000;

/// From 50 us (memory behind a Unix socket) to 26 s (a backend that is away within `hold`), doubling: latency is read in
/// ratios, and twenty buckets times eight commands stay a small page.
fn latency_buckets() -> Vec<f64> {
    (0..20).map(|n| 50e-6 * f64::from(1u32 << n)).collect()
}

/// All metrics of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    bytes: IntCounterVec,
    sessions: IntGaugeVec,
    in_flight: IntGaugeVec,
    lane_up: IntGaugeVec,
    reconnects: IntCounterVec,
    exports: Arc<Mutex<HashSet<String>>>,
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
    /// 1 while the backend can be used; always 1 for embedded ones.
    pub lane_up: IntGauge,
}

/// The handles of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Connections open.
    pub sessions: IntGauge,
}

impl Metrics {
    /// A new set, registered with the prefix `nbd_gateway_`. Fails only if two metrics have one name.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("nbd_gateway".to_owned()), None)?;
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
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "request_duration_seconds",
                "Time from a request's admission to its reply being queued, by command.",
            )
            .buckets(latency_buckets()),
            &["command"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        let build = gauge("build_info", "Always 1; the label says which version runs.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let metrics = Self {
            requests: counter(
                "requests_total",
                "Requests answered, by command and result.",
                &["export", "command", "result"],
            )?,
            bytes: counter("bytes_total", "Payload bytes of successful READs and WRITEs.", &["export", "direction"])?,
            sessions: gauge("sessions", "Client connections open, handshakes included.", &["listener"])?,
            in_flight: gauge("in_flight_requests", "Requests admitted and not yet answered.", &["export"])?,
            lane_up: gauge(
                "lane_up",
                "1 while the backend can be used, 0 while it is away; always 1 for embedded backends.",
                &["export"],
            )?,
            reconnects: counter(
                "lane_reconnects_total",
                "Backend connections that had to be made anew, by reason.",
                &["export", "reason"],
            )?,
            duration,
            registry,
            exports: Arc::default(),
        };
        Command::ALL.iter().for_each(|c| drop(metrics.duration.with_label_values(&[c.as_str()])));
        Ok(metrics)
    }

    /// The handles of an export; its series exist from now on, at 0.
    pub fn export(&self, name: &str) -> ExportMetrics {
        let label = {
            let mut exports = self.exports.lock();
            if exports.contains(name) || (exports.len() < MOST_EXPORTS && exports.insert(name.to_owned())) {
                name
            } else {
                "other"
            }
        };
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
            lane_up: self.lane_up.with_label_values(&[label]),
        }
    }

    /// The handles of a listener, by its address as configured.
    pub fn listener(&self, address: &str) -> ListenerMetrics {
        ListenerMetrics { sessions: self.sessions.with_label_values(&[address]) }
    }

    /// All of it in Prometheus' text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|e| prometheus::Error::Msg(e.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_of_an_export_exists_from_the_start() {
        let metrics = Metrics::new("1.2.3").unwrap();
        let export = metrics.export("disk");
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

    #[test]
    fn exports_beyond_the_cap_share_one_series() {
        let metrics = Metrics::new("0").unwrap();
        (0..MOST_EXPORTS + 10).for_each(|n| drop(metrics.export(&n.to_string())));
        let text = metrics.render().unwrap();
        assert_eq!(text.lines().filter(|l| l.starts_with("nbd_gateway_lane_up{")).count(), MOST_EXPORTS + 1);
    }
}
