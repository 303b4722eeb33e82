//! Promise: what clients were told binds as long as one of them is there or may come back, and no longer. A new client is
//! told what its server is now.

use std::time::Instant;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Server, nbdkit_as_it_is};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{flag, opt, rep};
use crate::scripted::{Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

/// What GO is refused with now: "not available" in the protocol's terms, and in words.
pub(crate) fn refusal(gateway: &Gateway, name: &str) -> Result<String, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    let answers = client.negotiate(opt::GO, &go_request(name, &[]))?;
    let last = answers.last().expect("negotiate gives at least one");
    assert_eq!(last.kind, rep::ERR_UNKNOWN);
    Ok(String::from_utf8_lossy(&last.data).into_owned())
}

/// The gateway has seen that its server is gone; a client that comes before that is told of the one that was there.
fn lost(gateway: &Gateway) -> Result<(), Trouble> {
    let lost = || gateway.metric("nbd_gateway_lane_reconnects_total", &["reason=\"lost\""]).is_ok_and(|n| n >= 1.0);
    eventually("the loss is seen", lost)
}

/// Everything that a server can lose.
fn lesser() -> [(&'static str, Script); 5] {
    let script = Script::default();
    [
        ("read-only", Script { flags: script.flags | flag::READ_ONLY, ..script.clone() }),
        ("no FLUSH", Script { flags: script.flags & !flag::FLUSH, ..script.clone() }),
        ("no context", Script { contexts: &["base:other"], ..script.clone() }),
        ("larger blocks", Script { blocks: Some([4096, 4096, 1 << 20]), ..script.clone() }),
        ("simple replies", Script { framing: Framing::Simple, ..script }),
    ]
}

#[test]
fn whatever_a_server_comes_back_as_the_next_client_is_told_once_the_others_have_left() -> Result<(), Trouble> {
    for (what, script) in lesser() {
        let backend = Backend::start(Script::default())?;
        let tables = export("", &backend.uri(), "on-backend-loss = { hold = \"30s\", durable = true }");
        let gateway = Gateway::start(&tables)?.expecting_errors();
        let (client, before) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
        client.leave()?;
        eventually("it has left", || gateway.metric("nbd_gateway_sessions", &[]).is_ok_and(|n| n == 0.0))?;
        backend.meddle(|disk| disk.truncate(4 << 20));
        backend.become_another(script.clone());
        lost(&gateway)?;
        let (mut client, after) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
        ensure((before.size, after.size) == (8 << 20, 4 << 20), || format!("{what}: {before:?} {after:?}"))?;
        let read_only = script.flags & flag::READ_ONLY;
        ensure(after.flags & flag::READ_ONLY == read_only, || format!("{what}: {after:?}"))?;
        ensure(client.read((4 << 20) - 4096, 4096)?.len() == 4096, || what.to_owned())?;
        client.leave()?;
        gateway.end()?;
    }
    Ok(())
}

/// It was let in, and told of a server that was no longer there.
#[test]
fn a_new_client_is_refused_while_one_is_connected_that_was_told_otherwise() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = export("", &backend.uri(), "on-backend-loss = { hold = \"30s\", durable = true }");
    let gateway = Gateway::start(&tables)?.expecting_errors();
    let (client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.meddle(|disk| disk.truncate(4 << 20));
    backend.cut();
    lost(&gateway)?;
    let refused = refusal(&gateway, "")?;
    ensure(refused.contains("came back different"), || refused)?;
    client.leave()?;
    let now = || RawClient::open(gateway.socket(), "", Framing::Structured).is_ok_and(|(_, now)| now.size == 4 << 20);
    eventually("the others have left", now)?;
    gateway.end()
}

/// A client that lost its network may be back any moment, and does not look at the size again.
#[test]
fn a_client_that_broke_off_is_waited_for_before_another_is_told_less() -> Result<(), Trouble> {
    for (grace, waits) in [("1h", true), ("0s", false)] {
        let backend = Backend::start(Script::default())?;
        let more = "on-backend-loss = { hold = \"30s\", durable = true }\n[export.resize]\nshrink-grace = ";
        let gateway = Gateway::start(&export("", &backend.uri(), &format!("{more}{grace:?}")))?.expecting_errors();
        drop(RawClient::open(gateway.socket(), "", Framing::Structured)?);
        eventually("it has left", || gateway.metric("nbd_gateway_sessions", &[]).is_ok_and(|n| n == 0.0))?;
        backend.meddle(|disk| disk.truncate(4 << 20));
        backend.cut();
        lost(&gateway)?;
        if waits {
            let refused = refusal(&gateway, "")?;
            ensure(refused.contains("came back different"), || refused)?;
            backend.meddle(|disk| disk.resize(8 << 20, 0));
        }
        let (_, now) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
        assert_eq!(now.size, if waits { 8 << 20 } else { 4 << 20 });
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_client_that_comes_while_its_server_is_started_again_waits_for_it() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let tables = export("vm", &served.uri(), "on-backend-loss = { hold = \"30s\", durable = true }");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut first, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    served.kill()?;
    eventually("the loss is seen", || gateway.metric("nbd_gateway_lane_up", &["vm"]).is_ok_and(|up| up == 0.0))?;
    let mut next = RawClient::connect(gateway.socket())?;
    next.upgrade(Framing::Structured)?;
    let coming = std::thread::spawn(move || next.go("vm").map(|now| (now.size, Instant::now())));
    let back = Instant::now();
    served.start_again()?;
    let (size, told) = coming.join().expect("it does not panic")?;
    ensure(size == 8 << 20 && told > back, || "it was told of a server that was away".into())?;
    first.read(0, 512)?;
    gateway.end()
}

/// A server that ends with its last client was gone when GO came: each option had a connection of its own.
#[test]
fn one_handshake_has_one_connection_to_its_server_also_without_an_idle_time() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), "idle-timeout = \"0s\""))?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    for _ in 0..3 {
        client.learn(opt::INFO, "", &[])?;
        client.contexts("", &["base:allocation"])?;
    }
    client.go("")?;
    client.read(0, 512)?;
    assert_eq!(backend.story(|story| story.connections), 1);
    client.leave()?;
    backend.await_that("the last connection ends", |story| story.live == 0)?;
    gateway.end()
}

/// The operator was warned of a server that did nothing wrong, and the client told that it lacks an option.
#[test]
fn a_name_that_a_templates_server_does_not_have_is_unknown_and_nobody_is_warned() -> Result<(), Trouble> {
    let served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let uri = format!("nbd+unix:///{{}}?socket={}", served.socket.display());
    let gateway = Gateway::start(&export("*", &uri, ""))?;
    let refused = refusal(&gateway, "made-up")?;
    ensure(refused.contains("there is no export"), || refused)?;
    RawClient::open(gateway.socket(), "disk", Framing::Structured)?.0.leave()?;
    gateway.end()
}

#[test]
fn a_server_that_is_away_makes_its_export_unavailable_for_stock_clients_too() -> Result<(), Trouble> {
    let mut served = nbdkit_as_it_is(&[], &["memory", "1M"])?;
    let gateway = Gateway::start(&export("vm", &served.uri(), ""))?.expecting_warnings();
    served.kill()?;
    let refused = refusal(&gateway, "vm")?;
    ensure(refused.contains("can't be opened now"), || refused)?;
    gateway.end()
}
