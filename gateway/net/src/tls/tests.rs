//! Directories of certificates: what is taken, what is refused and why, and what happens when files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nbd_gateway_metrics::Metrics;
use nbd_gateway_tests::pki::{Ca, Wish, put};
use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::UnixStream;

use super::*;
use crate::{Stream, TlsStream};

/// A directory that is gone after the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nbd-gateway-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What comes of a handshake: who the client is, or what each side says.
async fn meet(
    listener: &ListenerTls,
    backend: &BackendTls,
) -> (Result<Option<PeerCertificate>, String>, Result<(), String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = TlsStream::accept(Stream::Unix(ours), listener);
    let theirs = async {
        let mut stream = TlsStream::connect(Stream::Unix(theirs), backend).await.map_err(|fault| fault.to_string())?;
        // With TLS 1.3 a client is done before the server has seen its certificate: a byte each way.
        stream.write_all(&[1]).await.map_err(|error| error.to_string())?;
        stream.fill(&mut bytes::BytesMut::with_capacity(1)).await.map(drop).map_err(|error| error.to_string())
    };
    let ours = async {
        let (mut stream, peer) = ours.await.map_err(|fault| fault.to_string())?;
        stream.write_all(&[2]).await.unwrap();
        Ok(peer)
    };
    tokio::join!(ours, theirs)
}

/// A listener and a client that take each other, in two directories.
struct Both {
    listener: Place,
    client: Place,
    ca: Ca,
}

impl Both {
    fn new() -> Self {
        let both = Self { listener: Place::new(), client: Place::new(), ca: Ca::new("ca") };
        both.ca.listener(&both.listener.0, &["h", "10.0.0.1"]);
        both.ca.client(&both.client.0, "blue");
        both
    }

    fn open(&self, verify: bool) -> ListenerTls {
        ListenerTls::open(&self.listener.0, true, verify, None).unwrap()
    }

    fn towards(&self, name: &str) -> BackendTls {
        BackendTls::open(Some(&self.client.0), name, true, None).unwrap()
    }

    async fn meet(&self) -> (Result<Option<PeerCertificate>, String>, Result<(), String>) {
        meet(&self.open(true), &self.towards("h")).await
    }
}

fn fault(directory: &Path, verify: bool) -> String {
    ListenerTls::open(directory, true, verify, None).unwrap_err().to_string()
}

#[tokio::test]
async fn both_sides_take_each_other_and_the_listener_knows_whom_it_has() {
    let both = Both::new();
    let (ours, theirs) = both.meet().await;
    assert_eq!(theirs, Ok(()));
    assert_eq!(ours, Ok(Some(PeerCertificate { subject: "CN=blue,O=Example".to_owned(), sans: vec![] })));
    assert_eq!(meet(&both.open(false), &both.towards("10.0.0.1")).await, (Ok(None), Ok(())));
}

#[test]
fn a_certificate_is_told_in_the_order_and_with_the_escapes_of_rfc_4514() {
    let sans = ["a.example", "10.0.0.7", "fd00::7", "email:me@example.com", "URI:spiffe://example.com/vm7"];
    let wish = Wish { sans: &sans, ..Wish::client("blue,O=Evil+x \"1\"") };
    let pem = Ca::new("ca").issue(&wish).certificate;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let peer = PeerCertificate::read(&der, 4_733_510_400).unwrap();
    assert_eq!(peer.subject, r#"CN=blue\,O=Evil\+x \"1\",O=Example"#);
    assert_eq!(
        peer.sans,
        ["DNS:a.example", "IP:10.0.0.7", "IP:fd00::7", "email:me@example.com", "URI:spiffe://example.com/vm7"]
    );
    let late = PeerCertificate::read(&der, 4_733_510_401).unwrap_err().to_string();
    assert_eq!(late, "it has expired: replace it", "rustls does not look at it when a session is resumed");
}

#[tokio::test]
async fn a_client_of_another_ca_is_told_so_and_so_is_the_listener() {
    let both = Both::new();
    Ca::new("other").issue(&Wish::client("blue")).put(&both.client.0, "client");
    let (ours, theirs) = both.meet().await;
    assert_eq!(
        ours.unwrap_err(),
        "the client's certificate is not taken: it is not of a CA in ca-cert.pem, or the certificates between are missing"
    );
    let theirs = theirs.unwrap_err();
    assert!(theirs.starts_with("the server ends TLS with the alert UnknownCA"), "{theirs}");
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_taken() {
    let both = Both::new();
    put(&both.client.0, "ca-cert.pem", &Ca::new("other").pem());
    let (ours, theirs) = both.meet().await;
    assert!(theirs.unwrap_err().starts_with("the server's certificate is not taken: it is not of a CA in ca-cert.pem"));
    assert_eq!(
        ours.unwrap_err(),
        "the client ends TLS with the alert UnknownCA: it does not know the CA of server-cert.pem"
    );
    let anybody = BackendTls::open(Some(&both.client.0), "elsewhere", false, None).unwrap();
    assert_eq!(meet(&both.open(true), &anybody).await.1, Ok(()), "tls-verify-peer=0");
}

#[tokio::test]
async fn a_server_for_another_host_is_not_taken() {
    let both = Both::new();
    let (_, theirs) = meet(&both.open(true), &both.towards("elsewhere")).await;
    assert_eq!(
        theirs.unwrap_err(),
        "the server's certificate is not taken: it is not for `elsewhere`, its alternative names are DnsName(\"h\"), \
         IpAddress(10.0.0.1): say another tls-hostname, or make it for the host"
    );
    both.ca.listener(&both.listener.0, &[]);
    let theirs = both.meet().await.1.unwrap_err();
    assert!(theirs.contains("its alternative names are none (a common name does not count)"), "{theirs}");
}

#[tokio::test]
async fn what_has_expired_or_is_not_valid_yet_is_not_taken() {
    for (years, why) in [((2000, 2001), "it, or its CA, has expired"), ((2110, 2120), "it is not valid yet")] {
        let both = Both::new();
        both.ca.issue(&Wish { years, ..Wish::client("blue") }).put(&both.client.0, "client");
        let ours = both.meet().await.0.unwrap_err();
        assert!(ours.starts_with(&format!("the client's certificate is not taken: {why}")), "{ours}");
        let both = Both::new();
        both.ca.issue(&Wish { years, ..Wish::server(&["h"]) }).put(&both.listener.0, "server");
        let theirs = both.meet().await.1.unwrap_err();
        assert!(theirs.starts_with(&format!("the server's certificate is not taken: {why}")), "{theirs}");
    }
}

#[tokio::test]
async fn what_is_revoked_is_not_taken_from_the_moment_the_list_is_there() {
    let both = Both::new();
    let listener = both.open(true);
    assert!(meet(&listener, &both.towards("h")).await.0.is_ok());
    put(&both.listener.0, "ca-crl.pem", &both.ca.revoke(&[3]));
    let ours = meet(&listener, &both.towards("h")).await.0.unwrap_err();
    assert_eq!(ours, "the client's certificate is not taken: it is revoked in ca-crl.pem");
    let both = Both::new();
    put(&both.client.0, "ca-crl.pem", &both.ca.revoke(&[2]));
    let theirs = both.meet().await.1.unwrap_err();
    assert_eq!(theirs, "the server's certificate is not taken: it is revoked in ca-crl.pem");
    put(&both.client.0, "ca-crl.pem", &Ca::new("other").revoke(&[2]));
    assert_eq!(both.meet().await.1, Ok(()), "another CA's list says nothing about it");
}

#[tokio::test]
async fn a_certificate_for_the_other_role_is_not_taken() {
    let both = Both::new();
    both.ca.issue(&Wish { server: true, ..Wish::client("blue") }).put(&both.client.0, "client");
    let ours = both.meet().await.0.unwrap_err();
    assert!(ours.contains("its extended key usage is not this one"), "{ours}");
}

#[tokio::test]
async fn a_client_without_certificate_is_told_what_it_lacks() {
    let both = Both::new();
    std::fs::remove_file(both.client.0.join("client-cert.pem")).unwrap();
    std::fs::remove_file(both.client.0.join("client-key.pem")).unwrap();
    let (ours, theirs) = both.meet().await;
    assert_eq!(
        ours.unwrap_err(),
        "the client shows no certificate, and has to (tls-verify-peer): give it client-cert.pem and client-key.pem of a \
         CA in ca-cert.pem"
    );
    let theirs = theirs.unwrap_err();
    assert!(theirs.contains("CertificateRequired: it may want to know its clients"), "{theirs}");
    assert_eq!(meet(&both.open(false), &both.towards("h")).await, (Ok(None), Ok(())));
}

#[tokio::test]
async fn who_does_not_speak_tls_or_leaves_is_told_apart() {
    let both = Both::new();
    for (says, why) in [
        (&b"IHAVEOPT0000"[..], "the client does not speak TLS: "),
        (b"", "the client closed the connection in the middle of the TLS handshake"),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut theirs, says).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut theirs).await.unwrap();
        let fault = TlsStream::accept(Stream::Unix(ours), &both.open(true)).await.unwrap_err().to_string();
        assert!(fault.starts_with(why), "{fault}");
    }
}

#[test]
fn what_is_missing_or_wrong_in_a_directory_is_named() {
    let both = Both::new();
    let (directory, shown) = (&both.listener.0, both.listener.0.display().to_string());
    let pair = both.ca.issue(&Wish::server(&["h"]));
    put(directory, "server-key.pem", &pair.key);
    assert!(
        fault(directory, true)
            .starts_with(&format!("{shown}/server-cert.pem can't be used with {shown}/server-key.pem: "))
    );
    put(directory, "server-key.pem", "nothing");
    assert_eq!(fault(directory, true), format!("{shown}/server-key.pem holds no private key in PEM: no items found"));
    std::fs::remove_file(directory.join("server-key.pem")).unwrap();
    assert_eq!(fault(directory, true), format!("{shown}/server-key.pem is missing: a listener with TLS needs it"));
    put(directory, "server-cert.pem", &pair.key);
    assert_eq!(fault(directory, true), format!("{shown}/server-cert.pem holds no certificate in PEM: no items found"));
    pair.put(directory, "server");
    put(directory, "ca-crl.pem", &pair.certificate);
    let list = format!("{shown}/ca-crl.pem holds no certificate revocation list in PEM: no items found");
    assert_eq!(fault(directory, true), list);
    std::fs::remove_file(directory.join("ca-cert.pem")).unwrap();
    assert!(fault(directory, true).starts_with(&format!("{shown}/ca-cert.pem is missing: it says which clients'")));
    assert!(ListenerTls::open(directory, true, false, None).is_ok(), "no client is looked at");
    std::fs::remove_file(directory.join("server-cert.pem")).unwrap();
    std::fs::create_dir(directory.join("server-cert.pem")).unwrap();
    assert!(fault(directory, false).starts_with(&format!("{shown}/server-cert.pem can't be read: ")));
}

#[test]
fn a_client_has_both_or_neither_of_certificate_and_key_and_a_name_to_look_for() {
    let both = Both::new();
    let open = |directory: Option<&Path>, name: &str, verify: bool| {
        BackendTls::open(directory, name, verify, None).map(drop).map_err(|fault| fault.to_string())
    };
    std::fs::remove_file(both.client.0.join("client-key.pem")).unwrap();
    let missing = "client-key.pem is missing: client-cert.pem and client-key.pem belong together";
    assert!(open(Some(&both.client.0), "h", true).unwrap_err().ends_with(missing));
    assert!(
        open(None, "h", true).unwrap_err().starts_with("there is no directory of certificates to know the server by")
    );
    assert_eq!(open(None, "h", false), Ok(()));
    assert!(open(None, "a..b", false).unwrap_err().contains("the name `a..b`"));
    let uri = "nbds+unix:///x?socket=/s&tls-certificates=/pki".parse().unwrap();
    let fault = BackendTls::of(&uri, None).unwrap_err().to_string();
    assert_eq!(fault, "the server's certificate can't be held against the name `unix:/s`: say another (tls-hostname)");
    assert!(BackendTls::of(&"nbd://h/x".parse().unwrap(), None).unwrap().is_none());
}

#[tokio::test]
async fn changed_files_are_read_again_and_bad_ones_are_not_used() {
    let both = Both::new();
    let metrics = Arc::new(Metrics::new("0").unwrap());
    let listener = ListenerTls::open(&both.listener.0, true, true, Some(Arc::clone(&metrics))).unwrap();
    let file = both.listener.0.join("server-cert.pem");
    let expiry = || {
        let text = metrics.render().unwrap();
        let series = format!("nbd_gateway_certificate_expiry_seconds{{file=\"{}\"}} ", file.display());
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<i64>().ok())
    };
    assert_eq!(expiry(), Some(4_733_510_400), "the 1st of January 2120");
    put(&both.listener.0, "server-cert.pem", "-----BEGIN CERTIFICATE-----\nrubbish\n");
    assert!(meet(&listener, &both.towards("h")).await.0.is_ok(), "the one before is in use");
    assert_eq!(expiry(), Some(4_733_510_400));
    let wish = Wish { years: (2020, 9999), ..Wish::server(&["new"]) };
    both.ca.issue(&wish).put(&both.listener.0, "server");
    assert!(meet(&listener, &both.towards("h")).await.1.unwrap_err().contains("DnsName(\"new\")"));
    assert!(meet(&listener, &both.towards("new")).await.0.is_ok());
    assert_eq!(expiry(), Some(253_370_764_800), "the 1st of January 9999");
    // A new CA: who was taken before is not any more, in the same process.
    put(&both.listener.0, "ca-cert.pem", &Ca::new("other").pem());
    assert!(meet(&listener, &both.towards("new")).await.0.is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reading_of_a_certificate_panic(cut in 0usize..700, flip in 0usize..700, bits in any::<u8>()) {
        static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let wish = Wish { sans: &["a.example", "10.0.0.7"], ..Wish::client("blue") };
            let pem = Ca::new("ca").issue(&wish).certificate;
            CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
        });
        let mut der = DER.clone();
        if let Some(byte) = der.get_mut(flip) {
            *byte ^= bits;
        }
        der.truncate(if cut < 350 { usize::MAX } else { cut });
        let _ = (PeerCertificate::read(&der, 0), peer::not_after(&der), peer::next_update(&der));
    }
}
