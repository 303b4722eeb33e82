//! Hooks that are URLs, at Python's web server.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use super::{MIB, attempts, expect_told, gateway, heard, lines, resize, told};
use crate::place::Place;
use crate::process::Running;
use crate::trouble::{Trouble, ensure, eventually};

/// A web server, and what it was told.
struct Listener {
    process: Running,
    port: u16,
    place: Place,
}

impl Listener {
    /// It answers so, one after the other, the last for ever.
    fn answering(statuses: &[&str]) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/hooks/listener.py");
        let mut words = vec![script.display().to_string(), place.path("told").display().to_string()];
        words.extend(statuses.iter().map(|status| (*status).to_owned()));
        let python = Path::new("/usr/bin/python3");
        let mut process = Running::start_with(python, words, place.path("log"), Stdio::piped(), Stdio::piped())?;
        let stdout = process.child().stdout.take().ok_or_else(|| Trouble::new("python's output is not a pipe"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().parse().map_err(|_| process.trouble("told no port"))?;
        Ok(Self { process, port, place })
    }

    fn hook(&self) -> String {
        format!("[[export.notify]]\nhttp = \"http://127.0.0.1:{}/resized?who=me\"\n", self.port)
    }

    /// Lets an answer go that is held.
    fn release(&mut self) -> Result<(), Trouble> {
        let stdin = self.process.child().stdin.as_mut().ok_or_else(|| Trouble::new("python's input is closed"))?;
        writeln!(stdin)?;
        Ok(())
    }

    /// The bodies of all requests, if their heads were right.
    fn told(&self) -> Result<Vec<String>, Trouble> {
        let mut bodies = Vec::new();
        for line in lines(&self.place.path("told")) {
            let request: serde_json::Value = serde_json::from_str(&line)?;
            let right = request["path"] == "/resized?who=me" && request["type"] == "application/json";
            ensure(right, || format!("the request was {request}"))?;
            bodies.push(request["told"].to_string());
        }
        Ok(bodies)
    }
}

#[test]
fn a_url_is_told_again_until_it_answers_that_it_has_heard() -> Result<(), Trouble> {
    let (place, listener) = (Place::fresh()?, Listener::answering(&["500", "302", "204"])?);
    let gateway = gateway(&place, &listener.hook())?.expecting_warnings();
    resize(&gateway, 2 * MIB)?;
    heard(&gateway, 1)?;
    assert_eq!(attempts(&gateway, "failed")?, 2.0);
    expect_told(&listener.told()?, &vec![told(MIB, 2 * MIB, 1); 3])?;
    let log = gateway.log();
    let says = "it answered 500 Internal Server Error: listener says / 500";
    ensure(log.contains(says) && !log.contains("who=me"), || format!("the log does not say why, or too much:\n{log}"))?;
    resize(&gateway, 3 * MIB)?;
    heard(&gateway, 2)?;
    assert_eq!(listener.told()?.len(), 4);
    gateway.end()
}

#[test]
fn a_url_that_missed_two_sizes_gets_the_last() -> Result<(), Trouble> {
    let (place, mut listener) = (Place::fresh()?, Listener::answering(&["hold", "200"])?);
    let gateway = gateway(&place, &listener.hook())?.expecting_warnings();
    resize(&gateway, 2 * MIB)?;
    eventually("the first size is told", || listener.told().is_ok_and(|told| told.len() == 1))?;
    resize(&gateway, 3 * MIB)?;
    resize(&gateway, 4 * MIB)?;
    listener.release()?;
    heard(&gateway, 1)?;
    expect_told(&listener.told()?, &[told(MIB, 2 * MIB, 1), told(MIB, 4 * MIB, 3)])?;
    gateway.end()
}

#[test]
fn a_url_where_nobody_listens_holds_nobody_up_and_other_hooks_hear() -> Result<(), Trouble> {
    let (place, listener) = (Place::fresh()?, Listener::answering(&["200"])?);
    let nobody = format!("[[export.notify]]\nhttp = \"http://127.0.0.1:1/\"\n{}", listener.hook());
    let gateway = gateway(&place, &nobody)?.expecting_warnings();
    resize(&gateway, 2 * MIB)?;
    eventually("the other hook hears", || attempts(&gateway, "ok").is_ok_and(|n| n == 1.0))?;
    eventually("nobody is tried", || attempts(&gateway, "failed").is_ok_and(|n| n >= 1.0))?;
    expect_told(&listener.told()?, &[told(MIB, 2 * MIB, 1)])?;
    assert_eq!(gateway.metric("nbd_gateway_hooks_behind", &["export=\"vm\""])?, 1.0);
    let log = gateway.log();
    ensure(log.contains("can't be reached: Connection refused"), || format!("the log does not say why:\n{log}"))?;
    gateway.end()
}
