//! Requests that tasks have, suspended with their sessions: what of them is done is not done again.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

use super::super::Core;
use super::super::orphans::Orphans;
use super::{Entry, Held, HeldRequests};
use crate::request::{Job, Origin, SessionId};
use nbd_gateway_proto::Cookie;

/// How far the task of a request is.
#[derive(Debug, Default)]
pub(super) struct Way {
    task: Option<AbortHandle>,
    progress: Progress,
    /// By which what it left behind is known, when it was taken.
    left: Option<Cookie>,
}

/// What has become of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Overlapping ones wait for it: it has its range to itself.
    pub(crate) begun: bool,
    /// What has been changed: offset and end.
    pub(crate) done: Vec<(u64, u64)>,
}

/// What had become of requests that are about to be held again, by session and cookie.
#[derive(Debug, Default)]
pub(super) struct Before(Mutex<HashMap<(SessionId, Cookie), Progress>>);

/// A request that was taken along.
#[derive(Debug)]
pub(crate) struct TakenRequest {
    pub(crate) job: Job,
    /// Its place among those of its export.
    pub(crate) order: u64,
    pub(crate) progress: Progress,
}

impl Before {
    pub(super) fn way_of(&self, session: SessionId, job: &Job) -> Way {
        let progress = job.ticket().and_then(|ticket| self.0.lock().remove(&(session, ticket.cookie())));
        Way { progress: progress.unwrap_or_default(), ..Way::default() }
    }
}

impl Way {
    pub(super) fn ended(&self, orphans: &Orphans) {
        if let Some(left) = self.left {
            orphans.settle(Origin::Gateway, left);
        }
    }
}

impl HeldRequests {
    pub(super) fn runs_in(&self, id: u64, task: &JoinHandle<()>) {
        self.change(id, |entry| entry.way.task.replace(task.abort_handle()));
    }
}

impl Held {
    /// Overlapping ones wait for it from now on.
    pub(in crate::target) fn begins(&self) {
        self.core.held.change(self.id, |entry| Some(core::mem::replace(&mut entry.way.progress.begun, true)));
    }

    /// Whether they do.
    pub(in crate::target) fn has_begun(&self) -> bool {
        self.core.held.change(self.id, |entry| entry.way.progress.begun.then_some(())).is_some()
    }

    /// That part is changed.
    pub(in crate::target) fn has_done(&self, offset: u64, end: u64) {
        self.core.held.change(self.id, |entry| {
            entry.way.progress.done.push((offset, end));
            Some(())
        });
    }

    /// Whether that part is changed.
    pub(in crate::target) fn is_done(&self, offset: u64, end: u64) -> bool {
        let done = |entry: &mut Entry| entry.way.progress.done.contains(&(offset, end)).then_some(());
        self.core.held.change(self.id, done).is_some()
    }
}

impl Core {
    /// A request of a session is about to be held again.
    pub(crate) fn expect_held(&self, session: SessionId, cookie: Cookie, progress: Progress) {
        self.held.progress.0.lock().insert((session, cookie), progress);
    }

    /// Whether the task of a request that was taken has not ended yet.
    pub(crate) fn has_taken(&self) -> bool {
        self.held.state.lock().1.values().any(|entry| entry.job.is_none())
    }

    /// Takes all requests that are held, oldest first: none of them is answered from here on, and their tasks end. What those
    /// may still change is the gateway's until they have ended.
    pub(crate) fn take_held(&self) -> Vec<TakenRequest> {
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        let mut state = self.held.state.lock();
        for (id, entry) in &mut state.1 {
            let Some(job) = entry.job.take() else { continue };
            taken.push(TakenRequest { job, order: *id, progress: core::mem::take(&mut entry.way.progress) });
            let range = entry.range.take().map(|(_, range)| (Cookie(u64::MAX - id), range));
            entry.way.left = range.map(|(cookie, _)| cookie);
            left.extend(range);
            if let Some(task) = &entry.way.task {
                task.abort();
            }
        }
        drop(state);
        self.orphans.adopt(Origin::Gateway, || left);
        taken
    }
}
