//! One name of the registry's: who has it open, whether it is being opened or closed, and whether it leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use nbd_gateway_config::Resolved;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::tenant_slots::Slot;
use super::{AdjustError, Export, OpenError};
use crate::target::{Presence, Verdict};

/// One name that is open, or is being opened or closed.
#[derive(Debug)]
pub(super) struct Entry {
    config: RwLock<Arc<Resolved>>,
    pub(super) state: tokio::sync::Mutex<State>,
    pub(super) users: AtomicUsize,
    /// Told when there is none.
    pub(super) empty: Notify,
    /// Rises whenever a lease is made: an idle time that began before it is void.
    pub(super) leased: AtomicU64,
    /// Nobody joins it any more.
    leaving: AtomicBool,
}

/// What is behind an entry's lock.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) export: Option<Arc<Export>>,
    /// Its place among those of its tenant's.
    pub(super) slot: Option<Slot>,
    /// When the last attempt to open failed, and why: those who were waiting then get the same answer.
    pub(super) failed: Option<(Instant, OpenError)>,
    /// Taken out of the map: ask the map again.
    pub(super) retired: bool,
}

/// Whether what is open may be shown to a client that comes now.
#[derive(Debug)]
pub(super) enum Fitness {
    /// It is what its server is.
    Good,
    /// Nobody knows what its server is by now, and nobody relies on what it was: it is to be opened anew.
    Stale,
    /// The server was lost, and may be back by then.
    Expected(Arc<Presence>, Instant),
    /// The server is away, or came back different, unless another attempt says otherwise.
    Unfit(Arc<Presence>, OpenError),
}

impl State {
    pub(super) fn holds(&mut self, export: Arc<Export>, slot: Option<Slot>) {
        (self.export, self.slot, self.failed) = (Some(export), slot, None);
    }
}

impl Entry {
    pub(super) fn new(config: Resolved) -> Arc<Self> {
        Arc::new(Self {
            config: RwLock::new(Arc::new(config)),
            state: tokio::sync::Mutex::default(),
            users: AtomicUsize::new(0),
            empty: Notify::new(),
            leased: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        })
    }

    /// What it is, or is to be, opened with.
    pub(super) fn config(&self) -> Arc<Resolved> {
        Arc::clone(&self.config.read())
    }

    /// What it has open; None also while it is being opened or closed.
    pub(super) fn now_open(&self) -> Option<Arc<Export>> {
        self.state.try_lock().ok().and_then(|state| state.export.clone())
    }

    /// What is open goes by these settings from now on.
    pub(super) fn adjust(&self, export: &Export, next: Resolved) -> Result<(), AdjustError> {
        export.adjust(&next)?;
        *self.config.write() = Arc::new(next);
        Ok(())
    }

    pub(super) fn name(&self) -> String {
        self.config.read().name.as_str().to_owned()
    }

    /// How many leases there are.
    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::Acquire)
    }

    /// Waits until there is no lease. Cancel-safe: yes.
    pub(super) async fn unused(&self) {
        loop {
            let empty = self.empty.notified();
            if self.users() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Whether `export`, which this entry has open, is what its server is. Called with the entry's lock held: nobody joins
    /// meanwhile.
    pub(super) fn fitness(&self, export: &Export) -> Fitness {
        let Some(presence) = export.core.lanes().map(|lanes| &lanes.presence) else { return Fitness::Good };
        let (verdict, relying) = (presence.verdict(), self.users().max(export.resizer.openers.relying()));
        let unfit = |error: OpenError| Fitness::Unfit(Arc::clone(presence), error);
        let export_name = || export.name().to_owned();
        match verdict {
            Verdict::Expected(until) => Fitness::Expected(Arc::clone(presence), until),
            // Whatever it came back as: a request that may still land keeps others waiting only as long as it is known here.
            _ if presence.was_lost() && relying == 0 && !export.core.has_orphans() => Fitness::Stale,
            Verdict::There => Fitness::Good,
            Verdict::Away(why) => unfit(OpenError::Backend { export: export_name(), why }),
            Verdict::Different(how) => unfit(OpenError::Changed { export: export_name(), how, clients: relying }),
        }
    }

    /// Lets nobody join it any more. False: it was leaving already.
    pub(super) fn closes(&self) -> bool {
        !self.leaving.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }
}
