//! Requests that a task of the gateway's own has: over the bridge, waiting for a grow, a RESIZE.
//!
//! The job of each stays in one place of the target until its task finishes it. So a session that leaves finds what it leaves
//! behind, and one that is suspended takes its requests along: their tasks end.

use std::collections::BTreeMap;
use std::sync::Arc;

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::Cookie;
use parking_lot::Mutex;

use super::Core;
use crate::request::{Finished, Job, Outcome, Request, SessionId};
#[cfg(test)]
pub(crate) use suspend::{Progress, TakenRequest};

/// All of an export's.
#[derive(Debug, Default)]
pub(super) struct HeldRequests {
    /// The next number, and the requests by their numbers, oldest first.
    state: Mutex<(u64, BTreeMap<u64, Entry>)>,
    #[cfg(test)]
    progress: suspend::Before,
}

#[derive(Debug)]
struct Entry {
    session: SessionId,
    /// None: it is finished, or was taken.
    job: Option<Job>,
    /// What may still be changed, if it changes data for a client, and the client's cookie.
    range: Option<(Cookie, ByteRange)>,
    #[cfg(test)]
    way: suspend::Way,
}

impl HeldRequests {
    fn change<T>(&self, id: u64, change: impl FnOnce(&mut Entry) -> Option<T>) -> Option<T> {
        self.state.lock().1.get_mut(&id).and_then(change)
    }

    /// What requests of a session that are held may still change.
    pub(super) fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        let state = self.state.lock();
        state.1.values().filter(|entry| entry.session == session).filter_map(|entry| entry.range).collect()
    }
}

/// A request that a task has. Dropped unfinished, it ends with EIO, as any job.
#[derive(Debug)]
pub(crate) struct Held {
    core: Arc<Core>,
    id: u64,
    /// What is asked for.
    pub(crate) request: Request,
    extents: usize,
}

impl Held {
    /// Holds a request of a session.
    pub(super) fn new(core: &Arc<Core>, session: SessionId, job: Job) -> Self {
        let (request, extents) = (job.request.clone(), job.extents());
        #[cfg(test)]
        let way = core.held.progress.way_of(session, &job);
        let ticket = job.ticket().filter(|_| request.changes_data());
        let range = ticket.and_then(|ticket| Some((ticket.cookie(), request.range()?)));
        let mut state = core.held.state.lock();
        let id = state.0;
        state.0 = id.wrapping_add(1);
        let entry = Entry {
            session,
            job: Some(job),
            range,
            #[cfg(test)]
            way,
        };
        state.1.insert(id, entry);
        drop(state);
        Self { core: Arc::clone(core), id, request, extents }
    }

    /// Carries it out in a new task.
    pub(crate) fn spawn<F>(self, carry: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        #[cfg(test)]
        let (core, id) = (Arc::clone(&self.core), self.id);
        let _task = tokio::spawn(carry(self));
        #[cfg(test)]
        core.held.runs_in(id, &_task);
    }

    /// The most extents of one context that the answer may have.
    pub(super) fn extents(&self) -> usize {
        self.extents
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_unwanted(&self) -> bool {
        let unwanted = self.core.held.change(self.id, |entry| {
            entry.job.as_ref().map(|job| match job.ticket() {
                Some(ticket) => ticket.client().has_given_up(),
                None => job.is_abandoned(),
            })
        });
        unwanted.unwrap_or(true)
    }

    /// Only this part of it may still change data, should its session go now.
    pub(super) fn narrow(&self, offset: u64, length: u64) {
        let part = ByteRange::at(offset, length);
        self.core.held.change(self.id, |entry| entry.range.as_mut().zip(part).map(|((_, range), part)| *range = part));
    }

    /// The job, to be finished in another way; none: it was taken. What it may change still counts as held.
    pub(crate) fn take(&self) -> Option<Job> {
        self.core.held.change(self.id, |entry| entry.job.take())
    }

    /// Tells its outcome to whoever waits for it.
    pub(crate) fn finish(self, outcome: Outcome, finished: &mut Finished) {
        if let Some(job) = self.take() {
            job.finish(outcome, finished);
        }
    }

    /// Gives it up without telling anybody.
    pub(crate) fn forget(self) {
        if let Some(job) = self.take() {
            job.forget();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A job that is still there is finished after the lock.
        let entry = self.core.held.state.lock().1.remove(&self.id);
        #[cfg(test)]
        if let Some(entry) = &entry {
            entry.way.ended(&self.core.orphans);
        }
        drop(entry);
    }
}

#[cfg(test)]
mod suspend;

#[cfg(test)]
mod tests {
    use super::super::orphans::Orphans;
    use super::*;
    use crate::request::Origin;

    #[tokio::test]
    async fn what_is_held_is_an_orphan_when_its_session_leaves() {
        let (orphans, held) = (Orphans::default(), HeldRequests::default());
        let [first, second] = [7, 8].map(SessionId::after);
        for (id, session, offset) in [(0, first, 100), (1, second, 300)] {
            let range = ByteRange::at(offset, 100).map(|range| (Cookie(1), range));
            held.state.lock().1.insert(id, Entry { session, job: None, range, way: suspend::Way::default() });
        }
        // In the backend's table already.
        orphans.adopt(Origin::Session(first), || {
            [vec![(Cookie(1), ByteRange::at(100, 100).unwrap())], held.ranges_of(first)].concat()
        });
        held.state.lock().1.remove(&0);
        assert!(held.ranges_of(first).is_empty());
        orphans.clear_of(orphans.ahead(ByteRange::at(300, 100), SessionId::after(1))).await;
        let waiting = orphans.clear_of(orphans.ahead(ByteRange::at(150, 10), SessionId::after(1)));
        tokio::pin!(waiting);
        let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
        assert!(pending.await);
        orphans.settle(Origin::Session(first), Cookie(1));
        waiting.await;
        assert!(!orphans.any());
    }
}
