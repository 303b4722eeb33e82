//! What the service manager (systemd) is told, by datagrams to `$NOTIFY_SOCKET` as sd_notify(3) describes them.
//!
//! Owns the words and when they are sent: `READY=1` once every listener accepts and the embedded exports are open;
//! `STATUS=` a sentence for people, looked at every two seconds and sent when it is another; `RELOADING=1` with
//! `MONOTONIC_USEC=`, and `READY=1` again, around a reload; `STOPPING=1` when the drain begins, with
//! `EXTEND_TIMEOUT_USEC=` so that no drain-timeout is cut short; and, at half of `$WATCHDOG_USEC`, `WATCHDOG=1`, only if
//! the gateway makes progress (`pulse` says what that is).
//!
//! Without a manager nothing is sent and nothing is looked at. Never decides anything: a manager that does not listen is
//! complained of once, and changes nothing.

mod environment;
mod pulse;
mod status;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::shards::Shards;

pub(crate) use pulse::silent_threads;
pub(crate) use status::ServiceStatus;

/// How often the sentence is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// A manager that does not read for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a busy machine may need beyond the time in which the gateway ends.
const MARGIN: Duration = Duration::from_secs(5);

/// The way to the service manager; cheap to clone. Without a manager, all of it does nothing.
#[derive(Clone, Debug)]
pub(crate) struct Service(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    address: SocketAddr,
    /// How long it waits for a sign of life, if it does.
    watchdog: Option<Duration>,
    reloading: AtomicBool,
    /// The shards that do not answer, as [`pulse`] found them.
    silent: Mutex<Vec<usize>>,
    /// The sentence that it was told last.
    said: Mutex<String>,
    /// It could not be told something, and that is in the log.
    unheard: AtomicBool,
}

impl Service {
    /// The manager that the environment names, or none.
    pub(crate) fn from_env() -> Self {
        let of_environment = environment::Environment::read();
        let watchdog = of_environment.watchdog().unwrap_or_else(|fault| {
            tracing::warn!(%fault, "no watchdog is told of this process");
            None
        });
        match of_environment.address() {
            Ok(Some(address)) => Self::at(address, watchdog),
            Ok(None) => Self::none(),
            Err(fault) => {
                tracing::warn!(%fault, "the service manager can't be told anything");
                Self::none()
            }
        }
    }

    /// A manager that listens there, and waits so long for a sign of life, if it does.
    pub(crate) fn at(address: SocketAddr, watchdog: Option<Duration>) -> Self {
        Self(Some(Arc::new(Manager {
            address,
            watchdog,
            reloading: AtomicBool::new(false),
            silent: Mutex::default(),
            said: Mutex::default(),
            unheard: AtomicBool::new(false),
        })))
    }

    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Every listener accepts: at the start, and when a reload is over, whatever became of it. Cancel-safe: yes; what is
    /// dropped may not have been told, here and below.
    pub(crate) async fn ready(&self) {
        if let Some(manager) = &self.0 {
            manager.reloading.store(false, Ordering::Relaxed);
            manager.tell("READY=1\n").await;
        }
    }

    /// The configuration is about to be read anew; [`ready`](Self::ready) has to follow.
    pub(crate) async fn reloading(&self) {
        let Some(manager) = &self.0 else { return };
        manager.reloading.store(true, Ordering::Relaxed);
        // Since systemd 253 a RELOADING=1 has to tell when it was sent, so that it is not taken for that of a reload before.
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
        let sentence = status::RELOADING;
        manager.said.lock().replace_range(.., sentence);
        manager.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS={sentence}\n", now.as_micros())).await;
    }

    /// The drain begins, and is over within that time; the manager is asked for a little more.
    pub(crate) async fn stopping(&self, within: Duration) {
        if let Some(manager) = &self.0 {
            let within = within.saturating_add(MARGIN);
            manager.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\n", within.as_micros())).await;
        }
    }

    /// Tells how the gateway is, as `look` sees it, and gives signs of life. Never completes. Cancel-safe: yes.
    pub(crate) async fn tend(self, shards: Shards, look: impl Fn() -> ServiceStatus) {
        let Some(manager) = self.0 else { return std::future::pending().await };
        tokio::join!(manager.tell_status(look), manager.beat(&shards));
    }
}

impl Manager {
    async fn tell_status(&self, look: impl Fn() -> ServiceStatus) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.tell_sentence(&look).await;
        }
    }

    /// Tells the sentence of now, if it is another than the last one.
    async fn tell_sentence(&self, look: &impl Fn() -> ServiceStatus) {
        let mut sentence =
            if self.reloading.load(Ordering::Relaxed) { status::RELOADING.to_owned() } else { look().to_string() };
        let silent = self.silent.lock().clone();
        if !silent.is_empty() {
            // A String takes everything.
            let _ = write!(sentence, "; {}", pulse::complaint(&silent));
        }
        let known = std::mem::replace(&mut *self.said.lock(), sentence.clone()) == sentence;
        if !known {
            self.tell(&format!("STATUS={sentence}\n")).await;
        }
    }

    /// Sends one message. What can't be sent is complained of until something can be again, once.
    async fn tell(&self, message: &str) {
        let sent = timeout(PATIENCE, self.send(message)).await;
        match sent.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok(()) => self.unheard.store(false, Ordering::Relaxed),
            Err(error) if !self.unheard.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "the service manager does not hear what it is told; it may think that this process hangs");
            }
            Err(_) => {}
        }
    }

    /// One datagram, on a socket of its own: the manager may have been replaced since the last one. Waits while the manager's
    /// queue is full.
    async fn send(&self, message: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&self.address)?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(drop)
    }
}
