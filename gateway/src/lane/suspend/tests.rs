//! Any conversation with a server, suspended at any byte and any number of times, ends as the one that was not.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::LateWrites;
use super::*;
use nbd_gateway_net::{Pool, Released};
use nbd_gateway_proto::fuzz::receive;
use nbd_gateway_proto::reply::{Body, Event};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, Errno, Piece};

use crate::handover::state::{TicketState, carried};
use crate::lane::fuzz::{CONTEXTS, Told, put_event, tell};
use crate::lane::tests::{connected, life};
use crate::request::{Client, Counts, Finished, Heard, Job, Outcome, PendingReply, Request, SessionId, Ticket};

/// A session that writes down the outcomes, by its own cookies.
#[derive(Debug, Default)]
struct Recorder(Mutex<BTreeMap<u64, Told>>);

impl Client for Recorder {
    fn id(&self) -> SessionId {
        SessionId::after(6)
    }
    fn reply(self: Arc<Self>, reply: PendingReply, _: &Request, outcome: Outcome, _: &mut Finished) {
        assert!(self.0.lock().insert(reply.cookie.0, tell(outcome)).is_none(), "two replies to {}", reply.cookie);
    }
    fn forget(&self, _: PendingReply, _: &Request) {}
    fn flush(&self) {}
    fn has_given_up(&self) -> bool {
        false
    }
    fn settle_losses(&self, _: u64) {}
}

fn of_client(client: &Arc<Recorder>, cookie: u64, request: Request) -> Job {
    let reply = PendingReply {
        cookie: Cookie(cookie),
        holds: Released { requests: 1, bytes: request.payload_bytes(), ..Released::default() },
        extents: EXTENTS,
        counts: Counts::Nothing,
        only: None,
        since: Instant::now(),
    };
    Job::for_client(request, Ticket::new(Arc::<Recorder>::clone(client), reply))
}

/// Numbers that the property's bytes choose.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        u64::from(*first) % bound
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Client,
    Task,
    Listener,
}

/// A request, and what the server answers each time that it is asked.
#[derive(Clone, Debug)]
struct Asked {
    by: By,
    request: Request,
    reply: Vec<Body>,
}

const COMMANDS: [Cmd; 8] =
    [Cmd::READ, Cmd::READ, Cmd::READ, Cmd::BLOCK_STATUS, Cmd::WRITE, Cmd::FLUSH, Cmd::WRITE_ZEROES, Cmd::RESIZE];

/// Extents that clients have room for; servers send more.
const EXTENTS: usize = 3;

fn asked(framing: Framing, number: u64, choices: &mut Choices<'_>) -> Asked {
    let (mut command, offset) = (COMMANDS[usize::try_from(choices.below(8)).unwrap()], number << 20);
    if framing == Framing::Simple && matches!(command, Cmd::BLOCK_STATUS | Cmd::RESIZE) {
        command = Cmd::READ;
    }
    let by = match (command, choices.below(4)) {
        (Cmd::RESIZE, _) => By::Listener,
        (_, 0) => By::Task,
        _ => By::Client,
    };
    let length = if command == Cmd::FLUSH { 0 } else { 1 + choices.below(200) };
    let payload =
        if command == Cmd::WRITE { vec![7; usize::try_from(length).unwrap()].into() } else { Payload::empty() };
    let flags = if command == Cmd::RESIZE { CmdFlags::NOTIFY } else { CmdFlags::NONE };
    let error = Body::Error { errno: Errno::ENOSPC, message: String::new(), offset: None };
    let data = |at: u64, length: u64| {
        let bytes: Vec<u8> = (at..at + length).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        Body::Piece(Piece::Data { offset: offset + at, payload: bytes.into() })
    };
    let wrong = choices.below(8);
    let reply = match (framing, command) {
        (Framing::Simple, Cmd::READ) if wrong != 0 => {
            vec![Body::Whole(vec![9; usize::try_from(length).unwrap()].into())]
        }
        (Framing::Simple, _) if wrong != 0 => vec![Body::Nothing],
        (Framing::Simple, _) => vec![error],
        (_, Cmd::READ) => {
            let cut = choices.below(length);
            let mut pieces = match cut {
                0 => vec![data(0, length)],
                cut if choices.below(3) == 0 => {
                    vec![Body::Piece(Piece::Hole { offset, length: cut }), data(cut, length - cut)]
                }
                cut => vec![data(0, cut), data(cut, length - cut)],
            };
            if choices.below(2) == 0 {
                pieces.reverse();
            }
            match wrong {
                0 => pieces.push(error),
                1 => pieces.push(data(0, 1)),
                2 => drop(pieces.pop()),
                _ => {}
            }
            pieces.push(Body::Nothing);
            pieces
        }
        (_, Cmd::BLOCK_STATUS) => {
            let extents = |context: &u32| Body::Status { context: *context, extents: vec![(8, 0); 1 + EXTENTS * 4] };
            let mut chunks: Vec<Body> = CONTEXTS.iter().map(extents).collect();
            match wrong {
                0 => chunks.push(error),
                1 => chunks.push(extents(&CONTEXTS[0])),
                2 => chunks.push(extents(&1000)),
                _ => {}
            }
            chunks.push(Body::Nothing);
            chunks
        }
        (_, Cmd::RESIZE) => (0..3).map(|size| Body::Resize { size: size + 1 }).chain([Body::Nothing]).collect(),
        _ if wrong == 0 => vec![error, Body::Nothing],
        _ if wrong == 1 => vec![error],
        _ => vec![Body::Nothing],
    };
    Asked { by, request: Request { command, flags, offset, length, payload }, reply }
}

/// The server: it answers what it has read, in any order.
struct Server {
    framing: Framing,
    requests: Inbox,
    asked: Vec<Asked>,
    stream: Vec<u8>,
    order: u64,
}

impl Server {
    /// Reads what the lane has sent, and adds the replies to the stream, chunks of several among each other.
    fn read(&mut self, lane: &Lane) {
        let sent = lane.out.suspend().1.bytes.to_contiguous();
        receive(&mut self.requests, &mut &sent[..], usize::MAX);
        let mut replies: Vec<(Cookie, std::vec::IntoIter<Body>)> = Vec::new();
        while let Some(header) = RequestHeader::take(&mut self.requests, self.framing).unwrap() {
            let asked = &self.asked[usize::try_from(header.offset >> 20).unwrap()];
            if header.command == Cmd::WRITE {
                self.requests.payload(usize::try_from(header.length).unwrap()).unwrap();
            }
            replies.push((header.cookie, asked.reply.clone().into_iter()));
        }
        while !replies.is_empty() {
            self.order = self.order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let chosen = usize::try_from(self.order >> 33).unwrap() % replies.len();
            let (cookie, bodies) = &mut replies[chosen];
            let body = bodies.next().unwrap();
            let done = bodies.len() == 0;
            put_event(self.framing, &Event { cookie: *cookie, done, body }, &mut self.stream);
            if done {
                replies.remove(chosen);
            }
        }
    }
}

struct Played {
    told: BTreeMap<u64, Told>,
    written: u64,
    flushed: u64,
}

/// Plays a conversation; the lane is suspended when so many bytes have come.
fn play(framing: Framing, choices: &[u8], is_cut: impl Fn(usize) -> bool) -> Played {
    let mut choices = Choices(choices);
    let order = choices.below(256);
    let asked: Vec<Asked> = (0..2 + choices.below(8)).map(|number| asked(framing, number, &mut choices)).collect();
    let client = Arc::new(Recorder::default());
    let (mut tasks, mut finished) = (Vec::new(), Finished::default());
    let mut jobs: Vec<Job> = (0..)
        .zip(&asked)
        .map(|(number, Asked { by, request, .. })| match by {
            By::Client => of_client(&client, number, request.clone()),
            By::Task | By::Listener => {
                let (job, task) = match by {
                    By::Listener => {
                        Job::for_listener(request.clone(), tokio::sync::watch::Sender::new(Heard::default()))
                    }
                    By::Client | By::Task => Job::for_task(request.clone()),
                };
                tasks.push(task);
                job
            }
        })
        .collect();
    let mut later = jobs.split_off(jobs.len() / 2);
    let mut lane = Lane::new(Arc::default(), LateWrites::new(Duration::from_secs(60), false));
    lane.out.append(|batch| lane.table.lock().up(framing, 1, &lane.late, batch));
    lane.submit(&mut jobs, &mut finished);
    let mut server = Server { framing, requests: Inbox::default(), asked, stream: Vec::new(), order };
    server.read(&lane);
    let half = server.stream.len() / 2;
    let (mut decoder, mut inbox) = (Decoder::new(framing, CONTEXTS.to_vec(), String::new()), Inbox::default());
    let mut at = 0;
    while at < server.stream.len() || !later.is_empty() {
        if at >= half {
            // Not read by the server before the lane goes on, perhaps elsewhere.
            lane.submit(&mut later, &mut finished);
        }
        // Not for ever: what is asked again needs the time of a whole reply at some time.
        if at < 4 * half && is_cut(at) {
            let mut beside = Beside::default();
            let reader = decoder.suspend(framing, &mut inbox, &mut beside);
            let away = AwayState { since: None, pause: 0, step: 0, absence: None };
            let (state, _) = lane.take(lane.oldest_sent().unwrap_or(0), Some(reader), away, &mut beside);
            let next = Lane::new(Arc::default(), LateWrites::new(lane.late.guard(), false));
            next.durability.resume(&carried(&lane.durability.suspend()));
            next.late.resume(carried(&lane.late.suspend())).unwrap();
            let found = |ticket: &TicketState| {
                let client: Arc<dyn Client> = Arc::<Recorder>::clone(&client);
                (ticket.session == client.id()).then_some(client)
            };
            let mut state = carried(&state);
            let reader = state.reader.take().unwrap();
            next.put(state, Some(&reader), &beside, None, &found).unwrap();
            (decoder, inbox) = Decoder::resume(reader, &beside, "").unwrap();
            lane = next;
        }
        server.read(&lane);
        if let Some(byte) = server.stream.get(at..at + 1) {
            receive(&mut inbox, &mut &*byte, 1);
            at += 1;
        }
        decoder.decode(&mut inbox, &lane).unwrap();
        decoder.done.drain(..).for_each(|(job, outcome)| job.finish(outcome, &mut finished));
    }
    assert_eq!((lane.in_flight(), lane.late.any()), (0, false), "left behind");
    let told = core::mem::take(&mut *client.0.lock());
    let [written, flushed] = [&lane.durability.written, &lane.durability.flushed].map(|n| n.load(Ordering::Acquire));
    Played { told, written, flushed }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_lane_suspended_at_any_byte_has_the_outcomes_of_one_that_was_not(
        framing in prop_oneof![Just(Framing::Simple), Just(Framing::Structured), Just(Framing::Extended)],
        choices in proptest::collection::vec(any::<u8>(), 100),
        every in prop_oneof![Just(1_usize), 2_usize..30, 30_usize..1000], first in 0_usize..1000,
    ) {
        let whole = play(framing, &choices, |_| false);
        let cut = play(framing, &choices, |at| at % every == first % every);
        prop_assert_eq!(&cut.told, &whole.told);
        prop_assert_eq!(cut.written, whole.written);
        prop_assert!(cut.flushed <= whole.flushed, "a FLUSH covers more than was answered before it");
    }
}

#[tokio::test]
async fn a_task_goes_on_where_the_one_before_stopped_in_the_middle_of_a_reply_on_the_same_socket() {
    let (pool, client) = (Arc::new(Pool::new(1)), Arc::new(Recorder::default()));
    let (lane, mut backend, end) = connected(&pool);
    let request = |command, length| Request::new(command, CmdFlags::NONE, 0, length);
    lane.submit(&mut vec![of_client(&client, 5, request(Cmd::READ, 512))], &mut Finished::default());
    let mut header = [0; 28];
    backend.read_exact(&mut header).await.unwrap();
    let reply = |header: &[u8], data: &[u8]| [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], &header[8..16], data].concat();
    let read = reply(&header, &[7; 512]);
    backend.write_all(&read[..100]).await.unwrap();
    tokio::task::yield_now().await;
    lane.order_stop();
    end.send_replace(true);
    while !lane.has_stopped() {
        tokio::task::yield_now().await;
    }
    lane.submit(&mut vec![of_client(&client, 6, request(Cmd::TRIM, 512))], &mut Finished::default());
    let suspended = lane.suspend(0).unwrap().unwrap();
    assert_eq!(lane.in_flight(), 0);
    let (end, ending) = tokio::sync::watch::channel(false);
    let suspended = SuspendedLane { state: carried(&suspended.state), life: life(&pool, ending), ..suspended };
    let found = |_: &TicketState| -> Option<Arc<dyn Client>> { Some(Arc::<Recorder>::clone(&client)) };
    let lane = Lane::new(Arc::default(), Arc::default());
    let task = lane.resume(suspended, &found).unwrap();
    assert_eq!((lane.in_flight(), lane.status().up, lane.status().reconnects), (2, true, 0));
    let task = tokio::spawn(task);
    backend.read_exact(&mut header).await.unwrap();
    assert_eq!(header[6..8], [0, 4], "a TRIM, and not the READ again");
    backend.write_all(&[&read[100..], &reply(&header, &[])].concat()).await.unwrap();
    end.send_replace(true);
    task.await.unwrap();
    let told = core::mem::take(&mut *client.0.lock());
    assert_eq!(told, BTreeMap::from([(5, Told::Whole(vec![7; 512].into())), (6, Told::Done)]));
    let mut rest = Vec::new();
    backend.read_to_end(&mut rest).await.unwrap();
    assert_eq!((rest.len(), &rest[6..8]), (28, &[0, 2][..]), "a DISC, and nothing more");
}
