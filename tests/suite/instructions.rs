//! Promise: a change that makes a request cost more instructions says so: the figures are in the tree, each with how much
//! more fails, in percent.
//!
//! Instructions are not time (`tests/bench` measures that). A quiet machine needs the most of them: each request finds the
//! thread asleep. On a busy one the next request is often there before that, which at depth 1 saves up to a tenth. So the
//! figures are those of a quiet machine (`tests/run instructions`, alone), and the fewest of a few rounds count.

use std::collections::BTreeMap;
use std::fs;

use crate::gateway::{Gateway, export};
use crate::peer;
use crate::place::Place;
use crate::process::{Call, installed};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const FIGURES: &str = include_str!("instructions.txt");
/// Percent on top with another compiler than the figures': its code differs.
const OTHER_COMPILER: u64 = 12;
const ROUNDS: usize = 6;
const DISK: u64 = 64 << 20;

struct Job {
    name: &'static str,
    export: &'static str,
    command: u16,
    size: u64,
    depth: u64,
    requests: u64,
}

const fn job(name: &'static str, export: &'static str, command: u16, size: u64, depth: u64, requests: u64) -> Job {
    Job { name, export, command, size, depth, requests }
}

const JOBS: [Job; 6] = [
    job("forwarded-read-4k-depth-1", "far", cmd::READ, 4096, 1, 2048),
    job("forwarded-read-4k-depth-32", "far", cmd::READ, 4096, 32, 4096),
    job("forwarded-write-4k-depth-32", "far", cmd::WRITE, 4096, 32, 4096),
    job("forwarded-read-256k-depth-4", "far", cmd::READ, 256 << 10, 4, 256),
    job("memory-read-4k-depth-1", "own", cmd::READ, 4096, 1, 2048),
    job("memory-write-4k-depth-32", "own", cmd::WRITE, 4096, 32, 4096),
];

impl Job {
    fn run(&self, client: &mut RawClient) -> Result<(), Trouble> {
        let payload = vec![0x5a; if self.command == cmd::WRITE { self.size as usize } else { 0 }];
        for first in (0..self.requests).step_by(self.depth as usize) {
            for number in first..first + self.depth {
                let offset = number * 7919 * self.size % (DISK - self.size) / 4096 * 4096;
                let ask = Ask { command: self.command, ..Ask::read(number, offset, self.size) };
                client.send(ask, &payload)?;
            }
            for _ in 0..self.depth {
                client.reply()?.success()?;
            }
        }
        Ok(())
    }
}

/// The gateway, under callgrind.
struct Counted {
    gateway: Gateway,
    dumps: u32,
}

impl Counted {
    fn start(far: &str) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let out = place.path("counts").display().to_string();
        let valgrind = installed("valgrind")?.display().to_string();
        let launcher = [valgrind, "--quiet".into(), "--tool=callgrind".into(), format!("--callgrind-out-file={out}")];
        let listener = format!("[[listener]]\naddress = \"unix:{}\"\n", place.path("g").display());
        let tables = listener
            + "[admin]\naddress = \"off\"\n[runtime]\nthreads = 1\n"
            + &export("far", far, "")
            + &export("own", "memory:", &format!("size = {DISK}"));
        Ok(Self { gateway: Gateway::launched_by(&launcher, place, &tables)?.expecting_warnings(), dumps: 0 })
    }

    fn control(&mut self, order: &str) -> Result<(), Trouble> {
        let id = self.gateway.id().to_string();
        Call::new("callgrind_control").args([order, &id]).run()?.success().map(drop)
    }

    /// Instructions of what `work` makes it do.
    fn count(&mut self, work: impl FnOnce() -> Result<(), Trouble>) -> Result<u64, Trouble> {
        self.control("--zero")?;
        work()?;
        self.control("--dump")?;
        self.dumps += 1;
        let dump = self.gateway.path(&format!("counts.{}", self.dumps));
        let said = fs::read_to_string(&dump)?;
        let total = said.lines().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")));
        total
            .and_then(|total| total.trim().parse().ok())
            .ok_or_else(|| Trouble::new(format!("{} tells no total", dump.display())))
    }
}

/// The compiler, and of each job the figure and the percent.
fn figures() -> (&'static str, BTreeMap<&'static str, (u64, u64)>) {
    let mut lines = FIGURES.lines().filter(|line| !line.starts_with('#'));
    let compiler = lines.next().expect("the first line names the compiler");
    let figure = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("two numbers in a line");
        (name, (number(), number()))
    };
    (compiler, lines.map(figure).collect())
}

fn compiler() -> Result<String, Trouble> {
    let said = Call::new("rustc").arg("--version").run()?.success()?.stdout;
    Ok(said.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_request_takes_no_more_instructions_than_it_did() -> Result<(), Trouble> {
    let (measured_with, figures) = figures();
    let extra = if compiler()? == measured_with { 0 } else { OTHER_COMPILER };
    let far = peer::nbdkit::nbdkit_as_it_is(&[], &["memory", &DISK.to_string()])?;
    let mut counted = Counted::start(&far.uri())?;
    let (mut wrong, mut table) = (Vec::new(), String::new());
    for job in &JOBS {
        let (known, percent) = figures.get(job.name).copied().unwrap_or_default();
        let most = known + known * (percent + extra) / 100;
        let (mut client, _) = RawClient::open(counted.gateway.socket(), job.export, Framing::Structured)?;
        // An act that comes once is not counted.
        job.run(&mut client)?;
        let mut fewest = u64::MAX;
        for _ in 0..ROUNDS {
            fewest = fewest.min(counted.count(|| job.run(&mut client))? / job.requests);
            if fewest <= most {
                break;
            }
        }
        client.leave()?;
        if fewest > most {
            table += &format!("{} {fewest} {percent}\n", job.name);
            wrong.push(format!("{}: {fewest} instructions for each request, {known} before", job.name));
        }
    }
    ensure(wrong.is_empty(), || {
        format!(
            "{}\nIf that is worth it, say so in the commit and put this into tests/suite/instructions.txt:\n{table}",
            wrong.join("\n")
        )
    })?;
    counted.gateway.end()
}
