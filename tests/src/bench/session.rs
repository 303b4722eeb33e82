//! One client: its handshake, and as many requests in flight as it is to have, until its time is over.
//!
//! Simple replies, and nothing that a server may not have. Knows the protocol by itself, so that an error of the gateway's
//! crates is not made at both ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::Instant;

use super::wire::{Wire, unblocked};

const STARTTLS: u32 = 5;
const GO: u32 = 7;
const ACK: u32 = 1;
const REPLY: [u8; 4] = 0x6744_6698_u32.to_be_bytes();
/// A request without its payload, and a simple reply without its.
const REQUEST: usize = 28;
const HEADER: usize = 16;
/// How many pieces one call sends.
const PIECES: usize = 64;
/// How long a server may take for a handshake, and for its last replies.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Begin {
    /// When NBD_OPT_STARTTLS is answered.
    Start,
    /// With the first byte, for proxies that know nothing of NBD.
    First,
}

/// What every session asks for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) depth: usize,
    pub(crate) size: u32,
    /// Of 100 requests, how many write.
    pub(crate) writes: u64,
    pub(crate) sequential: bool,
    /// Bytes of the export that are used, from its start.
    pub(crate) span: u64,
    pub(crate) time: Duration,
    /// Each session stops after so many bytes.
    pub(crate) total: u64,
    pub(crate) payload: Vec<u8>,
}

fn wrong<T>(what: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(what.into()))
}

/// Opens a session on an export.
pub(crate) async fn open(address: &str, export: &str, tls: Option<(Begin, Arc<ClientConfig>)>) -> io::Result<Wire> {
    let mut wire = Wire::connect(address).await?;
    if let Some((Begin::First, config)) = &tls {
        wire.secure(Arc::clone(config)).await?;
    }
    if !wire.read_exact(18).await?.starts_with(b"NBDMAGICIHAVEOPT") {
        return wrong("this is no NBD server with newstyle negotiation");
    }
    // Fixed newstyle, no zeroes.
    wire.write_all(&3_u32.to_be_bytes()).await?;
    if let Some((Begin::Start, config)) = tls {
        option(&mut wire, STARTTLS, &[]).await?;
        wire.secure(config).await?;
    }
    let length = u32::try_from(export.len()).map_err(io::Error::other)?;
    option(&mut wire, GO, &[&length.to_be_bytes(), export.as_bytes(), &[0, 0]].concat()).await?;
    Ok(wire)
}

/// Sends an option and waits until the server has acknowledged it.
async fn option(wire: &mut Wire, option: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let head = [b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes(), data].concat();
    wire.write_all(&head).await?;
    loop {
        let reply = wire.read_exact(20).await?;
        let number =
            |at: usize| reply.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |n| u32::from_be_bytes(*n));
        let text = wire.read_exact(usize::try_from(number(16)).map_err(io::Error::other)?).await?;
        match number(12) {
            ACK => return Ok(()),
            kind if kind >> 31 == 1 => {
                return wrong(format!("option {option} is refused ({kind:#x}): {}", String::from_utf8_lossy(&text)));
            }
            _ => {}
        }
    }
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Slot {
    begun: Instant,
    write: bool,
    waiting: bool,
}

struct Client<'a> {
    plan: &'a Plan,
    slots: Vec<Slot>,
    in_flight: usize,
    random: u64,
    /// The next block of a sequential client.
    next: u64,
    issued: u64,
    until: Instant,
    outgoing: VecDeque<([u8; REQUEST], bool)>,
    /// Bytes of the first of them that are sent.
    sent: usize,
    header: Vec<u8>,
    /// Bytes of a payload that are still to come, and whose.
    body: usize,
    slot: usize,
    /// How long each request took, in nanoseconds.
    waits: Vec<u64>,
}

/// Asks until the time is over or all is done, and waits for the last replies. `number` is the session's.
pub(crate) async fn run(wire: &mut Wire, plan: &Plan, number: u64, sessions: u64) -> io::Result<Vec<u64>> {
    let now = Instant::now();
    let blocks = (plan.span / u64::from(plan.size)).max(1);
    let mut client = Client {
        plan,
        slots: vec![Slot { begun: now, write: false, waiting: false }; plan.depth],
        in_flight: 0,
        random: 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number + 1),
        next: blocks * number / sessions,
        issued: 0,
        until: now + plan.time,
        outgoing: VecDeque::with_capacity(plan.depth),
        sent: 0,
        header: Vec::with_capacity(HEADER),
        body: 0,
        slot: 0,
        waits: Vec::new(),
    };
    (0..plan.depth).for_each(|slot| client.ask(slot, now));
    let mut buffer = vec![0; 256 << 10];
    let talk = async {
        while client.in_flight > 0 {
            while !client.outgoing.is_empty() {
                let Some(written) = unblocked(client.send(wire))? else { break };
                client.advance(written);
            }
            match unblocked(wire.try_read(&mut buffer))? {
                None => wire.ready(!client.outgoing.is_empty()).await?,
                Some(0) => return wrong("the server has closed the connection"),
                Some(read) => client.receive(buffer.get(..read).unwrap_or_default())?,
            }
            // Others have their turn.
            tokio::task::consume_budget().await;
        }
        Ok(())
    };
    match tokio::time::timeout(plan.time.saturating_add(PATIENCE), talk).await {
        Ok(done) => done.map(|()| client.waits),
        Err(_) => wrong(format!("{} requests are not answered", client.in_flight)),
    }
}

impl Client<'_> {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Puts the next request into a slot, unless all is asked.
    fn ask(&mut self, slot: usize, now: Instant) {
        let size = u64::from(self.plan.size);
        if now >= self.until || self.issued >= self.plan.total {
            return;
        }
        self.issued += size;
        let blocks = (self.plan.span / size).max(1);
        let block = if self.plan.sequential { self.next } else { self.random() };
        self.next += 1;
        let write = self.random() % 100 < self.plan.writes;
        let (cookie, offset) = (u64::try_from(slot).unwrap_or(u64::MAX), block % blocks * size);
        let mut request = [0; REQUEST];
        let fields: [&[u8]; 5] = [
            &0x2560_9513_u32.to_be_bytes(),
            &u32::from(write).to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &self.plan.size.to_be_bytes(),
        ];
        request.copy_from_slice(&fields.concat());
        self.outgoing.push_back((request, write));
        self.in_flight += 1;
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Slot { begun: now, write, waiting: true };
        }
    }

    /// Sends some of what is to go out, and tells how much.
    fn send(&self, wire: &mut Wire) -> io::Result<usize> {
        let mut slices = Vec::with_capacity(PIECES);
        let mut skip = self.sent;
        for (request, write) in self.outgoing.iter().take(PIECES / 2) {
            let request: &[u8] = request;
            for piece in [request, if *write { &*self.plan.payload } else { &[] }] {
                slices.extend(piece.get(skip..).filter(|rest| !rest.is_empty()).map(IoSlice::new));
                skip = skip.saturating_sub(piece.len());
            }
        }
        wire.try_write(&slices)
    }

    fn advance(&mut self, written: usize) {
        self.sent += written;
        while let Some((_, write)) = self.outgoing.front() {
            let length = REQUEST + if *write { self.plan.payload.len() } else { 0 };
            if self.sent < length {
                break;
            }
            self.sent -= length;
            self.outgoing.pop_front();
        }
    }

    fn receive(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let now = Instant::now();
        while !bytes.is_empty() {
            if self.body > 0 {
                let taken = bytes.len().min(self.body);
                bytes = bytes.get(taken..).unwrap_or_default();
                self.body -= taken;
            } else {
                let (head, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend(head);
                bytes = rest;
                if self.header.len() < HEADER {
                    break;
                }
                self.reply()?;
            }
            if self.body == 0 {
                self.answered(now);
            }
        }
        Ok(())
    }

    /// Reads the header of a reply.
    fn reply(&mut self) -> io::Result<()> {
        let number = |at: usize| self.header.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        if number(0) != REPLY {
            return wrong("the server sent something else than a simple reply");
        }
        let error = u32::from_be_bytes(number(4));
        if error != 0 {
            return wrong(format!("the server answered with error {error}"));
        }
        // A cookie is the number of a slot, which takes four bytes.
        self.slot = usize::try_from(u32::from_be_bytes(number(12))).unwrap_or(usize::MAX);
        self.header.clear();
        match self.slots.get_mut(self.slot) {
            Some(slot) if slot.waiting => {
                slot.waiting = false;
                self.body = if slot.write { 0 } else { self.plan.payload.len() };
                Ok(())
            }
            _ => wrong("the server answered a request that was not made"),
        }
    }

    fn answered(&mut self, now: Instant) {
        if let Some(slot) = self.slots.get(self.slot) {
            let waited = now.saturating_duration_since(slot.begun).as_nanos();
            self.waits.push(u64::try_from(waited).unwrap_or(u64::MAX));
        }
        self.in_flight -= 1;
        self.ask(self.slot, now);
    }
}
