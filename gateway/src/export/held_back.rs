//! Sizes that are shown of exports whose operator publishes them, and that are closed meanwhile: opening one again shows
//! no more than was shown before. Forgotten when the gateway ends; then clients see what there is.

use std::collections::HashMap;

use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::types::{ExportName, Size};
use parking_lot::Mutex;

use super::Export;

/// By export; only those that have more than they show.
#[derive(Debug, Default)]
pub(super) struct HeldBack(Mutex<HashMap<ExportName, Size>>);

impl HeldBack {
    /// Notes what an export shows that closes.
    pub(super) fn remember(&self, export: &Export) {
        let name = export.resizer().export_name();
        let disk = export.resizer().glance.now().map(|seen| seen.disk);
        let shown = Size::new(export.size()).ok().filter(|shown| disk.is_some_and(|disk| disk > *shown));
        match shown.filter(|_| export.policy().publish == Publish::Manual) {
            Some(shown) => drop(self.0.lock().insert(name.clone(), shown)),
            None => drop(self.0.lock().remove(name)),
        }
    }

    /// What is shown of an export that opens with `disk` bytes behind it.
    pub(super) fn shown(&self, export: &ExportName, publish: Publish, disk: Size) -> Size {
        match publish {
            Publish::Manual => self.0.lock().get(export).map_or(disk, |shown| disk.min(*shown)),
            Publish::Auto | Publish::Never => disk,
        }
    }
}
