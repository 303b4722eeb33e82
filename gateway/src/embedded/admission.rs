//! Counts the jobs inside a disk, and lets the last one out close the door.
//!
//! Owns the count and whether new jobs are taken. Both are one number, so that no job slips in after a close saw none.
//! Knows which ranges clients' jobs inside may still change, for whoever must not be overtaken by one whose client is gone.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::Cookie;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::request::{Job, SessionId};

/// Set once no more jobs are taken; the bits below count those inside.
const CLOSED: u64 = 1 << 63;

/// One disk's door.
#[derive(Debug, Default)]
pub(super) struct Admission {
    id: u64,
    state: AtomicU64,
    emptied: Notify,
    changing: Mutex<Changing>,
}

/// Clients' jobs inside that may change data.
#[derive(Debug, Default)]
struct Changing {
    next: u64,
    jobs: HashMap<u64, Change>,
}

#[derive(Debug)]
struct Change {
    session: SessionId,
    cookie: Cookie,
    range: ByteRange,
}

impl Admission {
    /// An open door with a number that no other in this process has.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), ..Self::default() }
    }

    /// Tells disks apart.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Notes what a job may change, if it is a client's: until [`Admission::changed`], which is before it is answered.
    pub(super) fn changes(&self, job: &Job) -> Option<u64> {
        let ticket = job.ticket().filter(|_| job.request.changes_data())?;
        let (session, cookie) = (ticket.client().id(), ticket.cookie());
        let change = Change { session, cookie, range: job.request.range()? };
        let mut changing = self.changing.lock();
        let id = changing.next;
        changing.next = id.wrapping_add(1);
        changing.jobs.insert(id, change);
        Some(id)
    }

    /// It changes nothing any more.
    pub(super) fn changed(&self, id: u64) {
        self.changing.lock().jobs.remove(&id);
    }

    /// What a session's jobs inside may still change.
    pub(super) fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        let changing = self.changing.lock();
        let own = changing.jobs.values().filter(|change| change.session == session);
        own.map(|change| (change.cookie, change.range)).collect()
    }

    /// Counts one in; false if the door is closed. Each true needs one [`Admission::leave`].
    pub(super) fn enter(&self) -> bool {
        let open = self.state.fetch_add(1, Ordering::AcqRel) & CLOSED == 0;
        if !open {
            self.leave();
        }
        open
    }

    /// Counts one out.
    pub(super) fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            self.emptied.notify_waiters();
        }
    }

    /// Whether nobody is inside.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.state.load(Ordering::Acquire) & !CLOSED == 0
    }

    /// Closes the door and waits until nobody is inside.
    ///
    /// Cancel-safe: yes; the door stays closed, and a later call waits for the rest.
    pub(super) async fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        loop {
            let mut emptied = pin!(self.emptied.notified());
            // Enrolled before looking, so that the last one out can't be missed in between.
            emptied.as_mut().enable();
            if self.state.load(Ordering::Acquire) == CLOSED {
                return;
            }
            emptied.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn close_waits_for_those_inside_and_nobody_enters_after() {
        let door = Admission::new();
        assert!(door.enter());
        let mut closing = Box::pin(door.close());
        assert!(poll_once(&mut closing).await.is_none(), "closed with one inside");
        assert!(!door.enter());
        assert!(poll_once(&mut closing).await.is_none(), "the one refused was counted out twice");
        door.leave();
        closing.await;
        door.close().await;
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! { biased; done = future => Some(done), () = std::future::ready(()) => None }
    }
}
