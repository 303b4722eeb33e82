//! What an URI says about TLS: the parameters of the URI specification, and libnbd's `tls-certificates`.

use std::path::PathBuf;

use super::escape::{decode, decode_path, encode};
use super::split::is_host;
use super::{Endpoint, Host, UriError, has_tilde};

/// The parameters that there are, for people.
pub(super) const KEYS: &str = "`tls-certificates`, `tls-hostname`, `tls-verify-peer` and `tls-type`";

/// How a server is reached by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UriTls {
    /// The directory with `ca-cert.pem`, and where the server wants to know its clients `client-cert.pem` and
    /// `client-key.pem`; relative to the working directory.
    pub certificates: Option<PathBuf>,
    /// The name or address that the server's certificate has to have; None: the host of the URI.
    pub hostname: Option<String>,
    /// Whether the server's certificate is looked at. If not, anybody can be the server.
    pub verify_peer: bool,
}

impl Default for UriTls {
    fn default() -> Self {
        Self { certificates: None, hostname: None, verify_peer: true }
    }
}

impl UriTls {
    /// The name or address that the certificate of the server at `endpoint` has to have. None: there is no way to know.
    pub fn name_of(&self, endpoint: &Endpoint) -> Option<String> {
        self.hostname.clone().or_else(|| match endpoint {
            Endpoint::Tcp { host: Host::Name(name), .. } => Some(name.clone()),
            Endpoint::Tcp { host: Host::Address(address), .. } => Some(address.to_string()),
            // Certificates know nothing of this host's interfaces.
            Endpoint::Tcp { host: Host::Zoned(address, _), .. } => Some(address.to_string()),
            Endpoint::Unix(_) => None,
        })
    }

    /// Takes the parameter `key`, which starts with `tls-`, and its value, still percent-encoded.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<(), UriError> {
        match key {
            "tls-certificates" => self.certificates = Some(directory(decode_path(value)?)?),
            "tls-hostname" => self.hostname = Some(hostname(&decode(value)?)?),
            "tls-verify-peer" => {
                self.verify_peer = match value {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    other => return Err(UriError::TlsVerifyPeer(other.to_owned())),
                }
            }
            "tls-type" if value == "x509" => {}
            "tls-type" => return Err(UriError::TlsType(value.to_owned())),
            other => return Err(UriError::Parameter(other.to_owned())),
        }
        Ok(())
    }

    /// As parameters of an URI.
    pub(super) fn parameters(&self) -> impl Iterator<Item = String> {
        let certificates = self.certificates.as_ref().map(|path| encode(path.as_os_str().as_encoded_bytes()));
        let hostname = self.hostname.as_ref().map(|name| encode(name.as_bytes()));
        let stated = [
            certificates.map(|directory| format!("tls-certificates={directory}")),
            hostname.map(|name| format!("tls-hostname={name}")),
            (!self.verify_peer).then(|| "tls-verify-peer=0".to_owned()),
        ];
        stated.into_iter().flatten()
    }
}

/// A directory of certificates.
pub(crate) fn directory(path: PathBuf) -> Result<PathBuf, UriError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        Err(UriError::TlsCertificates)
    } else if has_tilde(&path) {
        Err(UriError::Tilde(path.to_string_lossy().into_owned()))
    } else {
        Ok(path)
    }
}

/// A name or an address that a certificate can have.
pub(crate) fn hostname(text: &str) -> Result<String, UriError> {
    let plain = text.parse::<std::net::IpAddr>().is_ok() || is_host(text);
    if plain { Ok(text.to_owned()) } else { Err(UriError::TlsHostname(text.to_owned())) }
}
