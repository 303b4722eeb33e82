//! TLS in a configuration: what it means, and what is said about what is wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test crate")]

use std::path::Path;

use nbd_gateway_config::{Backend, Config, ListenerTls, UriTls};

const EXPORT: &str = "[[export]]\nname = \"a\"\nbackend = \"nbd://h/a\"\n";
const DIRECTORY_EXAMPLE: &str = "\n  for example: tls-certificates = \"/etc/pki/nbd-gateway\"";

fn read(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("f"))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn listener(keys: &str) -> Result<ListenerTls, String> {
    let config = read(&format!("[[listener]]\naddress = \"[::]:1\"\n{keys}\n{EXPORT}"))?;
    Ok(config.listeners[0].tls.clone())
}

fn backend(keys: &str) -> Result<UriTls, String> {
    let config = read(&format!("[[listener]]\naddress = \"[::]:1\"\n[[export]]\nname = \"a\"\n{keys}\n"))?;
    match config.export_for("a").unwrap().backend {
        Backend::Nbd(uri) => Ok(uri.tls().unwrap().clone()),
        other => panic!("{other}"),
    }
}

#[test]
fn a_listener_speaks_tls_as_it_is_told_and_asks_for_certificates_unless_told_not_to() {
    let on = |require, verify_peer| Ok(ListenerTls::On { require, certificates: "/pki".into(), verify_peer });
    assert_eq!(listener(""), Ok(ListenerTls::Off));
    assert_eq!(listener("tls = \"off\"\ntls-certificates = \"/pki\""), Ok(ListenerTls::Off));
    assert_eq!(listener("tls = \"allow\"\ntls-certificates = \"/pki\""), on(false, true));
    assert_eq!(listener("tls = \"require\"\ntls-certificates = \"/pki\"\ntls-verify-peer = false"), on(true, false));
}

#[test]
fn a_listener_with_tls_and_no_certificates_is_a_problem() {
    let says = |word: &str| {
        format!(
            "listener[0].tls-certificates: `tls = \"{word}\"` needs the directory of server-cert.pem and \
             server-key.pem{DIRECTORY_EXAMPLE}"
        )
    };
    assert_eq!(listener("tls = \"require\""), Err(says("require")));
    assert_eq!(listener("tls = \"allow\""), Err(says("allow")));
    let empty = "`tls-certificates` has to be a directory: not empty, and without NUL";
    assert_eq!(
        listener("tls = \"allow\"\ntls-certificates = \"\""),
        Err(format!("listener[0].tls-certificates: {empty}{DIRECTORY_EXAMPLE}"))
    );
    assert_eq!(
        listener("tls = \"yes\""),
        Err("listener[0].tls: `yes` is not known: use `off` or `allow` or `require`\n  for example: tls = \"require\""
            .into())
    );
}

#[test]
fn a_backends_tls_is_told_by_its_uri_or_by_the_exports_own_keys() {
    let tls = |hostname: Option<&str>| {
        Ok(UriTls { certificates: Some("/pki".into()), hostname: hostname.map(str::to_owned), verify_peer: true })
    };
    assert_eq!(backend("backend = \"nbds://h/a\"\ntls-certificates = \"/pki\""), tls(None));
    assert_eq!(backend("backend = \"nbds://h/a?tls-certificates=/pki\"\ntls-hostname = \"b\""), tls(Some("b")));
    assert_eq!(
        backend("backend = \"nbds+unix:///a?socket=/s\"\ntls-certificates = \"/pki\"\ntls-hostname = \"b\""),
        tls(Some("b"))
    );
    let anybody = UriTls { verify_peer: false, ..UriTls::default() };
    assert_eq!(backend("backend = \"nbds+unix:///a?socket=/s&tls-verify-peer=0\""), Ok(anybody));
}

#[test]
fn what_is_missing_or_said_twice_about_a_backends_tls_is_a_problem() {
    let hostname = "\n  for example: tls-hostname = \"storage.example.com\"";
    assert_eq!(
        backend("backend = \"nbds+unix:///a?socket=/s\""),
        Err(format!(
            "export[0].tls-certificates: a backend with TLS needs the directory of ca-cert.pem, to know its server \
             by{DIRECTORY_EXAMPLE}\n\
             export[0].tls-hostname: a Unix socket has no host name: say which one the server's certificate has{hostname}"
        ))
    );
    let idle = "this does nothing unless the backend is nbds:// or nbds+unix://";
    assert_eq!(
        backend("backend = \"nbd://h/a\"\ntls-certificates = \"/pki\"\ntls-hostname = \"b\""),
        Err(format!("export[0].tls-certificates: {idle}{DIRECTORY_EXAMPLE}\nexport[0].tls-hostname: {idle}{hostname}"))
    );
    assert_eq!(
        backend(
            "backend = \"nbds://h/a?tls-certificates=/pki&tls-hostname=b\"\ntls-certificates = \"/pki\"\ntls-hostname = \"b\""
        ),
        Err(format!(
            "export[0].tls-certificates: `tls-certificates` stands in the backend's URI too: leave one of them \
             out{DIRECTORY_EXAMPLE}\n\
             export[0].tls-hostname: `tls-hostname` stands in the backend's URI too: leave one of them out{hostname}"
        ))
    );
    assert_eq!(
        backend("backend = \"nbds://h/a\"\ntls-certificates = \"/pki\"\ntls-hostname = \"a b\""),
        Err(format!(
            "export[0].tls-hostname: `a b` is no host name and no address that a certificate could have{hostname}"
        ))
    );
}

#[test]
fn a_template_has_its_tls_too_and_no_name_gets_into_it() {
    let text =
        |uri: &str| format!("[[listener]]\naddress = \"[::]:1\"\n[[export]]\nname = \"a/*\"\nbackend = \"{uri}\"\n");
    let config = read(&text("nbds+unix:///{}?socket=/s&tls-certificates=/pki&tls-hostname=b")).unwrap();
    assert_eq!(
        config.export_for("a/x&tls-verify-peer=0").unwrap().backend.to_string(),
        "nbds+unix:///x%26tls-verify-peer%3D0?socket=/s&tls-certificates=/pki&tls-hostname=b"
    );
    assert_eq!(config.backends_tls().count(), 1);
    let refused = read(&text("nbds://h/{}?tls-certificates=/pki&tls-hostname={}")).unwrap_err();
    assert!(refused.starts_with("export[0].backend: the character `{` has to be percent-encoded"), "{refused}");
}
