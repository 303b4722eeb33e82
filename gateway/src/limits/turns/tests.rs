//! Turns, with sessions that send whenever they may and a server that answers one request after another.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::limits::pacer::{ACTIVE, FLOOR, WAITS};

/// A session that has requests to send whenever it may.
struct Client {
    share: Share,
    woken: Arc<Woken>,
    sent: usize,
    bytes: u64,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Client {
    fn new(id: u64, turns: &Arc<Turns>, bytes: u64) -> Self {
        Self { share: Share::new(SessionId::after(id), Some(Arc::clone(turns))), woken: Arc::default(), sent: 0, bytes }
    }

    /// Sends as many as it may, up to `most`.
    fn send(&mut self, most: usize, server: &mut VecDeque<(usize, Counts)>, index: usize) -> usize {
        let before = self.sent;
        let task = || Some(Arc::clone(&self.woken).into());
        while self.sent - before < most && self.share.admits(self.bytes, || 31, task) {
            server.push_back((index, self.share.sent(self.bytes, Instant::now())));
            self.sent += 1;
        }
        self.share.rests();
        self.sent - before
    }

    fn answer(&self, counts: Counts) {
        self.share.answered(counts, self.bytes, Duration::from_micros(100), Instant::now());
    }
}

fn lane() -> Arc<Turns> {
    Turns::new(Arc::default())
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_alone_is_not_limited_by_what_it_began_with() {
    let (mut heavy, mut server) = (Client::new(1, &lane(), 4096), VecDeque::new());
    for _ in 0..2 {
        assert_eq!(heavy.send(1, &mut server, 0), 1);
        let (_, counts) = server.pop_front().unwrap();
        heavy.answer(counts);
    }
    assert_eq!(heavy.send(2, &mut server, 0) + heavy.send(254, &mut server, 0), 256);
    server.drain(..).for_each(|(_, counts)| heavy.answer(counts));
    assert_eq!(heavy.send(256, &mut server, 0), 256);
}

#[tokio::test(start_paused = true)]
async fn heavy_sessions_take_turns_in_a_window_while_a_light_one_is_active() {
    for bytes in [0, 4096, 1 << 20] {
        let (turns, mut server) = (lane(), VecDeque::new());
        let mut light = Client::new(9, &turns, 4096);
        assert_eq!(light.send(1, &mut server, 9), 1);
        let mut clients = [1, 2, 3].map(|id| Client::new(id, &turns, bytes));
        for (index, client) in clients.iter_mut().enumerate() {
            client.share.peak.store(32, Ordering::Relaxed);
            client.send(64, &mut server, index);
        }
        server.pop_front();
        let window = if bytes > u64::from(FLOOR) * BYTES { 1 } else { 4 };
        while clients.iter().any(|client| client.sent < 64) {
            assert!(!server.is_empty() && server.len() <= window, "{} in flight", server.len());
            let (index, counts) = server.pop_front().unwrap();
            clients[index].answer(counts);
            for (index, client) in clients.iter_mut().enumerate() {
                if client.woken.0.swap(0, Ordering::Relaxed) > 0 {
                    assert!(client.send(64, &mut server, index) > 0, "woken for nothing");
                }
            }
            let sent = clients.each_ref().map(|client| client.sent);
            let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
            assert!(most - least <= 4, "no fair turns: {sent:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_light_session_that_has_gone_or_hangs_limits_nobody() {
    let (turns, mut server) = (lane(), VecDeque::new());
    let (mut light, mut heavy) = (Client::new(1, &turns, 4096), Client::new(2, &turns, 4096));
    let mut other = Client::new(3, &lane(), 4096);
    light.send(1, &mut server, 0);
    let first = heavy.send(64, &mut server, 1);
    assert!(first < 8, "{first}");
    assert_eq!(other.send(64, &mut server, 2), 64, "on another shard");
    // Another request of it is answered: not limited for long.
    tokio::time::advance(WAITS).await;
    assert_eq!(heavy.send(64, &mut server, 1), 64);
    light.answer(Counts::Light);
    assert_eq!(heavy.send(64, &mut server, 1), 0);
    tokio::time::advance(ACTIVE).await;
    heavy.woken.0.store(0, Ordering::Relaxed);
    heavy.answer(Counts::Heavy);
    assert_eq!(heavy.woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(heavy.send(64, &mut server, 1), 64);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_leaves_passes_its_turn_on() {
    let (turns, mut server) = (lane(), VecDeque::new());
    let mut light = Client::new(9, &turns, 4096);
    light.send(1, &mut server, 9);
    let mut clients = [1, 2, 3].map(|id| Client::new(id, &turns, 4096));
    for (index, client) in clients.iter_mut().enumerate() {
        client.share.peak.store(32, Ordering::Relaxed);
        client.send(64, &mut server, index);
    }
    let woken = |client: &Client| client.woken.0.load(Ordering::Relaxed);
    let [first, second, third] = &clients;
    second.share.leaves();
    first.answer(Counts::Heavy);
    assert_eq!((woken(first), woken(second), woken(third)), (1, 0, 0));
    // It has the turn, and does not live to use it.
    first.share.leaves();
    first.answer(Counts::Heavy);
    assert_eq!((woken(second), woken(third)), (0, 1));
}
