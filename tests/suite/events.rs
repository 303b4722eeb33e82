//! Promise: who follows the events gets each of them once, when it happens, also over a restart of the gateway.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, binary, export};
use crate::place::Place;
use crate::process::{Call, Running};
use crate::scripted::numbers::{cmd, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;
/// What one address may have: half of the 64 that there are.
const STREAMS: usize = 32;

fn disk() -> String {
    export("own", "memory:", "size = \"1MiB\"\nmax-size = \"99MiB\"")
}

/// A client that only resizes.
fn resize(gateway: &Gateway, mib: u64) -> Result<(), Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.learn(opt::GO, "own", &[info::RESIZE])?;
    let offset = mib * MIB;
    client.ask(Ask { command: cmd::RESIZE, cookie: 7, offset, ..Ask::default() }, &[])?.success()?;
    client.leave()
}

struct Follower {
    process: Running,
    said: BufReader<ChildStdout>,
    _place: Place,
}

impl Follower {
    fn start(gateway: &Gateway, words: &[&str]) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let arguments = [&["events", "--follow", "--json", "--admin", gateway.told("admin on ")], words].concat();
        let mut process = Running::start_with(&binary()?, arguments, place.path("log"), Stdio::null(), Stdio::piped())?;
        let said = BufReader::new(process.child().stdout.take().expect("a pipe"));
        Ok(Self { process, said, _place: place })
    }

    /// The number and the new size, in MiB, of the next event.
    fn next(&mut self) -> Result<(u64, u64), Trouble> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        let event: serde_json::Value = serde_json::from_str(&line)
            .map_err(|e| Trouble::new(format!("{e}: {line:?}; {}", self.process.last_words())))?;
        let number = |key: &str| event[key].as_u64().unwrap_or(0);
        Ok((number("id"), number("new_size") / MIB))
    }
}

#[test]
fn who_follows_the_events_sees_each_new_one_once_and_at_once() -> Result<(), Trouble> {
    let gateway = Gateway::start(&disk())?;
    resize(&gateway, 2)?;
    let mut follower = Follower::start(&gateway, &[])?;
    assert_eq!(follower.next()?, (1, 2));
    let began = Instant::now();
    for number in 2..32 {
        resize(&gateway, number + 1)?;
        assert_eq!(follower.next()?, (number, number + 1));
    }
    // Each happens after the one before it was seen, so who asked each second would have seen one each second.
    let waited = began.elapsed();
    ensure(waited < Duration::from_secs(20), || format!("not at once: {waited:?}"))?;
    follower.process.kill()?;
    gateway.end()
}

#[test]
fn who_follows_comes_back_after_a_restart_and_misses_nothing() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let listener = format!("[[listener]]\naddress = \"unix:{}\"\n\n", place.path("g").display());
    let admin = format!("[admin]\naddress = \"unix:{}\"\n\n", place.path("a").display());
    let mut gateway = Gateway::start_in(place, &(listener + &admin + &disk()))?;
    resize(&gateway, 2)?;
    let mut follower = Follower::start(&gateway, &["--limit", "1", "--kind", "resized"])?;
    let mut other = Follower::start(&gateway, &[])?;
    assert_eq!((follower.next()?, other.next()?), ((1, 2), (1, 2)));
    gateway.kill()?;
    eventually("it is said", || follower.process.last_words().contains("the gateway is lost: "))?;
    gateway.start_again()?;
    for size in 3..7 {
        resize(&gateway, size)?;
    }
    for number in 2..6 {
        assert_eq!((follower.next()?, other.next()?), ((number, number + 1), (number, number + 1)));
    }
    ensure(follower.process.last_words().contains("the gateway is back"), || follower.process.last_words())?;
    gateway.kill_and_restart()?;
    resize(&gateway, 9)?;
    assert_eq!((follower.next()?, other.next()?), ((6, 9), (6, 9)));
    follower.process.kill()?;
    other.process.kill()?;
    gateway.end()
}

#[test]
fn a_stream_is_served_as_the_standard_has_it_and_ends_with_the_gateway() -> Result<(), Trouble> {
    let gateway = Gateway::start(&disk())?;
    resize(&gateway, 2)?;
    resize(&gateway, 3)?;
    let url = format!("{}/api/v1/events?limit=1", gateway.told("admin on "));
    let place = Place::fresh()?;
    let arguments = ["--silent", "--no-buffer", "--include", "--header", "Accept: text/event-stream", &url];
    let curl = std::path::Path::new("curl");
    let mut curl = Running::start_with(curl, arguments, place.path("log"), Stdio::null(), Stdio::piped())?;
    let mut said = BufReader::new(curl.child().stdout.take().expect("a pipe"));
    let mut text = String::new();
    while !text.contains("data: ") {
        ensure(said.read_line(&mut text)? > 0, || text.clone())?;
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    for line in ["HTTP/1.1 200 OK", "content-type: text/event-stream", "cache-control: no-store"] {
        ensure(head.lines().any(|has| has == line), || text.clone())?;
    }
    ensure(body.starts_with("retry: 1000\nid: 1\n\nid: 2\ndata: {\"id\":2,"), || text.clone())?;
    // A drain does not wait for who follows.
    gateway.end_with(|| {
        let mut rest = String::new();
        said.read_to_string(&mut rest)?;
        ensure(rest == "\n", || format!("{rest:?} after {text}"))?;
        ensure(curl.child().wait()?.success(), || "curl was cut off".into())
    })
}

#[test]
fn no_more_may_follow_than_there_are_places() -> Result<(), Trouble> {
    let gateway = Gateway::start(&disk())?;
    let address = gateway.told("admin on http://").to_owned();
    let follow = || -> Result<(TcpStream, String), Trouble> {
        let mut stream = TcpStream::connect(&address)?;
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")?;
        let mut start = String::new();
        BufReader::new(&stream).read_line(&mut start)?;
        Ok((stream, start))
    };
    let mut followers = (0..STREAMS).map(|_| follow()).collect::<Result<Vec<_>, _>>()?;
    ensure(followers.iter().all(|(_, start)| start.starts_with("HTTP/1.1 200 ")), || format!("{followers:?}"))?;
    assert_eq!(follow()?.1, "HTTP/1.1 503 Service Unavailable\r\n");
    let refused = gateway.operator(&["events", "--follow"])?.run()?;
    ensure(
        refused.status.code() == Some(1) && refused.stderr.contains("64 readers follow the events already"),
        || refused.stderr,
    )?;
    // Everything else is answered, and a place that was left is free.
    gateway.operator(&["events"])?.run()?.success()?;
    followers.pop();
    eventually("a place is free", || follow().is_ok_and(|(_, start)| start.starts_with("HTTP/1.1 200 ")))?;
    gateway.end()
}

#[test]
fn events_are_found_by_when_they_happened() -> Result<(), Trouble> {
    let gateway = Gateway::start(&disk())?;
    resize(&gateway, 2)?;
    let count = |words: &[&str]| -> Result<usize, Trouble> {
        let said = gateway.operator(&[&["events", "--json"], words].concat())?.run()?.success()?.stdout;
        Ok(serde_json::from_str::<Vec<serde_json::Value>>(&said)?.len())
    };
    eventually("it is told", || count(&[]).is_ok_and(|count| count == 1))?;
    assert_eq!((count(&["--after", "10m"])?, count(&["--before", "10m"])?), (1, 0));
    assert_eq!((count(&["--after", "2024-02-29T12:00:00+01:00"])?, count(&["--before", "2024-02-29"])?), (1, 0));
    let said = gateway.operator(&["events"])?.run()?.success()?.stdout;
    let shown = said.lines().nth(1).and_then(|line| line.get(..19)).unwrap_or_default();
    assert_eq!((count(&["--after", shown])?, count(&["--before", shown])?), (1, 0), "{shown}");
    let wrong = gateway.operator(&["events", "--after", "soon"])?.run()?;
    ensure(wrong.status.code() == Some(2) && wrong.stderr.contains("10 minutes ago"), || wrong.stderr)?;
    let url = format!("{}/api/v1/events?after=soon", gateway.told("admin on "));
    let wrong = Call::new("curl").args(["--silent", "--write-out", "%{http_code}"]).arg(url).run()?.success()?.stdout;
    ensure(wrong.contains("after: `soon` is not a point in time") && wrong.ends_with("400"), || wrong.clone())?;
    gateway.end()
}
