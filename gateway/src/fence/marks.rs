//! The marks of exports that have changed data since they were opened.
//!
//! A gateway that starts after an unclean end does not know what was in flight. The ledger has a mark for each export that
//! had changed data and was not closed in order; the export is opened with a late write over all of it. A mark is one
//! commit at the first change, and another when the export is closed and every request was answered.
//!
//! A ledger that can't take a mark does not keep clients from writing: an empty file, `unmarked`, beside it says that every
//! export is to be taken for marked after an unclean end. Where that can't be written either, an error in the log says what
//! is at stake.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd_gateway_ledger::{Change, Ledger, Mark};
use nbd_gateway_policy::types::ExportName;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::lane::Server;

/// How long the first change waits for the ledger.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest guard that can be configured.
const LONGEST: Duration = Duration::from_secs(3600);
/// The file that stands for all marks that could not be written.
const ALL: &str = "unmarked";

/// What an earlier process, or an earlier opening, has left.
#[derive(Clone, Debug)]
struct Left {
    backend: String,
    server: Option<Server>,
    /// When the last of its connections was lost, at the latest.
    lost: Instant,
    /// The mark in the ledger is one of this process.
    renewed: bool,
}

#[derive(Debug)]
pub(crate) struct Marks {
    ledger: Ledger,
    left: Mutex<HashMap<ExportName, Left>>,
    /// The file [`ALL`], and whether it was there at the start.
    all: Option<(PathBuf, bool)>,
    begun: Instant,
}

impl Marks {
    /// With what the ledger in `state` remembers; no directory: for tests.
    pub(crate) fn new(ledger: Ledger, marks: &[Mark], state: Option<&Path>) -> Self {
        // The process that left them is over: this one has its lock.
        let lost = Instant::now();
        let left = |mark: &Mark| {
            let server = mark.server.as_deref().and_then(|server| server.parse().ok());
            (mark.export.clone(), Left { backend: mark.backend.clone(), server, lost, renewed: false })
        };
        let all = state.map(|state| state.join(ALL)).map(|path| {
            let there = path.exists();
            (path, there)
        });
        Self { ledger, left: Mutex::new(marks.iter().map(left).collect()), all, begun: lost }
    }

    /// When requests that were left at a backend were lost, and the server that has them, if it is known which. None: none
    /// were left. Another export of the same backend counts too.
    pub(crate) fn left(&self, export: &ExportName, backend: &str) -> Option<(Instant, Option<Server>)> {
        let left = self.left.lock();
        let mut found: Vec<&Left> = left
            .iter()
            .filter(|(name, left)| *name == export || left.backend == backend)
            .map(|(_, left)| left)
            .collect();
        if self.all.as_ref().is_some_and(|(_, there)| *there) {
            return Some((found.iter().map(|left| left.lost).fold(self.begun, Instant::max), None));
        }
        let last = found.iter().map(|left| left.lost).max()?;
        let server = found.pop().and_then(|left| left.server.clone()).filter(|_| found.is_empty());
        Some((last, server))
    }

    /// Marks an export before its first change; durable when it returns, or as good as can be.
    pub(crate) async fn mark(&self, export: &ExportName, backend: &str, server: Option<&Server>) {
        let mark = Mark { export: export.clone(), backend: backend.to_owned(), server: server.map(Server::to_string) };
        let error = match timeout(LIMIT, self.ledger.write(Change::Mark(mark))).await {
            Ok(Ok(())) => {
                if let Some(left) = self.left.lock().get_mut(export) {
                    left.renewed = true;
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the ledger did not answer within {LIMIT:?}"),
        };
        match self.mark_all() {
            Ok(()) => {
                tracing::warn!(export = export.as_str(), %error, "cannot record in the ledger that the export changes data; after an unclean end, writes to every export wait for late-write-guard");
            }
            Err(also) => {
                tracing::error!(export = export.as_str(), %error, %also, "cannot record that the export changes data; if the gateway is killed now, the next one does not hold writes back that the server may still carry out; make room in the state directory");
            }
        }
    }

    fn mark_all(&self) -> io::Result<()> {
        let Some((path, _)) = &self.all else { return Err(io::ErrorKind::NotFound.into()) };
        fs::File::create(path)?;
        path.parent().map_or(Ok(()), |state| fs::File::open(state)?.sync_all())
    }

    /// Whether an earlier process, or an earlier opening, has left something of an export.
    pub(crate) fn has(&self, export: &ExportName) -> bool {
        self.left.lock().contains_key(export)
    }

    /// An export is closed, and every request was answered.
    pub(crate) async fn unmark(&self, export: &ExportName) {
        self.left.lock().remove(export);
        if let Err(error) = self.ledger.write(Change::Unmark(vec![export.clone()])).await {
            tracing::debug!(export = export.as_str(), %error, "the mark stays; the next start holds writes back for nothing");
        }
    }

    /// An export is closed with requests that its server may still carry out: whoever opens it waits for them.
    pub(crate) fn leave(&self, export: &ExportName, backend: &str, server: Option<Server>, lost: Instant) {
        let left = Left { backend: backend.to_owned(), server, lost, renewed: true };
        self.left.lock().insert(export.clone(), left);
    }

    /// Takes off what earlier processes left longer ago than any guard lasts, so that names of templates that nobody opens
    /// again do not stay for good. Cancel-safe: yes.
    pub(crate) async fn sweep(&self) {
        tokio::time::sleep_until(self.begun + LONGEST).await;
        let old: Vec<ExportName> = {
            let mut left = self.left.lock();
            let old = left.iter().filter(|(_, left)| !left.renewed).map(|(name, _)| name.clone()).collect();
            left.retain(|_, left| left.renewed);
            old
        };
        // What stays in the ledger is swept after the next start.
        let _ = if old.is_empty() { Ok(()) } else { self.ledger.write(Change::Unmark(old)).await };
    }

    /// The end of the process: all exports are closed in order, or left.
    pub(crate) fn close(&self) {
        let clean = self.left.lock().values().all(|left| !left.renewed);
        if let Some((path, _)) = self.all.as_ref().filter(|_| clean) {
            // Mostly it is not there.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::place::Place;

    fn export(name: &str) -> ExportName {
        ExportName::new(name).unwrap()
    }

    fn marks(state: Option<&Path>, left: &[(&str, &str)]) -> Marks {
        let mark = |(name, backend): &(&str, &str)| Mark {
            export: export(name),
            backend: (*backend).to_owned(),
            server: None,
        };
        Marks::new(Ledger::in_memory().unwrap(), &left.iter().map(mark).collect::<Vec<_>>(), state)
    }

    #[tokio::test]
    async fn who_opens_the_same_name_or_the_same_backend_is_told_of_what_was_left_until_it_is_taken_off() {
        let marks = marks(None, &[("a", "host:1 x")]);
        assert!(marks.left(&export("b"), "host:1 y").is_none());
        assert!(marks.left(&export("a"), "host:2 z").is_some() && marks.left(&export("b"), "host:1 x").is_some());
        let lost = Instant::now() + Duration::from_secs(1);
        marks.leave(&export("a"), "host:3 x", None, lost);
        assert_eq!(marks.left(&export("a"), "host:3 x").map(|(lost, _)| lost), Some(lost));
        marks.unmark(&export("a")).await;
        assert!(marks.left(&export("a"), "host:3 x").is_none() && !marks.has(&export("a")));
    }

    #[tokio::test]
    async fn marks_that_nobody_asks_for_are_swept_and_those_of_this_process_stay() {
        let ledger = Ledger::in_memory().unwrap();
        let old = ["gone", "opened"].map(|name| Mark { export: export(name), backend: String::new(), server: None });
        for mark in &old {
            ledger.write(Change::Mark(mark.clone())).await.unwrap();
        }
        let marks = Marks::new(ledger.clone(), &old, None);
        marks.mark(&export("opened"), "host:1 x", None).await;
        // Not before: the ledger's thread knows no virtual time.
        tokio::time::pause();
        marks.sweep().await;
        let left: Vec<_> = ledger.snapshot().await.unwrap().marks.into_iter().map(|mark| mark.export).collect();
        assert_eq!(left, [export("opened")]);
        assert!(!marks.has(&export("gone")) && marks.has(&export("opened")));
    }

    /// The disk is full. An empty file needs no room.
    #[tokio::test]
    async fn what_the_ledger_does_not_take_makes_every_export_careful_after_an_unclean_end() {
        let place = Place::fresh();
        let state = place.path("state");
        fs::create_dir(&state).unwrap();
        let first = marks(Some(&state), &[]);
        assert!(first.left(&export("a"), "host:1 x").is_none());
        // One that is closed takes nothing.
        first.ledger.close().await;
        first.mark(&export("a"), "host:1 x", None).await;
        let second = marks(Some(&state), &[]);
        assert!(second.left(&export("any"), "host:2 y").is_some());
        second.close();
        assert!(marks(Some(&state), &[]).left(&export("any"), "host:2 y").is_none(), "that one ended in order");
    }
}
