//! Certificates of every kind, made for one test: a CA, what it signs, what it has revoked, and the directories in which
//! NBD's servers and clients look for them.
#![allow(clippy::expect_used, reason = "only tests use it: what can't be made ends them")]

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Its common name; the organisation is always `Example`.
    pub name: &'a str,
    /// Host names and addresses; `email:…` and `URI:…` with their kind.
    pub sans: &'a [&'a str],
    /// Years of the first and the last day, both the 1st of January.
    pub years: (i32, i32),
    /// Its number, which a revocation names.
    pub serial: u64,
    /// May be shown by servers; otherwise by clients.
    pub server: bool,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl<'a> Wish<'a> {
    /// A server's certificate, in force.
    pub fn server(sans: &'a [&'a str]) -> Self {
        Self { name: "server", sans, years: (2020, 2120), serial: 2, server: true }
    }

    /// A client's certificate, in force.
    pub fn client(name: &'a str) -> Self {
        Self { name, sans: &[], years: (2020, 2120), serial: 3, server: false }
    }
}

impl Ca {
    /// An authority of that common name, in force.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a CA"))
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate.
    pub fn issue(&self, wish: &Wish<'_>) -> Issued {
        let plain = |san: &&&str| !san.starts_with("email:") && !san.starts_with("URI:");
        let sans: Vec<String> = wish.sans.iter().filter(plain).map(ToString::to_string).collect();
        let mut params = CertificateParams::new(sans).expect("names");
        for san in wish.sans {
            if let Some(mail) = san.strip_prefix("email:") {
                params.subject_alt_names.push(SanType::Rfc822Name(mail.try_into().expect("ASCII")));
            } else if let Some(uri) = san.strip_prefix("URI:") {
                params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
            }
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, wish.name);
        params.not_before = date_time_ymd(wish.years.0, 1, 1);
        params.not_after = date_time_ymd(wish.years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(wish.serial));
        // qemu insists on the second.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![if wish.server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A list of revoked certificates, by their numbers, in PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).expect("a list").pem().expect("in PEM")
    }

    /// Puts into `directory` what a listener needs: the CA's certificate, and one for these names with its key.
    pub fn listener(&self, directory: &Path, sans: &[&str]) {
        put(directory, "ca-cert.pem", &self.pem());
        self.issue(&Wish::server(sans)).put(directory, "server");
    }

    /// Puts into `directory` what a client needs: the CA's certificate, and one of that name with its key.
    pub fn client(&self, directory: &Path, name: &str) {
        put(directory, "ca-cert.pem", &self.pem());
        self.issue(&Wish::client(name)).put(directory, "client");
    }
}

impl Issued {
    /// Puts it into `directory` as `ROLE-cert.pem` and `ROLE-key.pem`.
    pub fn put(&self, directory: &Path, role: &str) {
        put(directory, &format!("{role}-cert.pem"), &self.certificate);
        put(directory, &format!("{role}-key.pem"), &self.key);
    }
}

/// Puts a file into a directory, which is made if it is not there. It takes the place of the one before as a whole.
pub fn put(directory: &Path, name: &str, text: &str) {
    fs::create_dir_all(directory).expect("a directory");
    let new = directory.join(format!("{name}.new"));
    fs::write(&new, text).expect("a file");
    fs::rename(new, directory.join(name)).expect("in its place");
}
