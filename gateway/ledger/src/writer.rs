//! The thread that owns the database. Everything that waits when it is free goes into one transaction, so that many
//! exports that grow at once cost one fsync; each answer leaves after the commit.
//!
//! It lives until it is told to close or nobody is left to ask, and no error ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use super::change::Change;
use super::home::Home;
use super::store::Store;
use super::{Event, EventFilter, LedgerError, Snapshot};

/// How many requests may wait; more wait with their senders.
const QUEUE: usize = 1024;
/// The most changes in one transaction.
const GROUP: usize = 256;

/// Where an answer goes. Whoever asked may be gone by then.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

#[derive(Debug)]
pub(super) enum Request {
    Write { change: Change, reply: Reply<i64> },
    Read(Query),
    Close(oneshot::Sender<()>),
}

/// What a test does with the database.
#[cfg(test)]
pub(super) struct Look(pub(super) Box<dyn FnOnce(&Store) + Send>);

#[cfg(test)]
impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

/// Everything that can be asked, each with the place for its answer.
#[derive(Debug)]
pub(super) enum Query {
    Snapshot(Reply<Snapshot>),
    Events(EventFilter, Reply<Vec<Event>>),
    BeforeNewest(EventFilter, Reply<u64>),
    #[cfg(test)]
    Inspect(Look),
}

impl Query {
    pub(super) fn answer(self, store: &Store) {
        match self {
            Self::Snapshot(reply) => drop(reply.send(store.snapshot())),
            Self::Events(filter, reply) => drop(reply.send(store.events(&filter))),
            Self::BeforeNewest(filter, reply) => drop(reply.send(store.before_newest(&filter))),
            #[cfg(test)]
            Self::Inspect(Look(look)) => look(store),
        }
    }
}

/// What others can see of the thread.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) path: PathBuf,
    pub(super) up: AtomicBool,
    pub(super) home: Home,
    /// The number of the newest event on the disk. Its sender goes with the thread.
    pub(super) told: watch::Receiver<u64>,
}

struct Writer {
    store: Store,
    told: watch::Sender<u64>,
    requests: mpsc::Receiver<Request>,
    shown: Arc<Shown>,
}

/// Starts the thread.
pub(super) fn start(store: Store, up: bool) -> Result<(mpsc::Sender<Request>, Arc<Shown>), LedgerError> {
    let (writer, sender) = Writer::new(store, up)?;
    let shown = Arc::clone(&writer.shown);
    let failed = |cause| LedgerError::Thread { path: shown.path.clone(), cause: Arc::new(cause) };
    thread::Builder::new().name("ledger".to_owned()).spawn(move || writer.run()).map_err(failed)?;
    Ok((sender, shown))
}

/// The way to it, and its end.
pub(super) fn mailbox() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(QUEUE)
}

pub(super) fn shown(store: &Store, up: bool) -> Result<(Shown, watch::Sender<u64>), LedgerError> {
    let (newest, told) = watch::channel(store.newest()?);
    let (path, home) = (store.path.clone(), Home::of(&store.path));
    Ok((Shown { path, up: AtomicBool::new(up), home, told }, newest))
}

/// The same as a task of the caller's runtime: there, nothing depends on how fast another thread is.
#[cfg(any(test, feature = "in-memory"))]
pub(super) fn start_here(store: Store, up: bool) -> Result<(mpsc::Sender<Request>, Arc<Shown>), LedgerError> {
    let (mut writer, sender) = Writer::new(store, up)?;
    let shown = Arc::clone(&writer.shown);
    drop(tokio::spawn(async move {
        let mut done = None;
        while done.is_none()
            && let Some(first) = writer.requests.recv().await
        {
            done = writer.serve(first);
        }
        writer.end(done);
    }));
    Ok((sender, shown))
}

impl Writer {
    fn new(store: Store, up: bool) -> Result<(Self, mpsc::Sender<Request>), LedgerError> {
        let (sender, requests) = mailbox();
        let (shown, told) = shown(&store, up)?;
        let shown = Arc::new(shown);
        Ok((Self { store, told, requests, shown }, sender))
    }

    fn run(mut self) {
        let mut done = None;
        while done.is_none()
            && let Some(first) = self.requests.blocking_recv()
        {
            done = self.serve(first);
        }
        self.end(done);
    }

    /// `done` hears that the database is closed.
    fn end(self, done: Option<oneshot::Sender<()>>) {
        self.shown.up.store(false, Ordering::Relaxed);
        let Self { store, requests, .. } = self;
        // The last connection moves what is in the log into the database. What can't be moved now stays in the log.
        drop(store);
        drop(requests);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Serves a request and those that wait behind it. Answers whom to tell that this was the last.
    fn serve(&mut self, first: Request) -> Option<oneshot::Sender<()>> {
        let (mut changes, mut replies, mut reads, mut done) = (Vec::new(), Vec::new(), Vec::new(), None);
        let mut next = Some(first);
        while let Some(request) = next.take() {
            match request {
                Request::Write { change, reply } => {
                    changes.push(change);
                    replies.push(reply);
                }
                Request::Read(read) => reads.push(read),
                Request::Close(reply) => done = Some(reply),
            }
            if done.is_none() && changes.len() < GROUP && reads.len() < GROUP {
                next = self.requests.try_recv().ok();
            }
        }
        if !changes.is_empty() {
            self.write(&changes, replies);
        }
        // After the commit: they see what was asked for before them, and nothing that could be undone.
        for read in reads {
            read.answer(&self.store);
        }
        done
    }

    fn write(&mut self, changes: &[Change], replies: Vec<Reply<i64>>) {
        if let Err(error) = self.shown.home.look() {
            for reply in replies {
                // Who asked may have gone.
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        let written = self.store.write(&changes.iter().collect::<Vec<_>>());
        let trouble =
            written.answers.iter().filter_map(|answer| answer.as_ref().err()).find(|error| error.is_trouble());
        if let Some(error) = trouble {
            if self.shown.up.swap(false, Ordering::Relaxed) {
                tracing::error!(%error, "the ledger can't be written; nothing grows until it can");
            }
        } else if written.reached && !self.shown.up.swap(true, Ordering::Relaxed) {
            tracing::info!(ledger = %self.shown.path.display(), "the ledger can be written again");
        }
        if written.reached
            && let Ok(newest) = self.store.newest()
        {
            self.told.send_if_modified(|told| std::mem::replace(told, newest) != newest);
        }
        for (reply, answer) in replies.into_iter().zip(written.answers) {
            // Who asked may have gone; what was asked is done.
            let _ = reply.send(answer);
        }
    }
}
