//! TLS of one listener: who the gateway is, and which clients it takes.

use std::path::Path;
use std::sync::Arc;

use nbd_gateway_metrics::Metrics;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::directory::{CA, CertificateError, Directory, REVOKED, SERVER, SERVER_KEY};
use super::kept::{Kept, Made};
use super::provider;

const WHY: &str = "a listener with TLS needs it";
const WHY_CA: &str = "it says which clients' certificates are taken (tls-verify-peer = true, the default); with \
                      tls-verify-peer = false clients need none";

/// The server's side of TLS.
#[derive(Debug)]
pub struct ListenerTls {
    kept: Kept<ServerConfig>,
    require: bool,
}

impl ListenerTls {
    /// Reads the certificates in `directory`; with `verify`, clients have to show one too. `require` is for who shakes hands:
    /// clients that want no TLS get nothing.
    pub fn open(
        directory: &Path,
        require: bool,
        verify: bool,
        metrics: Option<Arc<Metrics>>,
    ) -> Result<Self, CertificateError> {
        let names = if verify { &[SERVER, SERVER_KEY, CA, REVOKED][..] } else { &[SERVER, SERVER_KEY] };
        let make = Box::new(move |directory: &Directory| settings(directory, verify));
        let kept = Kept::open(Directory::new(Some(directory)), names, metrics, make)?;
        kept.watch();
        Ok(Self { kept, require })
    }

    /// What is wrong with the certificates in `directory`. Keeps nothing.
    pub fn check(directory: &Path, verify: bool) -> Result<(), CertificateError> {
        settings(&Directory::new(Some(directory)), verify).map(drop)
    }

    /// The settings for the next handshake. What has changed on disk is in force from here on; sessions that could be
    /// resumed under the settings before can't be any more, so that nobody comes back with a revoked certificate.
    pub fn settings(&self) -> Arc<ServerConfig> {
        self.kept.now()
    }

    /// Whether there is nothing for clients without TLS.
    pub fn is_required(&self) -> bool {
        self.require
    }
}

fn settings(directory: &Directory, verify: bool) -> Result<Made<ServerConfig>, CertificateError> {
    let setup = |error: &dyn std::fmt::Display| CertificateError::Setup(error.to_string());
    let mut expiries = Vec::new();
    let (chain, expiry) = directory.chain(SERVER, WHY)?;
    expiries.push(expiry);
    let key = directory.key(SERVER_KEY, WHY)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let builder = if verify {
        let trust = directory.trust(WHY_CA)?;
        expiries.extend(trust.expiries);
        // A list need not cover every CA; one that is late still holds what it holds.
        let verifier = WebPkiClientVerifier::builder_with_provider(trust.roots, provider())
            .with_crls(trust.revoked)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| setup(&error))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let made = builder.with_single_cert(chain, key).map_err(|error| directory.unfit(SERVER, SERVER_KEY, error))?;
    Ok((made, expiries))
}
