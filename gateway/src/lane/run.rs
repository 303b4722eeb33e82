//! A lane's own task: reads replies, finishes jobs, and brings the connection back when it is lost.

use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_policy::types::Span;
use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use nbd_gateway_net::{Pool, ReadHalf, Stream};
use nbd_gateway_proto::handshake::client::Negotiated;
use nbd_gateway_proto::reply::ReplyError;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Buffers, Cmd, CmdFlags, Cookie, Errno, ExportFlags, Framing, Inbox};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep};

use super::decode::Decoder;
use super::dial::Dialer;
use super::lost::{EndedBy, OnLoss};
use super::{Lane, Link, tell_over};
use crate::fault::Fault;
use crate::request::{Failure, Finished, Job, Request};

/// A connection in transmission.
#[derive(Debug)]
pub(crate) struct Connected {
    /// What was agreed on.
    pub negotiated: Negotiated,
    pub stream: Stream,
    /// What was received beyond the handshake.
    pub inbox: Inbox,
    /// Where it came from.
    pub link: Link,
}

impl Connected {
    /// Ends a connection that was only made to look.
    pub(crate) async fn goodbye(mut self) {
        let mut disc = Vec::new();
        let header =
            RequestHeader { flags: CmdFlags::NONE, command: Cmd::DISC, cookie: Cookie(0), offset: 0, length: 0 };
        header.put(self.negotiated.framing, &mut disc);
        // The backend may be gone already; then there is nobody to say goodbye to.
        if self.stream.write_all(&disc).await.is_ok() {
            let _ = self.stream.close().await;
        }
    }
}

/// Who decides about a lane's connections, and is told of them.
pub(crate) trait Owner: Send + Sync {
    /// Whether a new connection may take the place of the one lost; an error says why not.
    fn fits(&self, new: &Negotiated) -> Result<(), Fault>;
    /// A connection is up, the first one or a later one.
    fn up(&self, negotiated: &Negotiated);
    /// The connection is lost.
    fn lost(&self);
    /// There is no other one yet, and why.
    fn unreachable(&self, why: &str);
}

/// What a lane needs to live.
pub(crate) struct Life {
    /// How to reach the backend again.
    pub dialer: Dialer,
    /// What to do when it is lost.
    pub policy: OnLoss,
    /// The export's contexts, in its order.
    pub contexts: Vec<String>,
    /// Whose lane it is.
    pub owner: Arc<dyn Owner>,
    /// Turns true when the lane is to end: DISC, once nothing is in flight.
    pub end: watch::Receiver<bool>,
    pub pool: Arc<Pool>,
    /// Told when the next attempt to connect is not to wait for its time.
    pub hurry: Arc<Notify>,
    /// The export's name, for logs.
    pub name: String,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionEnd {
    #[error("closed by the backend")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the backend broke the protocol: {0}")]
    Protocol(#[from] ReplyError),
    #[error("the backend is shutting down: it answered ESHUTDOWN")]
    ShutDown,
    #[error("the backend is shutting down: it answered ESHUTDOWN, and other requests not at all")]
    Stuck,
    #[error("ended")]
    Ended,
    #[error("replaced")]
    Replaced,
    #[cfg(test)]
    #[error("suspended")]
    Suspended,
}

impl ConnectionEnd {
    fn by(&self) -> EndedBy {
        match self {
            ConnectionEnd::Closed | ConnectionEnd::ShutDown => EndedBy::Backend,
            ConnectionEnd::Io(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                EndedBy::Backend
            }
            ConnectionEnd::Io(_)
            | ConnectionEnd::Protocol(_)
            | ConnectionEnd::Stuck
            | ConnectionEnd::Ended
            | ConnectionEnd::Replaced => EndedBy::Gateway,
            #[cfg(test)]
            ConnectionEnd::Suspended => EndedBy::Gateway,
        }
    }
}

/// How long a backend that shuts down has, at the least, to answer what was sent before.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A connection that lived for so long ends the growing pauses between attempts.
const LIVED: Duration = Duration::from_secs(1);

/// How often a connection that is to end looks whether it can.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long the backend has been away. A connection that answers nothing does not end it: a backend that takes connections
/// and no requests is as good as away.
#[derive(Debug)]
pub(super) struct Away {
    pub(super) since: Option<Instant>,
    /// Before the next attempt: at first none.
    pub(super) pause: Duration,
    pub(super) backoff: Backoff,
}

/// A time without a connection.
#[derive(Debug)]
pub(super) struct Absence {
    /// The gateway itself has closed the connection.
    pub(super) planned: bool,
    /// Why there is no connection, for the log.
    pub(super) failure: String,
    /// Why the connection that there could be does not fit, for clients too.
    pub(super) misfit: Option<Fault>,
    /// Until when requests wait; none: they have not begun to.
    pub(super) hold_over: Option<Instant>,
    /// Requests fail.
    pub(super) given_up: bool,
}

impl Absence {
    pub(super) fn new(planned: bool, failure: String) -> Self {
        Self { planned, failure, misfit: None, hold_over: None, given_up: false }
    }
}

/// How a lane's task begins.
#[cfg_attr(test, expect(clippy::large_enum_variant, reason = "there is one for each connection, and it is moved once"))]
pub(super) enum Beginning {
    Connected(io::Result<Reading>),
    #[cfg(test)]
    Absent(Absence),
}

impl Away {
    pub(super) fn new(export: &str) -> Self {
        let backoff = Backoff::named(Duration::from_millis(20), Duration::from_secs(1), export);
        Self { since: None, pause: Duration::ZERO, backoff }
    }

    fn wait_longer(&mut self) {
        self.pause = self.backoff.next_delay();
    }

    fn wait_no_longer(&mut self) {
        self.pause = Duration::ZERO;
        self.backoff.reset();
    }
}

/// Runs a lane from its first connection to its end. Cancel-safe: no; dropped, its jobs in flight fail with EIO.
pub(crate) async fn run(lane: Arc<Lane>, first: Connected, life: Life) {
    let mut away = Away::new(&life.name);
    let reading = begin(&lane, first, &life, &mut away);
    go_on(lane, Beginning::Connected(reading), life, away).await;
}

/// Runs a lane from there on. Cancel-safe: as [`run`].
pub(super) async fn go_on(lane: Arc<Lane>, beginning: Beginning, mut life: Life, mut away: Away) {
    let mut beginning = Some(beginning);
    let mut finished = Finished::default();
    while let Some(present) = beginning.take() {
        let mut absence = match present {
            Beginning::Connected(reading) => {
                let lost = match reading {
                    Ok(reading) => converse(&lane, reading, &life, &mut away, &mut finished).await,
                    Err(error) => error.into(),
                };
                match lost {
                    #[cfg(test)]
                    ConnectionEnd::Suspended => return lane.stop(None, away, life),
                    ConnectionEnd::Ended => break,
                    ConnectionEnd::Replaced => {
                        lane.note_away(None);
                        lane.out.disconnect();
                        lane.table.lock().away();
                        Absence::new(true, "replaced on purpose".to_owned())
                    }
                    lost => {
                        let why = lost.to_string();
                        tracing::warn!(export = life.name, backend = %life.dialer.address, %why, hold = ?life.policy.hold, "backend connection lost");
                        life.owner.lost();
                        lane.note_away(Some(&why));
                        lane.lose(lost.by(), life.policy, &mut finished);
                        finished.flush();
                        Absence::new(false, why)
                    }
                }
            }
            #[cfg(test)]
            Beginning::Absent(absence) => absence,
        };
        let connected = come_back(&lane, &mut life, &mut away, &mut absence, &mut finished).await;
        #[cfg(test)]
        if connected.is_none() && lane.is_suspending() {
            return lane.stop(Some(absence), away, life);
        }
        beginning = connected.map(|connected| Beginning::Connected(begin(&lane, connected, &life, &mut away)));
    }
    give_up(&lane, "the export is closing".into(), &mut finished);
    lane.out.disconnect();
}

/// Redials until there is a connection that fits, or the lane is to end. Requests wait for `hold`, then fail.
async fn come_back(
    lane: &Lane,
    life: &mut Life,
    away: &mut Away,
    absence: &mut Absence,
    finished: &mut Finished,
) -> Option<Connected> {
    let mut aside = lane.aside.subscribe();
    if *aside.borrow() && !rest(lane, &mut life.end).await {
        return None;
    }
    let mut since = *away.since.get_or_insert_with(Instant::now);
    // What the gateway does on purpose fails no request before the backend had its chance.
    let mut hold = if absence.planned { life.policy.hold.max(life.dialer.limit) } else { life.policy.hold };
    let hold_over = absence.hold_over.get_or_insert(since + hold);
    if hold.is_zero() && !absence.given_up {
        absence.given_up = true;
        give_up(lane, format!("the backend's connection was lost: {}", absence.failure).into(), finished);
    }
    loop {
        if *aside.borrow_and_update() {
            if !rest(lane, &mut life.end).await {
                return None;
            }
            // That time was nobody's fault.
            since = Instant::now();
            away.wait_no_longer();
            hold = hold.max(life.dialer.limit);
            *hold_over = since + hold;
        }
        if !absence.given_up && Instant::now() >= *hold_over {
            absence.given_up = true;
            // Clients are not told addresses.
            let told = if let Some(misfit) = &absence.misfit {
                tracing::warn!(export = life.name, backend = %life.dialer.address, misfit = misfit.message(), ?hold, "backend is still different; requests fail until it is as it was");
                format!("the backend came back different: {misfit}")
            } else {
                tracing::error!(export = life.name, backend = %life.dialer.address, failure = absence.failure, ?hold, "backend did not come back; requests fail until it does");
                format!("the backend is away for longer than {}", Span(hold))
            };
            give_up(lane, told.into(), finished);
        }
        if let Some(fenced) = lane.late.fenced_soon() {
            let begun = Instant::now();
            tokio::select! {
                // Orders first: they end the wait, whatever became of the fence.
                biased;
                () = ended(&mut life.end) => return None,
                Ok(()) = aside.changed() => continue,
                () = fenced => {}
            }
            // That time was nobody's fault.
            *hold_over += begun.elapsed();
        }
        let next = Instant::now() + away.pause;
        let wake = if absence.given_up { next } else { next.min(*hold_over) };
        let hurried = tokio::select! {
            // Orders first; then the hurry, so that it is not left over for the attempt after this one.
            biased;
            () = ended(&mut life.end) => return None,
            Ok(()) = aside.changed() => continue,
            () = life.hurry.notified() => true,
            () = tokio::time::sleep_until(wake) => false,
        };
        if !hurried && Instant::now() < next {
            // The hold is over first.
            continue;
        }
        away.wait_longer();
        let outcome = tokio::select! {
            // Orders first: a connection that nobody wants any more is not used. One made in the last moment of the hold is.
            biased;
            () = ended(&mut life.end) => return None,
            Ok(()) = aside.changed() => continue,
            outcome = life.dialer.dial() => Some(outcome),
            () = tokio::time::sleep_until(*hold_over), if !absence.given_up => None,
        };
        match outcome {
            Some(Ok(connected)) => match life.owner.fits(&connected.negotiated) {
                Ok(()) => {
                    tell_over(&life.name, lane.late.connected(&connected.link), "another process has the socket");
                    let what =
                        if absence.planned { "backend connection replaced" } else { "backend connection is back" };
                    tracing::info!(export = life.name, backend = %life.dialer.address, after = ?since.elapsed(), "{what}");
                    return Some(connected);
                }
                Err(why) if absence.misfit.as_ref() == Some(&why) => {
                    tracing::debug!(export = life.name, backend = %life.dialer.address, misfit = why.message(), "the backend is still different");
                }
                Err(why) => {
                    lane.note_trouble(&format!("the backend came back different: {why}"));
                    tracing::error!(export = life.name, backend = %life.dialer.address, misfit = why.message(), "the backend came back different; not used");
                    absence.misfit = Some(why);
                }
            },
            Some(Err(error)) => {
                if error.is_refused() {
                    tell_over(&life.name, lane.late.refused(), "nobody listened there any more");
                }
                (absence.failure, absence.misfit) = (error.to_string(), None);
                life.owner.unreachable(&absence.failure);
                lane.note_trouble(&absence.failure);
            }
            None => {}
        }
    }
}

/// Stays without a connection until the lane may have one again. False: it is to end.
async fn rest(lane: &Lane, end: &mut watch::Receiver<bool>) -> bool {
    let mut aside = lane.aside.subscribe();
    lane.resting.send_replace(true);
    let goes_on = tokio::select! {
        // The end first: it outlasts a change.
        biased;
        () = ended(end) => false,
        // An error means that nobody is left to want one.
        resumed = aside.wait_for(|aside| !*aside) => resumed.is_ok(),
    };
    lane.resting.send_replace(false);
    goes_on
}

async fn ended(end: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say so.
    let _ = end.wait_for(|e| *e).await;
}

pub(super) fn give_up(lane: &Lane, why: Cow<'static, str>, finished: &mut Finished) {
    let slots = {
        let mut table = lane.table.lock();
        table.give_up(why.clone());
        table.take_all()
    };
    for mut slot in slots {
        if slot.sent {
            // A resize that its coordinator has given up: the backend may still carry it out.
            let link = lane.link.lock().clone().unwrap_or_else(|| Link::new(None));
            slot.late = lane.late.lost(slot.late, &slot.job.request, &link);
        }
        lane.late.answered(slot.late, false);
        slot.job.fail(Failure::new(Errno::EIO, why.clone()), finished);
    }
    finished.flush();
}

/// Sends what waits on a new connection, and reads it from now on.
fn begin(lane: &Lane, connected: Connected, life: &Life, away: &mut Away) -> io::Result<Reading> {
    life.owner.up(&connected.negotiated);
    lane.note_up();
    let Connected { negotiated, stream, inbox, link } = connected;
    *lane.link.lock() = Some(link);
    let (read, write) = stream.rehome()?.split();
    let framing = negotiated.framing;
    let ids = life
        .contexts
        .iter()
        .map(|name| negotiated.contexts.iter().find(|(n, _)| n == name).map_or(u32::MAX, |(_, id)| *id))
        .collect();
    lane.out.connect(write);
    {
        let mut table = lane.table.lock();
        if table.len() == 0 {
            // Nobody has been waiting for it to come back.
            away.since = None;
        }
        let now = lane.durability.tick();
        lane.out.append(|batch| table.up(framing, now, &lane.late, batch));
    }
    lane.flush();
    lane.renew.store(false, Ordering::Release);
    lane.ups.send_modify(|ups| *ups = ups.wrapping_add(1));
    Ok(Reading {
        read,
        inbox,
        decoder: Decoder::new(framing, ids, life.name.clone()),
        framing,
        pool: Arc::clone(&life.pool),
        renewing: None,
        flushes: negotiated.flags.has(ExportFlags::SEND_FLUSH),
        hold: life.policy.hold,
        leaving: None,
    })
}

async fn converse(
    lane: &Lane,
    mut reading: Reading,
    life: &Life,
    away: &mut Away,
    finished: &mut Finished,
) -> ConnectionEnd {
    let begun = Instant::now();
    let mut end = life.end.clone();
    let mut ending = false;
    let lost = loop {
        tokio::select! {
            // Replies last: they may come for ever. The end is heard once, and the timer fires after its time only.
            biased;
            () = ended(&mut end), if !ending => {
                #[cfg(test)]
                if lane.is_suspending() {
                    lane.leave_reading(reading);
                    return ConnectionEnd::Suspended;
                }
                ending = true;
                lane.wake();
            }
            // Nobody says when a resize is given up that is still in flight: looked at again now and then.
            () = tokio::time::sleep(LOOK_AGAIN), if ending => {}
            lost = std::future::poll_fn(|cx| reading.poll(lane, ending, finished, cx)) => break lost,
        }
    };
    *lane.task.lock() = None;
    let leaving = reading.leaving.as_ref().map(|leaving| leaving.since);
    let answered = reading.decoder.answered || matches!(lost, ConnectionEnd::Replaced);
    away.since = if answered { leaving } else { away.since.or(leaving) };
    // Answers alone do not count: a backend that answers once and closes would be dialled hundreds of times a second.
    if begun.elapsed() > LIVED {
        away.wait_no_longer();
    }
    if let ConnectionEnd::Ended | ConnectionEnd::Replaced | ConnectionEnd::ShutDown | ConnectionEnd::Stuck = lost {
        // Says goodbye; the backend then closes without complaint.
        let disc = RequestHeader { flags: CmdFlags::NONE, command: Cmd::DISC, cookie: Cookie(0), offset: 0, length: 0 };
        lane.out.append(|batch| batch.head(|out| disc.put(reading.framing, out)));
        lane.flush();
    }
    lost
}

/// The reading side of a connection in transmission.
pub(super) struct Reading {
    pub(super) read: ReadHalf,
    pub(super) inbox: Inbox,
    pub(super) decoder: Decoder,
    pub(super) framing: Framing,
    pub(super) pool: Arc<Pool>,
    /// How far a replacement of this connection has come.
    pub(super) renewing: Option<Renewing>,
    /// Whether the backend takes a FLUSH.
    pub(super) flushes: bool,
    pub(super) hold: Duration,
    pub(super) leaving: Option<Leaving>,
}

/// A backend has said that it is shutting down.
pub(super) struct Leaving {
    pub(super) since: Instant,
    /// Until when it may answer what was sent before.
    limit: Pin<Box<Sleep>>,
}

impl Leaving {
    /// It may answer for `hold` from then on, and for a second at the least.
    pub(super) fn new(since: Instant, hold: Duration) -> Self {
        Self { since, limit: Box::pin(tokio::time::sleep_until(since + hold.max(LAST_ANSWERS))) }
    }
}

/// A planned replacement: first everything sent is answered, then a FLUSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewing {
    Draining,
    Flushing,
}

impl Reading {
    fn poll(
        &mut self,
        lane: &Lane,
        ending: bool,
        finished: &mut Finished,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionEnd> {
        {
            let mut task = lane.task.lock();
            if !task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
                *task = Some(cx.waker().clone());
            }
        }
        loop {
            if lane.out.is_blocked() {
                match lane.out.poll_room(cx) {
                    Poll::Ready(Ok(())) => lane.flush(),
                    Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                    Poll::Pending => {}
                }
            }
            let decoded = self.decoder.decode(&mut self.inbox, lane);
            for (job, outcome) in self.decoder.done.drain(..) {
                job.finish(outcome, finished);
            }
            finished.flush();
            if let Err(bad) = decoded {
                return Poll::Ready(bad.into());
            }
            if ending && !lane.table.lock().is_waiting() {
                return Poll::Ready(ConnectionEnd::Ended);
            }
            if !self.decoder.refused && lane.renew.load(Ordering::Acquire) && self.renew(lane, finished) {
                return Poll::Ready(ConnectionEnd::Replaced);
            }
            if self.decoder.refused && self.leaving.is_none() {
                if self.hold.is_zero() {
                    lane.table.lock().give_up("the backend is shutting down".into());
                }
                self.leaving = Some(Leaving::new(Instant::now(), self.hold));
            }
            if let Some(leaving) = &mut self.leaving {
                if !lane.table.lock().is_waiting() {
                    return Poll::Ready(ConnectionEnd::ShutDown);
                }
                if leaving.limit.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(ConnectionEnd::Stuck);
                }
            }
            let room = self.inbox.room(self.pool.as_ref());
            match self.read.poll_fill(cx, room) {
                Poll::Ready(Ok(0)) => return Poll::Ready(ConnectionEnd::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {
                    if let Some(buffer) = self.inbox.release() {
                        self.pool.retire(buffer);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes a replacement one step further; whether the connection can go now.
    fn renew(&mut self, lane: &Lane, finished: &mut Finished) -> bool {
        if self.renewing.is_none() {
            self.renewing = Some(Renewing::Draining);
            let standing = {
                let mut table = lane.table.lock();
                table.hold();
                table.take_standing()
            };
            for slot in standing {
                slot.job.fail(Failure::new(Errno::EIO, "the connection is being replaced"), finished);
            }
        }
        let mut table = lane.table.lock();
        if table.is_waiting() {
            return false;
        }
        if self.flushes && self.renewing == Some(Renewing::Draining) {
            self.renewing = Some(Renewing::Flushing);
            let flush = Request::new(Cmd::FLUSH, CmdFlags::NONE, 0, 0);
            let (job, outcome) = Job::for_task(flush);
            // Its outcome is the next step's concern: a FLUSH that fails leaves the writes unflushed on the books.
            drop(outcome);
            let covers = lane.durability.written.load(Ordering::Acquire);
            let now = lane.durability.tick();
            lane.out.append(|batch| table.insert_last(job, now, covers, &lane.late, batch));
            drop(table);
            lane.flush();
            return false;
        }
        true
    }
}
