//! A standing NOTIFY: one task per session that has one, which sends a RESIZE chunk after each change of size.
//!
//! What is sent and when is `policy`'s [`Notice`]; this waits for changes, for the moment, and for the client to have
//! taken the chunk before (a client that does not read has its notices merged, not queued). The last change is never lost.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nbd_gateway_net::Released;
#[cfg(test)]
use nbd_gateway_policy::notice::SuspendedNotice;
use nbd_gateway_policy::notice::{FinalChunk, Notice, NoticeEnd, Poll};
use nbd_gateway_policy::types::{Moment, Size, Span};
use nbd_gateway_proto::reply::put_chunk;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::put_resize;
use nbd_gateway_proto::{Chunk, ChunkFlags, Errno};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Session;
use super::reply::error_control;
use super::resize::ONE;
use crate::limits::RetryAfter;
use crate::request::{Client, Failure};

/// The longest that a notice waits before it asks again: a rate may have been raised meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// One NOTIFY of a client's, from its request to its last chunk.
#[derive(Debug)]
pub(super) struct Standing {
    header: RequestHeader,
    /// What [`Notice`] counts its time from.
    start: Instant,
    /// None: it has ended.
    state: Mutex<Option<State>>,
    ended: Notify,
}

#[derive(Debug)]
struct State {
    notice: Notice,
    /// Whether a chunk was sent.
    begun: bool,
}

impl Session {
    /// Begins a NOTIFY; a standing one is replaced.
    pub(super) fn start_notify(self: &Arc<Self>, header: &RequestHeader, interval: Duration, most: u64) {
        let credit = NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX));
        let notice = Notice::new(size(self.export.size()), credit, interval, Duration::ZERO);
        self.stand(*header, Instant::now(), State { notice, begun: false });
    }

    /// Takes the standing NOTIFY along, if there is one; its task ends.
    #[cfg(test)]
    pub(super) fn suspend_notify(&self) -> Option<(RequestHeader, SuspendedNotice, bool)> {
        let standing = self.notify.lock().take()?;
        let state = standing.state.lock().take()?;
        standing.ended.notify_one();
        let now = Moment::from_elapsed(standing.start.elapsed());
        Some((standing.header, state.notice.suspend(now), state.begun))
    }

    /// Goes on with one.
    #[cfg(test)]
    pub(super) fn resume_notify(self: &Arc<Self>, header: RequestHeader, suspended: &SuspendedNotice, begun: bool) {
        let now = Instant::now();
        let start = now.checked_sub(suspended.sent.unwrap_or_default()).unwrap_or(now);
        let notice = Notice::resume(suspended, Duration::ZERO, Moment::from_elapsed(start.elapsed()));
        self.begin_resize();
        self.stand(header, start, State { notice, begun });
    }

    fn stand(self: &Arc<Self>, header: RequestHeader, start: Instant, state: State) {
        let standing = Arc::new(Standing { header, start, state: Mutex::new(Some(state)), ended: Notify::new() });
        let before = self.notify.lock().replace(Arc::clone(&standing));
        if let Some(before) = before {
            before.end(self, NoticeEnd::Replaced);
        }
        tokio::spawn(stand(Arc::clone(self), standing));
    }

    /// Ends the standing one, if there is one.
    pub(super) fn end_notify(&self, why: NoticeEnd) {
        let standing = self.notify.lock().take();
        if let Some(standing) = standing {
            standing.end(self, why);
        }
    }

    /// Appends a RESIZE chunk and writes it.
    fn send_notice(&self, header: &RequestHeader, size: u64, last: bool) {
        self.unread.store(true, Ordering::Release);
        self.tell(size);
        let framing = self.agreement.framing;
        self.out.append(|batch| {
            batch.head(|out| put_resize(out, framing, last, header.cookie, header.offset, size));
            batch.release(Released { notices: 1, ..if last { ONE } else { Released::default() } });
        });
        self.flush();
    }

    fn send_final(&self, header: &RequestHeader, last: FinalChunk) {
        match last {
            FinalChunk::Empty => self.send_last(header, Chunk::NONE, &[]),
            FinalChunk::Shutdown => self.send_error(header, &Failure::shutting_down()),
        }
    }

    fn send_error(&self, header: &RequestHeader, failure: &Failure) {
        self.send_last(header, Chunk::ERROR, &error_control(failure.errno, &failure.message));
    }

    fn send_last(&self, header: &RequestHeader, kind: Chunk, control: &[u8]) {
        let framing = self.agreement.framing;
        self.out.append(|batch| {
            batch.head(|out| {
                put_chunk(out, framing, ChunkFlags::DONE, kind, header.cookie, header.offset, control.len());
                out.extend_from_slice(control);
            });
            batch.release(ONE);
        });
        self.flush();
    }
}

/// What its task waits for.
enum Wait {
    /// A change of the size, or the client.
    Change,
    Until(Instant),
}

impl Standing {
    /// Ends it at once, with its last chunk.
    fn end(&self, session: &Session, why: NoticeEnd) {
        if let Some(mut state) = self.state.lock().take() {
            match state.notice.end(why) {
                Some(last) => session.send_final(&self.header, last),
                None => session.release(ONE),
            }
        }
        self.ended.notify_one();
    }

    /// Sends what may be sent now, and says what to wait for; none: it has ended.
    fn advance(&self, session: &Session, shown: u64) -> Option<Wait> {
        let mut held = self.state.lock();
        let state = held.as_mut()?;
        let metrics = &session.export.resize_metrics;
        let merged = state.notice.merged();
        state.notice.offer(size(shown));
        metrics.notices_merged.inc_by(state.notice.merged().saturating_sub(merged));
        loop {
            let now = Moment::from_elapsed(self.start.elapsed());
            match state.notice.next(now) {
                Poll::Send { .. } if session.unread.load(Ordering::Acquire) => return Some(Wait::Change),
                Poll::Send { .. } => match session.export.take_notice(&session.notices) {
                    Err(RetryAfter { limit, wait }) if !state.begun => {
                        // Not even the first.
                        let why = format!("this session is at {limit}; try again in {}", Span(wait));
                        session.send_error(&self.header, &Failure::new(Errno::EPERM, why));
                        *held = None;
                        return None;
                    }
                    Err(RetryAfter { wait, .. }) => return Some(Wait::Until(Instant::now() + wait.min(ASK_AGAIN))),
                    Ok(()) => {
                        state.begun = true;
                        if let Poll::Send { size, last } = state.notice.poll(now) {
                            metrics.notices_sent.inc();
                            session.send_notice(&self.header, size.bytes(), last);
                        }
                    }
                },
                Poll::Idle => return Some(Wait::Change),
                Poll::Wait(until) => return Some(Wait::Until(self.start + Duration::from_nanos(until.nanos()))),
                Poll::Ended => {
                    *held = None;
                    return None;
                }
            }
        }
    }
}

async fn stand(session: Arc<Session>, standing: Arc<Standing>) {
    let mut shown = session.export.core.view().follow();
    loop {
        let mut taken = std::pin::pin!(session.read.notified());
        // Before it is looked at whether the client has taken the chunk before.
        taken.as_mut().enable();
        let size = shown.borrow_and_update().size;
        let Some(wait) = standing.advance(&session, size) else { break };
        let timer = async {
            match wait {
                Wait::Until(until) => tokio::time::sleep_until(until).await,
                Wait::Change => std::future::pending().await,
            }
        };
        tokio::select! {
            // In any order: each has everything looked at again.
            biased;
            changed = shown.changed() => if changed.is_err() {
                break;
            },
            () = standing.ended.notified() => {}
            () = taken => {}
            () = timer => {}
        }
    }
    session.notify.lock().take_if(|now| Arc::ptr_eq(now, &standing));
    // The view is gone, and nothing was said.
    if standing.state.lock().take().is_some() {
        session.release(ONE);
    }
    session.wake();
}

fn size(bytes: u64) -> Size {
    Size::new(bytes).unwrap_or(Size::MAX)
}
