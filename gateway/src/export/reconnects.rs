//! Which clients come back when their connection is closed for a grow, and which do not.
//!
//! A client that knows nothing of sizes and writes past the end is cut after the grow: one that can (qemu with
//! `reconnect-delay`) connects again, sees the new size and sends the lost write again. One that does not do so within
//! [`BACK_WITHIN`] is not cut again: its writes past the end are ENOSPC, until it is seen to send a lost write again after
//! all, or for [`REMEMBERED`]. Clients are told apart as well as the kernel can ([`Peer`]).
//!
//! Owns the clients of one export that were cut and have not come back, at most [`MOST`]: their sessions have ended, so that the
//! export keeps them. Closes nothing itself.

use std::time::Duration;

use nbd_gateway_net::Peer;
use nbd_gateway_policy::types::ByteRange;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::request::Request;

/// How long a client has to connect again and to send again what was lost.
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// How long a write past the end, on a new connection of a client that was cut, waits for what was lost to be sent again.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);
/// How long a client that stayed away is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many clients are remembered; beyond, the one that was cut first is forgotten, and may be cut once more.
const MOST: usize = 256;
/// How many lost writes of one client are remembered: one of them is enough to know it by.
const WRITES: usize = 16;

#[derive(Debug)]
struct Cut {
    peer: Peer,
    /// The writes that were not answered.
    lost: Vec<ByteRange>,
    /// The size that it is to see, in bytes.
    size: u64,
    at: Instant,
    /// It had its chance, and did not take it.
    away: bool,
}

impl Cut {
    fn stays_away(&self) -> bool {
        self.away || self.at.elapsed() >= BACK_WITHIN
    }
}

/// The clients of one export that were cut.
#[derive(Debug, Default)]
pub(crate) struct Reconnects {
    cut: Mutex<Vec<Cut>>,
    /// Told when one has come back.
    back: Notify,
}

impl Reconnects {
    /// A client was cut without an answer to `request`; the export has `size` bytes now.
    pub(crate) fn cut(&self, peer: Peer, request: &Request, size: u64) {
        let mut cut = self.cut.lock();
        let lost = request.range();
        if let Some(known) = cut.iter_mut().find(|known| known.peer == peer) {
            (known.at, known.size) = (Instant::now(), size);
            if known.lost.len() < WRITES {
                known.lost.extend(lost);
            }
            return;
        }
        if cut.len() >= MOST {
            cut.remove(0);
        }
        cut.push(Cut { peer, lost: lost.into_iter().collect(), size, at: Instant::now(), away: false });
    }

    /// A session begins: whether its client was cut, sees the size that it was cut for, and has yet to send again what was
    /// lost.
    pub(crate) fn awaits(&self, peer: Peer, size: u64) -> bool {
        self.cut.lock().iter().any(|known| known.peer == peer && size >= known.size)
    }

    /// Whether `request` is what a client that was cut had lost: it has come back.
    pub(crate) fn recognise(&self, peer: Peer, request: &Request) -> bool {
        let Some(again) = request.range().filter(|_| request.changes_data()) else { return false };
        let mut cut = self.cut.lock();
        let Some(at) = cut.iter().position(|known| known.peer == peer && known.lost.contains(&again)) else {
            return false;
        };
        cut.remove(at);
        drop(cut);
        self.back.notify_waiters();
        true
    }

    /// Whether this client may be cut: it was not yet, or came back each time. `new`: this is a connection that it made
    /// after it was cut, and it has not sent again on it what was lost. Cancel-safe: yes.
    pub(crate) async fn may_cut(&self, peer: Peer, new: impl Fn() -> bool) -> bool {
        let until = Instant::now() + AGAIN_WITHIN;
        loop {
            let back = self.back.notified();
            {
                let mut cut = self.cut.lock();
                cut.retain(|known| known.at.elapsed() < REMEMBERED);
                let Some(known) = cut.iter().find(|known| known.peer == peer) else {
                    // One that can't be told from others can't be waited for.
                    return peer != Peer::Unknown;
                };
                if known.stays_away() {
                    return false;
                }
                if !new() {
                    return true;
                }
            }
            if timeout_at(until, back).await.is_err() {
                self.cut.lock().iter_mut().filter(|known| known.peer == peer).for_each(|known| known.away = true);
                return false;
            }
        }
    }
}

#[cfg(test)]
mod suspend;

#[cfg(test)]
mod tests {
    use nbd_gateway_proto::{Cmd, CmdFlags};
    use tokio::time::advance;

    use super::*;
    use crate::handover::state::carried;

    const ONE: Peer = Peer::Unix { pid: Some(1), uid: 0, gid: 0 };
    const OTHER: Peer = Peer::Unix { pid: Some(2), uid: 0, gid: 0 };

    fn write(offset: u64) -> Request {
        Request::new(Cmd::WRITE, CmdFlags::NONE, offset, 512)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_sends_the_lost_write_again_may_be_cut_again() {
        let reconnects = Reconnects::default();
        for turn in 0..3 {
            assert!(reconnects.may_cut(ONE, || true).await);
            reconnects.cut(ONE, &write(turn), 4096);
            advance(BACK_WITHIN / 2).await;
            assert!(!reconnects.awaits(ONE, 4095), "it does not see the new size");
            assert!(reconnects.awaits(ONE, 4096) && !reconnects.awaits(OTHER, 4096));
            assert!(!reconnects.recognise(ONE, &write(turn + 1)) && !reconnects.recognise(OTHER, &write(turn)));
            assert!(reconnects.recognise(ONE, &write(turn)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stays_away_is_not_cut_again_until_it_comes_back_after_all_or_is_forgotten() {
        let reconnects = Reconnects::default();
        reconnects.cut(ONE, &write(1), 4096);
        advance(BACK_WITHIN).await;
        assert!(!reconnects.may_cut(ONE, || false).await);
        assert!(reconnects.may_cut(OTHER, || false).await);
        assert!(reconnects.awaits(ONE, 8192) && reconnects.recognise(ONE, &write(1)), "it came back after all");
        assert!(reconnects.may_cut(ONE, || true).await);
        reconnects.cut(ONE, &write(2), 4096);
        advance(REMEMBERED).await;
        assert!(reconnects.may_cut(ONE, || true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_connects_again_and_writes_elsewhere_is_given_a_moment() {
        let reconnects = Reconnects::default();
        reconnects.cut(ONE, &write(1), 4096);
        let before = Instant::now();
        assert!(!reconnects.may_cut(ONE, || true).await, "it never sends again what was lost");
        assert_eq!(before.elapsed(), AGAIN_WITHIN);
        assert!(!reconnects.may_cut(ONE, || true).await, "nor does it get a moment for each of its writes");
        assert_eq!(before.elapsed(), AGAIN_WITHIN);
        assert!(!reconnects.recognise(ONE, &Request { command: Cmd::READ, ..write(1) }), "what it lost is a write");
        assert!(reconnects.recognise(ONE, &write(1)));
        reconnects.cut(ONE, &write(1), 4096);
        let (may, ()) = tokio::join!(reconnects.may_cut(ONE, || true), async {
            advance(AGAIN_WITHIN / 2).await;
            assert!(reconnects.recognise(ONE, &write(1)));
        });
        assert!(may, "it did, a moment later");
    }

    /// All that is known of those that were cut, where they may come back to.
    fn elsewhere(from: &Reconnects) -> Reconnects {
        let (state, to) = (from.suspend(), Reconnects::default());
        assert!(from.cut.lock().is_empty());
        to.resume(carried(&state));
        to
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_were_cut_may_come_back_elsewhere() {
        let reconnects = Reconnects::default();
        reconnects.cut(ONE, &write(1), 4096);
        reconnects.cut(ONE, &write(2), 8192);
        reconnects.cut(OTHER, &write(3), 4096);
        let reconnects = elsewhere(&reconnects);
        assert!(reconnects.awaits(OTHER, 4096) && !reconnects.awaits(ONE, 8191) && reconnects.awaits(ONE, 8192));
        assert!(reconnects.may_cut(OTHER, || false).await);
        assert!(!reconnects.recognise(OTHER, &write(2)) && reconnects.recognise(ONE, &write(2)));
        let before = Instant::now();
        assert!(!reconnects.may_cut(OTHER, || true).await && before.elapsed() == AGAIN_WITHIN);
        let reconnects = elsewhere(&reconnects);
        assert!(!reconnects.may_cut(OTHER, || false).await, "it had its chance");
        reconnects.cut(ONE, &write(1), 4096);
        advance(BACK_WITHIN - Duration::from_nanos(1)).await;
        let reconnects = elsewhere(&reconnects);
        assert!(reconnects.may_cut(ONE, || false).await);
        advance(Duration::from_nanos(1)).await;
        assert!(!reconnects.may_cut(ONE, || false).await, "the time on the way counts");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_clients_are_remembered_than_there_is_room_for() {
        let reconnects = Reconnects::default();
        for pid in 0..2000 {
            reconnects.cut(Peer::Unix { pid: Some(pid), uid: 0, gid: 0 }, &write(1), 4096);
            (0..100).for_each(|n| reconnects.cut(Peer::Unix { pid: Some(pid), uid: 0, gid: 0 }, &write(n), 4096));
        }
        let cut = reconnects.cut.lock();
        assert!(cut.len() == MOST && cut.iter().all(|known| known.lost.len() <= WRITES));
    }
}
