//! What became of a disk while nobody had it open, or while the gateway was down: what is found is held against what is on
//! record, before anybody is told a size.
//!
//! Less than that is bytes lost. Clients that may come back must not find less than they left: then the export opens as it
//! was on record, and its coordinator finds the loss as it finds one while the export is open. Where nobody is awaited it
//! is taken for what it is now, and told. A shrink of this gateway's own whose outcome was not written down is no loss.

use std::sync::Arc;

use nbd_gateway_policy::types::{ExportName, Size, TenantId};

use super::cache::LedgerCache;
use super::history::{Happened, History, Kind};

/// A disk that is smaller than it was on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Smaller {
    pub(crate) recorded: Size,
    /// What clients were shown of that.
    pub(crate) shown: Size,
    /// What counts of what is found.
    pub(crate) found: Size,
    /// Clients may come back that were shown more than there is.
    pub(crate) awaited: bool,
}

impl Smaller {
    /// Whether `found` is less than the `recorded` size, and not by a shrink of this gateway's own; `shown` tells what clients
    /// saw of a size, and `awaited` whether any of them may come back.
    pub(crate) fn than_recorded(
        (recorded, found): (Option<Size>, Size),
        lowered: Option<Size>,
        shown: impl FnOnce(Size) -> Size,
        awaited: bool,
    ) -> Option<Self> {
        let recorded = recorded.filter(|recorded| found < lowered.unwrap_or(*recorded).min(*recorded))?;
        let shown = shown(recorded);
        Some(Self { recorded, shown, found, awaited: awaited && shown > found })
    }

    /// Tells that it is taken for what it is.
    pub(crate) fn tell(self, cache: &Arc<LedgerCache>, export: &ExportName, tenant: &TenantId) {
        let (was, now) = (self.recorded, self.found);
        tracing::warn!(
            export = export.as_str(),
            was = was.bytes(),
            now = now.bytes(),
            "the disk is smaller than on record; it was cut while the export was closed, and is shown as it is now"
        );
        let detail = format!("the backend has {} bytes, and had {} when it was open last", now.bytes(), was.bytes());
        let happened = Happened { kind: Kind::Outside, from: was, to: now, detail };
        History::new(Arc::clone(cache), export.clone(), tenant.clone()).tell(happened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_on_record_is_a_loss_unless_this_gateway_asked_for_it() {
        let size = |mib: u64| Size::new(mib << 20).unwrap();
        let found = |recorded: Option<u64>, found, lowered: Option<u64>| {
            Smaller::than_recorded((recorded.map(size), size(found)), lowered.map(size), |all| all, true)
                .map(|smaller| (smaller.recorded, smaller.found))
        };
        assert_eq!(found(None, 4, None), None);
        assert_eq!(found(Some(4), 4, None), None);
        assert_eq!(found(Some(4), 8, None), None);
        assert_eq!(found(Some(8), 4, None), Some((size(8), size(4))));
        assert_eq!(found(Some(8), 4, Some(4)), None, "its own shrink");
        assert_eq!(found(Some(8), 6, Some(4)), None, "its own shrink, as far as it came");
        assert_eq!(found(Some(8), 3, Some(4)), Some((size(8), size(3))), "more than that");
    }

    #[test]
    fn nobody_is_awaited_who_never_saw_what_is_gone() {
        let size = |mib: u64| Size::new(mib << 20).unwrap();
        let found = |shown: u64, awaited| {
            Smaller::than_recorded((Some(size(8)), size(4)), None, |_| size(shown), awaited).unwrap().awaited
        };
        assert_eq!((found(8, true), found(4, true), found(8, false)), (true, false, false));
    }
}
