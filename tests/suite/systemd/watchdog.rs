//! The sign of life, while one thread of the gateway is held still by the kernel's debugging interface.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::Manager;
use crate::gateway::Gateway;
use crate::place::Place;
use crate::process::{Call, Running};
use crate::trouble::{Trouble, ensure};

/// What the manager waits for: half of it is what a thread has to answer in, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(3);
const DISK: &str = "[runtime]\nthreads = 2\n\n[[export]]\nname = \"disk\"\nbackend = \"memory:\"\nsize = \"3MiB\"\n";

fn watched(manager: &Manager, place: Place) -> Result<Gateway, Trouble> {
    let usec = format!("WATCHDOG_USEC={}", PATIENCE.as_micros());
    // Where only a parent may debug its child, the gateway lets everyone.
    let allow = "import ctypes, os, sys; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0); \
                 os.execv(sys.argv[1], sys.argv[1:])";
    manager.start(place, &[&usec, "/usr/bin/python3", "-c", allow], DISK)
}

/// A thread of a gateway that is held still until this is dropped.
struct Held(Running);

impl Held {
    fn new(gateway: &mut Gateway, name: &str) -> Result<Self, Trouble> {
        let process = gateway.id();
        let mut threads = fs::read_dir(format!("/proc/{process}/task"))?.filter_map(Result::ok);
        let thread = threads
            .find(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
            .ok_or_else(|| Trouble::new(format!("the gateway has no thread {name}")))?;
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/systemd/hold.py");
        let place = Place::fresh()?;
        let words = [tool.into_os_string(), thread.file_name()];
        let python = Path::new("/usr/bin/python3");
        let mut holder = Running::start_with(python, words, place.path("log"), Stdio::piped(), Stdio::piped())?;
        let mut said = String::new();
        if let Some(stdout) = holder.child().stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        ensure(said == "held\n", || holder.trouble("can't hold a thread; run the suite as root").to_string())?;
        Ok(Self(holder))
    }

    fn release(mut self) -> Result<(), Trouble> {
        drop(self.0.child().stdin.take());
        self.0.stop().map(drop)
    }
}

/// What `/livez` says of a thread that is held.
fn livez_names(gateway: &Gateway, name: &str) -> Result<(), Trouble> {
    let url = gateway.told("admin on ").to_owned() + "/livez";
    let said = Call::new("curl").args(["--silent", "--write-out", "%{http_code}", &url]).run()?.success()?.stdout;
    ensure(said == format!("no answer of {name} within 5s\n503"), || format!("/livez said {said:?}"))
}

#[test]
fn a_shard_that_hangs_stops_the_sign_of_life_and_is_named() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let manager = Manager::at(&place.path("notify"))?;
    let words = "a thread that moves requests does not answer";
    let mut gateway = watched(&manager, place)?.expecting_error(words);
    manager.hear_until("WATCHDOG=1")?;
    manager.hear_until("WATCHDOG=1")?;
    let held = Held::new(&mut gateway, "shard-1")?;
    manager.hear_until("STATUS=no answer of shard-1\n")?;
    livez_names(&gateway, "shard-1")?;
    // Several times what a sign would need.
    for _ in 0..2 {
        let heard = manager.hear_within(PATIENCE)?;
        ensure(heard.is_none_or(|heard| heard.starts_with("STATUS=")), || "a sign of life of the dead".into())?;
    }
    held.release()?;
    manager.hear_until("WATCHDOG=1")?;
    manager.hear_until("WATCHDOG=1")?;
    gateway.end()
}

#[test]
fn without_the_control_runtime_there_is_no_sign_of_life() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let manager = Manager::at(&place.path("notify"))?;
    let mut gateway = watched(&manager, place)?;
    manager.hear_until("WATCHDOG=1")?;
    let held = Held::new(&mut gateway, "nbd-gateway")?;
    // What it told before it was held.
    while manager.hear_within(Duration::from_millis(1))?.is_some() {}
    let heard = manager.hear_within(2 * PATIENCE)?;
    ensure(heard.is_none(), || format!("the manager heard {heard:?}"))?;
    // The admin interface is served by a thread of its own.
    livez_names(&gateway, "control")?;
    held.release()?;
    manager.hear_until("WATCHDOG=1")?;
    gateway.end()
}

#[test]
fn another_process_s_watchdog_is_not_this_one_s() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let manager = Manager::at(&place.path("notify"))?;
    let usec = format!("WATCHDOG_USEC={}", PATIENCE.as_micros());
    let gateway = manager.start(place, &[&usec, "WATCHDOG_PID=1"], DISK)?;
    manager.expect("READY=1\n")?;
    manager.expect("STATUS=taking clients; 1 export open, 0 sessions\n")?;
    let heard = manager.hear_within(2 * PATIENCE)?;
    ensure(heard.is_none(), || format!("the manager heard {heard:?}"))?;
    gateway.end()
}
