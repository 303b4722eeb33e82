//! The ledger of one simulation: it outlives the gateways that are killed.

use nbd_gateway_ledger::{Fate, Ledger, Mailbox, Snapshot};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::accounting::cache::LedgerCache;

/// The database, and the task that serves the gateway which runs now.
#[derive(Default)]
pub(super) struct Ledgers {
    idle: Mutex<Option<Mailbox>>,
    serving: Mutex<Option<(watch::Sender<bool>, JoinHandle<Mailbox>)>>,
}

impl Ledgers {
    /// The ledger of the next gateway, and its contents.
    pub(super) fn next(&self) -> (LedgerCache, Snapshot) {
        let (ledger, mailbox) = match self.idle.lock().take() {
            Some(mut mailbox) => (mailbox.restart().unwrap(), mailbox),
            None => Ledger::by_hand().unwrap(),
        };
        let snapshot = mailbox.snapshot().unwrap();
        let (kill, killed) = watch::channel(false);
        *self.serving.lock() = Some((kill, tokio::spawn(serve(mailbox, killed))));
        (LedgerCache::of(ledger, &snapshot, None), snapshot)
    }

    /// Nothing is written from now on.
    pub(super) async fn stop(&self) {
        let serving = self.serving.lock().take();
        if let Some((kill, served)) = serving {
            kill.send_replace(true);
            *self.idle.lock() = Some(served.await.unwrap());
        }
    }
}

async fn serve(mut mailbox: Mailbox, mut killed: watch::Receiver<bool>) -> Mailbox {
    loop {
        tokio::select! {
            // A kill first: nothing is written after it.
            biased;
            _ = killed.wait_for(|killed| *killed) => return mailbox,
            served = mailbox.serve_next(|_| Fate::Written) => if !served {
                return mailbox;
            }
        }
    }
}
