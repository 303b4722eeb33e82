//! An export that a client may not list, and one that is not there, are the same to it, byte for byte.

use std::path::Path;

use super::{blue, disk, gateway, unix};
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{info, opt, rep};
use crate::scripted::{Answer, Framing, RawClient, go_request, meta_request};
use crate::trouble::{Trouble, ensure};

/// Everything that a client is told which tries each option on each of these names.
fn told(socket: &Path, names: &[&str]) -> Result<Vec<Answer>, Trouble> {
    let mut client = RawClient::connect(socket)?;
    client.upgrade(Framing::Structured)?;
    let mut answers = client.negotiate(opt::LIST, &[])?;
    for name in names {
        for option in [opt::INFO, opt::GO] {
            answers.extend(client.negotiate(option, &go_request(name, &[info::BLOCK_SIZE, info::RESIZE]))?);
        }
        for option in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
            for queries in [&[][..], &["base:allocation", "x-resize:watch"]] {
                answers.extend(client.negotiate(option, &meta_request(name, queries))?);
            }
        }
    }
    answers.extend(client.negotiate(opt::LIST, &[])?);
    Ok(answers)
}

/// Whether EXPORT_NAME ends the connection without a word.
fn closes(socket: &Path, name: &str) -> Result<(), Trouble> {
    let mut client = RawClient::connect(socket)?;
    client.option(opt::EXPORT_NAME, name.as_bytes())?;
    ensure(client.link().take(1).is_err(), || format!("EXPORT_NAME {name:?} was answered"))
}

const HIDDEN: [&str; 4] = ["vm1", "images/one", "images/../one", "own"];

/// Two listeners; by the first everything can be done, by the second nothing but with `seen`.
fn start(exports: &str) -> Result<(Gateway, [std::path::PathBuf; 2]), Trouble> {
    let place = Place::fresh()?;
    let sockets = [place.path("all"), place.path("some")];
    let [all, some] = sockets.each_ref().map(|path| unix(path));
    let clients = [
        format!("{{ listener = {all:?} }}"),
        format!("{{ listener = {some:?}, exports = [\"seen\"], verbs = [\"list\", \"read\"] }}"),
    ];
    let tables =
        blue(&clients.each_ref().map(String::as_str)) + "[[tenant]]\nname = \"red\"\n" + &disk("seen", "") + exports;
    Ok((gateway(place, &[all, some], &tables)?, sockets))
}

#[test]
fn a_hidden_export_and_one_that_is_not_there_are_answered_alike_byte_for_byte() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let blues = |name: &str, backend: &str| export(name, backend, "tenant = \"blue\"");
    // What a directory would be left by is refused by its template, which is nobody's to know either.
    let images = format!("file:{}/images/{{}}.img", backend.socket.parent().unwrap().display());
    let there = blues("vm1", &backend.uri()) + &blues("images/*", &images) + &disk("own", "");
    let (with, [all, some]) = start(&there)?;
    let (without, [_, other]) = start("")?;
    let (hidden, missing) = (told(&some, &HIDDEN)?, told(&other, &HIDDEN)?);
    assert_eq!(hidden, missing);
    let unknown = hidden.iter().filter(|answer| answer.kind == rep::ERR_UNKNOWN).count();
    assert_eq!(unknown, HIDDEN.len() * 6, "{hidden:?}");
    let listed = hidden.iter().filter(|answer| answer.kind == rep::SERVER).count();
    assert_eq!(listed, 2, "only `seen`, in two listings: {hidden:?}");
    for socket in [&some, &other] {
        HIDDEN.iter().try_for_each(|name| closes(socket, name))?;
    }
    assert_eq!(backend.story(|story| story.connections), 0, "a hidden export's backend was dialled");
    // Stock clients see no difference either.
    let list = |socket: &Path| {
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        Call::new("nbdinfo").args(["--list", "--json", &uri]).run()?.success()
    };
    for (socket, hides) in [(&some, true), (&all, false)] {
        let listing = list(socket)?.stdout;
        ensure(listing.contains("\"seen\"") && listing.contains("\"own\"") != hides, || listing.clone())?;
    }
    // It is there.
    RawClient::open(&all, "vm1", Framing::Structured)?.0.leave()?;
    assert_eq!(backend.story(|story| story.connections), 1);
    without.end()?;
    with.end()
}

#[test]
fn the_log_of_a_hidden_export_is_that_of_a_missing_one_but_for_the_rule_and_is_bounded() -> Result<(), Trouble> {
    let (gateway, [_, some]) = start(&disk("own", ""))?;
    let mut client = RawClient::connect(&some)?;
    for name in ["own", "mine"] {
        assert_eq!(client.verdict(opt::GO, &go_request(name, &[]))?, rep::ERR_UNKNOWN);
    }
    let log = gateway.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("export refused")).collect();
    ensure(lines.len() == 2 && lines.iter().all(|line| line.contains(" INFO ")), || log.clone())?;
    let words = |line: &&str| line.contains("uid=") && line.contains(&format!("listener=unix:{}", some.display()));
    ensure(lines.iter().all(words), || log.clone())?;
    ensure(lines[0].contains("may not list export") && lines[0].contains("no entry of `clients` fits"), || {
        log.clone()
    })?;
    ensure(lines[1].contains("there is no export"), || log.clone())?;
    for _ in 0..1000 {
        assert_eq!(client.verdict(opt::GO, &go_request("own", &[]))?, rep::ERR_UNKNOWN);
    }
    drop(client);
    let told = gateway.whole_log().lines().filter(|line| line.contains("export refused")).count();
    // Twenty at once and twelve a minute.
    ensure((20..100).contains(&told), || format!("{told} of 1002 refusals were told"))?;
    gateway.end()
}
