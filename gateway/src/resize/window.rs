//! Opening a window: how far it goes, and whether anybody knows.
//!
//! The ledger alone has a window's size. Without a record (it was never opened, or the state is lost) it shows the
//! configuration's `size`, and where the disk past that does not read as zeroes it stays there: those bytes may be the
//! tenant's own, or another's, and only an operator can say.

use nbd_gateway_policy::types::{Bytes, Span};
use std::time::Duration;

use nbd_gateway_config::Driver;
use nbd_gateway_policy::types::{ByteRange, ExportName, Size, TenantId};

use crate::accounting::cache::LedgerCache;
use crate::target::Core;
use crate::target::zeroing::reads_as_zeroes;

/// Why an export can't have the window that it should have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WindowError {
    #[error(
        "its backend has {}, and the window of {} {} needs more; give it a disk of that size", Bytes(disk.bytes()),
        Bytes(window.bytes()), if *recorded { "on record" } else { "in the configuration" }
    )]
    PastTheDisk { disk: Size, window: Size, recorded: bool },
    #[error("the window of {} ends inside a block of its backend, which has {}", Bytes(window.bytes()), Bytes(*block))]
    InsideABlock { window: Size, block: u64 },
}

/// A window as it is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    /// How far it goes.
    pub(crate) size: Size,
    /// The ledger says so.
    recorded: bool,
}

impl Opened {
    /// How far the window of an export goes; `None`: it is no window.
    ///
    /// # Errors
    /// The backend's disk ends before the window does, or the window inside one of its blocks.
    pub(crate) fn of(
        driver: &Driver,
        cache: &LedgerCache,
        export: &ExportName,
        disk: Size,
        block: u64,
    ) -> Result<Option<Self>, WindowError> {
        let Driver::Window { size } = driver else { return Ok(None) };
        let record = cache.about(export).shown;
        let found = Self { size: record.unwrap_or(*size), recorded: record.is_some() };
        let (window, recorded) = (found.size, found.recorded);
        if window > disk {
            return Err(WindowError::PastTheDisk { disk, window, recorded });
        }
        if window.bytes() % block.max(1) != 0 && window != disk {
            return Err(WindowError::InsideABlock { window, block });
        }
        Ok(Some(found))
    }

    /// Whether the window may move: its size is on record, or its disk is zero past it (and then it is put there).
    pub(crate) async fn is_settled(
        self,
        core: &Core,
        cache: &LedgerCache,
        tenant: &TenantId,
        disk: Size,
        timeout: Duration,
    ) -> bool {
        if self.recorded {
            return true;
        }
        let export = core.export();
        if let Some(rest) = ByteRange::new(self.size, disk) {
            // However slow its backend is, somebody waits for the export.
            let look = tokio::time::timeout(timeout, reads_as_zeroes(core, rest, timeout)).await;
            let why = match look {
                Ok(Ok(true)) => None,
                Ok(Ok(false)) => Some("its disk does not read as zeroes past that, or is too large to read".to_owned()),
                Ok(Err(why)) => Some(format!("its disk can't be read past that: {why}")),
                Err(_) => Some(format!("its disk could not be read past that within {}", Span(timeout))),
            };
            if let Some(why) = why {
                tracing::warn!(
                    export = export.as_str(),
                    size = self.size.bytes(),
                    disk = disk.bytes(),
                    why,
                    "nobody has on record how far this window went; it does not grow until an operator says so: nbd-gateway resize {export} SIZE --adopt"
                );
                return false;
            }
        }
        if let Err(error) = cache.record_window(export, tenant, self.size).await {
            // It is found like this again, as long as nothing has been shown past it.
            tracing::warn!(export = export.as_str(), %error, "the ledger does not take the size of a window");
        }
        true
    }
}
