//! Certificates that are not taken, on either side: nobody is served, and a person is told why.

use std::path::Path;

use nbd_gateway_tests::pki::{Ca, Wish, put};

use super::{NAMES, Pki, info};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::process::Call;
use crate::trouble::{Trouble, ensure, eventually};

/// A client whose certificates are spoilt: libnbd gets nothing, our own client is told `told`, the gateway logs `logged`.
fn client_refused(told: &str, logged: &str, spoil: impl FnOnce(&Pki)) -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let gateway = pki.gateway("require", "", &export("disk", "memory:", "size = \"1MiB\""))?;
    // libnbd holds a certificate against the host of TCP only.
    let host = gateway.told("listening on nbds://").to_owned();
    let uri = format!("nbds://{host}/disk?tls-certificates={}", pki.client().display());
    Call::new("nbdinfo").arg(&uri).run()?.success()?;
    spoil(&pki);
    let refused = Call::new("nbdinfo").arg(&uri).run()?;
    ensure(!refused.status.success(), || refused.trouble("was served").to_string())?;
    let (good, error) = info(&uri)?;
    ensure(!good && error.contains(told), || format!("our own client says: {error}"))?;
    eventually(logged, || gateway.log().contains(logged))?;
    gateway.end()
}

#[test]
fn a_client_of_another_ca_is_refused() -> Result<(), Trouble> {
    client_refused(
        "alert UnknownCA",
        "the client's certificate is not taken: it is not of a CA in ca-cert.pem",
        |pki| {
            Ca::new("another").issue(&Wish::client("blue")).put(&pki.client(), "client");
        },
    )
}

#[test]
fn a_client_whose_certificate_has_expired_is_refused() -> Result<(), Trouble> {
    client_refused(
        "alert CertificateExpired",
        "the client's certificate is not taken: it, or its CA, has expired",
        |pki| {
            pki.ca.issue(&Wish { years: (2000, 2001), ..Wish::client("blue") }).put(&pki.client(), "client");
        },
    )
}

#[test]
fn a_client_is_refused_as_soon_as_its_certificate_is_revoked() -> Result<(), Trouble> {
    client_refused(
        "alert CertificateRevoked",
        "the client's certificate is not taken: it is revoked in ca-crl.pem",
        |pki| {
            put(&pki.server(), "ca-crl.pem", &pki.ca.revoke(&[3]));
        },
    )
}

#[test]
fn a_client_without_certificate_is_refused() -> Result<(), Trouble> {
    client_refused("alert CertificateRequired", "the client shows no certificate, and has to", |pki| {
        for name in ["client-cert.pem", "client-key.pem"] {
            std::fs::remove_file(pki.client().join(name)).unwrap();
        }
    })
}

#[test]
fn a_client_does_not_take_a_gateway_for_another_host() -> Result<(), Trouble> {
    let told = "the server's certificate is not taken: it is not for `127.0.0.1`, its alternative names are DnsName(\"elsewhere\")";
    client_refused(told, "the client ends TLS with the alert", |pki| pki.ca.listener(&pki.server(), &["elsewhere"]))
}

/// A backend whose certificates are spoilt: clients are told that it can't be reached, the log says `logged`.
fn backend_refused(logged: &str, hostname: &str, spoil: impl FnOnce(&Pki)) -> Result<(), Trouble> {
    let pki = Pki::new()?;
    spoil(&pki);
    let certificates = format!("--tls-certificates={}", pki.server().display());
    let image = Image::sparse(3);
    let served = nbdkit(&["--tls=require", &certificates, "--tls-verify-peer"], &["file", "DISK"], &image)?;
    let socket = served.socket.display();
    let uri =
        format!("nbds+unix:///?socket={socket}&tls-hostname={hostname}&tls-certificates={}", pki.client().display());
    let gateway = Gateway::start(&export("disk", &uri, ""))?.expecting_warnings();
    let refused = Call::new("nbdinfo").arg(gateway.uri("disk")).run()?;
    ensure(!refused.status.success(), || refused.trouble("was served").to_string())?;
    let address = format!("unix:{socket}");
    let line = gateway.log().lines().find(|line| line.contains(&address) && line.contains(logged)).map(str::to_owned);
    ensure(line.is_some(), || format!("the log does not say `{logged}` of {address}:\n{}", gateway.log()))?;
    gateway.end()
}

#[test]
fn a_backend_of_another_ca_is_not_used() -> Result<(), Trouble> {
    backend_refused("the server's certificate is not taken: it is not of a CA in ca-cert.pem", "localhost", |pki| {
        put(&pki.client(), "ca-cert.pem", &Ca::new("another").pem());
    })
}

#[test]
fn a_backend_for_another_host_is_not_used() -> Result<(), Trouble> {
    backend_refused("the server's certificate is not taken: it is not for `elsewhere`", "elsewhere", |_| {})
}

#[test]
fn a_backend_whose_certificate_has_expired_is_not_used() -> Result<(), Trouble> {
    backend_refused("the server's certificate is not taken: it, or its CA, has expired", "localhost", |pki| {
        pki.ca.issue(&Wish { years: (2000, 2001), ..Wish::server(NAMES) }).put(&pki.server(), "server");
    })
}

#[test]
fn a_backend_whose_certificate_is_revoked_is_not_used() -> Result<(), Trouble> {
    backend_refused("the server's certificate is not taken: it is revoked in ca-crl.pem", "localhost", |pki| {
        put(&pki.client(), "ca-crl.pem", &pki.ca.revoke(&[2]));
    })
}

#[test]
fn a_gateway_whose_listener_lacks_certificates_does_not_start_and_says_what_is_missing() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    std::fs::remove_file(pki.server().join("server-key.pem"))?;
    let Err(trouble) = pki.gateway("require", "", &export("disk", "memory:", "size = \"1MiB\"")) else {
        return Err(Trouble::new("it started"));
    };
    let says =
        format!("{} is missing: a listener with TLS needs it", Path::display(&pki.server().join("server-key.pem")));
    ensure(trouble.to_string().contains(&says), || trouble.to_string())
}

#[test]
fn a_gateway_whose_backend_lacks_certificates_starts_says_so_and_serves_the_rest() -> Result<(), Trouble> {
    let tables = [
        export("far", "nbds://localhost/far?tls-certificates=/nonexistent", ""),
        export("disk", "memory:", "size = \"1MiB\""),
    ];
    let gateway = Gateway::start(&tables.concat())?.expecting_errors();
    let log = gateway.log();
    ensure(log.contains("/nonexistent/ca-cert.pem is missing"), || log.clone())?;
    Call::new("nbdinfo").arg(gateway.uri("disk")).run()?.success()?;
    let refused = Call::new("nbdinfo").arg(gateway.uri("far")).run()?;
    ensure(!refused.status.success(), || refused.trouble("was served").to_string())?;
    gateway.end()
}

/// RSA sizes that older versions of certtool make by default, and P-521, were refused; others still are, by `check` too.
#[test]
fn private_keys_of_every_common_kind_serve_and_check_names_those_kinds_for_any_other() -> Result<(), Trouble> {
    let place = crate::place::Place::fresh()?;
    let file = place.path("config.toml");
    let program = crate::gateway::binary()?.display().to_string();
    for (kind, good) in [
        (&["rsa:2432"][..], true),
        (&["rsa:3248"], true),
        (&["rsa:8192"], true),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], true),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], true),
        (&["ed25519"], true),
        (&["ed448"], false),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"], false),
    ] {
        let at = |name: &str| place.path(name).display().to_string();
        let (key, certificate) = (at("server-key.pem"), at("server-cert.pem"));
        let make = ["req", "-x509", "-noenc", "-subj", "/CN=gateway", "-keyout", &key, "-out", &certificate, "-newkey"];
        Call::new("openssl").args(make).args(kind).run()?.success()?;
        let listener = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"require\"\ntls-certificates = {:?}\ntls-verify-peer = false\n",
            place.root()
        );
        std::fs::write(&file, listener + &export("d", "memory:", "size = \"1MiB\""))?;
        let said = Call::new(&program).args(["check", "--config"]).arg(&file).run()?;
        let words = "a key is RSA with 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519";
        let fits = said.status.success() == good && said.stderr.contains(words) != good;
        ensure(fits, || said.trouble(kind[0]).to_string())?;
    }
    Ok(())
}
