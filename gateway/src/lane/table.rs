//! A lane's requests in flight, by the cookie that the backend sees.

use std::borrow::Cow;
use std::collections::VecDeque;

use nbd_gateway_net::Batch;
use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::reply::Expected;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, Framing};
use slab::Slab;
use tokio::time::Instant;

use super::gather::Gather;
use super::late::{LateWrites, reach};
use crate::request::{Job, Request, SessionId};

#[cfg(test)]
mod suspend;
#[cfg(test)]
pub(crate) use suspend::Clients;

/// How many answers are remembered for deciding what may be sent again.
const REMEMBERED: usize = 1024;

/// Whether requests are sent.
#[derive(Debug, Default)]
enum Phase {
    /// Not connected; requests wait in the table.
    #[default]
    Away,
    Up,
    /// Connected, but what comes now waits for the next connection.
    Held,
    /// Still connected, but the backend takes no more: what was sent is answered, the rest waits for the next connection.
    Leaving,
    /// Given up: requests fail with this sentence.
    Down(Cow<'static, str>),
}

/// One request in flight.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) job: Job,
    /// Upper half of the cookie: tells a slot's user from the one before.
    tag: u32,
    /// Whether it was sent on the present connection, and so may be answered.
    pub(super) sent: bool,
    /// Whether an earlier connection was lost with it unanswered: it may have been carried out there.
    pub(super) doubtful: bool,
    /// When it was sent, by the clock.
    pub(super) at: u64,
    /// The late write that it is sent again for; 0: an earlier connection was not lost with it.
    pub(super) late: u64,
    /// For a FLUSH: the writes answered before it was sent.
    pub(super) covers: u64,
    /// What has come of the reply so far, if it comes in pieces.
    pub(super) gather: Option<Box<Gather>>,
}

/// An answer that has been given, for the rules of replay.
#[derive(Clone, Copy, Debug)]
struct Answered {
    at: u64,
    range: ByteRange,
}

/// Requests in flight, and answers lately given.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Slab<Slot>,
    tag: u32,
    phase: Phase,
    pub(super) framing: Option<Framing>,
    answered: VecDeque<Answered>,
    /// Answers up to this moment may have been forgotten.
    forgotten: Option<u64>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// When the oldest request came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|(_, slot)| slot.job.since()).min()
    }

    /// Why requests fail, if the backend is given up.
    pub(super) fn down(&self) -> Option<Cow<'static, str>> {
        match &self.phase {
            Phase::Down(why) => Some(why.clone()),
            Phase::Away | Phase::Up | Phase::Held | Phase::Leaving => None,
        }
    }

    /// Adds a request; its bytes too, if there is a connection to send them on and no late write holds it back.
    pub(super) fn insert(&mut self, job: Job, at: u64, covers: u64, late: &LateWrites, batch: &mut Batch) {
        self.tag = self.tag.wrapping_add(1);
        let tag = self.tag;
        let entry = self.slots.vacant_entry();
        let cookie = cookie(entry.key(), tag);
        let mut sent = false;
        if let (Phase::Up, Some(framing)) = (&self.phase, self.framing)
            && (!late.any() || late.admits(&job.request, 0))
        {
            put(&job.request, cookie, framing, batch);
            sent = true;
        }
        entry.insert(Slot { job, tag, sent, doubtful: false, at, late: 0, covers, gather: None });
    }

    /// What a cookie waits for, for the reader of replies.
    pub(super) fn expected(&self, cookie: Cookie) -> Option<Expected> {
        let slot = self.slots.get(key(cookie)).filter(|s| s.sent && s.tag == tag(cookie))?;
        let request = &slot.job.request;
        let read = (request.command == Cmd::READ).then_some(request.length);
        Some(Expected { read, extents: slot.job.extents() })
    }

    /// The slot of a cookie that was found by [`expected`](Self::expected).
    pub(super) fn slot(&mut self, cookie: Cookie) -> Option<&mut Slot> {
        self.slots.get_mut(key(cookie)).filter(|s| s.tag == tag(cookie))
    }

    /// Takes an answered request out, and remembers that it was answered.
    pub(super) fn answer(&mut self, cookie: Cookie, now: u64) -> Option<Slot> {
        let slot = self.take(cookie)?;
        if let Some(range) = slot.job.request.range() {
            if self.answered.len() >= REMEMBERED {
                self.forgotten = self.answered.pop_front().map(|a| a.at);
            }
            self.answered.push_back(Answered { at: now, range });
        }
        Some(slot)
    }

    /// Whether a request that overlaps this one was answered after it was sent, or may have been.
    pub(super) fn overtaken(&self, slot: &Slot) -> bool {
        slot.job.request.range().is_some_and(|range| self.answered_since(slot.at, range))
    }

    fn answered_since(&self, at: u64, range: ByteRange) -> bool {
        self.forgotten.is_some_and(|forgotten| forgotten >= at)
            || self.answered.iter().rev().take_while(|a| a.at >= at).any(|a| a.range.overlaps(range))
    }

    /// The same for a request of another lane; what changes data there and is with the backend counts too.
    pub(super) fn touched(&self, at: u64, range: ByteRange) -> bool {
        let changing = |slot: &Slot| slot.sent && slot.job.request.changes_data() && overlaps(&slot.job.request, range);
        self.answered_since(at, range) || self.slots.iter().any(|(_, slot)| changing(slot))
    }

    /// The backend has refused this request because it is shutting down: it waits to be sent on the next connection, and
    /// so does everything from now on.
    pub(super) fn leave(&mut self, cookie: Cookie) {
        if let Some(slot) = self.slot(cookie) {
            slot.sent = false;
            slot.gather = None;
        }
        if let Phase::Up | Phase::Held = self.phase {
            self.phase = Phase::Leaving;
        }
    }

    /// All requests in flight, in the order in which they were sent; the table is empty afterwards.
    pub(super) fn take_all(&mut self) -> Vec<Slot> {
        let mut all: Vec<Slot> = self.slots.drain().collect();
        all.sort_by_key(|s| (s.at, s.tag));
        all
    }

    /// Whether requests wait for an answer on this connection. Standing ones do not count, nor a resize that its
    /// coordinator has given up: a backend that never answers it would keep the connection for ever.
    pub(super) fn is_waiting(&self) -> bool {
        let counts = |job: &Job| !(job.stands() || job.request.command == Cmd::RESIZE && job.is_abandoned());
        self.slots.iter().any(|(_, slot)| slot.sent && counts(&slot.job))
    }

    /// Whether requests that may change something wait for an answer on this connection.
    pub(super) fn has_changes_out(&self) -> bool {
        self.slots.iter().any(|(_, slot)| slot.sent && reach(&slot.job.request).is_some())
    }

    /// Whether a request that may change something is in flight, sent or not.
    pub(super) fn has_changes(&self) -> bool {
        self.slots.iter().any(|(_, slot)| reach(&slot.job.request).is_some())
    }

    /// Whether a request with a range past `end` is in flight, sent or not.
    pub(super) fn beyond(&self, end: u64) -> bool {
        self.slots.iter().any(|(_, slot)| slot.job.request.length > 0 && slot.job.request.end() > end)
    }

    /// What comes from now on waits for the next connection.
    pub(super) fn hold(&mut self) {
        if matches!(self.phase, Phase::Up) {
            self.phase = Phase::Held;
        }
    }

    /// Sends one request although the rest waits.
    pub(super) fn insert_last(&mut self, job: Job, at: u64, covers: u64, late: &LateWrites, batch: &mut Batch) {
        let held = core::mem::replace(&mut self.phase, Phase::Up);
        self.insert(job, at, covers, late, batch);
        self.phase = held;
    }

    /// Takes the standing requests out.
    pub(super) fn take_standing(&mut self) -> Vec<Slot> {
        let standing: Vec<usize> = self.slots.iter().filter(|(_, s)| s.job.stands()).map(|(key, _)| key).collect();
        standing.into_iter().filter_map(|key| self.slots.try_remove(key)).collect()
    }

    /// The connection is gone; requests wait.
    pub(super) fn away(&mut self) {
        // What was answered stays known: another lane may be lost next.
        self.phase = Phase::Away;
    }

    /// The backend is given up; requests from now on fail with this sentence.
    pub(super) fn give_up(&mut self, why: Cow<'static, str>) {
        self.phase = Phase::Down(why);
    }

    /// There is a connection; what waits in the table is sent on it, but for what late writes hold back.
    pub(super) fn up(&mut self, framing: Framing, now: u64, late: &LateWrites, batch: &mut Batch) {
        self.phase = Phase::Up;
        self.framing = Some(framing);
        self.send_what_may_be(now, late, batch);
    }

    /// Sends what has not been sent on this connection and need not wait, oldest first.
    pub(super) fn send_what_may_be(&mut self, now: u64, late: &LateWrites, batch: &mut Batch) {
        let (Phase::Up, Some(framing)) = (&self.phase, self.framing) else { return };
        // The task of it went on without it: sent now, it would come from the past.
        let stale =
            |slot: &Slot| !slot.sent && slot.late == 0 && slot.job.is_abandoned() && reach(&slot.job.request).is_some();
        self.slots.retain(|_, slot| !stale(slot));
        let unsent = self.slots.iter().filter(|(_, slot)| !slot.sent);
        let mut order: Vec<(u64, u32, usize)> = unsent.map(|(key, s)| (s.at, s.tag, key)).collect();
        order.sort_unstable();
        for (_, _, key) in order {
            if let Some(slot) = self.slots.get_mut(key)
                && (!late.any() || late.admits(&slot.job.request, slot.late))
            {
                slot.at = now;
                slot.sent = true;
                slot.gather = None;
                put(&slot.job.request, cookie(key, slot.tag), framing, batch);
            }
        }
    }

    /// Puts a request back that waits to be sent again; its cookie from now on.
    pub(super) fn keep(&mut self, slot: Slot) -> Cookie {
        let tag = slot.tag;
        let key = self.slots.insert(Slot { sent: false, doubtful: slot.sent || slot.doubtful, ..slot });
        cookie(key, tag)
    }

    /// Takes out a request that is not to be sent after all.
    pub(super) fn take(&mut self, cookie: Cookie) -> Option<Slot> {
        self.slot(cookie)?;
        self.slots.try_remove(key(cookie))
    }

    /// Requests with the backend that change data in `range` and that nobody waits for any more.
    pub(super) fn abandoned(&mut self, range: ByteRange) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().map(|(_, slot)| slot).filter(move |slot| {
            let request = &slot.job.request;
            let abandoned = slot.sent && slot.late == 0 && slot.job.is_abandoned();
            abandoned && request.changes_data() && overlaps(request, range)
        })
    }

    /// What is with the backend on this connection.
    #[cfg(test)]
    pub(super) fn sent(&self) -> Vec<(Cookie, Request)> {
        let sent = self.slots.iter().filter(|(_, slot)| slot.sent);
        sent.map(|(key, slot)| (cookie(key, slot.tag), slot.job.request.clone())).collect()
    }

    pub(super) fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        let of_session = |job: &Job| job.ticket().filter(|t| t.client().id() == session).map(|t| t.cookie());
        self.slots
            .iter()
            .filter(|(_, slot)| slot.job.request.changes_data())
            .filter_map(|(_, slot)| Some((of_session(&slot.job)?, slot.job.request.range()?)))
            .collect()
    }
}

fn overlaps(request: &Request, range: ByteRange) -> bool {
    request.range().is_some_and(|own| own.overlaps(range))
}

pub(super) fn cookie(key: usize, tag: u32) -> Cookie {
    Cookie(u64::from(tag) << 32 | (u64::try_from(key).unwrap_or(u64::MAX) & 0xffff_ffff))
}

fn key(cookie: Cookie) -> usize {
    usize::try_from(cookie.0 & 0xffff_ffff).unwrap_or(usize::MAX)
}

fn tag(cookie: Cookie) -> u32 {
    u32::try_from(cookie.0 >> 32).unwrap_or(0)
}

fn put(request: &Request, cookie: Cookie, framing: Framing, batch: &mut Batch) {
    let payload_len = request.command == Cmd::WRITE && framing == Framing::Extended;
    // A simple reply is in one piece anyway, and DF is unknown to a backend without structured ones.
    let flags = if framing == Framing::Simple { request.flags.without(CmdFlags::DF) } else { request.flags };
    let header = RequestHeader {
        flags: flags.with_if(CmdFlags::PAYLOAD_LEN, payload_len),
        command: request.command,
        cookie,
        offset: request.offset,
        length: request.length,
    };
    batch.head(|out| header.put(framing, out));
    batch.body(&request.payload);
}
