//! Promise: a backend is dialled when the first client asks, once, within a deadline, and a client that waited for it in
//! vain is told so.

use std::time::{Duration, Instant};

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::{opt, rep};
use crate::scripted::{Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

/// GO is refused, in words and soon, and the client is still in step.
fn refused_in_time(client: &mut RawClient, name: &str) -> Result<(), Trouble> {
    let begun = Instant::now();
    let answers = client.negotiate(opt::GO, &go_request(name, &[]))?;
    let last = answers.last().expect("negotiate gives at least one");
    let words = String::from_utf8_lossy(&last.data);
    ensure(last.kind > 1 << 31 && words.contains(name), || format!("GO got {:#x} {words}", last.kind))?;
    // Far more than the deadline, far less than a scripted client's patience.
    ensure(begun.elapsed() < Duration::from_secs(10), || format!("refused only after {:?}", begun.elapsed()))?;
    assert_eq!(client.verdict(opt::LIST, &[])?, rep::ACK);
    Ok(())
}

#[test]
fn many_first_clients_at_the_same_time_share_one_dial() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let mut clients = (0..100).map(|_| RawClient::connect(gateway.socket())).collect::<Result<Vec<_>, _>>()?;
    for client in &mut clients {
        client.option(opt::GO, &go_request("", &[]))?;
    }
    for client in &mut clients {
        while client.answer()?.kind != rep::ACK {}
    }
    assert_eq!(backend.story(|story| story.connections), 1);
    gateway.end()
}

#[test]
fn a_backend_that_falls_silent_is_given_up_at_the_deadline_and_its_clients_are_told() -> Result<(), Trouble> {
    for fault in [Fault::GreetingNever, Fault::OptionsUnanswered] {
        let backend = Backend::start(Script { fault: Some(fault), struck: 1, ..Script::default() })?;
        // Also what the second dial has, which has to succeed on a busy machine.
        let tables = export("vm", &backend.uri(), "dial-timeout = \"2s\"");
        let gateway = Gateway::start(&tables)?.expecting_warnings();
        let mut client = RawClient::connect(gateway.socket())?;
        refused_in_time(&mut client, "vm")?;
        ensure(gateway.log().contains("dial-timeout"), || "the log does not say what to look at".into())?;
        // The next one to ask has it dialled again, and the same client may.
        client.go("vm")?;
        client.read(0, 512)?;
        gateway.end()?;
    }
    Ok(())
}

/// The time in which a client must shake hands is its own: what the gateway spends on a backend does not count. The
/// defaults of both are the same, so every client of a silent backend used to be cut off without a word.
#[test]
fn a_dial_that_takes_longer_than_the_handshake_may_is_still_answered() -> Result<(), Trouble> {
    let backend = Backend::start(Script { fault: Some(Fault::GreetingNever), struck: 1, ..Script::default() })?;
    let limits = "[limits]\nhandshake-timeout = \"2s\"\n\n";
    let tables = limits.to_owned() + &export("vm", &backend.uri(), "dial-timeout = \"3s\"");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let mut client = RawClient::connect(gateway.socket())?;
    refused_in_time(&mut client, "vm")?;
    // Its own time still ends.
    client.link().await_close()?;
    gateway.end()
}

#[test]
fn qemu_nbd_that_serves_somebody_else_is_told_within_the_deadline_and_used_when_it_is_free() -> Result<(), Trouble> {
    let served = Server::QemuNbd.start(&Image::sparse(1))?;
    let (occupant, _) = RawClient::open(&served.socket, served.export, Framing::Structured)?;
    let tables = export("vm", &served.uri(), "dial-timeout = \"1s\"");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let mut client = RawClient::connect(gateway.socket())?;
    refused_in_time(&mut client, "vm")?;
    occupant.leave()?;
    eventually("it is free", || RawClient::open(gateway.socket(), "vm", Framing::Structured).is_ok())?;
    gateway.end()
}

#[test]
fn a_backend_that_is_not_there_yet_is_told_and_used_when_it_is() -> Result<(), Trouble> {
    let mut served = Server::NbdkitFile.start(&Image::sparse(3))?;
    served.kill()?;
    let gateway = Gateway::start(&export("vm", &served.uri(), ""))?.expecting_warnings();
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    refused_in_time(&mut client, "vm")?;
    // With EXPORT_NAME there is no way to tell.
    let mut old = RawClient::connect(gateway.socket())?;
    old.option(opt::EXPORT_NAME, b"vm")?;
    old.link().await_close()?;
    served.start_again()?;
    client.go("vm")?;
    ensure(client.read(0, 1 << 16)? == Image::sparse(3).bytes()[..1 << 16], || "other bytes".into())?;
    gateway.end()
}

/// Who may connect decides how often that is.
#[test]
fn a_client_that_hammers_at_a_server_that_is_away_does_not_fill_the_log() -> Result<(), Trouble> {
    let mut served = Server::NbdkitFile.start(&Image::sparse(1))?;
    served.kill()?;
    let gateway = Gateway::start(&export("vm", &served.uri(), ""))?.expecting_warnings();
    let mut client = RawClient::connect(gateway.socket())?;
    for _ in 0..300 {
        refused_in_time(&mut client, "vm")?;
    }
    assert_eq!(gateway.metric("nbd_gateway_export_open_failures_total", &["export=\"vm\""])?, 300.0);
    let log = gateway.whole_log();
    let told = log.matches("export can't be opened").count();
    // Twenty at once and twelve a minute.
    ensure((20..60).contains(&told), || format!("told {told} times: {log}"))?;
    let left_out = gateway.metric("nbd_gateway_log_lines_suppressed_total", &[])?;
    ensure(left_out >= 240.0, || format!("{left_out} lines were left out of 300"))?;
    gateway.end()
}

/// libnbd and qemu use such servers too.
#[test]
fn a_server_that_refuses_what_is_not_needed_in_whatever_words_is_used_without() -> Result<(), Trouble> {
    let kinds = [3, 4, 7, 8, 9, 0x1234].map(|number| 1 << 31 | number);
    let script = |fault| Script { fault: Some(fault), ..Script::default() };
    let backends = kinds.iter().map(|kind| Backend::start(script(Fault::ExtrasRefused(*kind))));
    let backends = backends.collect::<Result<Vec<_>, _>>()?;
    let tables: String = backends.iter().zip(kinds).map(|(b, kind)| export(&kind.to_string(), &b.uri(), "")).collect();
    let gateway = Gateway::start(&tables)?;
    for (backend, kind) in backends.iter().zip(kinds) {
        let (mut client, _) = RawClient::open(gateway.socket(), &kind.to_string(), Framing::Structured)?;
        ensure(client.read(0, 4096)? == Backend::content().bytes()[..4096], || format!("{kind:#x}"))?;
        client.leave()?;
        assert_eq!(backend.story(|story| story.connections), 1, "{kind:#x}");
    }
    gateway.end()
}

#[test]
fn a_server_that_hangs_up_on_what_is_not_needed_is_tried_once_more_without() -> Result<(), Trouble> {
    let backend = Backend::start(Script { fault: Some(Fault::ExtrasHungUpOn), ..Script::default() })?;
    let gateway = Gateway::start(&export("vm", &backend.uri(), ""))?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    ensure(client.read(0, 4096)? == Backend::content().bytes()[..4096], || "other bytes".into())?;
    assert_eq!(backend.story(|story| story.connections), 2);
    // A later connection is like the first that was good.
    backend.cut();
    ensure(client.read(0, 4096)? == Backend::content().bytes()[..4096], || "other bytes".into())?;
    assert_eq!(backend.story(|story| story.connections), 3);
    client.leave()?;
    let said = gateway_client_info(&backend.uri())?;
    ensure(said.contains("size"), || said.clone())?;
    gateway.end()
}

/// What `client info` prints of a server.
fn gateway_client_info(uri: &str) -> Result<String, Trouble> {
    let program = crate::gateway::binary()?.display().to_string();
    Ok(crate::process::Call::new(&program).args(["client", "info", "--json", uri]).run()?.success()?.stdout)
}
