//! TLS on both sides of the gateway, against GnuTLS (nbdkit, libnbd, qemu, nbd-client) and against those who misbehave.

mod clients;
mod downgrade;
mod refusals;
mod servers;
mod swap;
mod who;

use std::path::{Path, PathBuf};

use nbd_gateway_tests::pki::Ca;

use crate::gateway::Gateway;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::Trouble;

/// The names that servers have here.
const NAMES: &[&str] = &["localhost", "127.0.0.1", "gateway.example"];

/// A CA, a directory for whoever is a server and one for whoever is a client.
struct Pki {
    place: Place,
    ca: Ca,
}

impl Pki {
    fn new() -> Result<Self, Trouble> {
        let pki = Self { place: Place::fresh()?, ca: Ca::new("a CA of this suite") };
        pki.ca.listener(&pki.server(), NAMES);
        pki.ca.client(&pki.client(), "blue");
        Ok(pki)
    }

    fn server(&self) -> PathBuf {
        self.place.path("server")
    }

    fn client(&self) -> PathBuf {
        self.place.path("client")
    }

    /// A directory in which there is only the CA.
    fn nobody(&self) -> PathBuf {
        let directory = self.place.path("nobody");
        nbd_gateway_tests::pki::put(&directory, "ca-cert.pem", &self.ca.pem());
        directory
    }

    /// A gateway whose listeners (Unix and TCP) speak TLS, with `keys`, and serve `tables`.
    fn gateway(&self, tls: &str, keys: &str, tables: &str) -> Result<Gateway, Trouble> {
        let place = Place::fresh()?;
        let listener = |address: &str| {
            let directory = self.server();
            format!("[[listener]]\naddress = {address:?}\ntls = {tls:?}\ntls-certificates = {directory:?}\n{keys}\n\n")
        };
        let unix = format!("unix:{}", place.path("g").display());
        let tables =
            [listener(&unix), listener("127.0.0.1:0"), "[admin]\naddress = \"127.0.0.1:0\"\n\n".into(), tables.into()];
        Gateway::start_in(place, &tables.concat())
    }
}

/// An URI of a gateway's Unix socket for libnbd and for our own client.
fn secure(socket: &Path, export: &str, certificates: &Path) -> String {
    let (socket, certificates) = (socket.display(), certificates.display());
    format!("nbds+unix:///{export}?socket={socket}&tls-certificates={certificates}&tls-hostname=localhost")
}

/// What `nbd-gateway client info` says of it: standard error, and whether it went well.
fn info(uri: &str) -> Result<(bool, String), Trouble> {
    let binary = crate::gateway::binary()?;
    let output = Call::new(&binary.display().to_string()).args(["client", "info", uri]).run()?;
    Ok((output.status.success(), output.stderr))
}
