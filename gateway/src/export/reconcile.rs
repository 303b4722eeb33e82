//! Holding the ledger against what there is: each export of it is measured, and with `apply` the books are made to agree.
//!
//! An export that nobody has open is opened for that, and counts at what it has from then on, as when a client opens it.
//! What can't be measured stays counted as it was. One that has left the configuration is forgotten with `apply`, and only
//! if nothing of it is owed: no byte to be zeroed, no grow of unknown outcome.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nbd_gateway_ledger::{ExportRow, LedgerError, Snapshot, State};
use nbd_gateway_policy::types::{Bytes, Size};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Registry;
use super::registry::Opener;
use crate::fault::Fault;

/// How many exports are opened or measured at a time.
const AT_A_TIME: usize = 8;

/// What became of one export of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Measured {
        /// What counts of it.
        size: Size,
        /// What the ledger had on record: before it was opened, if nobody had it open.
        counted: Size,
        /// Whether the ledger agrees by now.
        agrees: bool,
    },
    /// It can't be measured now.
    Unmeasured(String),
    /// The configuration has no such export any more, and it is still counted.
    Gone {
        /// Why it is kept although it was to be forgotten; `None`: it was not to be.
        kept: Option<String>,
    },
    /// The configuration has no such export any more, or its file is gone that a client's name had made; it is not counted
    /// any more.
    Forgotten,
}

/// One export of the ledger, held against what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Audited {
    /// What the ledger had on record.
    pub row: ExportRow,
    /// Held for a grow in flight.
    pub reserved: Bytes,
    /// Held for grows of unknown outcome.
    pub unsettled: Bytes,
    /// Still to be zeroed.
    pub to_zero: Bytes,
    pub found: Found,
}

impl Registry {
    /// Measures every export of the ledger; with `apply`, makes the books agree. Cancel-safe: yes, what was begun for an
    /// export is done whole.
    ///
    /// # Errors
    /// The ledger can't be read.
    pub(crate) async fn reconcile(self: &Arc<Self>, apply: bool) -> Result<Vec<Audited>, LedgerError> {
        let before = self.ledger().snapshot().await?;
        let open: HashSet<String> = self.open_now().iter().map(|export| export.name().to_owned()).collect();
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        let mut measuring = JoinSet::new();
        for (at, row) in before.exports.iter().enumerate() {
            let (registry, turns, name) = (Arc::clone(self), Arc::clone(&turns), row.name.as_str().to_owned());
            if registry.knows(&name).is_ok() {
                measuring.spawn(async move {
                    let _turn = turns.acquire_owned().await;
                    (at, registry.measure(&name, apply).await)
                });
            }
        }
        let mut measured = vec![None; before.exports.len()];
        while let Some(done) = measuring.join_next().await {
            if let Ok((at, outcome)) = done
                && let Some(place) = measured.get_mut(at)
            {
                *place = Some(outcome);
            }
        }
        let mut audited = Vec::with_capacity(measured.len());
        let after = self.ledger().snapshot().await?;
        let sizes: HashMap<_, _> = after.exports.iter().map(|row| (&row.name, row.known.size)).collect();
        for (row, outcome) in before.exports.iter().zip(measured) {
            let found = match outcome {
                Some(Ok(size)) => {
                    let now = sizes.get(&row.name).copied().unwrap_or(size);
                    // One that was open may have been resized before it was measured: that is no drift. One that was not has
                    // been put right by its opening.
                    let resized = !apply && open.contains(row.name.as_str()) && now == size;
                    let counted = if resized { size } else { row.known.size };
                    Found::Measured { size, counted, agrees: counted == size || (apply && now == size) }
                }
                Some(Err(_)) if apply && self.forget_unmade(row.name.as_str()).await => Found::Forgotten,
                Some(Err(why)) => Found::Unmeasured(why.message().to_owned()),
                None => self.let_go(row, &before, apply).await,
            };
            audited.push(audit(row, &before, found));
        }
        Ok(audited)
    }

    async fn measure(self: &Arc<Self>, name: &str, apply: bool) -> Result<Size, Fault> {
        if self.is_unmade(name).await {
            return Err(Fault::host("its file is not there; a client that opens it makes it anew"));
        }
        let lease =
            self.open_for(name, Opener::Look).await.map_err(|error| Fault::new(error.whose(), error.to_string()))?;
        lease.export().resizer.audit(apply).await
    }

    async fn let_go(&self, row: &ExportRow, before: &Snapshot, apply: bool) -> Found {
        if !apply {
            return Found::Gone { kept: None };
        }
        let owed = audit(row, before, Found::Forgotten);
        if owed.unsettled > Bytes(0) {
            return Found::Gone { kept: Some(format!("nobody knows whether it grew by {}", owed.unsettled)) };
        }
        if owed.to_zero > Bytes(0) {
            return Found::Gone { kept: Some(format!("{} of it are still to be zeroed", owed.to_zero)) };
        }
        if let Err(error) = self.shared.ledger_cache.forget(&row.name, &row.tenant, row.known.size).await {
            return Found::Gone { kept: Some(error.to_string()) };
        }
        if let Err(reason) = self.shared.accounts.books(|books| books.remove(&row.name)) {
            let why = reason.label();
            tracing::error!(export = row.name.as_str(), why, "a forgotten export is counted until the next start");
        }
        Found::Forgotten
    }
}

fn audit(row: &ExportRow, before: &Snapshot, found: Found) -> Audited {
    let sum = |state: State| {
        let held = before.reservations.iter().filter(|held| held.export == row.name && held.state == state);
        Bytes(held.fold(0, |sum: u64, held| sum.saturating_add(held.bytes.0)))
    };
    let zeroing = before.zeroing.iter().filter(|owed| owed.export == row.name);
    let to_zero = zeroing.fold(0, |sum: u64, owed| sum.saturating_add(owed.range.len().0));
    Audited {
        row: row.clone(),
        reserved: sum(State::Reserved),
        unsettled: sum(State::Unsettled),
        to_zero: Bytes(to_zero),
        found,
    }
}
