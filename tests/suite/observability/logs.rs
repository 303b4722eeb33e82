//! Promise: the log tells of a session when it opened, what it resized, what it was refused and when it closed, each with
//! whose it is, and nothing of its ordinary requests.

use crate::gateway::{Gateway, binary, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const MIB: u64 = 1 << 20;

/// A gateway that logs so, after a session that reads, writes, resizes and asks for too much, beside another one.
fn log_of_a_run(log: &str) -> Result<String, Trouble> {
    let place = Place::fresh()?;
    let listener =
        format!("[[listener]]\naddress = \"unix:{}\"\n\n[admin]\naddress = \"off\"\n\n", place.path("g").display());
    let more = "tenant = \"blue\"\nsize = \"1MiB\"\nmax-size = \"4MiB\"";
    let tables = listener
        + log
        + "[[tenant]]\nname = \"blue\"\n\n"
        + &export("disk", "memory:", more)
        + &export("other", "memory:", "tenant = \"blue\"\nsize = \"1MiB\"");
    let mut gateway = Gateway::start_in(place, &tables)?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.learn(opt::GO, "disk", &[info::RESIZE])?;
    let (mut beside, _) = RawClient::open(gateway.socket(), "other", Framing::Structured)?;
    let ask = |command, offset| Ask { command, cookie: 7, offset, ..Ask::default() };
    for round in 0..50 {
        client.write(round * 512, &[1; 512])?.success()?;
        client.read(round * 512, 512)?;
        beside.read(0, 512)?;
        client.ask(ask(cmd::FLUSH, 0), &[])?.success()?;
    }
    client.ask(ask(cmd::RESIZE, 2 * MIB), &[])?.success()?;
    assert_eq!(client.ask(ask(cmd::RESIZE, 8 * MIB), &[])?.error, errno::ENOSPC);
    client.leave()?;
    beside.leave()?;
    gateway.ask_to_end();
    gateway.await_end()?;
    Ok(gateway.whole_log())
}

#[test]
fn a_session_can_be_followed_through_the_json_log() -> Result<(), Trouble> {
    let log = log_of_a_run("[log]\nformat = \"json\"\n\n")?;
    let lines: Vec<serde_json::Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let opened = lines.iter().find(|line| line["message"] == "session opened" && line["span"]["export"] == "disk");
    let session = opened.map(|line| line["span"]["session"].clone()).ok_or_else(|| Trouble::new(log.clone()))?;
    ensure(session.is_u64(), || log.clone())?;
    let of_it: Vec<_> = lines.iter().filter(|line| line["span"]["session"] == session).collect();
    let messages: Vec<_> = of_it.iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(messages, ["session opened", "size changed", "resize refused", "session closed"], "{log}");
    for line in &of_it {
        let span = &line["span"];
        assert_eq!((&span["export"], &span["tenant"], &span["peer"]), (&"disk".into(), &"blue".into(), &"unix".into()));
        assert_eq!(line["level"], "INFO", "{line}");
    }
    assert_eq!((&of_it[1]["from"], &of_it[1]["to"]), (&MIB.into(), &(2 * MIB).into()));
    ensure(of_it[2]["why"].as_str().is_some_and(|why| why.contains("its max-size is 4 MiB")), || log.clone())?;
    assert_eq!(of_it[3]["why"], "client disconnected");
    // Two sessions, and a few lines of the gateway's own: nothing for each of the 200 requests.
    ensure(lines.len() < 20, || format!("{} lines:\n{log}", lines.len()))
}

#[test]
fn spans_are_refused_by_a_program_that_can_not_send_them() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let config = place.path("config.toml");
    let tables = "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[log]\notlp = \"http://127.0.0.1:4318\"\n\n";
    std::fs::write(&config, tables.to_owned() + &export("disk", "memory:", "size = \"1MiB\""))?;
    for command in ["check", "serve"] {
        let said = Call::new(&binary()?.display().to_string()).args([command, "--config"]).arg(&config).run()?;
        let why = "log.otlp: this program was built without OpenTelemetry";
        ensure(said.status.code() == Some(2) && said.stderr.contains(why), || format!("{command}: {}", said.stderr))?;
    }
    Ok(())
}

#[test]
fn a_line_for_people_begins_with_whose_it_is() -> Result<(), Trouble> {
    let log = log_of_a_run("")?;
    for message in
        ["session opened size=1048576", "size changed from=1048576", "resize refused style=", "session closed why="]
    {
        let line =
            log.lines().find(|line| line.contains(message) && line.contains("export=\"disk\" tenant=\"blue\"}: "));
        ensure(line.is_some_and(|line| line.contains(" INFO session{session=")), || format!("{message}:\n{log}"))?;
    }
    Ok(())
}

#[test]
fn a_log_of_warnings_alone_has_none_of_it() -> Result<(), Trouble> {
    let log = log_of_a_run("[log]\nlevel = \"warn\"\n\n")?;
    ensure(log.is_empty(), || log.clone())
}

/// Clients make names up where a template takes any: none begins a line that nobody told, or commands a terminal.
#[test]
fn a_name_that_a_client_made_up_stays_within_its_line() -> Result<(), Trouble> {
    const NAME: &str = "a\n2026-01-01T00:00:00Z FATAL forged\u{1b}[31m\u{202e}";
    let place = Place::fresh()?;
    let backend = format!("file:{}/{{}}", place.root().display());
    let mut gateway = Gateway::start(&export("*", &backend, "size = \"1MiB\""))?;
    let refused = gateway.operator(&["resize", NAME, "512"])?.run()?;
    ensure(refused.stderr.contains("may not shrink"), || refused.stderr.clone())?;
    ensure(!refused.stderr.contains(['\u{1b}', '\u{202e}']), || format!("it is printed: {:?}", refused.stderr))?;
    gateway.ask_to_end();
    gateway.await_end()?;
    let log = gateway.whole_log();
    let told = log.lines().find(|line| line.contains("resize refused")).unwrap_or_default();
    ensure(told.contains("why=export `a\\n2026") && told.contains("may not shrink"), || log.clone())?;
    ensure(!log.lines().any(|line| line.starts_with("2026-01-01")), || log.clone())?;
    ensure(!log.contains(['\u{1b}', '\u{202e}']), || format!("{log:?}"))
}
