//! Promise: `client watch` on one terminal shows what `client resize` on another, an operator's hand and a growing write
//! do, through two gateways in a row.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use super::backend::NAME;
use crate::gateway::{Gateway, binary, export};
use crate::place::Place;
use crate::process::{DEADLINE, Running};
use crate::trouble::{Trouble, ensure};

const MIB: u64 = 1 << 20;

/// One run of the program as a client, its lines as they come.
struct Terminal {
    process: Running,
    lines: mpsc::Receiver<String>,
    _place: Place,
}

impl Terminal {
    fn run(words: &[&str]) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let log = place.path("log");
        let arguments = ["client"].iter().chain(words);
        let mut process = Running::start_with(&binary()?, arguments, log, Stdio::null(), Stdio::piped())?;
        let stdout = process.child().stdout.take().ok_or_else(|| Trouble::new("the client's output is not a pipe"))?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Whoever listened may have seen enough.
                let _ = sender.send(line);
            }
        });
        Ok(Self { process, lines, _place: place })
    }

    /// The next line, as the size that its JSON tells.
    fn size(&self) -> Result<u64, Trouble> {
        let line = self.lines.recv_timeout(DEADLINE).map_err(|_| self.process.trouble("told no more sizes"))?;
        let value: serde_json::Value = serde_json::from_str(&line)?;
        value["size"].as_u64().ok_or_else(|| Trouble::new(format!("no size in {line}")))
    }

    /// Its exit code, and what it complained about.
    fn end(mut self) -> Result<(Option<i32>, String), Trouble> {
        let status = self.process.await_end(DEADLINE)?;
        Ok((status.code(), self.process.log()))
    }
}

#[test]
fn watch_shows_what_resize_an_operator_and_a_growing_write_do_through_two_gateways_in_a_row() -> Result<(), Trouble> {
    // What the second gateway can learn of the first, and how.
    for offer in ["\"explicit\", \"automatic\", \"query\", \"notify\"", "\"explicit\", \"query\"", "\"explicit\""] {
        let own = format!("size = \"1MiB\"\nmax-size = \"64MiB\"\n[export.resize]\noffer = [{offer}]\n");
        let first = Gateway::start(&export(NAME, "memory:", &own))?;
        let more = "[export.resize]\nstep = \"0\"\npoll = \"20ms\"\n";
        let second = Gateway::start(&export(NAME, &first.uri(NAME), more))?;
        let (near, far) = (first.uri(NAME), second.uri(NAME));
        let watch = Terminal::run(&["watch", "--json", "--interval", "0ms", "--count", "5", &far])?;
        let mut seen = vec![watch.size()?];

        let resize = Terminal::run(&["resize", "--json", &far, "2MiB"])?;
        ensure(resize.size()? == 2 * MIB, || "`resize` tells another size".into())?;
        assert_eq!(resize.end()?.0, Some(0));
        seen.push(watch.size()?);

        let behind = Terminal::run(&["resize", &near, "+1MiB"])?;
        assert_eq!(behind.end()?.0, Some(0));
        seen.push(watch.size()?);

        second.order_size(NAME, 4 * MIB)?;
        seen.push(watch.size()?);

        let refused = Terminal::run(&["resize", &far, "1GiB"])?.end()?;
        ensure(refused.0 == Some(1) && refused.1.contains("ENOSPC"), || {
            format!("a resize over the ceiling: {refused:?}")
        })?;

        let place = Place::fresh()?;
        let input = place.path("input");
        std::fs::write(&input, [0x77; 4096])?;
        let input = input.display().to_string();
        let write = Terminal::run(&["write", "--grow", "--offset", "4MiB", "--input", &input, &far])?;
        let written = write.end()?;
        ensure(written.0 == Some(0), || format!("a growing write: {written:?}"))?;
        seen.push(watch.size()?);

        assert_eq!(seen, [MIB, 2 * MIB, 3 * MIB, 4 * MIB, 4 * MIB + 4096], "offer {offer}");
        assert_eq!(watch.end()?.0, Some(0));
        second.end()?;
        first.end()?;
    }
    Ok(())
}
