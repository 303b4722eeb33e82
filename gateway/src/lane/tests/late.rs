//! Lanes before a server that goes on with what it has received when a connection ends, as real servers do.
//!
//! The lanes, their tables, decoder and rules are the real ones; the server is a list of what it has received and not
//! carried out, in any order and for as long as it likes.

use proptest::prelude::*;
use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, advance};

use super::super::decode::Decoder;
use super::super::lost::EndedBy;
use super::super::run::give_up;
use super::*;
use nbd_gateway_proto::fuzz::receive;
use nbd_gateway_proto::reply::put_simple;

const BLOCK: u64 = 512;
const GUARD: Duration = Duration::from_secs(10);
const HOLD: OnLoss = OnLoss { hold: Duration::from_secs(30), durable: true };

/// How a client sees the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Success,
    Error,
    /// The gateway was killed.
    Crash,
}

/// A request as a client knows it. Times count the steps of the play.
struct Asked {
    command: Cmd,
    from: u64,
    to: u64,
    submitted: usize,
    /// When the gateway was killed last before that.
    crash: usize,
    ended: Option<(usize, End)>,
    outcome: Receiver<Outcome>,
    copies: usize,
    executed: Vec<usize>,
}

/// A request as the server has received it.
struct Received {
    asked: usize,
    lane: usize,
    /// Which of the lane's connections it came over.
    connection: usize,
    cookie: Cookie,
    executed: bool,
}

struct Play {
    late: Arc<LateWrites>,
    lanes: Vec<Arc<Lane>>,
    connection: Vec<Option<usize>>,
    connections: usize,
    asked: Vec<Asked>,
    received: Vec<Received>,
    step: usize,
    crash: usize,
}

impl Play {
    fn new() -> Self {
        let mut play = Self {
            late: Arc::default(),
            lanes: Vec::new(),
            connection: Vec::new(),
            connections: 0,
            asked: Vec::new(),
            received: Vec::new(),
            step: 0,
            crash: 0,
        };
        play.start();
        play
    }

    /// A gateway starts.
    fn start(&mut self) {
        self.late = LateWrites::new(GUARD, false);
        let durability = Arc::new(Durability::default());
        self.lanes = (0..2).map(|_| Lane::new(Arc::clone(&durability), Arc::clone(&self.late))).collect();
        self.connection = vec![None; 2];
        (0..2).for_each(|lane| self.connect(lane));
    }

    fn connect(&mut self, at: usize) {
        if self.connection[at].is_none() {
            self.connections += 1;
            self.connection[at] = Some(self.connections);
            let lane = &self.lanes[at];
            *lane.link.lock() = Some(Link::new(None));
            let mut table = lane.table.lock();
            let now = lane.durability.tick();
            lane.out.append(|batch| table.up(Framing::Simple, now, &lane.late, batch));
        }
        self.deliver();
    }

    fn submit(&mut self, lane: usize, command: Cmd, from: u64, blocks: u64) {
        let (from, to) = (from * BLOCK, (from + blocks) * BLOCK);
        // The server knows by it which request a copy is of.
        let payload = self.asked.len().to_be_bytes().to_vec().into();
        let request = Request { command, flags: CmdFlags::NONE, offset: from, length: to - from, payload };
        let (job, outcome) = Job::for_task(request);
        let (submitted, crash, executed) = (self.step, self.crash, Vec::new());
        self.asked.push(Asked { command, from, to, submitted, crash, ended: None, outcome, copies: 0, executed });
        self.lanes[lane].submit(&mut vec![job], &mut Finished::default());
        self.deliver();
    }

    /// What lanes have sent arrives; what clients were told is noted.
    fn deliver(&mut self) {
        for (at, lane) in self.lanes.iter().enumerate() {
            let Some(connection) = self.connection[at] else { continue };
            for (cookie, request) in lane.table.lock().sent() {
                let known = |copy: &Received| copy.connection == connection && copy.cookie == cookie;
                if !self.received.iter().any(known) {
                    let asked = usize::from_be_bytes(request.payload.to_contiguous()[..].try_into().unwrap());
                    self.asked[asked].copies += 1;
                    self.received.push(Received { asked, lane: at, connection, cookie, executed: false });
                }
            }
        }
        for asked in self.asked.iter_mut().filter(|asked| asked.ended.is_none()) {
            match asked.outcome.try_recv() {
                Ok(Outcome::Failed(_)) => asked.ended = Some((self.step, End::Error)),
                Ok(_) => asked.ended = Some((self.step, End::Success)),
                Err(_) => {}
            }
        }
    }

    fn execute(&mut self, at: usize) {
        let copy = &mut self.received[at];
        copy.executed = true;
        let it = &self.asked[copy.asked];
        let overlaps = |other: &&Asked| other.from < it.to && it.from < other.to;
        if it.command == Cmd::WRITE {
            for newer in self.asked.iter().filter(overlaps).filter(|newer| !newer.executed.is_empty()) {
                let after = it.ended.filter(|(at, _)| *at < newer.submitted);
                let written = newer.command == Cmd::WRITE && after.is_some();
                assert!(!written, "a write landed over one that was sent after its end");
                // Of what was before a crash, nobody knows whether it failed.
                let failed = after.is_some_and(|(at, end)| end == End::Error && at > newer.crash);
                let read = newer.command == Cmd::READ && failed;
                assert!(!read, "a write that failed landed after a READ that was sent after its end");
                let answered = matches!(newer.ended, Some((_, End::Success))) && newer.copies == 1;
                let between = it.executed.iter().any(|first| newer.executed.iter().any(|at| at > first));
                let back = newer.command == Cmd::WRITE && answered && between;
                assert!(!back, "a second copy of a write undid what was answered after the first");
            }
        }
        self.asked[self.received[at].asked].executed.push(self.step);
    }

    /// The server answers what it has carried out, if it still can.
    fn answer(&mut self, at: usize) {
        let Received { lane, cookie, connection, .. } = self.received[at];
        if self.connection[lane] != Some(connection) {
            return;
        }
        let lane = &self.lanes[lane];
        if lane.table.lock().sent().iter().all(|(sent, _)| *sent != cookie) {
            return;
        }
        let (mut reply, mut inbox) = (Vec::new(), Inbox::default());
        put_simple(&mut reply, 0, cookie);
        let length = lane.table.lock().expected(cookie).and_then(|expected| expected.read).unwrap_or(0);
        reply.resize(reply.len() + usize::try_from(length).unwrap(), 0);
        let mut reply = reply.as_slice();
        let mut decoder = Decoder::new(Framing::Simple, Vec::new(), "test".to_owned());
        while !reply.is_empty() {
            receive(&mut inbox, &mut reply, usize::MAX);
        }
        decoder.decode(&mut inbox, lane).unwrap();
        decoder.done.drain(..).for_each(|(job, outcome)| job.finish(outcome, &mut Finished::default()));
        self.late.send_what_may_be();
        self.deliver();
    }

    fn lose(&mut self, at: usize, ended: EndedBy) {
        if self.connection[at].take().is_some() {
            self.lanes[at].lose(ended, HOLD, &mut Finished::default());
        }
        self.deliver();
    }

    /// What the server has yet to carry out of connections that are over.
    fn stragglers(&self) -> Vec<usize> {
        let over = |copy: &Received| !copy.executed && self.connection[copy.lane] != Some(copy.connection);
        (0..self.received.len()).filter(|at| over(&self.received[*at])).collect()
    }

    /// The server ends, with all that it had.
    fn server_ends(&mut self) {
        (0..2).for_each(|lane| self.lose(lane, EndedBy::Backend));
        self.received.retain(|copy| copy.executed);
        self.received.clear();
    }

    async fn act(&mut self, (what, a, b): (u8, u8, u8)) {
        self.step += 1;
        // No two things happen at the same moment.
        advance(Duration::from_millis(1)).await;
        let lane = usize::from(a % 2);
        let range = (u64::from(b % 4), u64::from(b / 4 % 3) + 1);
        match what % 16 {
            0..=3 => self.submit(lane, Cmd::WRITE, range.0, range.1),
            4 => self.submit(lane, Cmd::READ, range.0, range.1),
            5..=7 => {
                let waiting: Vec<usize> = (0..self.received.len()).filter(|at| !self.received[*at].executed).collect();
                if !waiting.is_empty() {
                    self.execute(waiting[usize::from(a) % waiting.len()]);
                }
            }
            8 | 9 => {
                let done: Vec<usize> = (0..self.received.len()).filter(|at| self.received[*at].executed).collect();
                if !done.is_empty() {
                    self.answer(done[usize::from(a) % done.len()]);
                }
            }
            10 => self.lose(lane, if b.is_multiple_of(3) { EndedBy::Gateway } else { EndedBy::Backend }),
            11 => self.connect(lane),
            12 => {
                // That is what the guard stands for.
                self.stragglers().into_iter().for_each(|at| self.execute(at));
                advance(GUARD).await;
                self.late.expire();
                self.late.send_what_may_be();
                self.deliver();
            }
            13 => {
                self.server_ends();
                if b.is_multiple_of(2) {
                    self.late.refused();
                } else {
                    self.late.fenced(Instant::now());
                }
                self.late.send_what_may_be();
                self.deliver();
            }
            14 => {
                if self.connection[lane].is_none() {
                    give_up(&self.lanes[lane], "away for too long".into(), &mut Finished::default());
                    self.deliver();
                }
            }
            _ => {
                for asked in self.asked.iter_mut().filter(|asked| asked.ended.is_none()) {
                    asked.ended = Some((self.step, End::Crash));
                }
                self.crash = self.step;
                self.start();
                self.late.suspect(Instant::now(), None);
            }
        }
    }

    /// The server carries out and answers everything: nobody waits for ever.
    async fn come_to_rest(&mut self) {
        for _ in 0..64 {
            self.step += 1;
            (0..2).for_each(|lane| self.connect(lane));
            for at in 0..self.received.len() {
                if !self.received[at].executed {
                    self.execute(at);
                }
                self.answer(at);
            }
            advance(GUARD).await;
            self.late.expire();
            self.late.send_what_may_be();
            self.deliver();
            if self.asked.iter().all(|asked| asked.ended.is_some()) {
                assert_eq!(self.late.count(), 0);
                assert!(!self.late.any(), "the way of a request is not free");
                return;
            }
        }
        panic!("a request waits for ever");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_write_lands_over_a_later_one_whatever_is_lost_and_nothing_waits_for_ever(
        acts in prop::collection::vec(any::<(u8, u8, u8)>(), 0..120)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut play = Play::new();
            for act in acts {
                play.act(act).await;
            }
            play.come_to_rest().await;
        });
    }
}
