//! Sizes that are shown of exports whose operator publishes them: opening one again shows no more than was shown before,
//! also in the gateway's next life. The ledger has them where they are less than there is; a coordinator writes them there.

use nbd_gateway_config::Driver;
use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::types::{ExportName, Size};

use super::Export;
use crate::accounting::cache::LedgerCache;

/// Remembers what an export shows that closes, whatever the ledger took of it.
pub(super) fn remember(cache: &LedgerCache, export: &Export) {
    let window = matches!(export.settings().config.resize.driver, Driver::Window { .. });
    let (name, last) = (export.resizer.export_name(), export.core.view().shown());
    let older = cache.about(name).older;
    cache.learn(name, |remembered| remembered.last = Some(last));
    if export.policy().publish == Publish::Manual && !window && !older {
        let disk = export.resizer.status().map(|seen| seen.disk);
        let shown = Size::new(export.size()).ok().filter(|shown| disk.is_some_and(|disk| disk > *shown));
        cache.learn(name, |remembered| remembered.shown = shown);
    }
}

/// What is shown of an export that opens with `disk` bytes behind it.
pub(super) fn shown(cache: &LedgerCache, export: &ExportName, publish: Publish, disk: Size) -> Size {
    match publish {
        Publish::Manual => cache.about(export).shown.map_or(disk, |shown| disk.min(shown)),
        Publish::Auto | Publish::Never => disk,
    }
}
