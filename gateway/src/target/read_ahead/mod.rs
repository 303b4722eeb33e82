//! Reading ahead of sequential readers, in front of an export's lanes: `read-ahead` of an export.
//!
//! A target in front of another one. READs of clients that it has the answer to, or waits for already, never reach the lanes;
//! everything else is passed on as it is, and what changes data makes it forget first. Costs exports that do not read ahead
//! nothing: they have no such target.
//!
//! | what | drops |
//! |---|---|
//! | WRITE, TRIM, WRITE_ZEROES of anybody, before it is sent | what it overlaps; nothing there is read ahead until it has ended |
//! | RESIZE, a lowered end | everything past it |
//! | a connection of any lane, made or lost | everything |
//!
//! Late writes need nothing more: when a connection is lost everything is dropped, one that is sent again is in flight as
//! before, and a lane sends no READ that overlaps one that failed.

mod cache;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nbd_gateway_metrics::ExportMetrics;
use nbd_gateway_policy::types::{ByteRange, ExportName};
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie};
use parking_lot::Mutex;

use self::cache::{Bounds, Cache, Fetch, Known};
use super::{Facts, Lanes, Pending, Purpose, Target, View};
use crate::fault::Fault;
use crate::lane::reach;
use crate::request::{Finished, Found, Job, Origin, Outcome, Request, SessionId, Watcher};

/// A READ of a client that waits for a block.
type Waiting = (Origin, Job);

/// Lanes with reading ahead in front of them.
#[derive(Debug)]
pub(super) struct ReadAhead {
    lanes: Lanes,
    view: Arc<View>,
    cache: Mutex<Cache<Waiting>>,
    /// [`Presence::changes`](super::Presence::changes) when the cache was last used.
    connections: AtomicU64,
    /// No change is in flight that began before this was there.
    settled: AtomicBool,
    /// Passes everything on.
    #[cfg(test)]
    rests: AtomicBool,
    metrics: ExportMetrics,
    this: Weak<Self>,
}

impl ReadAhead {
    /// Keeps at most `limit` bytes.
    pub(super) fn new(lanes: Lanes, view: Arc<View>, limit: u64, metrics: ExportMetrics) -> Arc<Self> {
        let bounds = Bounds { limit, largest: lanes.facts().largest_payload(), block: lanes.facts().minimum_block() };
        Arc::new_cyclic(|this| Self {
            lanes,
            view,
            cache: Mutex::new(Cache::new(bounds)),
            connections: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            #[cfg(test)]
            rests: AtomicBool::new(false),
            metrics,
            this: Weak::clone(this),
        })
    }

    /// Whether anything may be served from the cache, or read into it. Drops old data.
    fn serves(&self, cache: &mut Cache<Waiting>) -> bool {
        #[cfg(test)]
        if self.rests.load(Ordering::Acquire) {
            return false;
        }
        let connections = self.lanes.presence.changes();
        if self.connections.swap(connections, Ordering::AcqRel) != connections {
            cache.drop_all();
        }
        self.settled.load(Ordering::Acquire)
    }

    fn settle(&self) {
        if !self.settled.load(Ordering::Acquire) && !self.lanes.has_changes() {
            self.settled.store(true, Ordering::Release);
        }
    }

    /// Sorts a batch: returns the READs that can be answered at once, takes out those that wait, adds READs ahead.
    fn sort(&self, origin: Origin, jobs: &mut Vec<Job>) -> Vec<(Job, Found)> {
        self.settle();
        let lane = self.lanes.number_of(origin);
        let (mut ready, mut fetches) = (Vec::new(), Vec::new());
        let mut cache = self.cache.lock();
        // First what changes data: whatever is read ahead by this batch is sent after it.
        for job in jobs.iter_mut() {
            if let Some(range) = reach(&job.request) {
                let change = Change { ahead: Weak::clone(&self.this), id: cache.change(range) };
                job.watched_by(Box::new(change));
            }
        }
        if !self.serves(&mut cache) {
            return ready;
        }
        let end = self.view.end();
        let mut rest = Vec::with_capacity(jobs.len() + 1);
        for job in jobs.drain(..) {
            let of_client = job.ticket().is_some() && job.request.command == Cmd::READ;
            let Some(range) = job.request.range().filter(|_| of_client) else {
                rest.push(job);
                continue;
            };
            match cache.find(lane, range) {
                Known::Ready(found) => ready.push((job, found)),
                Known::Pending(id) => cache.wait(id, range, (origin, job)),
                Known::Unknown => rest.push(job),
            }
            fetches.extend(cache.follow(lane, range, end));
        }
        drop(cache);
        rest.extend(fetches.into_iter().map(|fetch| self.ahead(fetch)));
        *jobs = rest;
        ready
    }

    fn ahead(&self, Fetch { id, range }: Fetch) -> Job {
        let (offset, length) = (range.start().bytes(), range.len().0);
        self.metrics.read_ahead_fetched.inc_by(length);
        let request = Request::new(Cmd::READ, CmdFlags::NONE, offset, length);
        Job::for_watcher(request, Box::new(Ahead { ahead: Weak::clone(&self.this), id }))
    }

    /// Answers a READ.
    fn answer(&self, job: Job, found: Found, finished: &mut Finished) {
        self.metrics.read_ahead_served.inc_by(job.request.length);
        job.finish(Outcome::Found(found), finished);
    }

    fn arrived(&self, id: u64, outcome: Option<&Outcome>, finished: &mut Finished) {
        let found = match outcome {
            Some(Outcome::Found(found)) => Some(found),
            _ => None,
        };
        let (mut ready, mut unknown) = (Vec::new(), Vec::new());
        {
            let mut cache = self.cache.lock();
            let serves = self.serves(&mut cache);
            for (range, (origin, job), found) in cache.arrived(id, found) {
                match found.map_or_else(|| self.look_again(&mut cache, serves, origin, range), Known::Ready) {
                    Known::Ready(found) => ready.push((job, found)),
                    Known::Pending(id) => cache.wait(id, range, (origin, job)),
                    Known::Unknown => unknown.push((origin, job)),
                }
            }
        }
        self.view.drain.tell();
        ready.into_iter().for_each(|(job, found)| self.answer(job, found, finished));
        self.pass_on(unknown, finished);
    }

    fn look_again(&self, cache: &mut Cache<Waiting>, serves: bool, origin: Origin, range: ByteRange) -> Known {
        if serves { cache.find(self.lanes.number_of(origin), range) } else { Known::Unknown }
    }

    /// READs that waited in vain.
    fn pass_on(&self, waited: Vec<Waiting>, finished: &mut Finished) {
        waited.into_iter().for_each(|(origin, job)| self.lanes.submit(origin, &mut vec![job], finished));
    }
}

impl Target for ReadAhead {
    fn facts(&self) -> &Facts {
        self.lanes.facts()
    }

    fn submit(&self, origin: Origin, jobs: &mut Vec<Job>, finished: &mut Finished) {
        let ready = self.sort(origin, jobs);
        if !jobs.is_empty() {
            self.lanes.submit(origin, jobs, finished);
        }
        ready.into_iter().for_each(|(job, found)| self.answer(job, found, finished));
    }

    fn lower_end(&self, end: u64) {
        self.cache.lock().drop_all_in(ByteRange::beyond(end));
    }

    fn is_busy_beyond(&self, end: u64) -> bool {
        self.lanes.is_busy_beyond(end) || self.cache.lock().is_fetching_beyond(end)
    }

    fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        self.lanes.ranges_of(session)
    }

    fn read_size(&self, purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        self.lanes.read_size(purpose)
    }

    fn lanes(&self) -> Option<&Lanes> {
        Some(&self.lanes)
    }

    #[cfg(test)]
    fn rest(&self) {
        self.rests.store(true, Ordering::Release);
        let waiting = self.cache.lock().take_waiting();
        self.pass_on(waiting.into_iter().map(|(_, waiting)| waiting).collect(), &mut Finished::default());
    }

    #[cfg(test)]
    fn go_on(&self) {
        self.cache.lock().drop_all();
        self.settled.store(false, Ordering::Release);
        self.rests.store(false, Ordering::Release);
    }

    fn close<'a>(&'a self, export: &'a ExportName) -> Pending<'a, ()> {
        self.lanes.close(export)
    }
}

/// A request that changes data.
#[derive(Debug)]
struct Change {
    ahead: Weak<ReadAhead>,
    id: u64,
}

impl Watcher for Change {
    fn ended(self: Box<Self>, _outcome: Option<&Outcome>, _finished: &mut Finished) {
        if let Some(ahead) = self.ahead.upgrade() {
            ahead.cache.lock().changed(self.id);
        }
    }
}

/// A READ ahead.
#[derive(Debug)]
struct Ahead {
    ahead: Weak<ReadAhead>,
    id: u64,
}

impl Watcher for Ahead {
    fn ended(self: Box<Self>, outcome: Option<&Outcome>, finished: &mut Finished) {
        if let Some(ahead) = self.ahead.upgrade() {
            ahead.arrived(self.id, outcome, finished);
        }
    }
}
