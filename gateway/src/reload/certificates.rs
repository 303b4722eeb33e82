//! The certificates by which backends are reached with TLS: checked when a configuration comes into force, and watched.

use std::collections::HashSet;
use std::sync::Arc;

use nbd_gateway_config::{Config, UriTls};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::tls::BackendTls;

/// Tells now what would keep backends from being reached, and has the metrics of their certificates from the start, for as
/// long as what this answers is there. They may still become right: nothing ends for it. Of those of `before` it was told.
pub(crate) fn check_backend_certificates(
    config: &Config,
    before: Option<&Config>,
    metrics: &Arc<Metrics>,
) -> Vec<BackendTls> {
    let known: Vec<&UriTls> = before.into_iter().flat_map(Config::backends_tls).collect();
    let mut seen = HashSet::new();
    let mut watched = Vec::new();
    for tls in config.backends_tls() {
        let name = tls.hostname.as_deref().unwrap_or("localhost");
        let certificates = tls.certificates.as_deref();
        match BackendTls::open(certificates, name, tls.verify_peer, Some(Arc::clone(metrics))) {
            Ok(opened) if seen.insert((certificates, tls.verify_peer)) => {
                opened.watch();
                watched.push(opened);
            }
            Err(fault) if !known.contains(&tls) => {
                tracing::error!(%fault, "a backend with TLS can't be reached until this is mended")
            }
            Ok(_) | Err(_) => {}
        }
    }
    watched
}
