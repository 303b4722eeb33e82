//! What a certificate says: whose it is, and until when.

use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode, Error as DerError};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Whose certificate the other side has shown. It was of one of our CAs, in force and not revoked at the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's distinguished name as RFC 4514 writes it: the last attribute of the certificate first, so
    /// `CN=blue-7,OU=hosts,O=Example`; special characters are escaped. May be empty.
    pub subject: String,
    /// The alternative names, each with its kind: `DNS:vm7.example.com`, `IP:10.0.0.7`, `email:a@example.com`,
    /// `URI:spiffe://example.com/vm7`. Those of other kinds are left out.
    pub sans: Vec<String>,
}

/// Why a certificate is not to be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Unreadable(#[from] DerError),
    #[error("it has expired: replace it")]
    Expired,
}

impl PeerCertificate {
    /// What a certificate in DER says, or why it is not to be believed `now` (Unix time in seconds). That it has not expired
    /// is looked at in each full handshake, but in none that resumes a session.
    pub(crate) fn read(der: &[u8], now: i64) -> Result<Self, PeerError> {
        let certificate = Certificate::from_der(der)?;
        if until(&certificate) < now {
            return Err(PeerError::Expired);
        }
        let fields = certificate.tbs_certificate();
        let names = fields.get_extension::<SubjectAltName>()?;
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        Ok(Self { subject: fields.subject().to_string(), sans: names.iter().filter_map(shown).collect() })
    }
}

fn shown(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("DNS:{}", name.as_str())),
        GeneralName::Rfc822Name(name) => Some(format!("email:{}", name.as_str())),
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{}", uri.as_str())),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()?;
            Some(format!("IP:{address}"))
        }
        GeneralName::OtherName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

/// Until when a certificate in DER is valid: Unix time in seconds.
pub(super) fn not_after(der: &[u8]) -> Result<i64, DerError> {
    Certificate::from_der(der).map(|certificate| until(&certificate))
}

fn until(certificate: &Certificate) -> i64 {
    let at = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    i64::try_from(at.as_secs()).unwrap_or(i64::MAX)
}

/// When a list of revoked certificates in DER is to be replaced by a newer one, if it says so: Unix time in seconds.
pub(super) fn next_update(der: &[u8]) -> Result<Option<i64>, DerError> {
    let list = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(der)?;
    let next = list.tbs_cert_list.next_update.map(|at| at.to_unix_duration().as_secs());
    Ok(next.map(|at| i64::try_from(at).unwrap_or(i64::MAX)))
}
