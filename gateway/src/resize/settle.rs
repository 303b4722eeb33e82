//! What is done about sizes that nobody asked for just now, about outcomes that nobody knows, and about bytes that a grow
//! has exposed and nobody may see yet.
//!
//! A size from elsewhere is a hint, read again before it is judged: it may be older than what this gateway did since. A
//! grow or shrink of unknown outcome is settled by a probe, but not as long as the request may still land.

use nbd_gateway_metrics::{ResizeResult, ResizeStyle};
use nbd_gateway_policy::plan::{Adopt, Others, Plan, Standing, Wish, plan};
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::style::Grows;
use nbd_gateway_policy::types::{ByteRange, Size};

use super::coordinator::{Answer, Coordinator};
use super::effects::{Answered, Effects};
use crate::accounting::history::{Happened, Kind};
use crate::fault::Fault;
use crate::target::Shown;

/// A size that was read back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    /// In bytes.
    pub(super) size: u64,
    /// A request that was given up may still change it.
    pub(super) in_doubt: bool,
}

/// A range beyond what is shown that a grow of this gateway has exposed, or may have. Only as far as the backend has it,
/// it is zeroed; then its note is taken off the ledger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exposed {
    pub(super) range: ByteRange,
    /// The ledger has it.
    pub(super) noted: bool,
    /// The backend has been asked: it may be there.
    pub(super) asked: bool,
}

impl Exposed {
    /// Of an earlier life: the ledger had it.
    pub(super) const fn earlier(range: ByteRange) -> Self {
        Self { range, noted: true, asked: true }
    }

    /// Noted for a grow that has yet to be asked for.
    pub(super) const fn planned(range: ByteRange) -> Self {
        Self { range, noted: true, asked: false }
    }

    /// The ledger was to let go of it and says that it has not. It may have: then it is noted again before it is zeroed.
    pub(super) const fn doubt_note(&mut self) {
        self.noted = false;
    }
}

impl<H: Effects> Coordinator<H> {
    /// A size that the backend told somebody.
    pub(super) async fn hint(&mut self, size: u64) {
        if self.state.older || self.standing == Standing::Ready && size == self.state.disk.bytes() {
            return;
        }
        // What can't be read now is looked at again.
        let _ = self.look().await;
    }

    /// Reads the size anew, and makes of it what the policy says.
    pub(super) async fn look(&mut self) -> Result<Read, Fault> {
        let asked = match self.standing {
            Standing::Unsettled { asked } => Some(asked),
            Standing::Ready | Standing::Unmeasured | Standing::Quarantined { .. } | Standing::Draining => None,
        };
        let read = self.read_back(asked).await;
        match &read {
            Ok(Read { size, in_doubt: false }) => self.judge(*size).await,
            Ok(Read { size, in_doubt: true }) => self.count(*size).await,
            Err(why) => {
                tracing::debug!(export = self.state.export.as_str(), %why, "the backend's size can't be read now");
            }
        }
        read
    }

    /// Reads the size after `asked` was asked for, and says whether that may still change it.
    pub(super) async fn read_back(&mut self, asked: Option<Size>) -> Result<Read, Fault> {
        // Asked first: what is answered after the reading may land after it too.
        let mut in_doubt = self.effects.in_doubt();
        let size = match self.effects.read_size().await {
            Ok(size) => size,
            // A server that takes one connection only tells no other than the lane that came back to it.
            Err(why) if asked.is_none() => return Err(why),
            Err(why) => self.effects.size_from_handshake().await.ok_or(why)?,
        };
        if in_doubt && asked.is_some_and(|asked| asked.bytes() == size) {
            self.effects.confirmed();
            in_doubt = false;
        }
        Ok(Read { size, in_doubt })
    }

    /// The size that came of an ask for `asked`. An error: nobody knows, and so what was held for it stays held.
    pub(super) async fn outcome(&mut self, asked: Size, answered: &Answered) -> Result<u64, Refusal> {
        match self.read_back(Some(asked)).await {
            Ok(Read { size, in_doubt: false }) => Ok(size),
            Ok(Read { size, in_doubt: true }) => {
                self.blame(answered, Reason::BackendTimedOut);
                let refusal = self.leave_unsettled(asked, "it may still do what it did not answer").await;
                self.count(size).await;
                Err(refusal)
            }
            // Nothing was asked: it has what it had.
            Err(_) if self.is_window() => Ok(self.state.disk.bytes()),
            Err(why) => {
                let why = self.unread_after(answered, why.message());
                Err(self.leave_unsettled(asked, &why).await)
            }
        }
    }

    /// Before a backend is asked, its size is not the one that was planned with, or can't be read. Nothing is asked of it;
    /// `None`: there is another plan now.
    pub(super) async fn misread(&mut self, read: Result<u64, Fault>) -> Option<Answer> {
        let beside = matches!(self.state.backend.grows, Grows::Driver { aside: false });
        match read {
            Ok(size) => self.judge(size).await,
            // Without its lanes it may tell.
            Err(_) if beside && !std::mem::replace(&mut self.alone, true) => {}
            Err(why) => return Some(Err(self.unread(why.message()))),
        }
        None
    }

    /// The backend's size can't be read, so nothing is asked of it.
    pub(super) fn unread(&mut self, why: &str) -> Refusal {
        self.said = Some(format!("its size can't be read: {why}"));
        tracing::warn!(export = self.state.export.as_str(), why, "the backend's size can't be read; it is not resized");
        self.refusal(Reason::BackendFailed)
    }

    /// Why nobody knows what became of an ask: what went wrong with it tells more than that the size can't be read.
    pub(super) fn unread_after(&mut self, answered: &Answered, why: &str) -> String {
        let unread = format!("its size can't be read: {why}");
        let why = match answered {
            Answered::No { message, .. } | Answered::Unknown(message) if !message.is_empty() => {
                format!("{message}; {unread}")
            }
            Answered::Yes | Answered::No { .. } | Answered::Unknown(_) => unread,
        };
        self.said = Some(why.clone());
        why
    }

    /// Counts a size that may not stay.
    pub(super) async fn count(&mut self, size: u64) {
        if let Ok(size) = Size::new(size)
            && !self.is_window()
        {
            self.measure(size).await;
        }
    }

    /// Makes of a size that was just read what the policy says.
    pub(super) async fn judge(&mut self, size: u64) {
        match plan(&self.situation(Others::default()), &Wish::Backend { size }) {
            Plan::Adopt(adopt) => self.take_over(adopt).await,
            Plan::Quarantine(why) => {
                // Told once; what it says now is what may be adopted.
                if let Standing::Quarantined { found } = &mut self.standing {
                    *found = why.found();
                } else {
                    self.quarantine(why);
                }
            }
            Plan::Nothing { .. } | Plan::Grow(_) | Plan::Shrink(_) | Plan::Refuse(_) => {}
        }
    }

    /// Adopts what the backend was found to have, and tells.
    async fn take_over(&mut self, adopt: Adopt) {
        let (from, was) = (self.state.size, self.standing);
        self.adopt(adopt).await;
        let detail = format!("the backend has {}", self.state.disk);
        let kind = match was {
            Standing::Unsettled { .. } if self.standing == Standing::Ready => Kind::Settled,
            _ if self.state.size != from => {
                self.metrics.ended(ResizeStyle::Backend, ResizeResult::Ok);
                Kind::Outside
            }
            _ => return,
        };
        self.effects.log_event(Happened { kind, from, to: self.state.size, detail });
    }

    pub(super) async fn adopt(&mut self, adopt: Adopt) {
        let export = self.state.export.as_str();
        if let Standing::Quarantined { .. } = self.standing {
            tracing::info!(
                export,
                size = adopt.disk.bytes(),
                "the backend's size fits again; the export is no longer quarantined"
            );
        }
        if adopt.publish.is_none() && adopt.disk > self.state.disk {
            let (shown, has) = (self.state.size.bytes(), adopt.disk.bytes());
            tracing::info!(
                export,
                shown,
                has,
                "the backend has grown, and that is not shown; nbd-gateway publish shows it"
            );
        }
        self.state.disk = adopt.disk;
        match adopt.publish {
            Some(size) if self.is_window() => {
                if !self.account.show_window(size, self.shown_next(size)).await {
                    // It stays as it was, and is tried again.
                    return;
                }
            }
            Some(_) | None => {
                let count = self.there(adopt.count.or(adopt.publish).unwrap_or(self.state.size)).await;
                // With the generation that is to come. How much of it is shown is on record when it is about to be.
                let shown = Shown {
                    size: self.state.size.bytes(),
                    ..self.shown_next(adopt.publish.unwrap_or(self.state.size))
                };
                let written = self.account.settle(count, shown).await;
                if !written && self.is_window() && self.standing != Standing::Ready {
                    // The record may be of less than is shown: what lies past it is not opened again.
                    return;
                }
            }
        }
        if let Some(range) = adopt.zero {
            self.expose(range);
        }
        // What was unsettled before, a quarantine or not, is known now.
        if self.standing != Standing::Draining {
            self.standing = Standing::Ready;
        }
        self.effects.renew(adopt.lanes).await;
        if self.zero_exposed().await.is_err() {
            // What is not clean is not shown; what was shown is open again, as far as it is there.
            match adopt.publish {
                Some(size) if size < self.state.size => self.publish(size),
                Some(_) | None => self.restore(),
            }
            return;
        }
        match adopt.publish {
            Some(size) if self.will_show(size).await => self.publish(size),
            // A lowered end goes back up to what is shown.
            Some(_) | None => self.restore(),
        }
    }

    /// Nobody knows what the backend did or will do: what was held stays counted, a lowered end stays lowered.
    pub(super) async fn leave_unsettled(&mut self, asked: Size, why: &str) -> Refusal {
        tracing::warn!(
            export = self.state.export.as_str(),
            asked = asked.bytes(),
            why,
            "nobody knows whether the backend was resized; it counts until the size can be read"
        );
        self.account.unsettle().await;
        self.standing = Standing::Unsettled { asked };
        self.refusal(Reason::BackendTimedOut)
    }

    /// Whether [`settle`](Self::settle) has anything to do.
    pub(super) fn has_loose_ends(&self) -> bool {
        let loose = match self.standing {
            Standing::Unsettled { .. } => true,
            Standing::Ready => !self.exposed.is_empty(),
            Standing::Unmeasured | Standing::Quarantined { .. } | Standing::Draining => false,
        };
        loose || self.account.behind
    }

    /// Takes loose ends one step further.
    pub(super) async fn settle(&mut self) {
        if self.account.behind {
            self.make_good().await;
        }
        match self.standing {
            Standing::Unsettled { .. } => drop(self.look().await),
            Standing::Ready => {
                if !self.exposed.is_empty() && self.zero_exposed().await.is_ok() {
                    // What is clean now may be shown.
                    let _ = self.look().await;
                }
            }
            Standing::Unmeasured | Standing::Quarantined { .. } | Standing::Draining => {}
        }
    }

    /// A range has been exposed. What of it was not noted before is noted with the rest before it is zeroed.
    pub(super) fn expose(&mut self, mut range: ByteRange) {
        if let Some(covering) = self.exposed.iter_mut().find(|e| e.range.contains(range)) {
            covering.asked = true;
            return;
        }
        // One range for what overlaps: a note is cleared once, after all of it is zero.
        self.exposed.retain(|e| {
            let apart = !e.range.overlaps(range);
            if !apart {
                range = range.cover(e.range);
            }
            apart
        });
        self.exposed.push(Exposed { range, noted: false, asked: true });
    }

    /// Zeroes what grows have exposed and nobody has seen.
    ///
    /// # Errors
    /// Why not all of it is zero.
    pub(super) async fn zero(&mut self) -> Result<(), Reason> {
        for at in 0..self.exposed.len() {
            let Some(Exposed { range, noted, asked }) = self.exposed.get(at).copied() else { break };
            if !noted {
                if let Err(error) = self.account.note(range).await {
                    tracing::error!(export = self.state.export.as_str(), %error, "the ledger does not take a range to be zeroed; nothing grows");
                    return Err(Reason::LedgerUnavailable);
                }
                self.exposed.iter_mut().for_each(|e| e.noted |= e.range == range);
            }
            let there = ByteRange::new(range.start(), range.end().min(self.state.disk)).filter(|_| asked);
            if let Some(there) = there
                && let Err(why) = self.effects.zero(there).await
            {
                tracing::error!(export = self.state.export.as_str(), from = there.start().bytes(), to = there.end().bytes(), %why, "a range that a grow exposed could not be zeroed; it is not shown");
                return Err(Reason::BackendFailed);
            }
        }
        Ok(())
    }

    /// The same, and takes it off the ledger.
    ///
    /// # Errors
    /// Why not all of it is zero, and off the ledger.
    pub(super) async fn zero_exposed(&mut self) -> Result<(), Reason> {
        self.zero().await?;
        while let Some(exposed) = self.exposed.last_mut() {
            if let Err(error) = self.account.clear(exposed.range).await {
                exposed.doubt_note();
                tracing::error!(export = self.state.export.as_str(), %error, "the ledger does not take that a range is zero; it is not shown");
                return Err(Reason::LedgerUnavailable);
            }
            self.exposed.pop();
        }
        Ok(())
    }
}
