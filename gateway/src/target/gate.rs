//! Requests that are on their way to the backend, for a shrink that drains them.
//!
//! A batch holds the gate from the check against the view's end until its requests are in the target's table; lowering the
//! end waits for that. So the drain sees a request, or the request was checked against the new end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Core;

#[derive(Debug, Default)]
pub(super) struct Gate {
    passing: RwLock<()>,
    /// Ends of requests that are with a task of the gateway's own (bridge, growth).
    held: Mutex<Vec<(u64, u64)>>,
    next: AtomicU64,
}

/// A shrink that waits for requests past its end.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Told at each answer while it waits.
    answered: Notify,
    waits: AtomicBool,
}

impl Drain {
    /// Something was answered.
    pub(super) fn tell(&self) {
        if self.waits.load(Ordering::Acquire) {
            self.answered.notify_waiters();
        }
    }

    /// The next answer; to be enabled before the shrink looks whether it has to wait.
    pub(super) fn answered(&self) -> Notified<'_> {
        self.waits.store(true, Ordering::Release);
        self.answered.notified()
    }

    /// It waits no longer.
    pub(super) fn is_over(&self) {
        self.waits.store(false, Ordering::Release);
    }
}

/// A request with a task of the gateway's own.
#[derive(Debug)]
pub(super) struct Kept {
    core: Arc<Core>,
    id: u64,
}

impl Gate {
    /// Held while requests are judged and handed over. Never across an await.
    pub(super) fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.passing.read()
    }

    /// Runs `change` while nobody passes.
    pub(super) fn shut<T>(&self, change: impl FnOnce() -> T) -> T {
        let _alone = self.passing.write();
        change()
    }

    /// Keeps the end of a request of `core`'s in sight while a task has it.
    pub(super) fn keep(&self, core: &Arc<Core>, end: u64) -> Kept {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.held.lock().push((id, end));
        Kept { core: Arc::clone(core), id }
    }

    /// Whether a task has a request that ends past `end`.
    pub(super) fn holds_beyond(&self, end: u64) -> bool {
        self.held.lock().iter().any(|(_, e)| *e > end)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.core.gate.held.lock().retain(|(id, _)| *id != self.id);
        self.core.answered();
    }
}
