//! What is wrong with TLS, as a sentence that says what to do about it. One table.

use std::io;

use rustls::{AlertDescription as Alert, CertificateError as Cert, Error};

use super::directory::{CA, REVOKED};

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A client is on the other side: this is a listener's.
    Client,
    /// An NBD server is on the other side.
    Server,
}

/// Why a TLS handshake, or what came after it, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The other side's certificate is not taken.
    #[error("the {other}'s certificate is not taken: {why}")]
    Certificate {
        /// Whose it is.
        other: &'static str,
        /// Why not, and what to do.
        why: String,
    },
    /// The other side has to show a certificate, and has not.
    #[error(
        "the {other} shows no certificate, and has to (tls-verify-peer): give it client-cert.pem and client-key.pem of a CA in {CA}"
    )]
    NoCertificate {
        /// Who.
        other: &'static str,
    },
    /// The other side says no.
    #[error("the {other} ends TLS with the alert {alert}{hint}")]
    Alert {
        /// Who.
        other: &'static str,
        /// By the name that RFC 8446 gives it.
        alert: String,
        /// What that most likely means.
        hint: &'static str,
    },
    /// What the other side sends is not TLS.
    #[error("the {other} does not speak TLS: {why}")]
    NotTls {
        /// Who.
        other: &'static str,
        /// What it sent.
        why: String,
    },
    /// The other side left.
    #[error("the {other} closed the connection in the middle of the TLS handshake{hint}")]
    Closed {
        /// Who.
        other: &'static str,
        /// What that most likely means.
        hint: &'static str,
    },
    /// The socket failed.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(String),
    /// What is none of the above.
    #[error("TLS with the {other} failed: {why}")]
    Other {
        /// Who.
        other: &'static str,
        /// What rustls says.
        why: String,
    },
}

impl Side {
    const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl TlsError {
    /// What an error of rustls' means.
    pub(crate) fn of(error: &Error, side: Side) -> Self {
        let other = side.word();
        match error {
            Error::InvalidCertificate(bad) => Self::Certificate { other, why: certificate(bad) },
            Error::NoCertificatesPresented => Self::NoCertificate { other },
            Error::AlertReceived(alert) => Self::Alert { other, alert: format!("{alert:?}"), hint: hint(*alert, side) },
            Error::InvalidMessage(why) => Self::NotTls { other, why: format!("{why:?}") },
            Error::PeerIncompatible(why) => Self::Other { other, why: format!("{why:?} (TLS 1.2 and 1.3 are spoken)") },
            error => Self::Other { other, why: error.to_string() },
        }
    }

    /// The stream ended before there was TLS.
    pub(crate) fn closed(side: Side) -> Self {
        let hint = match side {
            Side::Client => "; it may not trust server-cert.pem",
            Side::Server => "; it may want to know its clients: give the gateway client-cert.pem and client-key.pem",
        };
        Self::Closed { other: side.word(), hint }
    }
}

/// As the reading and writing halves of a stream report it.
impl From<TlsError> for io::Error {
    fn from(fault: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

fn certificate(bad: &Cert) -> String {
    match bad {
        Cert::UnknownIssuer => format!("it is not of a CA in {CA}, or the certificates between are missing"),
        Cert::Expired | Cert::ExpiredContext { .. } => "it, or its CA, has expired: replace it".to_owned(),
        Cert::NotValidYet | Cert::NotValidYetContext { .. } => "it is not valid yet: are both clocks right?".to_owned(),
        Cert::Revoked => format!("it is revoked in {REVOKED}"),
        Cert::NotValidForName => "it is not for this host: say tls-hostname, or make it for the host".to_owned(),
        Cert::NotValidForNameContext { expected, presented } => {
            let has = if presented.is_empty() {
                "none (a common name does not count)".to_owned()
            } else {
                presented.join(", ")
            };
            let expected = expected.to_str();
            format!(
                "it is not for `{expected}`, its alternative names are {has}: say another tls-hostname, or make it for the host"
            )
        }
        Cert::InvalidPurpose | Cert::InvalidPurposeContext { .. } => {
            "its extended key usage is not this one (clientAuth, serverAuth)".to_owned()
        }
        Cert::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is the certificate of a CA: make one that is signed by the CA".to_owned()
        }
        other => {
            let said = other.to_string();
            // rustls has several, and does not end the list.
            let signature = said.contains("UnsupportedSignatureAlgorithm") || said.contains("unsupported signature");
            if signature { format!("it or its CA is signed by a key that is not taken here ({SIGNED})") } else { said }
        }
    }
}

/// Which signatures aws-lc verifies.
const SIGNED: &str = "taken are RSA with 2048 to 8192 bits, ECDSA on P-256, P-384 and P-521, and Ed25519";

/// What an alert most likely means.
fn hint(alert: Alert, side: Side) -> &'static str {
    match (alert, side) {
        (Alert::UnknownCA, Side::Client) => ": it does not know the CA of server-cert.pem",
        (Alert::UnknownCA, Side::Server) => ": it does not know the CA of client-cert.pem",
        (Alert::CertificateRequired | Alert::HandshakeFailure, Side::Server) => {
            ": it may want to know its clients; give the gateway client-cert.pem and client-key.pem"
        }
        (Alert::CertificateExpired, Side::Client) => ": server-cert.pem has expired",
        (Alert::CertificateExpired, Side::Server) => ": client-cert.pem has expired",
        (Alert::CertificateRevoked, Side::Client) => ": server-cert.pem is revoked",
        (Alert::CertificateRevoked, Side::Server) => ": client-cert.pem is revoked",
        (Alert::BadCertificate | Alert::CertificateUnknown, Side::Client) => {
            ": it does not take server-cert.pem; is it for the name that the client connects to?"
        }
        (Alert::BadCertificate | Alert::CertificateUnknown, Side::Server) => ": it does not take client-cert.pem",
        (Alert::ProtocolVersion, _) => ": TLS 1.2 and 1.3 are spoken here",
        _ => "",
    }
}
