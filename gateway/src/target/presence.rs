//! Whether an export's server is reachable, and still has the properties that clients negotiated.
//!
//! Clients keep what they were told for as long as they are connected or may come back. A handshake that begins now is
//! told what is so now: it waits for a server that was lost a moment ago, and gets nothing from one that is away or that
//! came back different. Written by the lanes' tasks when connections change, read by the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::ordered_watch::OrderedWatch;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    Up,
    Down(Down),
}

/// A lane without a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Down {
    since: Instant,
    /// Attempts to connect again that came to nothing.
    tries: u32,
    /// The server was there, and no longer has what clients were told.
    differs: bool,
    /// Why the last attempt came to nothing.
    why: String,
}

impl Link {
    /// After another attempt that came to nothing.
    fn again(&self, differs: bool, why: &str) -> Down {
        let (since, tries) = match self {
            Link::Down(Down { since, tries, .. }) => (*since, *tries),
            Link::Up => (Instant::now(), 0),
        };
        Down { since, tries: tries.wrapping_add(1), differs, why: why.to_owned() }
    }
}

/// Whether a new handshake can use the export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server is there as it was.
    There,
    /// It was lost, and may be back by then.
    Expected(Instant),
    /// It has been away for longer than `hold`; why the last attempt failed.
    Away(String),
    /// It came back different; how.
    Different(String),
}

/// The connections of one export.
#[derive(Debug)]
pub(crate) struct Presence {
    /// How long a lost server is waited for.
    hold: Duration,
    /// The longest that one attempt takes.
    attempt: Duration,
    links: OrderedWatch<Vec<Link>>,
    /// How often a lane was connected or disconnected.
    changes: AtomicU64,
    /// A connection was lost at some time since the export was opened.
    lost: AtomicBool,
    /// Has the lanes try at once, instead of after their pauses.
    hurry: Vec<Arc<Notify>>,
}

impl Presence {
    /// Of `lanes` lanes, all connected.
    pub(crate) fn new(lanes: usize, hold: Duration, attempt: Duration) -> Self {
        Self {
            hold,
            attempt,
            links: OrderedWatch::new(vec![Link::Up; lanes]),
            changes: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            hurry: (0..lanes).map(|_| Arc::default()).collect(),
        }
    }

    /// What has lane number `at` try at once.
    pub(crate) fn hurry(&self, at: usize) -> Arc<Notify> {
        self.hurry.get(at).cloned().unwrap_or_default()
    }

    /// Rises when a lane is connected or has lost its connection.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Lane number `at` is connected. Whether all are.
    pub(crate) fn up(&self, at: usize) -> bool {
        self.set(at, |_| Link::Up);
        self.links.look(|links| links.iter().all(|link| *link == Link::Up))
    }

    /// Lane number `at` has lost its connection.
    pub(crate) fn lost(&self, at: usize) {
        let why = "its connection was lost".to_owned();
        self.set(at, |_| Link::Down(Down { since: Instant::now(), tries: 0, differs: false, why }));
    }

    /// Lane number `at` could not connect again.
    pub(crate) fn unreachable(&self, at: usize, why: &str) {
        self.set(at, |link| Link::Down(link.again(false, why)));
    }

    /// Lane number `at` has found a server that no longer has what clients were told.
    pub(crate) fn differs(&self, at: usize, how: &str) {
        self.set(at, |link| Link::Down(link.again(true, how)));
    }

    fn set(&self, at: usize, next: impl FnOnce(&Link) -> Link) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.links.change(|links| {
            let Some(link) = links.get_mut(at) else { return false };
            let next = next(link);
            if next != Link::Up {
                self.lost.store(true, Ordering::Release);
            }
            let changed = *link != next;
            *link = next;
            changed
        });
    }

    /// Whether the server was lost since the export was opened: its properties may have changed since.
    pub(crate) fn was_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// What a handshake that begins now may rely on. One lane that is connected is enough, unless another one knows better.
    pub(crate) fn verdict(&self) -> Verdict {
        let links = self.links.look(Clone::clone);
        let mut away = None;
        let mut up = false;
        for link in links.iter() {
            match link {
                Link::Up => up = true,
                Link::Down(Down { differs: true, why, .. }) => return Verdict::Different(why.clone()),
                Link::Down(Down { since, why, .. }) => {
                    let until = *since + self.hold;
                    if away.as_ref().is_none_or(|(latest, _)| *latest < until) {
                        away = Some((until, why));
                    }
                }
            }
        }
        match away {
            Some((until, _)) if !up && Instant::now() < until => Verdict::Expected(until),
            Some((_, why)) if !up => Verdict::Away(why.clone()),
            Some(_) | None => Verdict::There,
        }
    }

    /// Waits until the verdict is another one than `Expected`. Cancel-safe: yes.
    pub(crate) async fn decided(&self, until: Instant) {
        let mut links = self.links.follow();
        self.hurry.iter().for_each(|lane| lane.notify_one());
        loop {
            links.mark_unchanged();
            if !matches!(self.verdict(), Verdict::Expected(_)) {
                return;
            }
            // An error means that the lanes have ended.
            if !matches!(timeout_at(until, links.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Has the lanes try now, and waits for the result. Cancel-safe: yes.
    pub(crate) async fn tried(&self) {
        let mut links = self.links.follow();
        let before = links.borrow_and_update().clone();
        self.hurry.iter().for_each(|lane| lane.notify_one());
        // Longer than an attempt takes only where the gateway itself keeps its lanes without a connection.
        let _ = timeout(self.attempt, links.wait_for(|links| *links != before)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn presence(lanes: usize) -> Arc<Presence> {
        Arc::new(Presence::new(lanes, HOLD, Duration::from_secs(10)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_server_is_expected_for_the_hold_and_away_afterwards() {
        let presence = presence(1);
        assert_eq!((presence.verdict(), presence.was_lost()), (Verdict::There, false));
        presence.lost(0);
        presence.unreachable(0, "refused");
        let over = Instant::now() + HOLD;
        assert_eq!(presence.verdict(), Verdict::Expected(over));
        presence.decided(over).await;
        assert_eq!((Instant::now(), presence.verdict()), (over, Verdict::Away("refused".to_owned())));
        assert!(presence.up(0) && presence.was_lost());
        assert_eq!(presence.verdict(), Verdict::There);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_hears_at_once_that_the_server_is_back_and_how() {
        for back in [Verdict::There, Verdict::Different("smaller".to_owned())] {
            let presence = presence(1);
            presence.lost(0);
            let server = Arc::clone(&presence);
            let comes = back.clone();
            tokio::spawn(async move {
                server.hurry(0).notified().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                server.unreachable(0, "refused");
                tokio::time::sleep(Duration::from_secs(1)).await;
                match comes {
                    Verdict::Different(how) => server.differs(0, &how),
                    _ => drop(server.up(0)),
                }
            });
            let begun = Instant::now();
            presence.decided(begun + HOLD).await;
            assert_eq!((begun.elapsed(), presence.verdict()), (Duration::from_secs(2), back));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_lane_that_is_connected_is_enough_unless_another_finds_the_server_different() {
        let presence = presence(2);
        presence.lost(0);
        presence.unreachable(0, "it takes one connection");
        assert_eq!(presence.verdict(), Verdict::There);
        presence.differs(0, "smaller");
        assert_eq!(presence.verdict(), Verdict::Different("smaller".to_owned()));
        assert!(presence.up(0));
        assert_eq!(presence.verdict(), Verdict::There);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_made_at_once_for_whoever_comes_and_no_longer_waited_for_than_it_may_take() {
        let presence = presence(1);
        presence.lost(0);
        tokio::time::advance(HOLD).await;
        let server = Arc::clone(&presence);
        let lane = tokio::spawn(async move {
            server.hurry(0).notified().await;
            server.unreachable(0, "refused again");
        });
        let begun = Instant::now();
        presence.tried().await;
        assert_eq!((begun.elapsed(), presence.verdict()), (Duration::ZERO, Verdict::Away("refused again".to_owned())));
        lane.await.unwrap();
        presence.tried().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(10), "nobody tries");
    }
}
