//! A coordinator's bookkeeping: what it does to the tenants' books in memory, and what it has the ledger remember of it.
//!
//! The ledger knows of a grow before the backend does, and of a window's size before anyone sees it. Everything else that
//! it does not take is counted in memory, and written when it can be: until then the ledger counts too much.

use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::plan::Standing;
use nbd_gateway_policy::quota::Reservation;
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::style::Grows;
use nbd_gateway_policy::types::{Bytes, Size};

use super::coordinator::Coordinator;
use super::effects::Effects;
use crate::accounting::account::Entry;
use crate::accounting::history::{Happened, Kind};
use crate::accounting::tenants::Book;
use crate::fault::Fault;

impl<H: Effects> Coordinator<H> {
    pub(super) fn is_window(&self) -> bool {
        self.at.backend.grows == Grows::Window
    }

    /// Writes one entry. Whether the ledger has it.
    async fn write(&mut self, entry: Entry) -> bool {
        let written = self.effects.record(entry).await;
        match (&written, entry) {
            (Ok(()), Entry::Commit { .. } | Entry::Settle { .. } | Entry::Measure { .. }) => self.at.unwritten = false,
            (Ok(()), Entry::Hold { .. } | Entry::RollBack | Entry::Unsettle | Entry::Show { .. }) => {}
            (Err(why), _) => {
                // Of a hold that is refused the ledger's own complaint is enough: whoever is refused may ask often.
                if !self.at.unwritten && !matches!(entry, Entry::Hold { .. }) {
                    tracing::error!(export = self.at.export.as_str(), %why, "the ledger does not take what became of a size; nothing of the export grows until it does");
                }
                // A hold that failed is not there.
                self.at.unwritten |= !matches!(entry, Entry::Hold { .. });
            }
        }
        written.is_ok()
    }

    /// Holds quota for a grow, in memory and in the ledger.
    pub(super) async fn hold(&mut self, to: Size, bytes: Bytes) -> Result<Reservation, Reason> {
        if self.at.unwritten && !self.make_good().await {
            return Err(Reason::LedgerUnavailable);
        }
        let from = self.book.size(&self.at.export).unwrap_or(self.at.size);
        let over = |book: &Book, tenant| book.usage(tenant).is_some_and(|usage| usage.over_soft_quota);
        let was_over = over(&self.book, &self.at.tenant);
        let held = self.book.reserve(&self.at.export, &self.at.tenant, to, bytes).await?;
        if !was_over && over(&self.book, &self.at.tenant) {
            let detail = format!("tenant `{}` is over its soft-quota with this", self.at.tenant);
            self.effects.log_event(Happened { kind: Kind::SoftQuota, from: self.at.size, to, detail });
        }
        if self.write(Entry::Hold { from, to, bytes }).await {
            return Ok(held);
        }
        self.book.roll_back(Some(held)).await;
        Err(Reason::LedgerUnavailable)
    }

    /// What counts where the backend has so much: the file counts as well that its server has not looked at again.
    pub(super) async fn there(&mut self, read: Size) -> Size {
        match self.effects.size_on_host().await.map(Size::new) {
            Some(Ok(length)) if !self.is_window() => read.max(length),
            Some(Ok(_) | Err(_)) | None => read,
        }
    }

    /// The grow is done. False: the ledger has not taken it, and for a window it is not done.
    pub(super) async fn commit(&mut self, held: Option<Reservation>, count: Size) -> bool {
        let count = self.there(count).await;
        let written = self.write(Entry::Commit { count }).await;
        if !written && self.is_window() {
            // It may be there after a crash all the same.
            self.book.unsettle(held).await;
        } else {
            self.book.commit(held, &self.at.export, count).await;
        }
        written
    }

    /// The grow was not done.
    pub(super) async fn roll_back(&mut self, held: Option<Reservation>) {
        if held.is_some() {
            self.book.roll_back(held).await;
            self.write(Entry::RollBack).await;
        }
    }

    /// A shrink begins: if the gateway ends before its outcome is on record, the smaller size that is found then is this
    /// gateway's own doing, and no loss. False: the ledger has not taken that.
    pub(super) async fn lower(&mut self, to: Size) -> bool {
        let from = self.book.size(&self.at.export).unwrap_or(self.at.size);
        self.is_window() || self.write(Entry::Hold { from, to, bytes: Bytes(0) }).await
    }

    /// It is over. What the ledger has not taken of its outcome is written with the next entry that it takes.
    pub(super) async fn lowered(&mut self) {
        if self.is_window() || self.at.unwritten {
            return;
        }
        let unknown = matches!(self.standing, Standing::Unsettled { .. });
        self.write(if unknown { Entry::Unsettle } else { Entry::RollBack }).await;
    }

    /// Nobody knows whether it was done.
    pub(super) async fn unsettle(&mut self, held: Option<Reservation>) {
        if held.is_some() {
            self.book.unsettle(held).await;
            self.write(Entry::Unsettle).await;
        }
    }

    /// Nothing is held or unknown any more. Whether the ledger has it.
    pub(super) async fn settled(&mut self, count: Size) -> bool {
        let count = self.there(count).await;
        let written = self.write(Entry::Settle { count }).await;
        self.book.settle(&self.at.export, count).await;
        written
    }

    /// A window shows what an operator says that it has, or what it gave up at last. False: the ledger has not taken it.
    pub(super) async fn shows(&mut self, count: Size) -> bool {
        let written = self.write(Entry::Commit { count }).await;
        if written {
            self.at.unrecorded = false;
            self.book.settle(&self.at.export, count).await;
        }
        written
    }

    /// Clients are about to see more: of what an operator holds back that is on record first, or the next life would take it
    /// from them. False: the ledger has not taken it.
    pub(super) async fn will_show(&mut self, shown: Size) -> bool {
        if self.at.policy.publish != Publish::Manual || self.is_window() || shown <= self.at.size {
            return true;
        }
        let count = self.book.size(&self.at.export).unwrap_or(self.at.disk);
        self.write(Entry::Show { count, shown }).await
    }

    /// A size was read.
    pub(super) async fn measure(&mut self, count: Size) {
        let count = self.there(count).await;
        if self.book.size(&self.at.export) != Some(count) || self.at.unwritten {
            self.book.measure(&self.at.export, count).await;
            self.write(Entry::Measure { count }).await;
        }
    }

    /// A window is to show less. False: the ledger has not taken it.
    pub(super) async fn give_up(&mut self, count: Size) -> bool {
        self.write(Entry::Measure { count }).await
    }

    /// What counts now, read anew: of a window what it shows. With `apply` the books and the ledger have it afterwards, if
    /// the ledger takes it.
    pub(super) async fn audit(&mut self, apply: bool) -> Result<Size, Fault> {
        if self.at.older {
            return Err(Fault::host(self.refusal(Reason::OlderLedger).to_string()));
        }
        if apply {
            if self.has_loose_ends() {
                self.settle().await;
            }
            self.look().await?;
        }
        let read = self.effects.read_size().await?;
        let read = Size::new(read).map_err(|why| Fault::backend(why.to_string()))?;
        let count = if self.is_window() { self.at.size } else { self.there(read).await };
        if apply {
            // Whatever the ledger has, or a person has written there.
            self.make_good().await;
        }
        Ok(count)
    }

    /// Writes what the ledger did not take before. Whether it has now.
    pub(super) async fn make_good(&mut self) -> bool {
        let Some(count) = self.book.size(&self.at.export) else { return true };
        if self.standing != Standing::Ready {
            return self.write(Entry::Measure { count }).await;
        }
        let written = self.write(Entry::Settle { count }).await;
        if written {
            self.book.settle(&self.at.export, count).await;
        }
        written
    }
}
