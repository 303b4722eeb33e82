//! Promise: a certificate says who its client is, and the rules of tenants go by that.

use nbd_gateway_tests::pki::{Wish, put};

use super::{Pki, secure};
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

/// Two tenants: of one come certificates whose common name begins with `blue`, of the other those that name a host.
const TENANTS: &str = r#"
[[tenant]]
name = "blue"
clients = [{ dn = "CN=blue*" }]

[[tenant]]
name = "red"
clients = [
    { san = "DNS:*.red.example", verbs = ["list", "read"] },
]

[[export]]
name = "of-blue"
tenant = "blue"
backend = "memory:"
size = "1MiB"

[[export]]
name = "of-red"
tenant = "red"
backend = "memory:"
size = "2MiB"
"#;

#[test]
fn a_client_finds_the_disks_of_its_certificate_and_no_others() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let gateway = pki.gateway("require", "", TENANTS)?;
    let shown = |name: &str, sans: &[&str]| {
        let directory = pki.place.path(name);
        let issued = pki.ca.issue(&Wish { sans, ..Wish::client(name) });
        put(&directory, "ca-cert.pem", &pki.ca.pem());
        put(&directory, "client-cert.pem", &issued.certificate);
        put(&directory, "client-key.pem", &issued.key);
        directory
    };
    let everybody = [
        (shown("blue-7", &[]), Some("1048576"), None),
        (shown("host", &["vm.red.example"]), None, Some("2097152")),
        (shown("both", &["blue.example"]), None, None),
    ];
    for (directory, blue, red) in &everybody {
        for (export, expected) in [("of-blue", blue), ("of-red", red)] {
            let uri = secure(gateway.socket(), export, directory);
            let size = Call::new("nbdinfo").args(["--size", &uri]).run()?;
            let told = size.status.success().then(|| size.stdout.trim_end().to_owned());
            assert_eq!(told.as_deref(), *expected, "{export} for {}: {}", directory.display(), size.stderr);
        }
    }
    // What a rule gives is all there is: red may look, and not write.
    let uri = secure(gateway.socket(), "of-red", &everybody[1].0);
    let told = Call::new("nbdinfo").arg(&uri).run()?.success()?.stdout;
    ensure(told.contains("is_read_only: true"), || told)?;
    let listed = Call::new("nbdinfo").args(["--list", &secure(gateway.socket(), "", &everybody[0].0)]).run()?;
    let listed = listed.success()?.stdout;
    ensure(listed.contains("of-blue") && !listed.contains("of-red"), || listed)?;
    gateway.end()
}
