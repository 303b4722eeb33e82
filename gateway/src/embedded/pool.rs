//! The threads that block on disks: one small pool for all embedded disks of the process.
//!
//! Owns the queues of tasks not yet begun, and fairness between disks: they take turns, and none may keep all threads,
//! so that one disk that hangs stops only itself. Never looks into a request. Threads live as long as the process.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::Task;
use crate::request::Finished;

/// Tasks faster than this (on average) come from a cache: waking a second thread for them costs more than it gives.
const QUICK: Duration = Duration::from_micros(50);
/// How many tasks a thread takes at once from a queue whose tasks are quick.
const QUICK_SHARE: usize = 16;
/// How long finished replies may wait for the rest of a share.
const HOLD_REPLIES: Duration = Duration::from_micros(200);

/// The threads and their queues.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Disks with tasks queued or under way.
    queues: HashMap<u64, Queue>,
    /// Whose turn it is; each disk at most once.
    turns: VecDeque<u64>,
    threads: usize,
    idle: usize,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Threads busy with its tasks.
    busy: usize,
    /// Whether it is in `turns`.
    listed: bool,
    quick: bool,
}

impl Pool {
    /// The pool of the process, started on first use.
    pub(super) fn shared() -> io::Result<Arc<Self>> {
        static SHARED: Mutex<Option<Arc<Pool>>> = Mutex::new(None);
        let mut shared = SHARED.lock();
        if let Some(pool) = shared.as_ref() {
            return Ok(Arc::clone(pool));
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let pool = Self::start(cores.saturating_mul(2).max(4))?;
        *shared = Some(Arc::clone(&pool));
        Ok(pool)
    }

    /// A pool of `threads` threads, or of as many as can be started; none is an error.
    pub(super) fn start(threads: usize) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self { state: Mutex::default(), work: Condvar::new() });
        for number in 0..threads {
            let mine = Arc::clone(&pool);
            let started = thread::Builder::new().name(format!("disk-{number}")).spawn(move || mine.work());
            match started {
                Ok(_) => pool.state.lock().threads += 1,
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, threads = number, "fewer threads for disks than wanted");
                    break;
                }
            }
        }
        Ok(pool)
    }

    /// Queues tasks of the disk `id`. Wakes one thread at most; that one wakes the next if there is enough to do.
    pub(super) fn submit(&self, id: u64, tasks: Vec<Task>) {
        let mut state = self.state.lock();
        state.queues.entry(id).or_default().tasks.extend(tasks);
        state.list(id);
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// A thread's life.
    fn work(&self) {
        let mut finished = Finished::default();
        let mut share = VecDeque::new();
        loop {
            let id = self.take_share(&mut share);
            let quick = run_share(&mut share, &mut finished);
            self.end_share(id, &mut share, quick);
        }
    }

    /// Waits for a turn and takes a share of that disk's tasks.
    fn take_share(&self, share: &mut VecDeque<Task>) -> u64 {
        let mut state = self.state.lock();
        loop {
            let threads = state.threads.max(1);
            let Some(id) = state.turns.pop_front() else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
                continue;
            };
            if let Some(queue) = state.queues.get_mut(&id) {
                queue.listed = false;
                queue.busy += 1;
                let even = queue.tasks.len().div_ceil(threads);
                let count = if queue.quick { even.max(QUICK_SHARE) } else { even };
                // A task that waits for the disk is the last of its share, so that none is stuck behind it.
                let until = queue.tasks.iter().take(count).position(Task::waits).map_or(count, |last| last + 1);
                share.extend(queue.tasks.drain(..until.min(queue.tasks.len())));
            }
            state.list(id);
            if !state.turns.is_empty() && state.idle > 0 {
                self.work.notify_one();
            }
            return id;
        }
    }

    /// Gives back what was not begun, in its old place, and lets the disk have its next turn.
    fn end_share(&self, id: u64, rest: &mut VecDeque<Task>, quick: bool) {
        let mut state = self.state.lock();
        if let Some(queue) = state.queues.get_mut(&id) {
            queue.busy -= 1;
            queue.quick = quick;
            while let Some(task) = rest.pop_back() {
                queue.tasks.push_front(task);
            }
            if queue.busy == 0 && queue.tasks.is_empty() {
                state.queues.remove(&id);
            }
        }
        state.list(id);
    }
}

impl State {
    /// Gives a disk a turn if it has tasks, has none yet, and leaves a quarter of the threads to others.
    fn list(&mut self, id: u64) {
        let most = self.threads.saturating_sub(self.threads / 4).max(1);
        if let Some(queue) = self.queues.get_mut(&id)
            && !queue.listed
            && !queue.tasks.is_empty()
            && queue.busy < most
        {
            queue.listed = true;
            self.turns.push_back(id);
        }
    }
}

/// Runs tasks until all are done or they turn out slow; the rest stays in `share`, for other threads. Tells if they were quick.
fn run_share(share: &mut VecDeque<Task>, finished: &mut Finished) -> bool {
    let start = Instant::now();
    let (mut ran, mut unsent) = (0_u32, start);
    let mut quick = true;
    while let Some(task) = share.pop_front() {
        if task.waits() {
            surviving(|| finished.flush());
        }
        finished.takes_long();
        // A panic drops the task, which answers EIO; the thread and all other tasks live on.
        surviving(|| task.run(finished));
        ran += 1;
        let now = Instant::now();
        quick = now - start < QUICK * ran;
        if now - unsent > HOLD_REPLIES {
            surviving(|| finished.flush());
            unsent = now;
            if !quick {
                break;
            }
        }
    }
    surviving(|| finished.flush());
    quick
}

/// Keeps a panic from ending the thread.
fn surviving(act: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(act)).is_err() {
        tracing::error!("a request to an embedded disk panicked; it was answered with EIO");
    }
}
