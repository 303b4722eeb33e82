//! Targets, and the core of an open export in front of one.
//!
//! A [`Target`] takes jobs and finishes them: [`Lanes`] to an NBD server, or an embedded disk. What reads ahead is a
//! target in front of lanes (`read_ahead`); so would be what moves a disk. [`Core`] is the inside of an open export:
//! its target, the [`View`] that everyone reads, and the bookkeeping of requests in flight. `bridge` carries requests
//! that the target can't take as they are; `ceiling` answers requests between the end and a ceiling. This room knows no
//! sessions, quotas or resizes.

mod bridge;
mod ceiling;
mod core;
mod embedded;
mod facts;
mod gate;
mod held;
mod lanes;
mod open;
mod orphans;
mod presence;
mod probes;
mod ranges;
mod read_ahead;
mod second;
pub(crate) mod style;
#[cfg(test)]
mod suspend;
#[cfg(test)]
mod tests;
mod view;
pub(crate) mod zeroing;

use std::fmt::Debug;
use std::pin::Pin;

use nbd_gateway_policy::types::{ByteRange, ExportName};
use nbd_gateway_proto::Cookie;

pub(crate) use self::core::Core;
pub(crate) use facts::Facts;
pub(crate) use held::Held;
#[cfg(test)]
pub(crate) use held::{Progress, TakenRequest};
pub(crate) use lanes::Lanes;
pub(crate) use open::{ObserveSize, OpenTargetError, TargetParts, open};
pub(crate) use presence::{Presence, Verdict};
pub(crate) use view::{Shown, View};

use crate::embedded::DiskError;
use crate::fault::Fault;
use crate::request::{Failure, Finished, Job, Origin, Outcome, SessionId};

/// A future of a target's.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a size is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A resize depends on the size, and does not wait for a poll that hangs.
    Resize,
    /// A poll: one at a time for each server, however many exports it has.
    Look,
}

/// Serves an export: takes admitted requests and finishes each exactly once. One virtual call for each batch.
pub(crate) trait Target: Debug + Send + Sync {
    /// The backend's properties, as of the opening.
    fn facts(&self) -> &Facts;

    /// Takes a batch of one session, or of the gateway's own. Requests of one session may be carried out in any
    /// order. Returns at once.
    fn submit(&self, origin: Origin, jobs: &mut Vec<Job>, finished: &mut Finished);

    /// No request past `end` is submitted until a size is published again. A target must not keep data past `end`, or
    /// request any of its own accord.
    fn lower_end(&self, _end: u64) {}

    /// Whether a request past `end` is in flight. An embedded disk waits for its own requests when it is resized.
    fn is_busy_beyond(&self, _end: u64) -> bool {
        false
    }

    /// The ranges of a session's requests in flight that may change data.
    fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)>;

    /// The backend's size now, in bytes, read from the backend. Cancel-safe: yes.
    fn read_size(&self, purpose: Purpose) -> Pending<'_, Result<u64, Fault>>;

    /// Sets the size of an embedded disk; the size that is now in force. Cancel-safe: dropped, it is still set.
    fn set_size(&self, _size: u64) -> Pending<'_, Result<u64, DiskError>> {
        Box::pin(async { Err(DiskError::Closed) })
    }

    /// Whether it has nothing in it that only it can finish.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        true
    }

    /// Passes waiting requests to the target behind it, and every new one, until it [goes on](Self::go_on).
    #[cfg(test)]
    fn rest(&self) {}

    /// Goes on after a rest, in which the target behind it may have got requests from elsewhere.
    #[cfg(test)]
    fn go_on(&self) {}

    /// Its connections to a server, if it has any.
    fn lanes(&self) -> Option<&Lanes> {
        None
    }

    /// Finishes requests in flight and closes the backend. Cancel-safe: no.
    fn close<'a>(&'a self, export: &'a ExportName) -> Pending<'a, ()>;
}

fn lost() -> Outcome {
    Outcome::Failed(Failure::lost())
}
