//! What is told to the ledger's history: what became of each wish, and what happened to an export by itself.
//!
//! Telling waits for nothing and holds nothing up; what the ledger does not take is lost to the history alone. Refusals are
//! told once in a while: whoever asks in vain a thousand times a second must not push everything else out of it.

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_ledger::NewEvent;
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::types::{ExportName, Size, TenantId};
use nbd_gateway_policy::words;
use tokio::time::Instant;

use super::cache::{LedgerCache, now};

/// The least time between two refusals of one export that are told.
const REFUSALS: Duration = Duration::from_secs(1);

words! {
    /// A kind of event; a person filters by its word.
    pub(crate) enum Kind {
        /// A size was changed as wished.
        Resized => "resized",
        Refused => "refused",
        Unsettled => "unsettled",
        Settled => "settled",
        /// An operator said what an export has.
        Adopted => "adopted",
        /// Another hand changed the backend, and that is shown.
        Outside => "outside",
        /// The backend says a size that can't be.
        Quarantined => "quarantined",
        /// The tenant is over its soft quota from now on.
        SoftQuota => "soft-quota",
        /// It has left the configuration and an operator had it forgotten, or its file is gone that a client's name had made.
        Forgotten => "forgotten",
        /// A tenant has another quota, by order or by the configuration.
        QuotaChanged => "quota-changed",
    }
}

pub(crate) fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.as_str()).collect()
}

/// An event, now, with the size before and the size after.
pub(super) fn event(
    kind: Kind,
    tenant: Option<&TenantId>,
    export: Option<&ExportName>,
    detail: String,
    (old_size, new_size): (Option<Size>, Option<Size>),
) -> NewEvent {
    let (tenant, export) = (tenant.cloned(), export.cloned());
    NewEvent { at: now(), kind: kind.as_str(), tenant, export, detail, old_size, new_size }
}

/// Something that happened to an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub kind: Kind,
    /// The size shown before.
    pub from: Size,
    /// The size shown after.
    pub to: Size,
    /// Who wished for it, and why not.
    pub detail: String,
}

impl Happened {
    /// What became of a wish; `None`: nothing happened.
    pub(crate) fn to_wish(wish: &Wish, from: Size, to: Size, refused: Option<&Refusal>, unknown: bool) -> Option<Self> {
        let (kind, detail) = match refused {
            Some(refusal) if unknown && refusal.reason == Reason::BackendTimedOut => {
                (Kind::Unsettled, format!("{wish}: {refusal}"))
            }
            Some(refusal) => (Kind::Refused, format!("{wish}: {refusal}")),
            None if from == to && !matches!(wish, Wish::Adopt { .. }) => return None,
            None if matches!(wish, Wish::Adopt { .. }) => (Kind::Adopted, wish.to_string()),
            None => (Kind::Resized, wish.to_string()),
        };
        Some(Self { kind, from, to, detail })
    }
}

/// Tells what happens to one export.
#[derive(Debug)]
pub(crate) struct History {
    cache: Arc<LedgerCache>,
    export: ExportName,
    tenant: TenantId,
    refused: Option<Instant>,
}

impl History {
    pub(crate) const fn new(cache: Arc<LedgerCache>, export: ExportName, tenant: TenantId) -> Self {
        Self { cache, export, tenant, refused: None }
    }

    pub(crate) fn tell(&mut self, happened: Happened) {
        if happened.kind == Kind::Refused {
            if self.refused.is_some_and(|last| last.elapsed() < REFUSALS) {
                return;
            }
            self.refused = Some(Instant::now());
        }
        let Happened { kind, from, to, detail } = happened;
        let event = event(kind, Some(&self.tenant), Some(&self.export), detail, (Some(from), Some(to)));
        let cache = Arc::clone(&self.cache);
        tokio::spawn(async move { cache.log_event(event).await });
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_ledger::EventFilter;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_leaves_the_rest_of_the_history_alone() {
        let cache = Arc::new(LedgerCache::in_memory().unwrap());
        let mut history = History::new(Arc::clone(&cache), ExportName::new("e").unwrap(), TenantId::default());
        let size = |bytes| Size::new(bytes).unwrap();
        let happened = |kind| Happened { kind, from: size(1), to: size(2), detail: "a client".to_owned() };
        history.tell(happened(Kind::Resized));
        (0..1000).for_each(|_| history.tell(happened(Kind::Refused)));
        tokio::time::advance(REFUSALS).await;
        history.tell(happened(Kind::Refused));
        history.tell(happened(Kind::Quarantined));
        tokio::task::yield_now().await;
        let told = cache.ledger.events(EventFilter { limit: 100, ..EventFilter::default() }).await.unwrap();
        let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["resized", "refused", "refused", "quarantined"]);
        assert_eq!((told[0].old_size, told[0].new_size), (Some(size(1)), Some(size(2))));
    }
}
