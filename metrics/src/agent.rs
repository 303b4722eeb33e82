//! Every metric of `nbd-gateway agent`: name, help and unit. A process of its own, so a registry of its own.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::catalogue::Catalogue;
use crate::labels::{AgentReconnect, AgentResize};

/// All metrics of one agent.
#[derive(Debug, Clone)]
pub struct AgentMetrics {
    registry: Catalogue,
    resizes: Vec<IntCounter>,
    reconnects: Vec<IntCounter>,
    /// The device's size, in bytes, as the kernel says it.
    pub size: IntGauge,
    /// 1 while no connection of the device is known to be dead.
    pub link_up: IntGauge,
    /// 1 while the server's sizes come.
    pub listening: IntGauge,
}

impl AgentMetrics {
    /// A new set for a device, registered with the prefix `nbd_gateway_agent_`. Fails only if two metrics have one name.
    pub fn new(version: &str, device: &str) -> Result<Self, prometheus::Error> {
        let registry = Catalogue::new("nbd_gateway_agent")?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let vec = IntGaugeVec::new(Opts::new(name, help), &["device"])?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec.with_label_values(&[device]))
        };
        let counters = |name: &str, help: &str, results: &[&str]| -> Result<Vec<IntCounter>, prometheus::Error> {
            let vec = IntCounterVec::new(Opts::new(name, help), &["device", "result"])?;
            registry.register(Box::new(vec.clone()))?;
            Ok(results.iter().map(|result| vec.with_label_values(&[device, result])).collect())
        };
        let metrics = Self {
            resizes: counters(
                "resizes_total",
                "Sizes that the device was to get, by what came of it.",
                AgentResize::TEXTS,
            )?,
            reconnects: counters(
                "reconnects_total",
                "Attempts to replace a dead connection of the device, by what came of it.",
                AgentReconnect::TEXTS,
            )?,
            size: gauge("size_bytes", "The size of the device, in bytes.")?,
            link_up: gauge("link_up", "1 while no connection of the device is known to be dead, 0 while one is.")?,
            listening: gauge("listening", "1 while the server's sizes come, 0 while they do not.")?,
            registry: registry.clone(),
        };
        let build =
            IntGaugeVec::new(Opts::new("build_info", "Always 1; the label says which version runs."), &["version"])?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[version]).set(1);
        Ok(metrics)
    }

    /// A size was told that the device did not have.
    pub fn resized(&self, result: AgentResize) {
        if let Some(counter) = self.resizes.get(result.index()) {
            counter.inc();
        }
    }

    /// A dead connection was to be replaced.
    pub fn reconnected(&self, result: AgentReconnect) {
        if let Some(counter) = self.reconnects.get(result.index()) {
            counter.inc();
        }
    }

    /// Each metric as `name{labels} type help`, sorted.
    pub fn catalogue(&self) -> Vec<String> {
        self.registry.lines()
    }

    /// All of it in Prometheus' text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        self.registry.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start() {
        let metrics = AgentMetrics::new("1.2.3", "nbd0").unwrap();
        metrics.resized(AgentResize::Refused);
        metrics.size.set(1 << 30);
        let text = metrics.render().unwrap();
        for line in [
            r#"nbd_gateway_agent_size_bytes{device="nbd0"} 1073741824"#,
            r#"nbd_gateway_agent_resizes_total{device="nbd0",result="ok"} 0"#,
            r#"nbd_gateway_agent_resizes_total{device="nbd0",result="refused"} 1"#,
            r#"nbd_gateway_agent_resizes_total{device="nbd0",result="failed"} 0"#,
            r#"nbd_gateway_agent_reconnects_total{device="nbd0",result="ok"} 0"#,
            r#"nbd_gateway_agent_reconnects_total{device="nbd0",result="failed"} 0"#,
            r#"nbd_gateway_agent_link_up{device="nbd0"} 0"#,
            r#"nbd_gateway_agent_listening{device="nbd0"} 0"#,
            r#"nbd_gateway_agent_build_info{version="1.2.3"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
