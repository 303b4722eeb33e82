//! The sign of life: `WATCHDOG=1`, as long as the gateway makes progress.
//!
//! Progress is that the control runtime runs this task, and that every shard has run a task of this round. Each round
//! begins when the last one is over and half of the manager's patience is; there is no sign of life before its end. So a
//! thread that hangs, spins or has ended is found within that patience, and the manager kills and starts the gateway
//! anew, which a client that reconnects survives.
//!
//! Not asked for a sign: the threads that wait for disks (the embedded disks' pool, the ledger's). A disk that hangs is that
//! disk's fault, the others go on, and another start would not mend it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Manager;
use crate::shards::Shards;

impl Manager {
    /// Gives signs of life for ever, if the manager waits for them. Cancel-safe: yes.
    pub(super) async fn beat(&self, shards: &Shards) {
        let Some(every) = self.watchdog.map(|patience| patience / 2) else { return };
        loop {
            let next = Instant::now() + every;
            let mut round = Round::ask(shards);
            tokio::select! {
                // An answer in the last moment is one.
                biased;
                () = round.answered() => {}
                () = sleep(every) => self.miss(&mut round).await,
            }
            self.tell("WATCHDOG=1\n").await;
            sleep_until(next).await;
        }
    }

    /// Says who does not answer, and waits until all do.
    async fn miss(&self, round: &mut Round) {
        let silent: Vec<usize> = round.silent.iter().copied().collect();
        tracing::error!(shards = ?silent, "a thread that moves requests does not answer; the service manager is given no sign of life");
        self.tell(&format!("STATUS={}\n", complaint(&silent))).await;
        self.said.lock().clear();
        *self.silent.lock() = silent;
        round.answered().await;
        self.silent.lock().clear();
        tracing::info!("all threads that move requests answer again");
    }
}

/// Asks every shard, and the runtime that accepts and dials, for a sign of life within `limit`. None: all give one; else a sentence
/// that names the others. Not to be called on a thread that it asks.
pub(crate) async fn silent_threads(shards: &Shards, control: &Handle, limit: Duration) -> Option<String> {
    let mut round = Round::ask(shards);
    let mut controlling = control.spawn(async {});
    let all = async { tokio::join!(round.answered(), &mut controlling) };
    if timeout(limit, all).await.is_ok() {
        return None;
    }
    let mut names: Vec<String> = round.silent.iter().map(|number| format!("shard-{number}")).collect();
    if !controlling.is_finished() {
        names.push("control".to_owned());
    }
    Some(format!("no answer of {} within {limit:?}", names.join(", ")))
}

/// Who does not answer, for people.
pub(super) fn complaint(silent: &[usize]) -> String {
    let names: Vec<String> = silent.iter().map(|number| format!("shard-{number}")).collect();
    format!("no answer of {}", names.join(", "))
}

/// One question to every shard.
pub(super) struct Round {
    silent: BTreeSet<usize>,
    answers: mpsc::UnboundedReceiver<usize>,
}

impl Round {
    pub(super) fn ask(shards: &Shards) -> Self {
        // As many messages as there are shards.
        let (answer, answers) = mpsc::unbounded_channel();
        let mut silent = BTreeSet::new();
        for (number, shard) in shards.all().enumerate() {
            silent.insert(number);
            let answer = answer.clone();
            shard.spawn(async move {
                // The round may be over.
                let _ = answer.send(number);
            });
        }
        Self { silent, answers }
    }

    /// Completes when every shard has answered; one that has ended never does. Cancel-safe: yes.
    pub(super) async fn answered(&mut self) {
        while !self.silent.is_empty() {
            match self.answers.recv().await {
                Some(number) => self.silent.remove(&number),
                None => std::future::pending().await,
            };
        }
    }

    /// One that nobody heard.
    #[cfg(test)]
    pub(super) fn unheard(shards: usize) -> Self {
        Self { silent: (0..shards).collect(), answers: mpsc::unbounded_channel().1 }
    }

    /// Those that have not answered yet.
    #[cfg(test)]
    pub(super) fn silent(&self) -> Vec<usize> {
        self.silent.iter().copied().collect()
    }
}
