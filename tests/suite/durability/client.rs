//! A client that writes its numbers into an export, reads, flushes, and leaves when it likes: several requests at a time,
//! anywhere, over what others write. It keeps the export's model, and judges what it reads by it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::model::Fate;
use super::sector::{SECTOR, encode};
use super::server::SECTORS;
use super::town::Export;
use crate::chaos::diary::Diary;
use crate::chaos::dice::Dice;
use crate::scripted::numbers::{cmd, cmd_flag, flag};
use crate::scripted::{Ask, Framing, Opened, RawClient, Reply};
use crate::trouble::Trouble;

/// Sectors of a block of 4 KiB.
const BLOCK: usize = 8;

/// Blocks that half of all requests are about.
const HOT: u64 = 8;

/// What all clients together have seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) writes: AtomicUsize,
    pub(super) flushes: AtomicUsize,
    pub(super) reads: AtomicUsize,
    pub(super) errors: AtomicUsize,
    pub(super) lost: AtomicUsize,
    /// Requests that were never answered, on a connection that stayed.
    pub(super) stuck: AtomicUsize,
}

pub(super) struct Client<'a> {
    pub(super) number: usize,
    pub(super) exports: &'a [Export],
    pub(super) socket: &'a Path,
    pub(super) diary: &'a Diary,
    pub(super) seen: &'a Seen,
}

/// A request under way.
enum Under {
    /// FUA: whether the answer makes it safe.
    Write {
        sequence: u64,
        range: Range<usize>,
        fua: bool,
    },
    Read {
        range: Range<usize>,
        floors: Vec<u64>,
    },
    Flush {
        covers: Vec<(u64, Range<usize>)>,
    },
}

struct Session<'a> {
    client: &'a Client<'a>,
    export: &'a Export,
    link: RawClient,
    opened: Opened,
    cookie: u64,
    under: HashMap<u64, Under>,
    /// Answered, and not yet flushed.
    unflushed: Vec<(u64, Range<usize>)>,
}

impl Client<'_> {
    /// Goes on until told to stop; then everything that was asked is answered.
    pub(super) fn act(&self, mut dice: Dice, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let export = &self.exports[dice.index(self.exports.len())];
            let framing = Framing::ALL[dice.index(3)];
            match RawClient::open(self.socket, export.name, framing) {
                Ok((link, opened)) => {
                    let (under, unflushed) = (HashMap::new(), Vec::new());
                    let session = Session { client: self, export, link, opened, cookie: 0, under, unflushed };
                    session.act(&mut dice, stop);
                }
                // The gateway or the server is away; asking more often does not bring it back.
                Err(_) => thread::park_timeout(Duration::from_millis(20)),
            }
        }
    }
}

impl Session<'_> {
    fn act(mut self, dice: &mut Dice, stop: &AtomicBool) {
        let deep = 1 + dice.index(4);
        for _ in 0..10 + dice.below(100) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut outcome = Ok(());
            while outcome.is_ok() && self.under.len() < deep {
                outcome = self.ask(dice);
            }
            if let Err(trouble) = outcome.and_then(|()| self.hear()) {
                return self.over(Fate::Lost, &trouble.to_string());
            }
            if dice.chance(1) {
                return self.over(Fate::Abandoned, "left without a word");
            }
        }
        while !self.under.is_empty() {
            if let Err(trouble) = self.hear() {
                return self.over(Fate::Lost, &trouble.to_string());
            }
        }
        // Whether the gateway hears the goodbye does not matter to anybody.
        let _ = self.link.leave();
    }

    fn ask(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        self.cookie += 1;
        let range = some_range(dice);
        let mut ask = Ask {
            cookie: self.cookie,
            offset: (range.start * SECTOR) as u64,
            length: (range.len() * SECTOR) as u64,
            ..Ask::default()
        };
        let mut payload = Vec::new();
        let under = match dice.below(100) {
            kind @ 0..60 => {
                let zeroes = kind < 8 && self.opened.flags & flag::WRITE_ZEROES != 0;
                let fua = dice.chance(10) && self.opened.flags & flag::FUA != 0;
                let sequence = self.export.model.begin(range.clone(), zeroes, self.client.number);
                ask.command = if zeroes { cmd::WRITE_ZEROES } else { cmd::WRITE };
                ask.flags = if fua { cmd_flag::FUA } else { 0 };
                if !zeroes {
                    payload = range.clone().flat_map(|sector| encode(sector as u64, sequence)).collect();
                    if self.link.framing == Framing::Extended {
                        ask.flags |= cmd_flag::PAYLOAD_LEN;
                    }
                }
                Under::Write { sequence, range, fua }
            }
            60..85 => Under::Read { floors: self.export.model.floors(range.clone()), range },
            _ => {
                (ask.command, ask.offset, ask.length) = (cmd::FLUSH, 0, 0);
                Under::Flush { covers: self.unflushed.clone() }
            }
        };
        self.under.insert(self.cookie, under);
        self.link.send(ask, &payload)
    }

    /// Takes one reply.
    fn hear(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let reply = self.link.reply().inspect_err(|_| {
            if begun.elapsed() > Duration::from_secs(29) {
                self.client.seen.stuck.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        let under = self.under.remove(&reply.cookie).ok_or_else(|| Trouble::new("an answer to nothing"))?;
        let seen = self.client.seen;
        if reply.error != 0 {
            seen.errors.fetch_add(1, Ordering::Relaxed);
            self.client.diary.note(&self.name(), &format!("error {} {}", reply.error, reply.message));
        }
        match under {
            Under::Write { sequence, range, fua } => {
                let fate = if reply.error == 0 { Fate::Answered } else { Fate::Failed };
                self.export.model.end(sequence, range.clone(), fate);
                if fate == Fate::Answered {
                    seen.writes.fetch_add(1, Ordering::Relaxed);
                    if fua || self.export.keeps {
                        self.export.model.safe(sequence, range);
                    } else {
                        self.unflushed.push((sequence, range));
                    }
                }
            }
            Under::Read { range, floors } => self.judge(&range, &floors, &reply),
            Under::Flush { covers } if reply.error == 0 => {
                seen.flushes.fetch_add(1, Ordering::Relaxed);
                for (sequence, range) in covers {
                    self.unflushed.retain(|(waits, _)| *waits != sequence);
                    self.export.model.safe(sequence, range);
                }
            }
            Under::Flush { .. } => {
                // What was answered before may be gone.
                self.unflushed.clear();
                for under in self.under.values_mut() {
                    if let Under::Flush { covers } = under {
                        covers.clear();
                    }
                }
            }
        }
        Ok(())
    }

    fn judge(&self, range: &Range<usize>, floors: &[u64], reply: &Reply) {
        if reply.error != 0 {
            return;
        }
        self.client.seen.reads.fetch_add(1, Ordering::Relaxed);
        if let Err(what) = self.export.model.judge(range.start, floors, &reply.data, false) {
            self.client.diary.violated(&format!("{} read through the gateway: {what}", self.name()));
        }
    }

    /// The connection is no more.
    fn over(self, fate: Fate, why: &str) {
        self.client.seen.lost.fetch_add(1, Ordering::Relaxed);
        self.client.diary.note(&self.name(), &format!("{why}, {} requests under way", self.under.len()));
        let name = self.name();
        drop(self.link);
        for under in self.under.into_values() {
            if let Under::Write { sequence, range, .. } = under {
                self.client.diary.note(&name, &format!("write {sequence} of {range:?}: {fate:?}"));
                self.export.model.end(sequence, range, fate);
            }
        }
    }

    fn name(&self) -> String {
        format!("client {} of {}", self.client.number, self.export.name)
    }
}

/// Mostly whole blocks, mostly the same ones.
fn some_range(dice: &mut Dice) -> Range<usize> {
    let blocks = (SECTORS / BLOCK) as u64;
    let block = if dice.chance(50) { dice.below(HOT) } else { dice.below(blocks) } as usize;
    let (start, length) = if dice.chance(25) {
        (block * BLOCK + dice.index(BLOCK), 1 + dice.index(2 * BLOCK))
    } else {
        (block * BLOCK, (1 + dice.index(3)) * BLOCK)
    };
    start..(start + length).min(SECTORS)
}
