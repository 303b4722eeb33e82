//! Requests that tasks have, suspended with their sessions: no part of them that was asked for is asked for again.
//!
//! A part that a lane has stays with the lane, by the request that it belongs to, and its answer goes to that request's next
//! task. So nothing that has been answered since, to anybody, is undone by an older request.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::Cookie;
use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::task::{AbortHandle, JoinHandle};

use super::super::Core;
use super::{Held, HeldRequests};
use crate::request::{Failure, Job, Origin, Outcome, Request, SessionId};

/// A client's request.
type Whose = (SessionId, Cookie);

/// How far the task of a request is.
#[derive(Debug, Default)]
pub(super) struct Way {
    whose: Option<Whose>,
    task: Option<AbortHandle>,
    progress: Progress,
    /// By which what it left behind is known, when it was taken.
    left: Option<Cookie>,
    taken: bool,
}

/// What has become of a request.
#[derive(Debug, Default)]
struct Progress {
    /// What it has for itself.
    alone: Option<ByteRange>,
    /// What it has asked to be changed, but for what its task waits for now.
    parts: Vec<Part>,
}

/// A part that was asked for.
#[derive(Debug)]
struct Part {
    range: ByteRange,
    state: PartState,
}

#[derive(Debug)]
enum PartState {
    Asked(oneshot::Receiver<Outcome>),
    Answered(Option<Failure>),
}

/// How a part was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) range: ByteRange,
    pub(crate) failure: Option<Failure>,
}

/// What had become of requests that are about to be held again, and what became of those that were taken.
#[derive(Debug, Default)]
pub(super) struct Before {
    expected: Mutex<HashMap<Whose, Progress>>,
    ended: Mutex<HashMap<u64, Vec<Part>>>,
}

/// A request that was taken along.
#[derive(Debug)]
pub(crate) struct TakenRequest {
    pub(crate) job: Job,
    /// Its place among those of its export.
    pub(crate) order: u64,
    /// What it has for itself.
    pub(crate) alone: Option<ByteRange>,
}

impl Before {
    pub(super) fn way_of(&self, session: SessionId, job: &Job) -> Way {
        let whose = job.ticket().map(|ticket| (session, ticket.cookie()));
        let progress = whose.and_then(|whose| self.expected.lock().remove(&whose)).unwrap_or_default();
        Way { whose, progress, ..Way::default() }
    }

    fn expect(&self, whose: Whose, change: impl FnOnce(&mut Progress)) {
        change(self.expected.lock().entry(whose).or_default());
    }
}

impl Way {
    pub(super) fn goes_on(&self, core: &Core, id: u64) {
        if let Some(range) = self.progress.alone {
            core.ranges.hold_again(id, range);
        }
    }

    pub(super) fn ended(self, core: &Core, id: u64) {
        core.ranges.free(id);
        if let Some(left) = self.left {
            core.orphans.settle(Origin::Gateway, left);
        }
        if self.taken {
            core.held.progress.ended.lock().insert(id, self.progress.parts);
        }
    }
}

impl HeldRequests {
    pub(super) fn runs_in(&self, id: u64, task: &JoinHandle<()>) {
        self.change(id, |entry| entry.way.task.replace(task.abort_handle()));
    }
}

/// The answer to a part. What is known of it, and its receiver, go back to the request when it is dropped.
struct Answer {
    core: Arc<Core>,
    id: u64,
    /// Of what changes data.
    range: Option<ByteRange>,
    state: Option<PartState>,
}

impl Future for Answer {
    type Output = Result<Outcome, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = match &mut self.state {
            Some(PartState::Asked(outcome)) => ready!(Pin::new(outcome).poll(cx)),
            Some(PartState::Answered(failure)) => Ok(failure.clone().map_or(Outcome::Done, Outcome::Failed)),
            None => return Poll::Pending,
        };
        self.state = answered.as_ref().ok().map(PartState::of);
        Poll::Ready(answered)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let part = self.range.zip(self.state.take()).map(|(range, state)| Part { range, state });
        if let Some(part) = part {
            self.core.held.change(self.id, |entry| {
                entry.way.progress.parts.push(part);
                Some(())
            });
        }
    }
}

impl PartState {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Failed(failure) => Self::Answered(Some(failure.clone())),
            _ => Self::Answered(None),
        }
    }
}

impl Held {
    /// The last of `jobs` is a part of it, with this outcome. One that was asked for before is not asked for again.
    pub(super) fn keep(
        &self,
        outcome: oneshot::Receiver<Outcome>,
        jobs: &mut Vec<Job>,
    ) -> impl Future<Output = Result<Outcome, RecvError>> + use<> {
        let job = jobs.last_mut().unwrap();
        let range = job.request.range().filter(|_| job.request.changes_data());
        let (before, whose) = self
            .core
            .held
            .change(self.id, |entry| {
                let parts = &mut entry.way.progress.parts;
                let before = parts.iter().position(|part| Some(part.range) == range).map(|at| parts.swap_remove(at));
                Some((before, entry.way.whose))
            })
            .unwrap_or_default();
        let state = match before {
            Some(part) => {
                jobs.pop();
                part.state
            }
            None => {
                job.part_of = whose.filter(|_| range.is_some());
                PartState::Asked(outcome)
            }
        };
        Answer { core: Arc::clone(&self.core), id: self.id, range, state: Some(state) }
    }

    /// Whether all of `range` is changed by parts that were answered.
    pub(super) fn has_changed(&self, range: ByteRange) -> bool {
        let changed = self.core.held.change(self.id, |entry| {
            let done = |part: &&Part| matches!(part.state, PartState::Answered(_)) && range.overlaps(part.range);
            Some(entry.way.progress.parts.iter().filter(done).map(|part| part.range.len().0).sum::<u64>())
        });
        changed == Some(range.len().0)
    }
}

impl Core {
    /// A request of a session is about to be held again, of which that much is known.
    pub(crate) fn expect_held(&self, whose: Whose, alone: Option<ByteRange>, answered: Vec<Answered>) {
        self.held.progress.expect(whose, |progress| {
            progress.alone = alone;
            let part = |Answered { range, failure }| Part { range, state: PartState::Answered(failure) };
            progress.parts.extend(answered.into_iter().map(part));
        });
    }

    /// A part that a lane has of a request that is about to be held again.
    pub(crate) fn part_of(&self, whose: Whose, request: &Request) -> Job {
        let (mut job, outcome) = Job::for_task(request.clone());
        job.part_of = Some(whose);
        if let Some(range) = request.range() {
            let part = Part { range, state: PartState::Asked(outcome) };
            self.held.progress.expect(whose, |progress| progress.parts.push(part));
        }
        job
    }

    /// Whether the task of a request that was taken has not ended yet.
    pub(crate) fn has_taken(&self) -> bool {
        self.held.state.lock().1.values().any(|entry| entry.way.taken)
    }

    /// Takes all requests that are held, oldest first: none of them is answered from here on, and their tasks end. What those
    /// may still change is the gateway's until they have ended.
    pub(crate) fn take_held(&self) -> Vec<TakenRequest> {
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        let mut state = self.held.state.lock();
        for (id, entry) in &mut state.1 {
            let Some(job) = entry.job.take() else { continue };
            taken.push(TakenRequest { job, order: *id, alone: self.ranges.of(*id) });
            let range = entry.range.take().map(|(_, range)| (Cookie(u64::MAX - id), range));
            entry.way.taken = true;
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

    /// The parts of a request that was taken that are answered, once its task has ended and no more answers come. The others
    /// are with the lanes.
    pub(crate) fn answered_of(&self, order: u64) -> Vec<Answered> {
        let parts = self.held.progress.ended.lock().remove(&order).unwrap_or_default();
        let answered = parts.into_iter().filter_map(|Part { range, state }| {
            let state = match state {
                PartState::Asked(mut outcome) => PartState::of(&outcome.try_recv().ok()?),
                answered @ PartState::Answered(_) => answered,
            };
            match state {
                PartState::Answered(failure) => Some(Answered { range, failure }),
                PartState::Asked(_) => None,
            }
        });
        answered.collect()
    }
}
