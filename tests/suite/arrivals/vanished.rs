//! Hosts that vanish without a word: a network namespace whose link goes down. Only root can make one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::{Call, Running};
use crate::trouble::{Trouble, ensure, eventually};

/// Another host: a network namespace with one link to this one.
struct Host {
    name: String,
    here: String,
    there: String,
}

impl Host {
    /// None: this user can't make one.
    fn new() -> Result<Option<Self>, Trouble> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make a network namespace");
            return Ok(None);
        }
        // Documentation addresses (RFC 5737): no other test uses them, and each process has a pair of its own.
        let id = std::process::id();
        let net = format!("198.51.100.{}", (id % 60) * 4);
        let at =
            |host: u32| net.rsplit_once('.').map(|(net, last)| (net, last.parse::<u32>().unwrap() + host)).unwrap();
        let [here, there] = [at(1), at(2)].map(|(net, last)| format!("{net}.{last}"));
        let host = Self { name: format!("nbd-suite-{id}"), here, there };
        if !ip(&["netns", "add", &host.name])?.status.success() {
            eprintln!("skipped: this system lets nobody make a network namespace");
            return Ok(None);
        }
        let (link, peer) = (host.link(), format!("nbdb{id}"));
        for words in [
            &["link", "add", &link, "type", "veth", "peer", "name", &peer, "netns", &host.name][..],
            &["addr", "add", &format!("{}/30", host.here), "dev", &link],
            &["link", "set", &link, "up"],
            &["-n", &host.name, "addr", "add", &format!("{}/30", host.there), "dev", &peer],
            &["-n", &host.name, "link", "set", &peer, "up"],
        ] {
            ip(words)?.success()?;
        }
        Ok(Some(host))
    }

    fn link(&self) -> String {
        format!("nbda{}", std::process::id())
    }

    /// From now on nothing gets there, and nothing comes back.
    fn vanish(&self) -> Result<(), Trouble> {
        ip(&["link", "set", &self.link(), "down"])?.success().map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its link goes with it.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(words: &[&str]) -> Result<crate::process::Output, Trouble> {
    Call::new("ip").args(words).run()
}

/// A gateway with a TCP listener at this address, and short patience for vanished hosts.
fn gateway(address: &str) -> Result<Gateway, Trouble> {
    let place = Place::fresh()?;
    let tables = format!(
        "[[listener]]\naddress = \"{address}:0\"\n[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [limits]\ntcp-keepalive = \"3s\"\n{}",
        place.path("g").display(),
        export("a", "memory:", "size = \"64MiB\"")
    );
    Gateway::start_in(place, &tables)
}

#[test]
fn a_client_whose_host_has_vanished_leaves_its_place() -> Result<(), Trouble> {
    let Some(host) = Host::new()? else { return Ok(()) };
    let gateway = gateway(&host.here)?;
    let uri = format!("nbd://{}/a", gateway.tcp());
    let place = Place::fresh()?;
    let script = "import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pread(512, 0); sys.stdin.read()";
    let words = ["netns", "exec", &host.name, "/usr/bin/python3", "-c", script, &uri];
    let _client = Running::start_with(
        "/usr/sbin/ip".as_ref(),
        words,
        place.path("log"),
        std::process::Stdio::piped(),
        std::process::Stdio::null(),
    )?;
    let sessions = || gateway.metric("nbd_gateway_sessions", &[]).unwrap_or(-1.0);
    let reads = || gateway.metric("nbd_gateway_requests_total", &["read", "\"ok\""]).unwrap_or(-1.0);
    eventually("the client has read", || reads() == 1.0 && sessions() == 1.0)?;
    // What is not acknowledged is sent again, for minutes, before the kernel asks whether the host is there.
    let here = gateway.tcp().to_string();
    eventually("all replies are acknowledged", || {
        let told = Call::new("ss").args(["-tnH", "state", "established"]).run().map(|told| told.stdout);
        let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let own: Vec<_> = told.unwrap_or_default().lines().map(fields).filter(|f| f.get(2) == Some(&here)).collect();
        !own.is_empty() && own.iter().all(|f| f[1] == "0")
    })?;
    host.vanish()?;
    eventually("its session is over", || sessions() == 0.0)?;
    gateway.end()
}

#[test]
fn every_tcp_connection_is_watched_in_its_handshake_and_after_on_both_sides() -> Result<(), Trouble> {
    let server = gateway("127.0.0.1")?;
    let backend = export("a", &format!("nbd://{}/a", server.tcp()), "");
    let mut gateway = Gateway::start(&backend)?;
    let silent = TcpStream::connect(gateway.tcp())?;
    let mut client = TcpStream::connect(gateway.tcp())?;
    super::open(&mut client, 64 << 20)?;
    let admin = gateway.told("admin on http://").to_owned();
    let operator = TcpStream::connect(&admin)?;
    let mut ends = vec![format!(":{} ", server.tcp().port())];
    ends.extend([&silent, &client, &operator].iter().map(|s| format!(" {} ", s.local_addr().unwrap())));
    let own = format!("pid={},", gateway.id());
    eventually("each has its timer", || {
        let told = Call::new("ss").args(["-tnopH", "state", "established"]).run().map(|told| told.stdout);
        let lines = told.unwrap_or_default();
        let own: Vec<_> = lines.lines().filter(|line| line.contains(&own)).collect();
        let watched = |end: &String| own.iter().any(|l| l.contains(end.as_str()) && l.contains("timer:(keepalive"));
        ends.iter().all(watched)
    })?;
    drop((silent, client, operator));
    gateway.end()?;
    server.end()
}

#[test]
fn a_client_that_does_not_read_is_not_taken_for_one_that_has_vanished() -> Result<(), Trouble> {
    let gateway = gateway("127.0.0.1")?;
    let mut client = TcpStream::connect(gateway.tcp())?;
    super::open(&mut client, 64 << 20)?;
    // More than the buffers of both sides take.
    let length = 32u32 << 20;
    let request = [&0x2560_9513u32.to_be_bytes()[..], &[0; 4], &7u64.to_be_bytes(), &[0; 8], &length.to_be_bytes()];
    client.write_all(&request.concat())?;
    // Several times what a vanished host has.
    let until = Instant::now() + Duration::from_secs(10);
    eventually("time has passed", || Instant::now() > until)?;
    let mut reply = vec![0; 16 + length as usize];
    client.read_exact(&mut reply)?;
    ensure(reply[..8] == [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], || format!("{:?}", &reply[..16]))?;
    drop(client);
    gateway.end()
}
