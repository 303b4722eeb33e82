//! Promise: what one request sets off is bounded, and what has not been sent yet ends with its client.

use std::fs;

use crate::gateway::{Gateway, export};
use crate::peer::nbdkit_as_it_is;
use crate::place::Place;
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const EXABYTE: u64 = 1 << 60;

/// A server that takes 4 GiB at a time, slowly, and what it logs.
struct Scene {
    place: Place,
    server: crate::peer::Served,
    gateway: Gateway,
}

impl Scene {
    fn new(filters: &[&str], parameters: &[&str]) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let log = format!("logfile={}", place.path("asked").display());
        let plugin = [&["memory", "4E", &log][..], parameters].concat();
        let server = nbdkit_as_it_is(&[&["--filter=log"][..], filters].concat(), &plugin)?;
        let gateway = Gateway::start(&export("", &server.uri(), ""))?;
        Ok(Self { place, server, gateway })
    }

    /// How many requests of this kind it has begun.
    fn asked(&self, kind: &str) -> usize {
        let log = fs::read_to_string(self.place.path("asked")).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!(" {kind} "))).count()
    }

    fn client(&self, framing: Framing) -> Result<RawClient, Trouble> {
        let mut client = RawClient::connect(self.gateway.socket())?;
        client.upgrade(framing)?;
        if framing != Framing::Simple {
            client.contexts("", &["base:allocation"])?;
        }
        client.go("")?;
        Ok(client)
    }

    fn end(mut self) -> Result<(), Trouble> {
        self.gateway.end()?;
        self.server.process.stop().map(drop)
    }
}

#[test]
fn a_status_of_two_exabytes_is_answered_with_what_the_first_answers_say() -> Result<(), Trouble> {
    let scene = Scene::new(&[], &[])?;
    let mut client = scene.client(Framing::Extended)?;
    let ask = Ask { command: cmd::BLOCK_STATUS, cookie: 1, offset: 0, length: 2 * EXABYTE, flags: 0 };
    let reply = client.ask(ask, &[])?.success()?;
    let covered: u64 = reply.extents[0].1.iter().map(|(length, _)| length).sum();
    ensure(covered >= 4 << 30, || format!("{covered} bytes"))?;
    ensure(scene.asked("Extents") <= 16, || format!("the server was asked {} times", scene.asked("Extents")))?;
    client.leave()?;
    scene.end()
}

#[test]
fn a_trim_or_zeroing_of_two_exabytes_holds_nobody_up_and_ends_with_its_client() -> Result<(), Trouble> {
    for (command, kind) in [(cmd::TRIM, "Trim"), (cmd::WRITE_ZEROES, "Zero")] {
        let scene = Scene::new(&["--filter=delay"], &["delay-zero=100ms", "delay-trim=100ms"])?;
        let mut client = scene.client(Framing::Extended)?;
        client.send(Ask { command, cookie: 1, offset: 0, length: 2 * EXABYTE, flags: 0 }, &[])?;
        eventually("its first pieces", || scene.asked(kind) >= 2)?;
        let mut other = scene.client(Framing::Simple)?;
        other.write(EXABYTE, &[1; 512])?.success()?;
        drop(client);
        // It overlaps what is left of the request, and the piece that the server has.
        other.write(0, &[2; 512])?.success()?;
        other.write(EXABYTE, &[2; 512])?.success()?;
        let asked = eventually_still(|| scene.asked(kind))?;
        ensure(asked < 100, || format!("{kind}: {asked} pieces"))?;
        assert_eq!(other.read(EXABYTE, 512)?, [2; 512]);
        other.leave()?;
        scene.end()?;
    }
    Ok(())
}

/// A number that has stopped growing: ten times as slowly as pieces follow each other.
fn eventually_still(look: impl Fn() -> usize) -> Result<usize, Trouble> {
    let mut last = (look(), std::time::Instant::now());
    eventually("an end", || {
        let now = look();
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        last.1.elapsed() > std::time::Duration::from_secs(1)
    })?;
    Ok(last.0)
}
