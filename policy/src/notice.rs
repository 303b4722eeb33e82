//! What one subscriber is told, and when: the state of one standing `NBD_CMD_RESIZE` with NOTIFY.
//!
//! Latest wins: changes that come faster than they may be sent are merged, and the last one is never lost. Owns the
//! credit (`length`), the interval (`offset`, or the policy's if longer) and how the request ends. It sends nothing and
//! sets no timer: [`Notice::poll`] says what to do now or until when there is nothing to do. A rate that several subscribers
//! share is the caller's: it asks [`Notice::next`] first and polls when it may.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::types::{Moment, Size};

/// One subscriber's standing request.
#[derive(Clone, Debug)]
pub struct Notice {
    latest: Size,
    /// Something that was not sent yet; at first, the size now.
    due: bool,
    credit: Option<NonZeroU32>,
    interval: Duration,
    policy: Duration,
    last_sent: Option<Moment>,
    merged: u64,
    ended: bool,
}

/// A standing request on its way to another process: without a clock, and without the policy of where it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspendedNotice {
    /// The newest size.
    pub latest: Size,
    /// Whether it was not sent yet.
    pub due: bool,
    /// How many chunks may still be sent; none: no bound.
    pub credit: Option<NonZeroU32>,
    /// The client's interval.
    pub interval: Duration,
    /// How long ago the last chunk was sent.
    pub sent: Option<Duration>,
    /// How many changes were merged into later ones.
    pub merged: u64,
}

/// What to do for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Send a RESIZE chunk with this size, now; with DONE if it is the last.
    Send {
        /// The size to tell.
        size: Size,
        /// The credit is used up: the chunk carries DONE and the request is over.
        last: bool,
    },
    /// Something is due, not before then.
    Wait(Moment),
    /// Nothing is due.
    Idle,
    /// The request is over.
    Ended,
}

/// Why a standing request ends before its credit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeEnd {
    /// Another NOTIFY on the same connection takes its place, and tells the size now itself.
    Replaced,
    /// The gateway or the export drains.
    Drained,
    /// The client sent DISC.
    Disconnected,
}

/// The chunk, with DONE, that ends a standing request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinalChunk {
    /// `NBD_REPLY_TYPE_NONE`.
    Empty,
    /// An error chunk with `NBD_ESHUTDOWN`.
    Shutdown,
}

impl Notice {
    /// A request that has just come: the size now is due at once. `credit` is its `length` (none for 0, no bound),
    /// `interval` its `offset`; `policy` is the least time that the gateway's own policy allows between two chunks.
    #[must_use]
    pub const fn new(size: Size, credit: Option<NonZeroU32>, interval: Duration, policy: Duration) -> Self {
        Self { latest: size, due: true, credit, interval, policy, last_sent: None, merged: 0, ended: false }
    }

    /// The request as data, as it is `now`.
    #[must_use]
    pub fn suspend(&self, now: Moment) -> SuspendedNotice {
        let Self { latest, due, credit, interval, merged, .. } = *self;
        SuspendedNotice { latest, due, credit, interval, sent: self.last_sent.map(|sent| now.since(sent)), merged }
    }

    /// A request that goes on as it was, under this policy. A chunk from before the clock began counts as sent at its start.
    #[must_use]
    pub fn resume(suspended: &SuspendedNotice, policy: Duration, now: Moment) -> Self {
        let SuspendedNotice { latest, due, credit, interval, sent, merged } = *suspended;
        let elapsed = Duration::from_nanos(now.nanos());
        let last_sent = sent.map(|sent| Moment::from_elapsed(elapsed.saturating_sub(sent)));
        Self { latest, due, credit, interval, policy, last_sent, merged, ended: false }
    }

    /// The size has changed. The same size again is no change.
    pub fn offer(&mut self, size: Size) {
        if self.ended || size == self.latest {
            return;
        }
        // Back to what was told last is still told: what lies beyond the smaller end in between reads as zeroes now.
        if self.due {
            self.merged = self.merged.saturating_add(1);
        }
        self.latest = size;
        self.due = true;
    }

    /// What to do now, without doing it: the same answer as [`Notice::poll`].
    #[must_use]
    pub fn next(&self, now: Moment) -> Poll {
        if self.ended {
            return Poll::Ended;
        }
        if !self.due {
            return Poll::Idle;
        }
        match self.last_sent {
            Some(last_sent) if now < last_sent.after(self.spacing()) => Poll::Wait(last_sent.after(self.spacing())),
            Some(_) | None => Poll::Send { size: self.latest, last: self.credit == Some(NonZeroU32::MIN) },
        }
    }

    /// What to do now; a chunk that it says to send counts as sent.
    pub fn poll(&mut self, now: Moment) -> Poll {
        let poll = self.next(now);
        if let Poll::Send { last, .. } = poll {
            self.due = false;
            self.last_sent = Some(now);
            self.credit = self.credit.map(|credit| NonZeroU32::new(credit.get() - 1).unwrap_or(NonZeroU32::MIN));
            self.ended = last;
        }
        poll
    }

    /// Ends the request; the chunk to send, if it was not over already. What was due is not sent: a replacement tells it
    /// with its own first chunk, and after a drain or a DISC the next handshake does.
    pub const fn end(&mut self, why: NoticeEnd) -> Option<FinalChunk> {
        if self.ended {
            return None;
        }
        self.ended = true;
        Some(match why {
            NoticeEnd::Replaced | NoticeEnd::Disconnected => FinalChunk::Empty,
            NoticeEnd::Drained => FinalChunk::Shutdown,
        })
    }

    /// Changes the policy's least time between two chunks, as a reload does.
    pub const fn tune(&mut self, policy: Duration) {
        self.policy = policy;
    }

    /// How many changes were merged into later ones.
    #[must_use]
    pub const fn merged(&self) -> u64 {
        self.merged
    }

    fn spacing(&self) -> Duration {
        self.interval.max(self.policy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(bytes: u64) -> Size {
        Size::new(bytes).unwrap()
    }

    fn at(millis: u64) -> Moment {
        Moment::from_elapsed(Duration::from_millis(millis))
    }

    fn notice(credit: u32, interval: u64, policy: u64) -> Notice {
        let (interval, policy) = (Duration::from_millis(interval), Duration::from_millis(policy));
        Notice::new(size(10), NonZeroU32::new(credit), interval, policy)
    }

    fn send(bytes: u64, last: bool) -> Poll {
        Poll::Send { size: size(bytes), last }
    }

    #[test]
    fn the_size_now_is_told_at_once_and_then_each_change() {
        let mut notice = notice(0, 0, 0);
        assert_eq!(notice.poll(at(5)), send(10, false));
        assert_eq!(notice.poll(at(5)), Poll::Idle);
        notice.offer(size(10));
        assert_eq!(notice.poll(at(5)), Poll::Idle);
        notice.offer(size(20));
        assert_eq!(notice.poll(at(5)), send(20, false));
    }

    #[test]
    fn changes_in_between_are_merged_and_the_latest_wins() {
        let mut notice = notice(0, 100, 0);
        assert_eq!(notice.poll(at(0)), send(10, false));
        for bytes in [20, 30, 40] {
            notice.offer(size(bytes));
        }
        assert_eq!(notice.poll(at(99)), Poll::Wait(at(100)));
        assert_eq!(notice.poll(at(100)), send(40, false));
        assert_eq!(notice.merged(), 2);
        assert_eq!(notice.poll(at(1000)), Poll::Idle);
    }

    #[test]
    fn a_size_that_came_back_is_still_told() {
        let mut notice = notice(0, 100, 0);
        assert_eq!(notice.poll(at(0)), send(10, false));
        notice.offer(size(5));
        notice.offer(size(10));
        assert_eq!(notice.poll(at(100)), send(10, false));
    }

    #[test]
    fn the_longer_of_the_two_intervals_holds() {
        for (interval, policy) in [(100, 300), (300, 100)] {
            let mut notice = notice(0, interval, policy);
            assert_eq!(notice.poll(at(0)), send(10, false));
            notice.offer(size(20));
            assert_eq!(notice.poll(at(299)), Poll::Wait(at(300)));
            notice.tune(Duration::from_millis(400));
            assert_eq!(notice.poll(at(300)), Poll::Wait(at(400)));
            assert_eq!(notice.poll(at(400)), send(20, false));
        }
    }

    #[test]
    fn one_that_goes_on_elsewhere_says_the_same_as_one_that_stays() {
        for moved in [0, 40, 99, 100, 130] {
            let mut stays = notice(3, 100, 0);
            assert_eq!(stays.poll(at(0)), send(10, false));
            stays.offer(size(20));
            // Another process, whose clock began later.
            let moved_at = moved + 7;
            let mut goes = Notice::resume(&stays.suspend(at(moved)), Duration::ZERO, at(moved_at));
            stays.offer(size(30));
            goes.offer(size(30));
            for passed in [0, 99, 100, 101, 200, 300] {
                let (here, there) = (stays.poll(at(moved + passed)), goes.poll(at(moved_at + passed)));
                match (here, there) {
                    (Poll::Wait(here), Poll::Wait(there)) => {
                        assert_eq!(here.since(at(moved)), there.since(at(moved_at)))
                    }
                    (here, there) => assert_eq!(here, there, "after {passed} ms, moved at {moved}"),
                }
            }
            assert_eq!(stays.suspend(at(moved + 300)), goes.suspend(at(moved_at + 300)));
        }
    }

    #[test]
    fn credit_of_one_is_one_answer() {
        let mut notice = notice(1, 0, 0);
        assert_eq!(notice.next(at(0)), send(10, true));
        assert_eq!(notice.poll(at(0)), send(10, true));
        notice.offer(size(20));
        assert_eq!(notice.poll(at(9)), Poll::Ended);
        assert_eq!(notice.end(NoticeEnd::Disconnected), None, "it has ended with DONE already");
    }

    #[test]
    fn it_ends_as_the_reason_says() {
        let ends = [
            (NoticeEnd::Replaced, FinalChunk::Empty),
            (NoticeEnd::Drained, FinalChunk::Shutdown),
            (NoticeEnd::Disconnected, FinalChunk::Empty),
        ];
        for (why, chunk) in ends {
            let mut notice = notice(7, 0, 0);
            assert_eq!(notice.end(why), Some(chunk));
            assert_eq!(notice.end(why), None);
            assert_eq!(notice.poll(at(0)), Poll::Ended);
        }
    }

    proptest! {
        #[test]
        fn spacing_credit_and_the_last_change_hold_over_any_history(
            credit in 0..6_u32, interval in 0..50_u64, policy in 0..50_u64,
            history in prop::collection::vec((0..30_u64, 0..8_u64, any::<bool>()), 0..60),
        ) {
            let mut notice = notice(credit, interval, policy);
            let (mut now, mut current, mut changes) = (0, 10, 1_u64);
            let (mut sent, mut ended) = (Vec::new(), false);
            let mut poll = |notice: &mut Notice, now| -> Result<(), TestCaseError> {
                match notice.poll(at(now)) {
                    Poll::Send { size, last } => {
                        prop_assert!(!ended, "sent after the last");
                        sent.push((now, size.bytes()));
                        ended = last;
                    }
                    Poll::Wait(until) => {
                        prop_assert!(until > at(now));
                        prop_assert_eq!(sent.last().map(|(then, _)| at(then + interval.max(policy))), Some(until));
                    }
                    Poll::Idle => prop_assert!(!ended),
                    Poll::Ended => prop_assert!(ended),
                }
                Ok(())
            };
            for (pass, bytes, polls) in history {
                now += pass;
                if bytes != current && !notice.ended {
                    changes += 1;
                }
                current = bytes;
                notice.offer(size(bytes));
                if polls {
                    poll(&mut notice, now)?;
                }
            }
            let merged_before = notice.merged();
            poll(&mut notice, now + 100)?;
            prop_assert_eq!(notice.merged(), merged_before);
            for pair in sent.windows(2) {
                prop_assert!(pair[1].0 - pair[0].0 >= interval.max(policy));
            }
            let chunks = u64::try_from(sent.len()).unwrap();
            if credit != 0 {
                prop_assert!(chunks <= u64::from(credit));
                prop_assert_eq!(ended, chunks == u64::from(credit));
            }
            if !ended {
                prop_assert_eq!(sent.last().map(|s| s.1), Some(current), "the last change was lost");
            }
            prop_assert_eq!(chunks + notice.merged(), changes, "each change is sent or merged");
        }
    }
}
