//! Telling others of a new size: `[[export.notify]]`.
//!
//! Owns one task for each hook of an open export. It tells the latest size, one attempt at a time, and again with growing
//! delays until it is heard or there is a newer one: who missed two sizes gets the last. `old_size` is the last that this
//! hook has heard, at first the size at which the export was opened.
//!
//! Only changes since then are told, and only as long as the export is open: what has not been heard when the export is
//! closed (idle, or with the gateway) is not told later. So a hook's host that
//! comes up asks for the size itself. Never delays whoever changes the size, and never judges what a hook does with it.

mod exec;
mod http;
mod qmp;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nbd_gateway_config::{Hook, Resolved, Way};
use nbd_gateway_metrics::{HookMetrics, HookResult, HookWay, Metrics, Open};
use nbd_gateway_net::Peer;
use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::{ExportName, TenantId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::command::Occasion;
use crate::fault::Fault;
use crate::request::SessionId;
use crate::target::{Core, Shown};

/// The delay after the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay.
const MOST: Duration = Duration::from_secs(60);

/// Disconnects clients that can't be notified of a size: they read it when they reconnect.
pub(crate) trait Disconnect: fmt::Debug + Send + Sync {
    /// The clients of an export, oldest first.
    fn clients_of(&self, export: &str) -> Vec<ConnectedClient>;

    /// Closes those sessions, each at a message boundary, and waits until they have ended. Cancel-safe: dropped, they are
    /// still closed.
    fn disconnect<'a>(&'a self, sessions: &'a [SessionId]) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// No clients.
#[cfg(test)]
impl Disconnect for () {
    fn clients_of(&self, _: &str) -> Vec<ConnectedClient> {
        Vec::new()
    }

    fn disconnect<'a>(&'a self, _: &'a [SessionId]) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// A client of an export, with what a hook selects it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectedClient {
    pub session: SessionId,
    pub peer: Peer,
    /// Its resize dialect.
    pub style: ClientStyle,
    /// The size that it was last told, in bytes.
    pub told: u64,
}

/// The hooks of an open export.
#[derive(Debug)]
pub(crate) struct Hooks {
    core: Arc<Core>,
    metrics: Arc<Metrics>,
    clients: Arc<dyn Disconnect>,
    /// In the order of the configuration.
    running: Mutex<Vec<Running>>,
}

/// A running hook. It ends with this; an attempt under way is ended too.
#[derive(Debug)]
struct Running {
    hook: Hook,
    /// What it has heard, in bytes.
    #[cfg(test)]
    told: Arc<AtomicU64>,
    _end: watch::Sender<()>,
}

impl Hooks {
    /// Starts those that are configured.
    pub(crate) fn start(
        config: &Resolved,
        core: &Arc<Core>,
        metrics: &Arc<Metrics>,
        clients: &Arc<dyn Disconnect>,
    ) -> Self {
        let (core, metrics, clients) = (Arc::clone(core), Arc::clone(metrics), Arc::clone(clients));
        let hooks = Self { core, metrics, clients, running: Mutex::default() };
        hooks.adjust(&config.notify);
        hooks
    }

    /// Ends those that are not wanted any more and starts those that are new: these are told of sizes from now on. What
    /// stays goes on where it is.
    pub(crate) fn adjust(&self, wanted: &[Hook]) {
        let mut running = self.running.lock();
        let mut before = std::mem::take(&mut *running);
        for (index, hook) in wanted.iter().enumerate() {
            let kept = before.iter().position(|running| running.hook == *hook).map(|at| before.swap_remove(at));
            running.push(kept.unwrap_or_else(|| self.begin(hook, index, None)));
        }
    }

    pub(crate) fn end(&self) {
        self.running.lock().clear();
    }

    /// `told`: what it has heard already, in bytes; none: the size now.
    fn begin(&self, hook: &Hook, index: usize, told: Option<u64>) -> Running {
        let (limit, clients) = (hook.timeout, Arc::clone(&self.clients));
        match hook.way.clone() {
            Way::Exec { command: words } => self.follow(hook, index, told, exec::Exec { words, limit }),
            Way::Http { url } => self.follow(hook, index, told, http::Http { url, limit }),
            Way::Qmp { socket, node } => self.follow(hook, index, told, qmp::Qmp { socket, node, limit, clients }),
        }
    }

    fn follow(&self, hook: &Hook, index: usize, told: Option<u64>, teller: impl Tell + 'static) -> Running {
        let mut sizes = self.core.view().follow();
        // Taken here, not when the task first runs: a change in between is one that is told.
        let at = sizes.borrow_and_update().size;
        let told = Arc::new(AtomicU64::new(told.unwrap_or(at)));
        if told.load(Ordering::Acquire) != at {
            sizes.mark_changed();
        }
        let follower = Follower {
            export: self.core.export().clone(),
            tenant: self.core.tenant().clone(),
            told: Arc::clone(&told),
            backoff: Backoff::named(FIRST, MOST, &format!("{index} {}", self.core.name())),
            metrics: self.metrics.hooks(self.core.name(), self.core.template.as_deref()),
            teller,
        };
        let (end, mut ending) = watch::channel(());
        tokio::spawn(async move {
            tokio::select! {
                // The end first: no attempt begins after it.
                biased;
                _ = ending.changed() => {}
                () = follower.follow(sizes) => {}
            }
        });
        Running {
            hook: hook.clone(),
            #[cfg(test)]
            told,
            _end: end,
        }
    }
}

/// One way to tell one who wants to know. In a log, it shows who that is.
trait Tell: fmt::Display + Send + Sync {
    /// What it is counted as.
    const WAY: HookWay;

    /// One attempt, in bounded time. Cancel-safe: dropped, it is ended; it may have been heard.
    fn tell(&self, occasion: &Occasion) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// One hook, and what it has heard.
struct Follower<T> {
    export: ExportName,
    tenant: TenantId,
    teller: T,
    /// The size that it heard last, in bytes.
    told: Arc<AtomicU64>,
    backoff: Backoff,
    metrics: HookMetrics,
}

impl<T: Tell> Follower<T> {
    /// Tells each size, as long as there are any. Cancel-safe: yes, as one attempt is.
    async fn follow(mut self, mut sizes: watch::Receiver<Shown>) {
        while sizes.changed().await.is_ok() {
            self.backoff.reset();
            let behind = Open::new(&self.metrics.behind);
            self.tell(&mut sizes).await;
            drop(behind);
        }
    }

    /// Until the latest size has been heard.
    async fn tell(&mut self, sizes: &mut watch::Receiver<Shown>) {
        loop {
            let Shown { size, generation } = *sizes.borrow_and_update();
            let told = self.told.load(Ordering::Acquire);
            if size == told {
                return;
            }
            let occasion = Occasion {
                export: self.export.clone(),
                tenant: self.tenant.clone(),
                old_size: told,
                size,
                generation: Some(generation),
            };
            let (export, hook) = (self.export.as_str(), &self.teller);
            match self.teller.tell(&occasion).await {
                Ok(()) => {
                    tracing::info!(export, %hook, size, generation, "a hook has heard of a size");
                    self.metrics.attempted(T::WAY, HookResult::Ok);
                    self.told.store(size, Ordering::Release);
                    return;
                }
                Err(why) => {
                    let delay = self.backoff.next_delay();
                    tracing::warn!(export, %hook, size, generation, %why, again_in = ?delay, "a hook was not told of a size");
                    self.metrics.attempted(T::WAY, HookResult::Failed);
                    self.wait(delay, sizes).await;
                }
            }
        }
    }

    /// A newer size need not wait for long that others were not heard; but whoever fails is never asked without a pause.
    async fn wait(&mut self, delay: Duration, sizes: &mut watch::Receiver<Shown>) {
        tokio::select! {
            // The delay first: once it is over, a new size needs no pause of its own.
            biased;
            () = tokio::time::sleep(delay) => return,
            changed = sizes.changed() => {
                if changed.is_err() {
                    // Nobody is left to change it; the delay goes on being one.
                    return tokio::time::sleep(delay).await;
                }
            }
        }
        self.backoff.reset();
        let delay = self.backoff.next_delay();
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod suspend;
#[cfg(test)]
mod tests;
