//! What serves an export's requests, and what they pass on the way there.
//!
//! A [`Target`] takes jobs and finishes them: [`Lanes`] to an NBD server, or an embedded disk; what reads ahead, or moves a
//! disk, is one that passes jobs on to another. [`Core`] is the inside of an open export: its target, the [`View`] that
//! everyone reads, and the bookkeeping of requests on their way between them. Requests that the target can't take as they
//! are go over the `bridge`; what lies between the end and a ceiling is `ceiling`'s. Knows nothing of sessions, quotas and
//! of what is wished for.

mod bridge;
mod ceiling;
mod core;
mod embedded;
mod facts;
mod gate;
mod lanes;
mod open;
mod orphans;
mod presence;
mod probes;
mod ranges;
mod second;
pub(crate) mod style;
#[cfg(test)]
mod tests;
mod view;
pub(crate) mod zeroing;

use std::fmt::Debug;
use std::pin::Pin;

use nbd_gateway_policy::types::ExportName;

pub(crate) use self::core::Core;
pub(crate) use facts::Facts;
pub(crate) use lanes::Lanes;
pub(crate) use open::{ObserveSize, OpenTargetError, TargetParts, open};
pub(crate) use orphans::Waiting;
pub(crate) use presence::{Presence, Verdict};
pub(crate) use view::{Shown, View};

use crate::embedded::DiskError;
use crate::fault::Fault;
use crate::proto::{Cookie, Errno};
use crate::request::{Failure, Finished, Job, Outcome};

/// What a target does in its own time.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a size is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A resize depends on it, and waits for no look that hangs.
    Resize,
    /// Somebody only wants to know: one at a time for each server, however many exports it has.
    Look,
}

/// What serves an export: takes admitted requests and finishes each exactly once. One virtual call for each batch.
pub(crate) trait Target: Debug + Send + Sync {
    /// What it said about itself when it was opened.
    fn facts(&self) -> &Facts;

    /// Takes a batch of one session, or of the gateway's own (session 0). Requests of one session may be carried out in any
    /// order. Returns at once.
    fn submit(&self, session: u64, jobs: &mut Vec<Job>, finished: &mut Finished);

    /// No request past `end` is submitted from now on, until the size is read again: nothing past it may be kept, or asked
    /// for on its own account.
    fn lower_end(&self, _end: u64) {}

    /// Whether a request past `end` is in flight; an embedded disk waits for its own.
    fn is_busy_beyond(&self, _end: u64) -> bool {
        false
    }

    /// The ranges of a session's requests in flight that may change data.
    fn ranges_of(&self, session: u64) -> Vec<(Cookie, u64, u64)>;

    /// The backend's size now, in bytes, read from the backend. Cancel-safe: yes.
    fn read_size(&self, purpose: Purpose) -> Pending<'_, Result<u64, Fault>>;

    /// Sets the size of an embedded disk; the size that is now in force. Cancel-safe: dropped, it is still set.
    fn set_size(&self, _size: u64) -> Pending<'_, Result<u64, DiskError>> {
        Box::pin(async { Err(DiskError::Closed) })
    }

    /// The connections to a server that it takes, with what only they have; None: it has none.
    fn lanes(&self) -> Option<&Lanes> {
        None
    }

    /// Finishes what is in flight and lets go. Cancel-safe: no.
    fn close<'a>(&'a self, export: &'a ExportName) -> Pending<'a, ()>;
}

fn lost() -> Outcome {
    Outcome::Failed(Failure::new(Errno::EIO, "the request was lost in the gateway"))
}
