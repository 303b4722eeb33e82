//! The threads that move requests: one single-threaded runtime each.
//!
//! A lane and all sessions that use it live on one shard, so that a request and its reply never cross threads: measured
//! with one small-request client, a work-stealing runtime of two threads cost 1.4 times the CPU per request, all of it in
//! waking threads. Exports, and the lanes of one export, spread over the shards.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::limits::{Pacer, Turns};

/// All shards; cheap to clone. When the last clone is dropped, the threads end.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    shards: Arc<[Shard]>,
    next: Arc<AtomicUsize>,
    _end: Arc<watch::Sender<()>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shard {
    runtime: Handle,
    pacer: Arc<Pacer>,
}

impl Shards {
    /// Starts `threads` shards, at least one.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let (end, ending) = watch::channel(());
        let mut shards = Vec::new();
        for n in 0..threads.max(1) {
            shards.push(Shard::on(thread(format!("shard-{n}"), ending.clone())?));
        }
        Ok(Self { shards: shards.into(), next: Arc::default(), _end: Arc::new(end) })
    }

    /// A thread of the same kind that is no shard and lives as long: for work that must not delay requests.
    pub(crate) fn apart(&self, name: &str) -> io::Result<Shard> {
        thread(name.to_owned(), self._end.subscribe()).map(Shard::on)
    }

    /// The runtime of the caller as the only shard.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        let (end, _) = watch::channel(());
        Self { shards: [Shard::on(Handle::current())].into(), next: Arc::default(), _end: Arc::new(end) }
    }

    /// Every shard, in the order of their threads' names.
    pub(crate) fn all(&self) -> impl Iterator<Item = Shard> {
        self.shards.iter().cloned()
    }

    /// The next shard in turn.
    pub(crate) fn next(&self) -> Shard {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1);
        self.shards.get(at).cloned().unwrap_or_else(|| Shard::on(Handle::current()))
    }
}

/// Starts a thread with a runtime of its own, which ends when the sender is gone.
fn thread(name: String, mut ending: watch::Receiver<()>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(name).spawn(move || {
        // Whatever still runs then is dropped.
        runtime.block_on(async { while ending.changed().await.is_ok() {} });
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

impl Shard {
    fn on(runtime: Handle) -> Self {
        Self { runtime, pacer: Arc::default() }
    }

    /// For the sessions of one more lane here.
    pub(crate) fn turns(&self) -> Arc<Turns> {
        Turns::new(Arc::clone(&self.pacer))
    }

    /// Runs a task here.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }
}
