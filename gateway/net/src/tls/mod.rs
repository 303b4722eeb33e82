//! TLS: what a handshake is made of, and who is on the other side. How its bytes move is [the streams](crate::TlsStream)'s.
//!
//! Owns the directories of certificates, read again when their files change; the settings of both sides, TLS 1.2 and
//! later by rustls; what is wrong with a handshake, as a sentence that says what to do; and the identity in the
//! other side's certificate. Never decides what that identity may do, never falls back to the clear.

mod backend;
mod directory;
mod error;
mod kept;
mod listener;
mod peer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use backend::BackendTls;
pub use directory::CertificateError;
pub(crate) use error::Side;
pub use error::TlsError;
pub use listener::ListenerTls;
pub use peer::PeerCertificate;

/// The cryptography that both sides use.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
