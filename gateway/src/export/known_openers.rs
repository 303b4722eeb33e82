//! Who may come back to exports that are closed meanwhile: opening one again forgets nobody who left without a goodbye.
//!
//! Nor is anybody forgotten whom an earlier life of the gateway served: what it had open counts as if somebody had left it
//! when this process began. Never keeps what nobody can come back to, but for a few.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_policy::types::ExportName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::resize::Resizer;
use crate::resize::openers::Openers;

/// So many are kept without looking whether they still matter.
const FEW: usize = 256;

#[derive(Debug)]
pub(super) struct KnownOpeners {
    start: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Exports of an earlier life.
    earlier: HashSet<ExportName>,
    /// Those of closed ones; and of those that were opened again, for an opening can come to nothing.
    known: HashMap<ExportName, Arc<Openers>>,
    /// With more than so many it is looked which still matter.
    enough: usize,
}

impl Default for KnownOpeners {
    fn default() -> Self {
        Self { start: Instant::now(), kept: Mutex::default() }
    }
}

impl KnownOpeners {
    /// An earlier life had this export.
    pub(super) fn expect_return(&self, export: &ExportName) {
        self.kept.lock().earlier.insert(export.clone());
    }

    /// Keeps that of an export that closes. Its last sessions may still be on their way out.
    pub(super) fn remember(&self, resizer: &Resizer) {
        self.keep(resizer.export_name(), &resizer.openers);
    }

    fn keep(&self, export: &ExportName, openers: &Arc<Openers>) {
        let mut kept = self.kept.lock();
        kept.known.insert(export.clone(), Arc::clone(openers));
        if kept.known.len() > kept.enough.max(FEW) {
            kept.known.retain(|_, openers| !openers.is_over());
            kept.enough = kept.known.len().saturating_mul(2);
        }
    }

    /// That of an export that opens. Those who left without a goodbye count for `grace`.
    pub(super) fn of(&self, export: &ExportName, grace: Duration) -> Arc<Openers> {
        let mut kept = self.kept.lock();
        if let Some(known) = kept.known.get(export) {
            known.adjust(grace);
            return Arc::clone(known);
        }
        if !kept.earlier.remove(export) {
            return Arc::new(Openers::new(grace));
        }
        let expecting_return = Arc::new(Openers::expecting_return(grace, self.start));
        kept.known.insert(export.clone(), Arc::clone(&expecting_return));
        expecting_return
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_policy::style::ClientStyle;

    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn name(text: &str) -> ExportName {
        ExportName::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_a_closed_export_is_known_when_it_opens_again() {
        let known_openers = KnownOpeners::default();
        let first = known_openers.of(&name("a"), GRACE);
        let guard = first.enter(ClientStyle::Stock);
        known_openers.keep(&name("a"), &first);
        drop(first);
        // Its session ends after the export has closed.
        guard.leave(false);
        assert_eq!(known_openers.of(&name("b"), GRACE).others(None).lost, 0);
        assert_eq!(known_openers.of(&name("a"), GRACE).others(None).lost, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_life_had_may_be_come_back_to_from_the_start_on() {
        let known_openers = KnownOpeners::default();
        known_openers.expect_return(&name("a"));
        tokio::time::advance(GRACE / 2).await;
        let opened = known_openers.of(&name("a"), GRACE);
        assert_eq!(opened.others(None).lost, 1);
        assert_eq!(known_openers.of(&name("b"), GRACE).others(None).lost, 0);
        tokio::time::advance(GRACE / 2).await;
        assert_eq!(opened.others(None).lost, 0, "counted from the start, not from the opening");
    }

    /// It was taken out by the attempt, and gone with it: the next opening knew of nobody.
    #[tokio::test(start_paused = true)]
    async fn an_opening_that_comes_to_nothing_forgets_nobody() {
        let known_openers = KnownOpeners::default();
        let openers = Arc::new(Openers::new(GRACE));
        openers.enter(ClientStyle::Stock).leave(false);
        known_openers.keep(&name("a"), &openers);
        known_openers.expect_return(&name("b"));
        drop(openers);
        for export in ["a", "b"] {
            drop(known_openers.of(&name(export), GRACE));
            assert_eq!(known_openers.of(&name(export), GRACE).others(None).lost, 1, "{export}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_made_up_are_not_kept_for_ever() {
        let known_openers = KnownOpeners::default();
        for turn in 0..10 {
            for number in 0..1000 {
                let openers = Arc::new(Openers::new(GRACE));
                drop(openers.enter(ClientStyle::Stock));
                known_openers.keep(&name(&format!("{turn}/{number}")), &openers);
            }
            tokio::time::advance(GRACE).await;
        }
        let kept = known_openers.kept.lock().known.len();
        assert!(kept < 5000, "{kept}");
    }
}
