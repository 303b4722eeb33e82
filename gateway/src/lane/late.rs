//! Late writes: requests of lost connections that the backend may still carry out (promise 14).
//!
//! The end of a connection ends nothing in a server: it goes on with what it has received. So a request that changes data
//! and was not answered when its connection was lost stays here until the server is known to be over it. Meanwhile nothing
//! that overlaps it is sent, over any lane of the export and from anybody: clients, the bridge, zeroing, a resize.
//!
//! | what overlaps a late write | sent |
//! |---|---|
//! | the same request, again | at once, unless it overlaps another late write |
//! | a request that changes data | once the server is over the late write, and the copy that was sent again is answered |
//! | a READ | at once; if the late write failed (nobody told the client what became of it), once the server is over it |
//! | FLUSH, CACHE, BLOCK_STATUS | at once |
//!
//! That the copy was answered does not end a late write: the first copy may land after it. A READ need not wait for one
//! that is sent again or was answered: both copies have the same bytes, and nothing newer is sent there.
//!
//! Who knows that the server is over it tells so by [`refused`](LateWrites::refused),
//! [`connected`](LateWrites::connected), [`fenced`](LateWrites::fenced) or [`expire`](LateWrites::expire). This file decides
//! nothing of that, and has no task.
//!
//! The same gate holds back the first change after an export was opened, until the ledger has the mark that there was one.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::{Cmd, CmdFlags};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Lane, Server};
use crate::request::Request;

const LATE: u8 = 1;
/// The next change of data is the first since the export was opened.
const UNMARKED: u8 = 2;

/// The most late writes that are kept apart. Beyond that, those that are not sent again become one that covers them all.
const MOST: usize = 4096;

/// Where a connection came from.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub made: Instant,
    /// The process that answered, on a Unix socket.
    pub server: Option<Server>,
}

impl Link {
    /// A connection that is dialled now.
    pub(crate) fn new(server: Option<Server>) -> Self {
        Self { made: Instant::now(), server }
    }
}

#[derive(Clone, Debug)]
struct LateWrite {
    /// Never 0.
    id: u64,
    range: ByteRange,
    /// When its last connection was lost.
    lost: Instant,
    link: Link,
    /// It waits to be sent again, or has been, and that copy is not answered.
    again: bool,
    /// It was not answered with success.
    failed: bool,
    /// The server is over what it received on lost connections.
    over: bool,
    resize: bool,
}

impl LateWrite {
    /// Whether it holds back an overlapping request, which `changes` data, and is one that is sent `again` itself.
    fn holds(&self, changes: bool, again: bool) -> bool {
        if self.over { self.again && changes && !again } else { changes || self.failed }
    }
}

#[derive(Debug, Default)]
struct Inner {
    list: Vec<LateWrite>,
    last: u64,
    /// How long after the loss the server is taken to be over a late write.
    guard: Duration,
    /// A fence is configured.
    fence: bool,
    /// When the last fence began that succeeded: it covers every connection that was made before.
    fenced: Option<Instant>,
    /// The ledger has a mark of the first change.
    marks: bool,
    /// A request waits for the mark.
    mark_wanted: bool,
    /// There has been one.
    has_mark: bool,
    /// The server that the mark names. It is another when the mark is to be written anew.
    server: Option<Server>,
}

impl Inner {
    fn deadline(&self) -> Option<Instant> {
        self.list.iter().filter(|late| !late.over).map(|late| late.lost + self.guard).min()
    }

    /// Makes one of all that are not sent again and change data, so that the list stays short.
    fn merge(&mut self) {
        // A RESIZE ends alone, when its size is read.
        let (again, left): (Vec<_>, Vec<_>) = self.list.drain(..).partition(|late| late.again || late.resize);
        self.list = again;
        let cover = |all: LateWrite, late: LateWrite| LateWrite {
            range: all.range.cover(late.range),
            lost: all.lost.max(late.lost),
            link: Link {
                made: all.link.made.max(late.link.made),
                server: all.link.server.filter(|server| late.link.server.as_ref() == Some(server)),
            },
            failed: all.failed || late.failed,
            over: all.over && late.over,
            ..all
        };
        self.list.extend(left.into_iter().reduce(cover));
    }
}

/// The late writes of one export, shared by its lanes.
#[derive(Debug, Default)]
pub(crate) struct LateWrites {
    /// [`LATE`], [`UNMARKED`]; 0, nearly always: the way of a request looks at this and no further.
    state: AtomicU8,
    inner: Mutex<Inner>,
    /// Told when there is something to do for whoever keeps the guard, the fence and the mark.
    news: Notify,
    /// Told when the server is known to be over some, or a copy was answered.
    cleared: Notify,
    /// Whether no backend is to be dialled, because a fence is about to be used.
    fencing: watch::Sender<bool>,
    lanes: Mutex<Vec<Weak<Lane>>>,
}

/// The range that a request may change, if it does: a RESIZE may cut off everything from its size on.
pub(crate) fn reach(request: &Request) -> Option<ByteRange> {
    match request.command {
        command if command.changes_data() => request.range(),
        Cmd::RESIZE if !request.flags.has(CmdFlags::QUERY) && !request.flags.has(CmdFlags::NOTIFY) => {
            Some(ByteRange::beyond(request.offset))
        }
        _ => None,
    }
}

impl LateWrites {
    /// With a guard, and perhaps a fence.
    pub(crate) fn new(guard: Duration, fence: bool) -> Arc<Self> {
        let late = Self::default();
        *late.inner.lock() = Inner { guard, fence, ..Inner::default() };
        Arc::new(late)
    }

    /// A lane of the export.
    pub(super) fn join(&self, lane: &Arc<Lane>) {
        self.lanes.lock().push(Arc::downgrade(lane));
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The export was opened, with that server; the ledger is to have a mark before its data is changed.
    pub(crate) fn marks(&self, server: Option<Server>) {
        let mut inner = self.inner.lock();
        (inner.marks, inner.server) = (true, server);
        self.state.fetch_or(UNMARKED, Ordering::AcqRel);
    }

    /// If a request waits for the mark: the server that it is to name.
    pub(crate) fn mark_wanted(&self) -> Option<Option<Server>> {
        let inner = self.inner.lock();
        let unmarked = self.state.load(Ordering::Acquire) & UNMARKED != 0;
        (unmarked && inner.mark_wanted).then(|| inner.server.clone())
    }

    /// The ledger has the mark, with this server.
    pub(crate) fn marked(&self, server: Option<&Server>) {
        let mut inner = self.inner.lock();
        if inner.server.as_ref() == server {
            inner.mark_wanted = false;
            inner.has_mark = true;
            self.state.fetch_and(!UNMARKED, Ordering::AcqRel);
        }
    }

    /// Whether the ledger has a mark of this opening.
    pub(crate) fn has_mark(&self) -> bool {
        self.inner.lock().has_mark
    }

    /// How long after a loss the server is taken to be over what it had received.
    pub(crate) fn guard(&self) -> Duration {
        self.inner.lock().guard
    }

    /// Whether there are late writes that a fence would end.
    pub(crate) fn wants_fence(&self) -> bool {
        let inner = self.inner.lock();
        inner.fence && inner.list.iter().any(|late| !late.over)
    }

    /// A fence was used, or can't be now: backends may be dialled again.
    pub(crate) fn fence_tried(&self) {
        self.fencing.send_if_modified(|fencing| std::mem::replace(fencing, false));
    }

    /// Goes by another guard from now on.
    pub(crate) fn set_guard(&self, guard: Duration) {
        self.inner.lock().guard = guard;
        self.news.notify_one();
    }

    /// Whether anything may have to wait.
    pub(crate) fn any(&self) -> bool {
        self.state.load(Ordering::Acquire) != 0
    }

    /// Whether a request may be sent; `own` is the late write that it is sent again for, or 0. Called under a lane's table,
    /// as is everything that looks at the answer: [`send_what_may_be`](Self::send_what_may_be) then finds it there.
    pub(super) fn admits(&self, request: &Request, own: u64) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let change = reach(request);
        if state & UNMARKED != 0 && change.is_some() {
            self.inner.lock().mark_wanted = true;
            self.news.notify_one();
            return false;
        }
        if state & LATE == 0 {
            return true;
        }
        let range = change.or_else(|| request.range().filter(|_| request.command == Cmd::READ));
        let Some(range) = range else { return true };
        let inner = self.inner.lock();
        !inner
            .list
            .iter()
            .any(|late| late.id != own && late.range.overlaps(range) && late.holds(change.is_some(), own != 0))
    }

    /// A request was not answered when its connection was lost; `own` is what this returned when it was lost before, or 0.
    pub(super) fn lost(&self, own: u64, request: &Request, link: &Link) -> u64 {
        let Some(range) = reach(request) else { return 0 };
        let mut inner = self.inner.lock();
        let over = inner.guard.is_zero() || inner.fenced.is_some_and(|fenced| link.made < fenced);
        let (lost, link, resize) = (Instant::now(), link.clone(), request.command == Cmd::RESIZE);
        let earlier = inner.list.iter_mut().find(|late| late.id == own);
        let id = if let Some(late) = earlier {
            *late = LateWrite { lost, link, over, again: true, ..late.clone() };
            own
        } else {
            if inner.list.len() >= MOST {
                inner.merge();
            }
            inner.last += 1;
            let id = inner.last;
            inner.list.push(LateWrite { id, range, lost, link, again: true, failed: false, over, resize });
            id
        };
        self.state.fetch_or(LATE, Ordering::AcqRel);
        id
    }

    /// A request that its task has given up is with the backend: nothing that overlaps it is sent before it is answered.
    pub(super) fn left_behind(&self, request: &Request, link: &Link) -> u64 {
        let id = self.lost(0, request, link);
        self.clear_where(|late| late.id == id, |late| late.over = true);
        id
    }

    /// All requests of a connection that was just lost are here: a fence is used before anything is dialled.
    pub(super) fn all_lost(&self) {
        if self.wants_fence() {
            self.fencing.send_replace(true);
        }
        self.news.notify_one();
    }

    /// If a fence is about to be used: when that is over, whatever came of it.
    pub(super) fn fenced_soon(&self) -> Option<impl Future<Output = ()> + use<>> {
        let mut fencing = self.fencing.subscribe();
        let soon = *fencing.borrow_and_update();
        let tried = async move {
            // An error means that there is nobody left to use it.
            let _ = fencing.wait_for(|fencing| !fencing).await;
        };
        soon.then_some(tried)
    }

    /// The copy that was sent again is answered, or will not be sent.
    pub(super) fn answered(&self, id: u64, success: bool) {
        if id == 0 {
            return;
        }
        let it = |late: &LateWrite| late.id == id;
        if self.clear_where(it, |late| (late.again, late.failed) = (false, late.failed || !success)) > 0 {
            self.news.notify_one();
        }
    }

    /// Changes some, and lets go of those that hold nothing back any more. How many it was.
    fn clear_where(&self, which: impl Fn(&LateWrite) -> bool, change: impl Fn(&mut LateWrite)) -> usize {
        let mut inner = self.inner.lock();
        let mut changed = 0;
        inner.list.retain_mut(|late| {
            if which(late) {
                change(late);
                changed += 1;
            }
            !late.over || late.again
        });
        if inner.list.is_empty() {
            self.state.fetch_and(!LATE, Ordering::AcqRel);
        }
        drop(inner);
        if changed > 0 {
            self.cleared.notify_waiters();
        }
        changed
    }

    fn over_where(&self, which: impl Fn(&LateWrite) -> bool) -> usize {
        let over = self.clear_where(|late| !late.over && which(late), |late| late.over = true);
        if over > 0 {
            self.news.notify_one();
        }
        over
    }

    /// Nobody listens where the backend was. A process that is known and still runs may only have closed its socket, and
    /// be about to finish.
    pub(crate) fn refused(&self) -> usize {
        self.over_where(|late| late.link.server.as_ref().is_none_or(|server| !server.is_alive()))
    }

    /// A connection has been made.
    pub(crate) fn connected(&self, link: &Link) -> usize {
        let Some(now) = &link.server else { return 0 };
        let ended = |was: &Server| was.ended_before(now);
        {
            let mut inner = self.inner.lock();
            if inner.server.as_ref().is_some_and(|was| was != now) {
                // The mark has to name the server that has what is in flight, or none.
                inner.server = inner.server.take().filter(ended).map(|_| now.clone());
                if inner.marks {
                    self.state.fetch_or(UNMARKED, Ordering::AcqRel);
                }
            }
        }
        self.over_where(|late| late.link.server.as_ref().is_some_and(ended))
    }

    /// A fence that began at `begun` has succeeded.
    pub(crate) fn fenced(&self, begun: Instant) -> usize {
        self.inner.lock().fenced = Some(begun);
        self.over_where(|late| late.link.made < begun)
    }

    /// The guard of some is over; the next one's is at the moment that this returns.
    pub(crate) fn expire(&self) -> (usize, Option<Instant>) {
        let (now, guard) = (Instant::now(), self.inner.lock().guard);
        let over = self.over_where(|late| late.lost + guard <= now);
        (over, self.inner.lock().deadline())
    }

    /// An earlier process, or an earlier opening, may have left requests anywhere, at the latest at `lost`.
    pub(crate) fn suspect(&self, lost: Instant, server: Option<Server>) {
        let mut inner = self.inner.lock();
        if inner.guard.is_zero() {
            return;
        }
        inner.last += 1;
        let (id, link) = (inner.last, Link { made: lost, server });
        let (again, failed, over, resize) = (false, false, false, false);
        inner.list.push(LateWrite { id, range: ByteRange::beyond(0), lost, link, again, failed, over, resize });
        self.state.fetch_or(LATE, Ordering::AcqRel);
        self.news.notify_one();
    }

    /// A RESIZE to `size` may be among what an earlier process or opening has left: apart from the rest, for it ends when
    /// its size is read.
    pub(crate) fn suspect_resize(&self, size: u64) {
        let mut inner = self.inner.lock();
        let Some(last) = inner.list.iter().filter(|late| !late.over).max_by_key(|late| late.lost).cloned() else {
            return;
        };
        inner.last += 1;
        let id = inner.last;
        inner.list.push(LateWrite { id, range: ByteRange::beyond(size), resize: true, again: false, ..last });
    }

    /// The last loss of those that the server is not known to be over.
    pub(crate) fn outstanding(&self) -> Option<(Instant, Option<Server>)> {
        let inner = self.inner.lock();
        let last = inner.list.iter().filter(|late| !late.over).max_by_key(|late| late.lost)?;
        let one = inner.list.iter().all(|late| late.link.server == last.link.server);
        Some((last.lost, last.link.server.clone().filter(|_| one)))
    }

    pub(crate) fn count(&self) -> usize {
        self.inner.lock().list.len()
    }

    /// Whether a RESIZE was lost, or left behind, that the server may still carry out.
    pub(crate) fn has_resize(&self) -> bool {
        self.state.load(Ordering::Acquire) & LATE != 0
            && self.inner.lock().list.iter().any(|late| late.resize && (late.again || !late.over))
    }

    /// Such a RESIZE turned out to be done.
    pub(crate) fn resize_confirmed(&self) {
        if self.clear_where(|late| late.resize, |late| (late.over, late.again) = (true, false)) > 0 {
            self.news.notify_one();
        }
    }

    /// Waits until none overlaps `range`. Cancel-safe: yes.
    pub(crate) async fn clear_of(&self, range: ByteRange) {
        loop {
            let cleared = self.cleared.notified();
            tokio::pin!(cleared);
            cleared.as_mut().enable();
            if self.state.load(Ordering::Acquire) & LATE == 0
                || !self.inner.lock().list.iter().any(|late| late.range.overlaps(range))
            {
                return;
            }
            cleared.await;
        }
    }

    /// Waits for something to do: a deadline may have come nearer, a fence or the mark is wanted, or something can be
    /// sent. Cancel-safe: yes.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Has each lane send what waited and need not wait any more.
    pub(crate) fn send_what_may_be(&self) {
        self.lanes().iter().for_each(|lane| lane.send_what_may_be());
    }

    /// Whether another lane than `than` has answered, or has with the backend, something that overlaps a request which was
    /// sent at `at`, by the clock.
    pub(super) fn touched_beside(&self, than: &Lane, at: u64, range: ByteRange) -> bool {
        self.lanes().iter().filter(|lane| !std::ptr::eq(&***lane, than)).any(|lane| lane.touched(at, range))
    }
}

#[cfg(test)]
mod suspend;
#[cfg(test)]
mod tests;
