//! Every line that a client, a server or a stranger can cause, as often as they can.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::gateway::{Gateway, TOKEN, export};
use crate::place::Place;
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::{cmd, opt};
use crate::scripted::{Ask, Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure};

/// How often each of them tries.
const TIMES: u64 = 300;
const MIB: u64 = 1 << 20;
/// What similar lines of one cause may take: 20 at once and 12 a minute, none longer than this.
const LONGEST_LINE: usize = 600;

/// A place where the log is measured.
struct Flooded {
    gateway: Gateway,
    causes: Vec<(&'static str, usize)>,
    began: Instant,
}

impl Flooded {
    /// Has `attempt` made many times, and counts what it puts into the log.
    fn flood(
        &mut self,
        cause: &'static str,
        mut attempt: impl FnMut(&Gateway, u64) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let before = self.gateway.whole_log().len();
        for number in 0..TIMES {
            attempt(&self.gateway, number).map_err(|trouble| trouble.with(format!("while flooding: {cause}")))?;
        }
        self.causes.push((cause, self.gateway.whole_log().len() - before));
        Ok(())
    }
}

/// Opens, and reads from a server that does wrong; whatever comes of it.
fn read_once(gateway: &Gateway, name: &str) {
    if let Ok((mut client, _)) = RawClient::open(gateway.socket(), name, Framing::Structured) {
        let _ = client.ask(Ask::read(1, 0, 512), &[]);
    }
}

/// One request to the admin interface, answered in whatever way.
fn http(gateway: &Gateway, request: &str) -> Result<String, Trouble> {
    let address = gateway.told("admin on http://").to_owned();
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn no_client_no_server_and_no_stranger_fills_the_log_by_what_they_repeat() -> Result<(), Trouble> {
    let faulty = |fault| Backend::start(Script { fault: Some(fault), ..Script::default() });
    let (cut, lying, refusing) = (faulty(Fault::ReplyNever)?, faulty(Fault::ChunksOverlap)?, faulty(Fault::GoRefused)?);
    let place = Place::fresh()?;
    let lossy = "on-backend-loss = \"error\"\ndial-timeout = \"1s\"";
    let mut tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n[admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {:?}\n\n",
        place.path("g").display(),
        crate::gateway::token(&place)?,
    );
    tables += "[[tenant]]\nname = \"t\"\nquota = \"2MiB\"\nmax-sessions = 30\n\
               clients = [{ exports = [\"looked-at\"], verbs = [\"list\", \"read\"] }, { exports = [\"*\"], verbs = [\"list\", \"read\", \"write\", \"resize\"] }]\n\n";
    tables += &export("disk", "memory:", "tenant = \"t\"\nsize = \"1MiB\"");
    tables += &export("looked-at", "memory:", "tenant = \"t\"\nsize = \"1MiB\"");
    tables += &export("cut", &cut.uri(), &format!("tenant = \"t\"\n{lossy}"));
    tables += &export("lying", &lying.uri(), &format!("tenant = \"t\"\n{lossy}"));
    tables += &export("refusing", &refusing.uri(), &format!("tenant = \"t\"\n{lossy}"));
    let gateway = Gateway::start_in(place, &tables)?.expecting_errors();
    let socket = gateway.socket().to_owned();
    let mut flooded = Flooded { gateway, causes: Vec::new(), began: Instant::now() };

    let (mut client, _) = RawClient::open(&socket, "disk", Framing::Structured)?;
    flooded.flood("resizes that are refused", |_, number| {
        client.ask(Ask { command: cmd::RESIZE, cookie: number, offset: MIB << 20, ..Ask::default() }, &[]).map(drop)
    })?;
    flooded.flood("writes past the end", |_, number| client.write((2 + number) * MIB, &[1; 512]).map(drop))?;
    let (mut reader, _) = RawClient::open(&socket, "looked-at", Framing::Structured)?;
    flooded.flood("commands that are denied", |_, _| reader.write(0, &[1; 512]).map(drop))?;
    flooded.flood("handshakes that fail", |gateway, _| {
        let mut wrong = RawClient::connect_with(gateway.socket(), u32::MAX)?;
        wrong.link().await_close()
    })?;
    flooded.flood("options that are cut off", |gateway, _| {
        let mut client = RawClient::connect(gateway.socket())?;
        client.link().send(b"IHAVEOPTxx")?;
        Ok(())
    })?;
    let mut asker = RawClient::connect(&socket)?;
    flooded.flood("made-up names", |_, number| {
        asker.verdict(opt::GO, &go_request(&format!("made-up-{number}"), &[])).map(drop)
    })?;
    flooded.flood("sessions that come and go", |gateway, _| {
        RawClient::open(gateway.socket(), "disk", Framing::Structured)?.0.leave()
    })?;
    flooded.flood("sessions that break off", |gateway, number| {
        let (mut client, _) = RawClient::open(gateway.socket(), "disk", Framing::Structured)?;
        client.link().send(if number % 2 == 0 { b"no request of the protocol's" } else { b"half a" })?;
        client.link().finish_sending()?;
        client.link().await_close()
    })?;
    let mut crowd = Vec::new();
    while let Ok((client, _)) = RawClient::open(&socket, "disk", Framing::Structured) {
        crowd.push(client);
        ensure(crowd.len() < 100, || "max-sessions is no bound".into())?;
    }
    flooded.flood("sessions that are too many", |gateway, _| {
        let mut one_more = RawClient::connect(gateway.socket())?;
        one_more.verdict(opt::GO, &go_request("disk", &[])).map(drop)
    })?;
    drop(crowd);
    for (cause, name) in [
        ("a server that hangs up", "cut"),
        ("a server that answers wrongly", "lying"),
        ("a server that refuses", "refusing"),
    ] {
        flooded.flood(cause, |gateway, _| {
            read_once(gateway, name);
            Ok(())
        })?;
    }
    flooded.flood("orders without a token", |gateway, _| {
        let said = http(gateway, "POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        ensure(said.contains(" 401 "), || said)
    })?;
    flooded.flood("orders that can't be", |gateway, _| {
        let order = format!(
            "POST /api/v1/exports/refusing/resize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{\"size\":1}}"
        );
        http(gateway, &order).map(drop)
    })?;
    std::fs::remove_file(flooded.gateway.path("token"))?;
    flooded.flood("orders while the token can't be read", |gateway, _| {
        let said = http(gateway, "POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        ensure(said.contains(" 403 "), || said)
    })?;

    let Flooded { gateway, causes, began } = flooded;
    let minutes = began.elapsed().as_secs() as usize / 60 + 1;
    let told = || causes.iter().map(|(cause, bytes)| format!("{cause}: {bytes} bytes\n")).collect::<String>();
    for (_, bytes) in &causes {
        // One attempt may be in several lines: of its session, its backend and its refusal.
        let most = 5 * (20 + 12 * minutes) * LONGEST_LINE;
        ensure(*bytes < most, || format!("more than {most} bytes:\n{}\n{}", told(), gateway.log_tail(40)))?;
    }
    let whole = gateway.whole_log();
    ensure(whole.len() < 400_000, || format!("{} bytes of log:\n{}", whole.len(), told()))?;
    let suppressed = gateway.metric("nbd_gateway_log_lines_suppressed_total", &[])?;
    ensure(suppressed > 10.0 * TIMES as f64, || format!("only {suppressed} lines were left out:\n{}", told()))?;
    gateway.end()
}
