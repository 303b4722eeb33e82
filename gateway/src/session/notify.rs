//! A standing NOTIFY: one task per session that has one, which sends a RESIZE chunk after each change of size.
//!
//! What is sent and when is `policy`'s [`Notice`]; this waits for changes, for the moment, and for the client to have
//! taken the chunk before (a client that does not read has its notices merged, not queued). The last change is never lost.

use nbd_gateway_policy::types::Span;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nbd_gateway_policy::notice::{End, FinalChunk, Notice, Poll};
use nbd_gateway_policy::types::{Moment, Size};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Session;
use super::resize::ONE;
use crate::limits::RetryAfter;
use crate::net::Released;
use crate::proto::reply::put_chunk;
use crate::proto::request::RequestHeader;
use crate::proto::resize::put_resize;
use crate::proto::{Chunk, ChunkFlags, Errno};
use crate::request::Client;

/// The longest that a notice waits before it asks again: a rate may have been raised meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The way to end a standing NOTIFY.
#[derive(Debug)]
pub(super) struct Standing {
    number: u64,
    end: watch::Sender<Option<End>>,
}

impl Session {
    /// Begins one; a standing one is replaced.
    pub(super) fn start_notify(self: &Arc<Self>, header: &RequestHeader, interval: Duration, most: u64) {
        let (end, ending) = watch::channel(None);
        let number = self.notifies.fetch_add(1, Ordering::Relaxed);
        let before = self.notify.lock().replace(Standing { number, end });
        if let Some(before) = before {
            before.end.send_replace(Some(End::Replaced));
        }
        tokio::spawn(stand(Arc::clone(self), number, *header, interval, most, ending));
    }

    /// Ends the standing one, if there is one.
    pub(super) fn end_notify(&self, why: End) {
        if let Some(standing) = &*self.notify.lock() {
            standing.end.send_if_modified(|end| {
                let fresh = end.is_none();
                end.get_or_insert(why);
                fresh
            });
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
            FinalChunk::Shutdown => self.send_error(header, Errno::ESHUTDOWN, "the gateway is shutting down"),
        }
    }

    fn send_error(&self, header: &RequestHeader, errno: Errno, why: &str) {
        let length = u16::try_from(why.len()).unwrap_or(0);
        let control = [&errno.0.to_be_bytes()[..], &length.to_be_bytes(), why.as_bytes()].concat();
        self.send_last(header, Chunk::ERROR, &control);
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

async fn stand(
    session: Arc<Session>,
    number: u64,
    header: RequestHeader,
    interval: Duration,
    most: u64,
    mut ending: watch::Receiver<Option<End>>,
) {
    let start = Instant::now();
    let mut shown = session.export.view().follow();
    let size = |size: u64| Size::new(size).unwrap_or(Size::MAX);
    let first = shown.borrow_and_update().size;
    let credit = NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX));
    let metrics = session.export.resize_metrics().clone();
    let mut notice = Notice::new(size(first), credit, interval, Duration::ZERO);
    let (mut merged, mut begun, mut ended) = (0, false, false);
    loop {
        let now = Moment::from_elapsed(start.elapsed());
        let free = !session.unread.load(Ordering::Acquire);
        let wait = match notice.next(now) {
            Poll::Send { .. } if free => match session.export.take_notice(&session.notices) {
                Err(RetryAfter { limit, wait }) if !begun => {
                    // Not even the first.
                    notice.end(End::Disconnected);
                    let why = format!("this session is at {limit}; try again in {}", Span(wait));
                    session.send_error(&header, Errno::EPERM, &why);
                    ended = true;
                    break;
                }
                Err(RetryAfter { wait, .. }) => Some(Instant::now() + wait.min(ASK_AGAIN)),
                Ok(()) => {
                    begun = true;
                    if let Poll::Send { size, last } = notice.poll(now) {
                        metrics.notices_sent.inc();
                        session.send_notice(&header, size.bytes(), last);
                        ended |= last;
                    }
                    continue;
                }
            },
            Poll::Send { .. } | Poll::Idle => None,
            Poll::Wait(until) => Some(start + Duration::from_nanos(until.nanos())),
            Poll::Ended => break,
        };
        let timer = async {
            match wait {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let taken = session.read.notified();
        if !free && !session.unread.load(Ordering::Acquire) {
            continue;
        }
        tokio::select! {
            // The size before the end: the last chunk has the newest one. A size changes by a resize at a time, so the end is
            // not kept waiting.
            biased;
            changed = shown.changed() => {
                if changed.is_err() {
                    break;
                }
                notice.offer(size(shown.borrow_and_update().size));
                metrics.notices_merged.inc_by(notice.merged().saturating_sub(merged));
                merged = notice.merged();
            }
            why = ending.wait_for(Option::is_some) => {
                let why = why.ok().and_then(|w| *w).unwrap_or(End::Disconnected);
                if let Some(last) = notice.end(why) {
                    session.send_final(&header, last);
                    ended = true;
                }
                break;
            }
            () = taken => {}
            () = timer => {}
        }
    }
    {
        let mut standing = session.notify.lock();
        if standing.as_ref().is_some_and(|s| s.number == number) {
            *standing = None;
        }
    }
    if !ended {
        session.release(ONE);
    }
    session.wake();
}
