//! Promise: what the gateway tells of itself is what Prometheus understands, and what its rules and panels ask for is there; its
//! log tells of a session whose it is.

mod logs;
mod promtool;
mod scraped;
mod server;
mod sizes;

use std::path::{Path, PathBuf};

/// A file beside the metrics' sources.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../metrics").join(name)
}
