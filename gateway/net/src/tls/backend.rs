//! TLS towards one NBD server: how it is known, and who the gateway is to it.

use std::path::Path;
use std::sync::Arc;

use nbd_gateway_config::NbdUri;
use nbd_gateway_metrics::Metrics;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::directory::{CA, CLIENT, CLIENT_KEY, CertificateError, Directory, REVOKED};
use super::kept::{Kept, Made};
use super::provider;

const NAMES: &[&str] = &[CLIENT, CLIENT_KEY, CA, REVOKED];
const WHY_CA: &str = "it says whose certificate the server has to have; tls-verify-peer=0 in the URI takes any server";
const WHY_PAIR: &str = "client-cert.pem and client-key.pem belong together";

/// The client's side of TLS.
#[derive(Debug)]
pub struct BackendTls {
    kept: Kept<ClientConfig>,
    name: ServerName<'static>,
}

impl BackendTls {
    /// TLS as the URI wants it; None if it wants none.
    pub fn of(uri: &NbdUri, metrics: Option<Arc<Metrics>>) -> Result<Option<Self>, CertificateError> {
        let Some(tls) = uri.tls() else { return Ok(None) };
        let name = match tls.name_of(uri.endpoint()) {
            // Nothing is held against it.
            None if !tls.verify_peer => "localhost".to_owned(),
            None => return Err(CertificateError::Name(uri.endpoint().to_string())),
            Some(name) => name,
        };
        Self::open(tls.certificates.as_deref(), &name, tls.verify_peer, metrics).map(Some)
    }

    /// Reads the certificates in `directory`; with `verify`, the server's certificate has to be one for `name`, of a CA
    /// there.
    pub fn open(
        directory: Option<&Path>,
        name: &str,
        verify: bool,
        metrics: Option<Arc<Metrics>>,
    ) -> Result<Self, CertificateError> {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| CertificateError::Name(name.to_owned()))?;
        let make = Box::new(move |directory: &Directory| settings(directory, verify));
        Ok(Self { kept: Kept::open(Directory::new(directory), NAMES, metrics, make)?, name: server })
    }

    /// Has its certificates looked at before each page of metrics, as long as this is there: one for each directory is
    /// enough, however many exports use it.
    pub fn watch(&self) {
        self.kept.watch();
    }

    /// The settings for the next handshake, and the name to hold the server's certificate against.
    pub fn settings(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (self.kept.now(), self.name.clone())
    }
}

fn settings(directory: &Directory, verify: bool) -> Result<Made<ClientConfig>, CertificateError> {
    let setup = |error: &dyn std::fmt::Display| CertificateError::Setup(error.to_string());
    let mut expiries = Vec::new();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let builder = if verify {
        let trust = directory.trust(WHY_CA)?;
        expiries.extend(trust.expiries);
        let verifier = WebPkiServerVerifier::builder_with_provider(trust.roots, provider())
            .with_crls(trust.revoked)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| setup(&error))?;
        builder.with_webpki_verifier(verifier)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    };
    if !directory.has(CLIENT) && !directory.has(CLIENT_KEY) {
        return Ok((builder.with_no_client_auth(), expiries));
    }
    let (chain, expiry) = directory.chain(CLIENT, WHY_PAIR)?;
    expiries.push(expiry);
    let key = directory.key(CLIENT_KEY, WHY_PAIR)?;
    let made = builder.with_client_auth_cert(chain, key).map_err(|error| directory.unfit(CLIENT, CLIENT_KEY, error))?;
    Ok((made, expiries))
}

/// Takes any certificate, as tls-verify-peer=0 says; the server still has to have the key to it.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
