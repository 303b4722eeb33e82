//! Resizes as jobs that a person can ask for: what each one is doing, and how the last ones ended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many ended jobs are remembered per export.
const REMEMBERED: usize = 32;

/// What a resize is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum JobState {
    /// For those before it.
    Waiting,
    /// Quota.
    Reserving,
    /// The backend has been asked, or its answer is being read back.
    AskingBackend,
    /// Requests past the new end are being finished.
    Draining,
    /// What was exposed is being zeroed, the books are being written.
    Settling,
    /// Done.
    Done,
    /// Not done, for the reason in `error`.
    Refused,
    /// Nobody knows yet whether it was done.
    Unsettled,
}

/// One resize.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Job {
    /// Its number, per export.
    pub id: u64,
    /// What was wished.
    pub wish: String,
    /// What it is doing.
    pub state: JobState,
    /// The size in force when it ended, in bytes.
    pub size: Option<u64>,
    /// Why it was refused, or what is unknown.
    pub error: Option<String>,
}

/// An export's jobs, newest last.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    next: AtomicU64,
    list: Mutex<VecDeque<Job>>,
}

impl Jobs {
    /// A new job, waiting.
    pub(crate) fn begin(&self, wish: String) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut list = self.list.lock();
        while list.len() >= REMEMBERED {
            let Some(ended) = list.iter().position(Job::is_over) else { break };
            list.remove(ended);
        }
        list.push_back(Job { id, wish, state: JobState::Waiting, size: None, error: None });
        id
    }

    /// It goes on.
    pub(crate) fn enter(&self, id: u64, state: JobState) {
        self.change(id, |job| job.state = state);
    }

    /// It ended.
    pub(crate) fn end(&self, id: u64, state: JobState, size: u64, error: Option<String>) {
        self.change(id, |job| {
            job.state = state;
            job.size = Some(size);
            job.error = error;
        });
    }

    /// Cancels one that still waits; whether it did.
    pub(crate) fn cancel(&self, id: u64) -> bool {
        let mut cancelled = false;
        self.change(id, |job| {
            if job.state == JobState::Waiting {
                job.state = JobState::Refused;
                cancelled = true;
            }
        });
        cancelled
    }

    /// Whether it was cancelled while it waited.
    pub(crate) fn was_cancelled(&self, id: u64) -> bool {
        self.list.lock().iter().any(|job| job.id == id && job.state == JobState::Refused)
    }

    /// All that are remembered.
    pub(crate) fn list(&self) -> Vec<Job> {
        self.list.lock().iter().cloned().collect()
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.list.lock().iter_mut().find(|j| j.id == id) {
            change(job);
        }
    }
}

impl Job {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, JobState::Done | JobState::Refused | JobState::Unsettled)
    }
}
