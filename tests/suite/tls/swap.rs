//! Certificates that change while the gateway runs.

use nbd_gateway_tests::pki::{Ca, Wish, put};

use super::{NAMES, Pki, secure};
use crate::gateway::export;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::trouble::{Trouble, ensure};

#[test]
fn a_new_ca_and_a_new_certificate_are_in_force_for_who_comes_next_and_nobody_else_notices() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let backend = Backend::start(Script::default())?;
    let gateway = pki.gateway("require", "", &export("disk", &backend.uri(), ""))?;
    let old = secure(gateway.socket(), "disk", &pki.client());
    // A client that stays: it is at its second word when everything has changed.
    let script = "import nbd, sys\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri(sys.argv[1])\n\
                  h.pread(512, 0)\nprint('up', flush=True)\nsys.stdin.readline()\nh.pread(512, 0)\nprint('still', flush=True)\n";
    let mut staying = std::process::Command::new("/usr/bin/python3")
        .args(["-c", script, &old])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut said = std::io::BufReader::new(staying.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line)?;
    assert_eq!(line, "up\n");
    let (ca, new) = (Ca::new("a new CA"), pki.place.path("new"));
    ca.listener(&pki.server(), NAMES);
    ca.client(&new, "green");
    Call::new("nbdinfo").arg(secure(gateway.socket(), "disk", &new)).run()?.success()?;
    let refused = Call::new("nbdinfo").arg(&old).run()?;
    ensure(!refused.status.success(), || refused.trouble("the CA before is still taken").to_string())?;
    std::io::Write::write_all(&mut staying.stdin.take().unwrap(), b"\n")?;
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line)?;
    assert_eq!((line.as_str(), staying.wait()?.success()), ("still\n", true));
    ensure(gateway.log().contains("certificates read again"), || gateway.log())?;
    gateway.end()
}

#[test]
fn a_file_that_is_wrong_is_reported_and_the_one_before_stays_in_use() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let gateway = pki.gateway("require", "", &export("disk", "memory:", "size = \"1MiB\""))?;
    let gateway = gateway.expecting_errors();
    let uri = secure(gateway.socket(), "disk", &pki.client());
    put(&pki.server(), "server-key.pem", &pki.ca.issue(&Wish::server(NAMES)).key);
    for _ in 0..2 {
        Call::new("nbdinfo").arg(&uri).run()?.success()?;
    }
    let log = gateway.log();
    let reported = log.lines().filter(|line| line.contains("changed certificates can't be used")).count();
    ensure(reported == 1 && log.contains("server-cert.pem can't be used with"), || log.clone())?;
    pki.ca.listener(&pki.server(), NAMES);
    Call::new("nbdinfo").arg(&uri).run()?.success()?;
    ensure(gateway.log().contains("certificates read again"), || gateway.log())?;
    gateway.end()
}

/// An alert that a certificate ends soon is over when there is a new one, also where no client comes.
#[test]
fn what_is_told_of_certificates_is_true_also_when_nobody_shakes_hands() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let certificates = pki.client().display().to_string();
    let away = format!("nbds+unix:///x?socket=/nonexistent/s&tls-certificates={certificates}&tls-hostname=localhost");
    let gateway = pki.gateway("require", "", &export("disk", &away, ""))?;
    let year = |file: std::path::PathBuf| -> Result<f64, Trouble> {
        let label = format!("file={:?}", file.display().to_string());
        let seconds = gateway.metric("nbd_gateway_certificate_expiry_seconds", &[&label])?;
        Ok((1970.0 + seconds / (365.2425 * 86_400.0)).round())
    };
    let (server, client) = (pki.server().join("server-cert.pem"), pki.client().join("client-cert.pem"));
    assert_eq!((year(server.clone())?, year(client.clone())?), (2120.0, 2120.0));
    let pair = |directory: &std::path::Path, whose: &str, wish: Wish<'_>| {
        let issued = pki.ca.issue(&Wish { years: (2020, 2140), ..wish });
        put(directory, &format!("{whose}-cert.pem"), &issued.certificate);
        put(directory, &format!("{whose}-key.pem"), &issued.key);
    };
    pair(&pki.server(), "server", Wish::server(NAMES));
    pair(&pki.client(), "client", Wish::client("blue"));
    assert_eq!((year(server)?, year(client)?), (2140.0, 2140.0));
    // A list that is taken away has no end any more.
    let revoked = pki.server().join("ca-crl.pem");
    put(&pki.server(), "ca-crl.pem", &pki.ca.revoke(&[7]));
    year(revoked.clone())?;
    std::fs::remove_file(&revoked)?;
    ensure(year(revoked).is_err(), || "a file that is gone still has an end".into())?;
    gateway.end()
}
