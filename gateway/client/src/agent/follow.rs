//! The agent's life with one device: sizes that are told, connections that die, and the order to end.
//!
//! Owns what is under way: at most one size and one new connection. No size is begun while a connection is known to be dead,
//! because a size waits in the kernel for requests that wait for the connection; one that is under way when a connection
//! dies does not hold up its replacement here. A size is what was told last on a connection that lives, and is read back
//! before it is reported.

use core::future::Future;
use nbd_gateway_policy::types::Bytes;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nbd_gateway_metrics::{AgentMetrics, AgentReconnect, AgentResize};
use nbd_gateway_policy::backoff::Backoff;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::AgentError;
use super::attach::Attached;
use super::device::Device;
use super::event::{Event, Teller};
use super::link::{Link, ended};
use super::listen::{Heard, Listener};
use super::netlink::{Events, Request, number};
use super::readiness::Readiness;
use super::size::{Verdict, judge};
use crate::cli;
use crate::parts::Part;

/// How often to look whether the device is still attached.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait before the second and before each later attempt to replace a dead connection.
const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(2);

/// One device, followed.
pub(super) struct Follower<'a> {
    pub(super) order: &'a cli::Agent,
    pub(super) device: Device,
    pub(super) attached: Attached,
    pub(super) events: Events,
    pub(super) listener: Listener,
    pub(super) teller: Teller<'a>,
    pub(super) metrics: AgentMetrics,
    pub(super) readiness: Readiness,
    pub(super) state: State,
}

/// What is to be done, and what is under way.
pub(super) struct State {
    /// Connections known, or feared, to be dead.
    dead: usize,
    /// Whether that is only a fear: another connection is offered, and the kernel takes it if it lacks one.
    feared: bool,
    /// Whether the connection was ended here and is not known to be dead yet.
    renewing: bool,
    /// The replacement of one, which gives its socket and the export's size.
    linking: Option<Linking>,
    /// Not before then.
    next: Instant,
    backoff: Backoff,
    /// Whether the server serves a new size to new connections only.
    pinned: bool,
    /// A size that was told and not looked at.
    told: Option<Told>,
    /// A size on its way into the kernel.
    sizing: Option<Sizing>,
    /// What was said last, so that it is not said with every attempt.
    said: Said,
}

/// The replacement of a connection.
type Linking = JoinHandle<Result<(OwnedFd, u64), AgentError>>;

/// A size that was told.
#[derive(Clone, Copy)]
struct Told {
    size: u64,
    /// Whether only connections made from now on may connector it.
    later: bool,
}

/// A size on its way into the kernel.
struct Sizing {
    /// What the device had, in bytes.
    from: u64,
    /// What was told, in bytes.
    told: u64,
    /// What the device has then, in bytes.
    task: JoinHandle<Result<u64, AgentError>>,
}

/// What was said last.
#[derive(Default)]
struct Said {
    listening: Option<Part>,
    deaf: Option<String>,
    link: Option<String>,
    refused: Option<u64>,
}

impl State {
    /// Of a device that was just attached, with none in `feared`; or of one that was found attached, so many of whose
    /// connections may be dead.
    pub(super) fn new(feared: u8) -> Self {
        Self {
            dead: usize::from(feared),
            feared: feared > 0,
            renewing: false,
            linking: None,
            next: Instant::now(),
            backoff: Backoff::new(FIRST, MOST, u64::from(std::process::id())),
            pinned: false,
            told: None,
            sizing: None,
            said: Said::default(),
        }
    }
}

impl Follower<'_> {
    /// Follows until `stop`, or until the device can't be followed any more.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
        let mut stop = core::pin::pin!(stop);
        let mut look = tokio::time::interval(LOOK);
        self.metrics.link_up.set(1);
        loop {
            self.begin()?;
            let waits = self.state.dead > 0 && self.state.linking.is_none();
            tokio::select! {
                // The stop first, and dead connections before what waits for them; sizes last: a server may send them for ever.
                biased;
                () = &mut stop => return self.end().await,
                dead = self.events.dead_links() => self.lost(dead?),
                linked = linked(&mut self.state.linking), if self.state.linking.is_some() => {
                    self.state.linking = None;
                    self.linked(linked);
                }
                sized = sized(&mut self.state.sizing), if self.state.sizing.is_some() => {
                    let ended = self.state.sizing.take();
                    ended.map_or(Ok(()), |sizing| self.sized(&sizing, sized))?;
                }
                () = sleep_until(self.state.next), if waits => {}
                _ = look.tick() => self.look()?,
                changed = self.listener.heard.changed() => {
                    // It is kept by a task that ends with this one.
                    drop(changed);
                    self.heard();
                }
            }
        }
    }

    /// Starts what can be started now.
    fn begin(&mut self) -> Result<(), AgentError> {
        if self.state.dead > 0 {
            if self.state.linking.is_none() && self.state.next <= Instant::now() {
                self.look()?;
                self.link();
            }
            // A size would wait for requests that wait for the connection.
            return Ok(());
        }
        if self.state.sizing.is_none()
            && !self.state.renewing
            && let Some(told) = self.state.told.take()
        {
            self.size(told)?;
            if self.state.sizing.is_none() && !self.state.renewing {
                // It has it, or is not to have it.
                self.readiness.is_right();
            }
        }
        Ok(())
    }

    /// Whether the device is still ours to follow.
    fn look(&self) -> Result<(), AgentError> {
        if !self.device.attached() {
            return Err(AgentError::DetachedByOther { node: self.device.node.clone() });
        }
        self.metrics.size.set(i64::try_from(self.device.size()?).unwrap_or(i64::MAX));
        Ok(())
    }

    fn lost(&mut self, dead: usize) {
        self.state.dead = if self.state.feared { dead } else { self.state.dead.saturating_add(dead) };
        (self.state.feared, self.state.renewing) = (false, false);
        self.state.next = Instant::now();
        // It may have been offered before the kernel lacked one, and then was not taken. One too many does no harm.
        if let Some(task) = self.state.linking.take() {
            task.abort();
        }
        self.metrics.link_up.set(0);
        self.attached.sockets.retain(|socket| !ended(socket));
        self.teller.tell(&Event::LinkDead { dead });
        // The same host may be gone, and say so on no connection by itself.
        self.listener.again();
    }

    /// Makes another connection, and offers it to the kernel. The size that comes with it goes in another message.
    fn link(&mut self) {
        let (uri, shrink, flags) = (self.order.uri.clone(), self.order.allow_shrink, self.attached.flags);
        let (device, driver) = (self.device.clone(), self.attached.driver.clone());
        self.state.linking = Some(tokio::spawn(async move {
            let link = Link::open(&uri, shrink).await?;
            link.fits(&device, flags, shrink)?;
            driver.ask(Request::Socket(number(&link.socket))).await?;
            Ok((link.socket, link.export.size))
        }));
    }

    fn linked(&mut self, outcome: Result<(OwnedFd, u64), AgentError>) {
        match outcome {
            Ok((socket, size)) => {
                self.state.dead = self.state.dead.saturating_sub(1);
                self.state.backoff.reset();
                self.state.said.link = None;
                if self.state.dead == 0 {
                    self.metrics.link_up.set(1);
                }
                if self.state.feared {
                    // The kernel takes it or closes it, and does not tell which. The listener tells the size.
                    self.state.feared = self.state.dead > 0;
                    return;
                }
                self.metrics.reconnected(AgentReconnect::Ok);
                self.teller.tell(&Event::Reconnected { size });
                self.attached.sockets.push(socket);
                // Newer than whatever was told before. Other connections that are left may be too old for it.
                let later = self.state.pinned && self.order.connections > 1;
                self.state.told = Some(Told { size, later });
            }
            Err(fault) => {
                self.metrics.reconnected(AgentReconnect::Failed);
                self.metrics.link_up.set(0);
                self.state.next = Instant::now() + self.state.backoff.next_delay();
                let why = fault.to_string();
                if self.state.said.link.as_ref() != Some(&why) {
                    self.teller.tell(&Event::LinkFailed { why: &why });
                    self.state.said.link = Some(why);
                }
            }
        }
    }

    fn heard(&mut self) {
        let Heard { part, deaf, told, .. } = self.listener.heard.borrow_and_update().clone();
        self.metrics.listening.set(i64::from(part.is_some()));
        if let Some(part) = part
            && self.state.said.listening != Some(part)
        {
            self.teller.tell(&Event::Listening { how: part.key(), words: &part.to_string() });
            (self.state.said.listening, self.state.said.deaf) = (Some(part), None);
        }
        if let Some(why) = deaf
            && self.state.said.deaf.as_ref() != Some(&why)
        {
            self.teller.tell(&Event::Deaf { why: &why });
            (self.state.said.listening, self.state.said.deaf) = (None, Some(why));
        }
        // A server that can only tell it in a handshake may serve it only to those who shook hands since.
        self.state.pinned = part.map_or(self.state.pinned, |part| part == Part::Handshake);
        self.state.told = told.map(|size| Told { size, later: self.state.pinned });
    }

    /// Does what is to be done about a size.
    fn size(&mut self, told: Told) -> Result<(), AgentError> {
        let (now, block) = (self.device.size()?, self.device.block_size()?);
        match judge(told.size, now, block, self.order.allow_shrink) {
            Verdict::Same => self.state.said.refused = None,
            Verdict::Refuse(refusal) => self.refuse(told.size, now, refusal.key(), &refusal.words()),
            Verdict::Grow(_) if told.later => self.renew(told.size, now),
            Verdict::Grow(size) => self.apply(size, now, told.size, false),
            Verdict::Shrink(size) => self.apply(size, now, told.size, true),
        }
        Ok(())
    }

    /// Tells the kernel, in a task that may wait, and reads back what it made of it.
    fn apply(&mut self, size: u64, now: u64, told: u64, shrink: bool) {
        let (device, driver, uri) = (self.device.clone(), self.attached.driver.clone(), self.order.uri.clone());
        let task = tokio::spawn(async move {
            if shrink {
                // What is cut off is gone: so the export itself has to say it once more.
                let link = Link::open(&uri, true).await?;
                if link.export.size != told {
                    return Err(AgentError::Unfit { why: format!("it has {} again", Bytes(link.export.size)) });
                }
            }
            driver.ask(Request::Size(size)).await?;
            match device.size()? {
                is if is == size => Ok(size),
                is => Err(AgentError::NotInForce { asked: size, now: is }),
            }
        });
        self.state.sizing = Some(Sizing { from: now, told, task });
    }

    fn sized(&mut self, sizing: &Sizing, outcome: Result<u64, AgentError>) -> Result<(), AgentError> {
        let Sizing { from, told, .. } = *sizing;
        self.look()?;
        match outcome {
            Ok(to) => {
                self.state.said.refused = None;
                self.readiness.is_right();
                self.metrics.resized(AgentResize::Ok);
                self.teller.tell(&Event::Resized { from, to, told });
            }
            Err(fault) => {
                self.metrics.resized(AgentResize::Failed);
                let size = self.device.size()?;
                if self.state.said.refused.replace(told) != Some(told) {
                    self.teller.tell(&Event::Refused { told, size, reason: "failed", why: &fault });
                    // What it should be is asked anew, once, and not remembered.
                    self.listener.again();
                }
            }
        }
        Ok(())
    }

    /// Ends the connection that can't connector the new size, so that another is made that can.
    fn renew(&mut self, told: u64, now: u64) {
        if self.order.connections > 1 || self.attached.sockets.is_empty() {
            let why = "its server serves a new size to new connections only, and these are not one that the agent made: \
                       detach the device, and let the agent attach it with one";
            return self.refuse(told, now, "old-connection", &why);
        }
        for socket in &self.attached.sockets {
            // Fails only if the server was faster.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        self.state.renewing = true;
    }

    fn refuse(&mut self, told: u64, size: u64, reason: &'static str, why: &dyn core::fmt::Display) {
        if self.state.said.refused.replace(told) != Some(told) {
            self.metrics.resized(AgentResize::Refused);
            self.teller.tell(&Event::Refused { told, size, reason, why });
        }
    }

    /// Leaves the device as it is, or detaches it if that was ordered and nobody uses it.
    async fn end(mut self) -> Result<(), AgentError> {
        // What is on its way to the kernel gets there; nothing else does.
        if let Some(task) = self.state.linking.take() {
            task.abort();
        }
        let size = self.device.size()?;
        if !self.order.detach {
            self.teller.tell(&Event::Left { size });
            return Ok(());
        }
        let device = self.device.clone();
        let unused = tokio::task::spawn_blocking(move || device.unused()).await;
        let unused = unused.unwrap_or_else(|lost| Err(AgentError::lost(lost)));
        match unused {
            Ok(_held_until_it_is_detached) => self.attached.driver.ask(Request::Disconnect).await?,
            Err(fault) => {
                self.teller.tell(&Event::Left { size });
                return Err(fault);
            }
        }
        self.teller.tell(&Event::Detached);
        Ok(())
    }
}

/// How a task ended. Cancel-safe: yes, it is the task that waits.
async fn finished<T>(task: &mut JoinHandle<Result<T, AgentError>>) -> Result<T, AgentError> {
    task.await.unwrap_or_else(|lost| Err(AgentError::lost(lost)))
}

/// How the replacement of a connection ended, if there is one. Cancel-safe: yes.
async fn linked(linking: &mut Option<Linking>) -> Result<(OwnedFd, u64), AgentError> {
    match linking {
        Some(task) => finished(task).await,
        None => core::future::pending().await,
    }
}

/// How a size on its way ended, if there is one. Cancel-safe: yes.
async fn sized(sizing: &mut Option<Sizing>) -> Result<u64, AgentError> {
    match sizing {
        Some(sizing) => finished(&mut sizing.task).await,
        None => core::future::pending().await,
    }
}
