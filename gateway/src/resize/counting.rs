//! What a coordinator counts: the calls to its export's account that need more than the account knows.

use nbd_gateway_policy::plan::{Grow, Standing};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::types::{Bytes, Size};

use super::coordinator::Coordinator;
use super::effects::Effects;
use super::settle::Exposed;
use crate::accounting::history::{Happened, Kind};
use crate::fault::Fault;
use crate::target::Shown;

impl<H: Effects> Coordinator<H> {
    pub(super) const fn is_window(&self) -> bool {
        self.account.is_window()
    }

    /// What clients see.
    pub(super) const fn shown(&self) -> Shown {
        Shown { size: self.state.size.bytes(), generation: self.state.generation }
    }

    /// What they see once this size is published: it is on record with its generation before that.
    pub(super) fn shown_next(&self, size: Size) -> Shown {
        let changes = u64::from(size != self.state.size);
        Shown { size: size.bytes(), generation: self.state.generation.wrapping_add(changes) }
    }

    /// Holds quota for a grow and notes what it exposes.
    pub(super) async fn hold(&mut self, grow: &Grow, bytes: Bytes) -> Result<(), Reason> {
        if self.account.behind && !self.make_good().await {
            return Err(Reason::LedgerUnavailable);
        }
        let held = self.account.hold(self.state.size, grow.to, bytes, grow.zero).await;
        if held.is_ok() || held == Err(Reason::LedgerUnavailable) {
            // Also if the ledger has failed: the note may be there all the same.
            self.exposed.extend(grow.zero.map(Exposed::planned));
        }
        if held? {
            let detail = format!("tenant `{}` is over its soft-quota with this", self.state.tenant);
            self.effects.log_event(Happened { kind: Kind::SoftQuota, from: self.state.size, to: grow.to, detail });
        }
        Ok(())
    }

    /// The grow is not done: nothing is held or exposed.
    pub(super) async fn call_off(&mut self) {
        let unexposed = self.exposed.iter().map(|exposed| exposed.range).collect();
        if self.account.roll_back(unexposed).await {
            self.exposed.clear();
        } else {
            // Cleared before the next grow.
            self.exposed.iter_mut().for_each(|exposed| {
                exposed.asked = false;
                exposed.doubt_note();
            });
        }
    }

    /// What counts where the backend has so much: the file counts as well that its server has not looked at again.
    pub(super) async fn there(&mut self, read: Size) -> Size {
        match self.effects.size_on_host().await.map(Size::new) {
            Some(Ok(length)) if !self.is_window() => read.max(length),
            Some(Ok(_) | Err(_)) | None => read,
        }
    }

    /// A size was read.
    pub(super) async fn measure(&mut self, count: Size) {
        let count = self.there(count).await;
        self.account.measure(count, self.shown()).await;
    }

    /// Clients are about to see more. What an operator holds back is on record first, or the next life would take it from
    /// them. False: the ledger has not taken it.
    pub(super) async fn will_show(&mut self, size: Size) -> bool {
        if !self.account.is_held_back() || size <= self.state.size {
            return true;
        }
        let count = self.account.counted().unwrap_or(self.state.disk);
        self.account.show_more(count, self.shown_next(size)).await
    }

    /// What counts now, read anew: of a window what it shows. With `apply` the sums and the ledger have it afterwards, if the
    /// ledger takes it.
    pub(super) async fn audit(&mut self, apply: bool) -> Result<Size, Fault> {
        if self.state.older {
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
        let count = if self.is_window() { self.state.size } else { self.there(read).await };
        if apply {
            // Whatever the ledger has, or a person has written there.
            self.make_good().await;
        }
        Ok(count)
    }

    /// Writes what the ledger did not take before. Whether it has now.
    pub(super) async fn make_good(&mut self) -> bool {
        self.account.make_good(self.shown(), self.standing == Standing::Ready).await
    }
}
