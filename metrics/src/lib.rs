//! Every metric of nbd-gateway.
//!
//! `export_families` is the one place where a metric of an export gets its name, help and unit, `families` that for the
//! gateway's others (histograms: `names`), `agent` that for the agent's, and `golden.txt` beside the sources has all of
//! them, held to it by a test; [`labels`] holds the closed sets of label values; [`guards`] count what opens and closes.
//! There is no global registry: [`Metrics::new`] makes one, and whoever counts holds the handles it needs, resolved
//! beforehand, so that counting costs an addition.

mod agent;
mod catalogue;
mod export_families;
mod exports;
mod families;
pub mod guards;
pub mod labels;
mod looked;
mod names;

pub use agent::AgentMetrics;
pub use exports::{Counter, Gauge, Growth, Traffic};
pub use guards::{Open, Part};
pub use labels::{
    AgentReconnect, AgentResize, Command, Direction, HookResult, HookWay, LossReason, Outcome, RefusedConnection,
    ResizeDriver, ResizeResult, ResizeStyle,
};
pub use looked::Looked;
pub use names::{ExportMetrics, HookMetrics, ListenerMetrics, Metrics, ResizeMetrics, TenantMetrics};
pub use prometheus::IntCounter;

/// Of every metric's name, with an underscore.
const PREFIX: &str = "nbd_gateway";
