//! The sizes of an export that opens: on its disk, to be published, to be counted. Nothing is recorded yet.

use nbd_gateway_config::Backend;
use nbd_gateway_policy::types::{ByteRange, Size};

use super::super::settings::Settings;
use super::super::unpublished;
use super::{Opening, StartError};
use crate::accounting::cache::Remembered;
use crate::accounting::meanwhile::Smaller;
use crate::resize::window::Opened;

/// The stage with sizes; the view has the published one.
pub(super) struct Measured<'a> {
    pub(super) opening: Opening<'a>,
    pub(super) settings: Settings,
    pub(super) disk: Size,
    pub(super) window: Option<Opened>,
    /// The disk is smaller than on record.
    pub(super) smaller: Option<Smaller>,
    /// The ledger is an older copy.
    pub(super) older: bool,
    /// The size to publish.
    pub(super) size: Size,
    /// The size that counts against the quota.
    pub(super) count: Size,
    /// The size that an earlier opening asked for, where the server may still carry that out.
    pub(super) unsettled: Option<Size>,
    /// Ranges from before that must be zeroed before a client can read them.
    pub(super) unzeroed: Vec<ByteRange>,
}

impl<'a> Measured<'a> {
    pub(super) async fn of(opening: Opening<'a>) -> Result<Self, StartError> {
        let Opening { config, shared, target, view, driver, resizer, .. } = &opening;
        let (export, facts) = (&config.name, target.facts());
        let settings = Settings::of(config, facts);
        let publish = settings.policy.publish;
        let disk = Size::new(facts.size)?;
        let window = Opened::of(&config.resize.driver, &shared.ledger_cache, export, disk, facts.minimum_block())?;
        // What an earlier life exposed and did not get to zero is not shown before it is zero.
        let Remembered { owed: mut unzeroed, older, lowered, .. } = shared.ledger_cache.about(export);
        // What there is counts, also in a file that its server has not looked at again.
        let length = match driver {
            Some(driver) => driver.length(config.resize.timeout).await.and_then(|length| Size::new(length).ok()),
            None => None,
        };
        let there = length.map_or(disk, |length| length.max(disk));
        let recorded = shared.accounts.books(|books| books.size(export));
        let shown = |size| unpublished::shown(&shared.ledger_cache, export, publish, size);
        let smaller = match window {
            Some(_) => None,
            // Made anew each time.
            None if matches!(config.backend, Backend::Memory { .. }) || older => None,
            None => Smaller::than_recorded((recorded, there), lowered, shown, resizer.openers.relying() > 0),
        };
        // Measured is not settled: it may be carried out after the measuring, unless what was asked for is there already. A
        // window asks its server for nothing.
        let unsettled = shared.accounts.books(|books| books.unsettled(export)).or(lowered).filter(|asked| {
            *asked != there && window.is_none() && !older && target.lanes().is_some_and(|lanes| lanes.had_late_writes)
        });
        let kept = smaller.filter(|smaller| smaller.awaited);
        let end = window.map_or(kept.map_or(shown(disk), |smaller| smaller.shown), |window| window.size);
        let size = unzeroed.iter().map(|range| range.start()).fold(end, Size::min);
        view.publish(shared.ledger_cache.first_shown(export, size));
        if older {
            // Clients may have written there since.
            unzeroed.clear();
        }
        // Of a window what it shows; of what may have to be adopted what is on record, which stays until that is decided.
        let count = if older {
            // Nobody knows how much of it was shown.
            recorded.unwrap_or_default().max(there)
        } else if window.is_some() {
            size
        } else {
            kept.map_or(there, |smaller| smaller.recorded)
        };
        Ok(Self { opening, settings, disk, window, smaller, older, size, count, unsettled, unzeroed })
    }
}
