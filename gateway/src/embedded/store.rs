//! What all disks have in common: a store that performs requests, and tasks that carry jobs to it.
//!
//! Owns the bookkeeping that makes each job end exactly once and be counted out after that.

use std::fmt::Debug;
use std::sync::Arc;

use nbd_gateway_proto::{Cmd, CmdFlags};

use super::{Admission, DiskError, Facts};
use crate::request::{Finished, Job, Outcome, Request};

/// How a request went, as far as the store can tell at once.
pub(super) enum Performed {
    Answer(Outcome),
    /// Done, but must be durable before it is answered: hand it to [`Store::settle`].
    Unsettled,
}

/// Somewhere to keep bytes.
pub(super) trait Store: Debug + Send + Sync {
    /// The count of jobs inside.
    fn admission(&self) -> &Admission;
    /// What it can do now.
    fn facts(&self) -> Facts;
    /// Size in bytes.
    fn size(&self) -> u64;
    /// As [`super::EmbeddedDisk::measure`].
    fn measure(&self) -> Result<u64, DiskError> {
        Ok(self.size())
    }
    /// As [`super::EmbeddedDisk::set_size`].
    fn set_size(&self, new: u64) -> Result<u64, DiskError>;
    /// Performs a request if that needs no waiting and costs no more than `budget` (in payload bytes), which it lowers.
    fn at_once(&self, request: &Request, budget: &mut u64) -> Option<Outcome>;
    /// Performs a request. May block on the disk.
    fn perform(&self, request: &Request) -> Performed;
    /// Answers a task once everything that was performed before this call is durable. May block on the disk.
    fn settle(&self, task: Task, finished: &mut Finished);
    /// The last act: make everything durable and release locks.
    fn release(&self) -> Result<(), DiskError>;
}

/// A job's place inside a store; leaves when dropped.
#[derive(Debug)]
pub(super) struct Admitted(Arc<dyn Store>);

impl Admitted {
    /// A place, unless the store is closed.
    pub(super) fn enter(store: &Arc<dyn Store>) -> Option<Self> {
        store.admission().enter().then(|| Self(Arc::clone(store)))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.admission().leave();
    }
}

/// What a job may still change, as others see it; no more when this is dropped.
#[derive(Debug)]
struct Changing(Arc<dyn Store>, u64);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.admission().changed(self.1);
    }
}

/// A job and its place. Dropped unfinished, it ends with EIO and then leaves.
#[derive(Debug)]
pub(super) struct Task {
    // In this order: what is answered changes nothing any more, and the job is finished before it is counted out.
    changing: Option<Changing>,
    job: Job,
    admitted: Admitted,
}

impl Task {
    /// A job that has entered.
    pub(super) fn new(job: Job, admitted: Admitted) -> Self {
        let store = &admitted.0;
        let changing = store.admission().changes(&job).map(|id| Changing(Arc::clone(store), id));
        Self { changing, job, admitted }
    }

    /// Whether it has to wait for the disk itself, whatever is cached.
    pub(super) fn waits(&self) -> bool {
        self.job.request.command == Cmd::FLUSH || self.job.request.flags.has(CmdFlags::FUA)
    }

    /// Performs the job and answers it, or leaves that to whoever makes it durable.
    pub(super) fn run(self, finished: &mut Finished) {
        match self.admitted.0.perform(&self.job.request) {
            Performed::Answer(outcome) => self.answer(outcome, finished),
            Performed::Unsettled => Arc::clone(&self.admitted.0).settle(self, finished),
        }
    }

    /// Tells the outcome, then leaves.
    pub(super) fn answer(self, outcome: Outcome, finished: &mut Finished) {
        drop(self.changing);
        self.job.finish(outcome, finished);
    }
}
