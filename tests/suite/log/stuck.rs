//! A gateway whose standard error and output are a pipe that nobody reads.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::gateway::{binary, configuration, export};
use crate::place::Place;
use crate::process::{Call, DEADLINE, Running};
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// So many sessions, a few of each export: no line of theirs is one too many.
const SESSIONS: usize = 1000;
const EXPORTS: usize = 100;

/// The lines of all sessions are more than the pipe takes and the gateway keeps.
fn name(number: usize) -> String {
    format!("{}-{}", "n".repeat(2000), number % EXPORTS)
}

fn run(format: &str) -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (socket, admin) = (place.path("g"), place.path("admin"));
    let mut tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[admin]\naddress = \"unix:{}\"\n\n[log]\nformat = \"{format}\"\n\n",
        socket.display(),
        admin.display(),
    );
    for number in 0..EXPORTS {
        let tenant = format!("tenant = \"t{number}\"\nsize = \"1MiB\"");
        tables += &format!("[[tenant]]\nname = \"t{number}\"\n\n{}", export(&name(number), "memory:", &tenant));
    }
    let arguments = ["serve".into(), "--config".into(), configuration(&place, &tables)?];
    let (mut read, write) = std::io::pipe()?;
    let output = [Stdio::from(OwnedFd::from(write.try_clone()?)), Stdio::from(OwnedFd::from(write))];
    let mut gateway = Running::start_to(&binary()?, arguments, place.path("log"), Stdio::null(), output)?;
    gateway.await_ready("it listens", || RawClient::connect(&socket).is_ok())?;
    for number in 0..SESSIONS {
        let (mut client, _) = RawClient::open(&socket, &name(number), Framing::Structured)?;
        client.read(0, 512)?;
        client.leave()?;
    }
    let page = |path: &str| {
        let url = format!("http://localhost{path}");
        Call::new("curl").args(["--silent", "--unix-socket"]).arg(&admin).arg(url).run().map(|said| said.stdout)
    };
    ensure(page("/livez")? == "alive\n", || "it is not alive".into())?;
    let dropped = page("/metrics")?
        .lines()
        .find_map(|line| line.strip_prefix("nbd_gateway_log_lines_dropped_total ")?.parse().ok());
    ensure(dropped.is_some_and(|lines: u64| lines > 0), || format!("lines lost: {dropped:?}"))?;
    gateway.signal(Signal::HUP);
    let (mut client, _) = RawClient::open(&socket, &name(0), Framing::Structured)?;
    client.read(0, 512)?;
    if format == "human" {
        // Somebody reads after all.
        let (found, told) = mpsc::channel();
        thread::spawn(move || {
            let (mut said, mut some) = (String::new(), [0; 1 << 16]);
            while let Ok(length @ 1..) = read.read(&mut some) {
                said += &String::from_utf8_lossy(&some[..length]);
                if said.contains("lines of the log were lost") {
                    let _ = found.send(());
                }
            }
        });
        told.recv_timeout(DEADLINE).map_err(|_| Trouble::new("the log does not say that lines were lost"))?;
    }
    client.leave()?;
    gateway.ask_to_end();
    let status = gateway.await_end(Duration::from_secs(20))?;
    ensure(status.success(), || format!("it ended with {status}"))
}

#[test]
fn a_log_that_nobody_reads_stops_no_session_no_reload_and_no_end() -> Result<(), Trouble> {
    run("json")
}

#[test]
fn a_log_that_is_read_late_says_that_lines_were_lost() -> Result<(), Trouble> {
    run("human")
}
