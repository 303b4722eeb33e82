//! Stock clients inside TLS, and our own.

use super::{Pki, info, secure};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Served, Server};
use crate::process::Call;
use crate::trouble::{Trouble, ensure, eventually};

struct Scene {
    pki: Pki,
    served: Served,
    image: Image,
    gateway: Gateway,
}

impl Scene {
    fn new(tls: &str) -> Result<Self, Trouble> {
        let (pki, image) = (Pki::new()?, Image::sparse(7));
        let served = Server::NbdkitFile.start(&image)?;
        let gateway = pki.gateway(tls, "", &export("disk", &served.uri(), "description = \"a disk\""))?;
        Ok(Self { pki, served, image, gateway })
    }

    fn uri(&self) -> String {
        secure(self.gateway.socket(), "disk", &self.pki.client())
    }

    /// `host:port` of its TCP listener, which says that it is to be reached by TLS.
    fn tcp(&self) -> &str {
        self.gateway.told("listening on nbds://")
    }

    fn end(self) -> Result<(), Trouble> {
        self.gateway.end()?;
        drop(self.served);
        Ok(())
    }
}

#[test]
fn libnbd_lists_learns_and_copies_both_ways_over_several_connections() -> Result<(), Trouble> {
    let scene = Scene::new("require")?;
    let listed = Call::new("nbdinfo").arg("--list").arg(scene.uri()).run()?.success()?.stdout;
    ensure(listed.contains("export=\"disk\""), || listed)?;
    let told = Call::new("nbdinfo").arg(scene.uri()).run()?.success()?.stdout;
    ensure(told.contains("with TLS") && told.contains("export-size: 8388608"), || told)?;
    let tcp = format!("nbds://{}/disk?tls-certificates={}", scene.tcp(), scene.pki.client().display());
    let copy = |from: &str, to: &str| {
        let call = Call::new("nbdcopy").args(["--connections=4", "--requests=16", "--flush", from, to]);
        call.run()?.success()
    };
    let (before, other, after) =
        (scene.pki.place.path("before"), scene.pki.place.path("other"), scene.pki.place.path("after"));
    copy(&tcp, &before.display().to_string())?;
    scene.image.expect_same(&Image::read_from(&before)?, "what nbdcopy read through TLS")?;
    let image = Image::full(8);
    image.write_to(&other)?;
    copy(&other.display().to_string(), &tcp)?;
    copy(&scene.uri(), &after.display().to_string())?;
    image.expect_same(&Image::read_from(&after)?, "what nbdcopy wrote through TLS")?;
    scene.end()
}

#[test]
fn qemu_finds_equal_what_is_equal_by_tls_1_2_and_by_1_3_and_gets_nothing_by_1_1() -> Result<(), Trouble> {
    let scene = Scene::new("require")?;
    let (host, port) = scene.tcp().split_once(':').unwrap();
    let same = scene.pki.place.path("same");
    scene.image.write_to(&same)?;
    let disk = format!(
        "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host={host},file.server.port={port},\
         file.export=disk,file.tls-creds=tls0"
    );
    let file = format!("driver=raw,file.driver=file,file.filename={}", same.display());
    let compare = |versions: &str| {
        let directory = scene.pki.client();
        let object = format!(
            "tls-creds-x509,id=tls0,endpoint=client,dir={},priority=NORMAL:-VERS-ALL:{versions}",
            directory.display()
        );
        Call::new("qemu-img").args(["compare", "--object", &object, "--image-opts", &disk, &file]).run()
    };
    for versions in ["+VERS-TLS1.3", "+VERS-TLS1.2", "+VERS-TLS1.2:+VERS-TLS1.3"] {
        compare(versions)?.success()?;
    }
    let old = compare("+VERS-TLS1.1")?;
    ensure(!old.status.success(), || old.trouble("was served with TLS 1.1").to_string())?;
    scene.end()
}

#[test]
fn nbd_client_lists_inside_tls() -> Result<(), Trouble> {
    let scene = Scene::new("require")?;
    let (host, port) = scene.tcp().split_once(':').unwrap();
    let pem = |name: &str| scene.pki.client().join(name).display().to_string();
    let list = Call::new("nbd-client")
        .args(["-l", host, port, "-enable-tls", "-cacertfile", &pem("ca-cert.pem")])
        .args(["-certfile", &pem("client-cert.pem"), "-keyfile", &pem("client-key.pem")])
        .args(["-tlshostname", "localhost"]);
    let listed = list.run()?.success()?;
    ensure(listed.stdout.contains("disk"), || listed.trouble("lists no disk").to_string())?;
    scene.end()
}

#[test]
fn our_own_client_reads_and_writes_inside_tls() -> Result<(), Trouble> {
    let scene = Scene::new("require")?;
    let binary = crate::gateway::binary()?.display().to_string();
    let client = |words: &[&str]| Call::new(&binary).arg("client").args(words).run()?.success();
    let (uri, back) = (scene.uri(), scene.pki.place.path("back"));
    client(&["read", &uri, "--output", &back.display().to_string()])?;
    scene.image.expect_same(&Image::read_from(&back)?, "what the client read")?;
    let other = scene.pki.place.path("other");
    Image::full(9).write_to(&other)?;
    client(&["write", &uri, "--input", &other.display().to_string()])?;
    client(&["read", &uri, "--output", &back.display().to_string()])?;
    Image::full(9).expect_same(&Image::read_from(&back)?, "what the client wrote")?;
    // The certificates beside the URI, and a host to hold them against.
    let plain = format!("nbds://{}/disk", scene.tcp());
    let pki = scene.pki.client().display().to_string();
    let size = client(&["size", &plain, "--tls-certificates", &pki])?.stdout;
    assert_eq!(size.trim(), "8388608");
    let unasked =
        Call::new(&binary).args(["client", "size", &scene.gateway.uri("disk"), "--tls-certificates", &pki]).run()?;
    ensure(unasked.status.code() == Some(2) && unasked.stderr.contains("use nbds://"), || {
        unasked.trouble("took certificates for an URI without TLS").to_string()
    })?;
    scene.end()
}

#[test]
fn where_tls_is_only_allowed_both_kinds_of_client_are_served_at_once() -> Result<(), Trouble> {
    let scene = Scene::new("allow")?;
    let (bare, inside) = (scene.pki.place.path("bare"), scene.pki.place.path("inside"));
    for (uri, file) in [(scene.gateway.uri("disk"), &bare), (scene.uri(), &inside)] {
        Call::new("nbdcopy").arg(uri).arg(file).run()?.success()?;
        scene.image.expect_same(&Image::read_from(file)?, "what was read")?;
    }
    ensure(info(&scene.uri())?.0, || "our own client".to_owned())?;
    let opened = |log: &str| log.lines().filter(|line| line.contains("subject=\"CN=blue,O=Example\"")).count();
    eventually("the log says whose sessions they are", || opened(&scene.gateway.log()) >= 2)?;
    scene.end()
}

#[test]
fn clients_need_no_certificate_where_none_is_asked_for() -> Result<(), Trouble> {
    let (pki, image) = (Pki::new()?, Image::sparse(7));
    let served = Server::NbdkitMemory.start(&image)?;
    let gateway = pki.gateway("require", "tls-verify-peer = false", &export("disk", &served.uri(), ""))?;
    Call::new("nbdinfo").arg(secure(gateway.socket(), "disk", &pki.nobody())).run()?.success()?;
    gateway.end()
}
