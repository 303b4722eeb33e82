//! Stock servers that the gateway reaches by TLS, and TLS on both sides at once.

use super::{Pki, info, secure};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Served, nbdkit, qemu_with_tls};
use crate::process::Call;
use crate::trouble::Trouble;

/// nbdkit that speaks TLS only, and only with those whom it knows.
fn nbdkit_with_tls(pki: &Pki, image: &Image) -> Result<Served, Trouble> {
    let certificates = format!("--tls-certificates={}", pki.server().display());
    nbdkit(&["--tls=require", &certificates, "--tls-verify-peer"], &["file", "DISK"], image)
}

fn backend(pki: &Pki, served: &Served, lanes: u32) -> String {
    let (socket, directory) = (served.socket.display(), pki.client());
    let uri = format!("nbds+unix:///{}?socket={socket}", served.export);
    let keys = format!("tls-certificates = {directory:?}\ntls-hostname = \"gateway.example\"\nlanes = {lanes}");
    export("disk", &uri, &keys)
}

/// Everything there, everything back, and something else over it.
fn through(pki: &Pki, uri: &str, before: &Image) -> Result<(), Trouble> {
    let (file, other) = (pki.place.path("file"), pki.place.path("other"));
    let after = Image::full(5);
    let copy = |from: &str, to: &str| {
        Call::new("nbdcopy").args(["--connections=2", "--requests=16", "--flush", from, to]).run()?.success()
    };
    copy(uri, &file.display().to_string())?;
    before.expect_same(&Image::read_from(&file)?, "what was read through TLS")?;
    after.write_to(&other)?;
    copy(&other.display().to_string(), uri)?;
    copy(uri, &file.display().to_string())?;
    after.expect_same(&Image::read_from(&file)?, "what was written through TLS")
}

#[test]
fn nbdkit_is_reached_by_tls_with_one_lane_and_with_several() -> Result<(), Trouble> {
    for lanes in [1, 4] {
        let (pki, image) = (Pki::new()?, Image::sparse(11));
        let served = nbdkit_with_tls(&pki, &image)?;
        let gateway = Gateway::start(&backend(&pki, &served, lanes))?;
        through(&pki, &gateway.uri("disk"), &image)?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn qemu_nbd_is_reached_by_tls() -> Result<(), Trouble> {
    let (pki, image) = (Pki::new()?, Image::sparse(12));
    let served = qemu_with_tls(&pki.server(), &image)?;
    let gateway = Gateway::start(&backend(&pki, &served, 1))?;
    through(&pki, &gateway.uri("disk"), &image)?;
    gateway.end()
}

#[test]
fn both_sides_speak_tls_and_the_bytes_are_the_same() -> Result<(), Trouble> {
    let (pki, image) = (Pki::new()?, Image::sparse(13));
    let served = nbdkit_with_tls(&pki, &image)?;
    let gateway = pki.gateway("require", "", &backend(&pki, &served, 2))?;
    through(&pki, &secure(gateway.socket(), "disk", &pki.client()), &image)?;
    for directory in [pki.server(), pki.client()] {
        let file = directory.join(if directory == pki.server() { "server-cert.pem" } else { "client-cert.pem" });
        let label = format!("file=\"{}\"", file.display());
        let expiry = gateway.metric("nbd_gateway_certificate_expiry_seconds", &[&label])?;
        assert!((expiry - 4_733_510_400.0).abs() < 1.0, "the 1st of January 2120, not {expiry}");
    }
    gateway.end()
}

#[test]
fn a_lane_inside_tls_comes_back_after_its_server_was_killed() -> Result<(), Trouble> {
    let (pki, image) = (Pki::new()?, Image::sparse(14));
    let mut served = nbdkit_with_tls(&pki, &image)?;
    let gateway = Gateway::start(&backend(&pki, &served, 1))?.expecting_warnings();
    through(&pki, &gateway.uri("disk"), &image)?;
    served.kill()?;
    served.start_again()?;
    through(&pki, &gateway.uri("disk"), &Image::full(5))?;
    gateway.end()
}

#[test]
fn our_own_client_speaks_to_stock_servers_inside_tls() -> Result<(), Trouble> {
    let (pki, image) = (Pki::new()?, Image::sparse(15));
    for served in [nbdkit_with_tls(&pki, &image)?, qemu_with_tls(&pki.server(), &image)?] {
        let (good, error) = info(&secure(&served.socket, served.export, &pki.client()))?;
        assert!(good, "{error}");
    }
    Ok(())
}
