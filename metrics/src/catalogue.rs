//! What is registered: name, labels, type and help of each metric, also of those that have no series yet.
//!
//! A registry tells only what has a series. What an alert or a dashboard may name has to be known before.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder, Error, Registry, TextEncoder};

/// A registry that remembers what it was given.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    registry: Registry,
    prefix: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Catalogue {
    /// All names begin with `prefix` and an underscore.
    pub(crate) fn new(prefix: &'static str) -> Result<Self, Error> {
        Ok(Self { registry: Registry::new_custom(Some(prefix.to_owned()), None)?, prefix, lines: Arc::default() })
    }

    /// Adds a metric. Fails if there is one of its name.
    pub(crate) fn register(&self, metric: Box<dyn Collector>) -> Result<(), Error> {
        let kind = metric.collect().first().map_or(MetricType::UNTYPED, MetricFamily::get_field_type);
        let lines: Vec<String> = metric
            .desc()
            .iter()
            .map(|desc| {
                let labels = desc.variable_labels.join(",");
                describe(self.prefix, &desc.fq_name, &labels, word(kind), &desc.help)
            })
            .collect();
        self.registry.register(metric)?;
        self.lines.lock().extend(lines);
        Ok(())
    }

    /// Each metric as `name{labels} type help`, sorted.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = self.lines.lock().clone();
        lines.sort();
        lines
    }

    /// All series in Prometheus' text format.
    pub(crate) fn render(&self) -> Result<String, Error> {
        text(|page| self.render_to(page))
    }

    /// The same, written piece by piece.
    pub(crate) fn render_to(&self, to: &mut impl Write) -> Result<(), Error> {
        TextEncoder::new().encode(&self.registry.gather(), to)
    }
}

/// A metric as `name{labels} type help`.
pub(crate) fn describe(prefix: &str, name: &str, labels: &str, kind: &str, help: &str) -> String {
    format!("{prefix}_{name}{{{labels}}} {kind} {help}")
}

/// What `render` writes, as one text.
pub(crate) fn text(render: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<String, Error> {
    let mut page = Vec::new();
    render(&mut page)?;
    String::from_utf8(page).map_err(|error| Error::Msg(error.to_string()))
}

const fn word(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}
