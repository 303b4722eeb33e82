//! Durability of one file: fdatasync, shared by all who wait for it at the same time.
//!
//! Owns the one place that calls fdatasync, and remembers when it failed. Invariant: a task is answered as durable only
//! by a successful fdatasync that began after the task was performed, and never after one has failed.
//!
//! Linux reports a failed write-back to an open file once, then drops or forgets the pages: the next fsync says success
//! although data are lost. So calls are serialised (of two at the same time only one would be told), and after a failure
//! every FLUSH and FUA fails until the file is opened again. FUA takes this way too rather than RWF_DSYNC: a synchronous
//! write would take that one report away unseen, and many FUA writes at once share one fdatasync here.

use std::os::fd::AsFd;
use std::path::Path;

use nbd_gateway_proto::Errno;
use parking_lot::Mutex;
use rustix::io::Errno as Os;

use super::Task;
use super::error::failure;
use crate::request::{Failure, Finished, Outcome};

/// The durability of one open file.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// Whether an fdatasync has failed. Locked during each call of it.
    failed: Mutex<bool>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: Vec<Task>,
    /// Whether a thread is in [`Durable::settle`] and will take `tasks`.
    attended: bool,
}

/// Why something is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotDurable {
    /// This fdatasync failed.
    Now(Os),
    /// An earlier one did.
    Before,
}

impl Durable {
    /// Answers the task once all that was performed before is durable. If another thread is at it, leaves the task to it.
    pub(super) fn settle(&self, task: Task, file: impl AsFd, path: &Path, finished: &mut Finished) {
        {
            let mut waiting = self.waiting.lock();
            waiting.tasks.push(task);
            if core::mem::replace(&mut waiting.attended, true) {
                return;
            }
        }
        let attendance = Attendance(self);
        while let Some(tasks) = attendance.next() {
            let result = self.sync(&file, path);
            for task in tasks {
                let outcome = match result {
                    Ok(()) => Outcome::Done,
                    Err(why) => Outcome::Failed(why.into()),
                };
                task.answer(outcome, finished);
            }
            finished.flush();
        }
    }

    /// Makes everything durable that was performed before this call. Blocks.
    pub(super) fn sync(&self, file: impl AsFd, path: &Path) -> Result<(), NotDurable> {
        let mut failed = self.failed.lock();
        if *failed {
            return Err(NotDurable::Before);
        }
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&file)).map_err(|os| {
            *failed = true;
            tracing::error!(path = %path.display(), error = %os, "fdatasync failed: writes may be lost, and every flush fails until the file is opened again");
            NotDurable::Now(os)
        })
    }
}

/// Ends the attendance when dropped, also by a panic: then the tasks that wait are dropped, which answers EIO.
struct Attendance<'a>(&'a Durable);

impl Attendance<'_> {
    /// Takes all who wait; none ends the attendance.
    fn next(&self) -> Option<Vec<Task>> {
        let mut waiting = self.0.waiting.lock();
        waiting.attended = !waiting.tasks.is_empty();
        waiting.attended.then(|| core::mem::take(&mut waiting.tasks))
    }
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        // After a normal end somebody else may attend already.
        if std::thread::panicking() {
            let mut waiting = self.0.waiting.lock();
            waiting.attended = false;
            let lost = core::mem::take(&mut waiting.tasks);
            drop(waiting);
            drop(lost);
        }
    }
}

impl From<NotDurable> for Failure {
    fn from(why: NotDurable) -> Self {
        match why {
            NotDurable::Now(os) => failure(os, None),
            NotDurable::Before => Failure::new(
                Errno::EIO,
                "an earlier flush failed and writes may be lost: the disk must be opened again",
            ),
        }
    }
}
