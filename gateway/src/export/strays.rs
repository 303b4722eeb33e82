//! Clients that knew nothing of sizes and left without a goodbye, over the closing of their export: it must not shrink when it
//! is opened again before their grace is over (`shrink-grace`). Forgotten when that is over, or the gateway ends.

use std::collections::HashMap;
use std::time::Duration;

use nbd_gateway_policy::types::ExportName;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Export;

/// When they left, by export, and for how long that matters.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<HashMap<ExportName, (Vec<Instant>, Duration)>>);

impl Strays {
    /// Notes those of an export that closes.
    pub(super) fn remember(&self, export: &Export) {
        let audience = &export.resizer().audience;
        self.note(export.resizer().export_name(), audience.lost(), audience.grace());
    }

    fn note(&self, export: &ExportName, lost: Vec<Instant>, grace: Duration) {
        let mut strays = self.0.lock();
        // Clients make up names that fit a template: what is over is not kept.
        strays.retain(|_, (lost, grace)| lost.iter().any(|at| at.elapsed() < *grace));
        if lost.is_empty() {
            strays.remove(export);
        } else {
            strays.insert(export.clone(), (lost, grace));
        }
    }

    /// Those of an export that opens.
    pub(super) fn of(&self, export: &ExportName) -> Vec<Instant> {
        self.0.lock().get(export).map_or_else(Vec::new, |(lost, _)| lost.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_are_known_when_the_export_opens_again_and_forgotten_after_their_grace() {
        let strays = Strays::default();
        let [one, two] = ["one", "two"].map(|name| ExportName::new(name).unwrap());
        let (grace, now) = (Duration::from_secs(60), Instant::now());
        strays.note(&one, vec![now], grace);
        assert_eq!((strays.of(&one), strays.of(&two)), (vec![now], vec![]));
        tokio::time::advance(grace / 2).await;
        strays.note(&two, vec![Instant::now()], grace);
        assert_eq!(strays.of(&one), [now], "it may still come back");
        tokio::time::advance(grace / 2).await;
        strays.note(&two, vec![], grace);
        assert_eq!((strays.of(&one), strays.of(&two)), (vec![], vec![]));
        assert!(strays.0.lock().is_empty());
    }
}
