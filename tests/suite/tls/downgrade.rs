//! Those who would have it in the clear: clients where TLS is required, servers that refuse it, and whoever puts bytes in
//! front of it.

use super::{Pki, info, secure};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{opt, rep};
use crate::scripted::{Framing, RawClient, go_request, option_bytes};
use crate::trouble::{Trouble, ensure, eventually};

const STARTTLS: u32 = 5;
const ERR_TLS_REQD: u32 = 0x8000_0005;

fn memory() -> String {
    export("disk", "memory:", "size = \"1MiB\"")
}

#[test]
fn a_client_in_the_clear_gets_nothing_where_tls_is_required() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let gateway = pki.gateway("require", "", &memory())?;
    for call in [
        Call::new("nbdinfo").arg(gateway.uri("disk")),
        Call::new("nbdinfo").arg("--list").arg(gateway.uri("")),
        Call::new("qemu-img").args(["info", "-f", "raw"]).arg(gateway.uri("disk")),
    ] {
        let output = call.run()?;
        ensure(!output.status.success(), || output.trouble("was served in the clear").to_string())?;
    }
    let (good, error) = info(&gateway.uri("disk"))?;
    ensure(!good && error.contains("NBD_REP_ERR_TLS_REQD") && error.contains("requires TLS"), || error)?;
    let mut client = RawClient::connect(gateway.socket())?;
    let options =
        [opt::LIST, opt::GO, opt::INFO, opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS, opt::SET_META_CONTEXT, 99];
    for option in options {
        assert_eq!(client.verdict(option, &go_request("disk", &[]))?, ERR_TLS_REQD, "option {option}");
    }
    assert_eq!(client.verdict(opt::ABORT, &[])?, rep::ACK);
    let mut old = RawClient::connect(gateway.socket())?;
    old.option(opt::EXPORT_NAME, b"disk")?;
    old.link().await_close()?;
    gateway.end()
}

#[test]
fn a_listener_without_tls_refuses_it_and_goes_on_in_the_clear() -> Result<(), Trouble> {
    let gateway = Gateway::start(&memory())?;
    let mut client = RawClient::connect(gateway.socket())?;
    assert_eq!(client.verdict(STARTTLS, &[])?, rep::ERR_POLICY);
    client.go("disk")?;
    client.leave()?;
    let pki = Pki::new()?;
    let uri = secure(gateway.socket(), "disk", &pki.client());
    let refused = Call::new("nbdinfo").arg(&uri).run()?;
    ensure(!refused.status.success(), || refused.trouble("went on in the clear").to_string())?;
    let (good, error) = info(&uri)?;
    let told = "the server says NBD_REP_ERR_POLICY to NBD_OPT_STARTTLS: TLS is off on this listener; nothing is sent to it in the clear";
    ensure(!good && error.contains(told), || error)?;
    gateway.end()
}

#[test]
fn a_backend_that_refuses_tls_is_named_and_nothing_is_sent_to_it_in_the_clear() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let backend = Backend::start(Script::default())?;
    let served = Server::NbdkitMemory.start(&Image::sparse(1))?;
    let secure = |uri: &str| {
        format!("{}&tls-hostname=h&tls-certificates={}", uri.replace("nbd+", "nbds+"), pki.client().display())
    };
    let tables = [export("scripted", &secure(&backend.uri()), ""), export("nbdkit", &secure(&served.uri()), "")];
    let gateway = Gateway::start(&tables.concat())?.expecting_warnings();
    for name in ["scripted", "nbdkit"] {
        let refused = Call::new("nbdinfo").arg(gateway.uri(name)).run()?;
        ensure(!refused.status.success(), || refused.trouble("was served").to_string())?;
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains(name) && line.contains("to NBD_OPT_STARTTLS"));
        ensure(
            line.is_some_and(|line| line.contains("backend unix:") && line.contains("nothing is sent to it")),
            || log.clone(),
        )?;
    }
    assert_eq!(backend.story(|story| story.seen.len()), 0, "a request in the clear");
    gateway.end()
}

#[test]
fn what_comes_in_the_clear_behind_starttls_is_never_taken_for_what_comes_through_tls() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let gateway = pki.gateway("allow", "tls-verify-peer = false", &memory())?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let mut bytes = option_bytes(STARTTLS, 0, &[]);
    bytes.extend(option_bytes(opt::LIST, 0, &[]));
    client.link().send(&bytes)?;
    // Not an ACK and then a list inside TLS: nothing at all.
    client.link().await_close()?;
    let logged = |words: &str| eventually(words, || gateway.log().contains(words));
    logged("16 bytes in the clear behind NBD_OPT_STARTTLS")?;
    // What comes after the agreement is held to be TLS, and is none.
    let mut late = RawClient::connect(gateway.socket())?;
    assert_eq!(late.verdict(STARTTLS, &[])?, rep::ACK);
    late.link().send(&option_bytes(opt::LIST, 0, &[]))?;
    late.link().finish_sending()?;
    while late.link().take(1).is_ok() {}
    logged("the client does not speak TLS")?;
    gateway.end()
}

#[test]
fn a_client_that_never_finishes_tls_is_let_go_at_the_handshake_deadline() -> Result<(), Trouble> {
    let pki = Pki::new()?;
    let tables = memory() + "[limits]\nhandshake-timeout = \"3s\"\n";
    let gateway = pki.gateway("require", "", &tables)?;
    let mut client = RawClient::connect(gateway.socket())?;
    assert_eq!(client.verdict(STARTTLS, &[])?, rep::ACK);
    client.link().await_close()?;
    gateway.end()
}
