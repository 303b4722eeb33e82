//! A directory of certificates, by the names that NBD's servers and clients have agreed on (nbdkit-tls(1),
//! libnbd's nbd_set_tls_certificates(3), qemu's tls-creds-x509).
//!
//! Owns what is in the files and what is wrong with them. Never remembers anything.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::peer;

/// The CAs that the other side's certificate may be of.
pub(super) const CA: &str = "ca-cert.pem";
/// What those CAs have revoked.
pub(super) const REVOKED: &str = "ca-crl.pem";
/// A listener's own certificate and those between it and the CA, its own first.
pub(super) const SERVER: &str = "server-cert.pem";
/// The key to it.
pub(super) const SERVER_KEY: &str = "server-key.pem";
/// What the gateway shows to backends, and those between it and the CA.
pub(super) const CLIENT: &str = "client-cert.pem";
/// The key to it.
pub(super) const CLIENT_KEY: &str = "client-key.pem";

/// Which private keys aws-lc signs with.
const KEYS: &str = "a key is RSA with 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519";

/// What is wrong with a directory of certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A file that has to be there.
    #[error("{} is missing: {why}", .file.display())]
    Missing {
        /// Which one.
        file: PathBuf,
        /// What it is needed for.
        why: &'static str,
    },
    /// A file that can't be read.
    #[error("{} can't be read: {error}", .file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// Why not.
        error: String,
    },
    /// A file that does not hold what its name says.
    #[error("{} holds no {what} in PEM: {why}", .file.display())]
    Malformed {
        /// Which one.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A certificate and a key that can't be used, most likely because they do not belong together.
    #[error("{} can't be used with {}: {why}; {KEYS}", .certificate.display(), .key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No directory, where the other side is to be known by a CA.
    #[error("there is no directory of certificates to know the server by: say one (tls-certificates)")]
    NoDirectory,
    /// A name that no certificate can have.
    #[error("the server's certificate can't be held against the name `{0}`: say another (tls-hostname)")]
    Name(String),
    /// What is none of the above.
    #[error("TLS can't be set up: {0}")]
    Setup(String),
}

/// When files were changed, and which they were: another value, other files.
pub(super) type Stamp = Vec<Option<(i64, i64, u64, u64)>>;

/// Until when what a file holds is valid: Unix time in seconds.
pub(super) type Expiry = (PathBuf, i64);

/// What the other side's certificate is held against.
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    pub(super) expiries: Vec<Expiry>,
}

/// A directory, or none.
#[derive(Debug, Clone)]
pub(super) struct Directory(Option<PathBuf>);

impl Directory {
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self(path.map(Path::to_owned))
    }

    /// The path of one of its files.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf, CertificateError> {
        self.0.as_ref().map(|directory| directory.join(name)).ok_or(CertificateError::NoDirectory)
    }

    /// What these files are like now. Looks only at the directory, so it may be asked often.
    pub(super) fn stamp(&self, names: &[&str]) -> Stamp {
        let stamp = |name: &&str| {
            let meta = std::fs::metadata(self.path(name).ok()?).ok()?;
            Some((meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.size()))
        };
        names.iter().map(stamp).collect()
    }

    /// Whether the file is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).is_ok_and(|path| path.exists())
    }

    /// Certificates, at least one, the first one first; and until when that one is valid.
    pub(super) fn chain(
        &self,
        name: &str,
        why: &'static str,
    ) -> Result<(Vec<CertificateDer<'static>>, Expiry), CertificateError> {
        let (file, bytes) = self.read(name, why)?;
        let chain: Vec<CertificateDer<'static>> = items(&file, &bytes, "certificate")?;
        let expiry = expiry(&file, "certificate", chain.iter().take(1))?;
        Ok((chain, expiry))
    }

    pub(super) fn key(&self, name: &str, why: &'static str) -> Result<PrivateKeyDer<'static>, CertificateError> {
        let (file, bytes) = self.read(name, why)?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| malformed(&file, "private key")(error))
    }

    /// What the other side's certificate is held against: the CAs, what they have revoked, and until when each holds.
    pub(super) fn trust(&self, why: &'static str) -> Result<Trust, CertificateError> {
        let (roots, expiry) = self.roots(why)?;
        let (revoked, until) = self.revoked()?;
        Ok(Trust { roots: Arc::new(roots), revoked, expiries: [expiry].into_iter().chain(until).collect() })
    }

    /// A certificate and its key that rustls does not take together.
    pub(super) fn unfit(&self, certificate: &str, key: &str, why: impl std::fmt::Display) -> CertificateError {
        let path = |name| self.path(name).unwrap_or_default();
        CertificateError::Pair { certificate: path(certificate), key: path(key), why: why.to_string() }
    }

    /// The CAs; and until when all of them are valid.
    fn roots(&self, why: &'static str) -> Result<(RootCertStore, Expiry), CertificateError> {
        let (file, bytes) = self.read(CA, why)?;
        let certificates: Vec<CertificateDer<'static>> = items(&file, &bytes, "certificate")?;
        let expiry = expiry(&file, "certificate", certificates.iter())?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| CertificateError::Malformed {
                file: file.clone(),
                what: "certificate of a CA",
                why: error.to_string(),
            })?;
        }
        Ok((roots, expiry))
    }

    /// The lists of what is revoked, if there is such a file; and until when all of them are meant to be used.
    fn revoked(&self) -> Result<(Vec<CertificateRevocationListDer<'static>>, Option<Expiry>), CertificateError> {
        if !self.has(REVOKED) {
            return Ok((Vec::new(), None));
        }
        let what = "certificate revocation list";
        let (file, bytes) = self.read(REVOKED, "it was there a moment ago")?;
        let lists: Vec<CertificateRevocationListDer<'static>> = items(&file, &bytes, what)?;
        let mut next = None;
        for list in &lists {
            let update = peer::next_update(list).map_err(malformed(&file, what))?;
            next = next.into_iter().chain(update).min();
        }
        Ok((lists, next.map(|at| (file, at))))
    }

    fn read(&self, name: &str, why: &'static str) -> Result<(PathBuf, Vec<u8>), CertificateError> {
        let file = self.path(name)?;
        // A FIFO would keep whoever reads it.
        let regular = std::fs::metadata(&file)
            .and_then(|about| if about.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) });
        match regular.and_then(|()| std::fs::read(&file)) {
            Ok(bytes) => Ok((file, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CertificateError::Missing { file, why }),
            Err(error) => Err(CertificateError::Unreadable { file, error: error.to_string() }),
        }
    }
}

/// Its path, for logs.
impl std::fmt::Display for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_deref().unwrap_or(Path::new("none")).display().fmt(f)
    }
}

/// Everything of one kind in a file; at least one.
fn items<T: PemObject>(file: &Path, bytes: &[u8], what: &'static str) -> Result<Vec<T>, CertificateError> {
    let items: Vec<T> = T::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(malformed(file, what))?;
    if items.is_empty() { Err(malformed(file, what)(pem::Error::NoItemsFound)) } else { Ok(items) }
}

fn malformed<E: std::fmt::Display>(file: &Path, what: &'static str) -> impl Fn(E) -> CertificateError {
    let file = file.to_owned();
    move |error| CertificateError::Malformed { file: file.clone(), what, why: error.to_string() }
}

/// When the first of them ends, of those that can be read.
fn expiry<'a>(
    file: &Path,
    what: &'static str,
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<Expiry, CertificateError> {
    let ends = certificates.map(|certificate| peer::not_after(certificate));
    let first = ends.reduce(|one, other| match (one, other) {
        (Ok(one), Ok(other)) => Ok(one.min(other)),
        (Err(_), Ok(at)) | (Ok(at), Err(_)) => Ok(at),
        (Err(error), Err(_)) => Err(error),
    });
    match first {
        Some(at) => Ok((file.to_owned(), at.map_err(malformed(file, what))?)),
        None => Err(malformed(file, what)(pem::Error::NoItemsFound)),
    }
}
