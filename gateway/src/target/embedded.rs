//! An embedded disk as a target.

use std::sync::Arc;

use nbd_gateway_config::Driver;
use nbd_gateway_policy::style::{BackendStyle, Grows, Tells};
use nbd_gateway_policy::types::{ByteRange, ExportName};
use nbd_gateway_proto::{Cookie, Framing};

use super::{Facts, Pending, Purpose, Target};
use crate::embedded::{DiskError, EmbeddedDisk};
use crate::fault::Fault;
use crate::request::{Finished, Job, Origin, SessionId};

/// A disk of this process.
#[derive(Debug)]
pub(super) struct Embedded {
    disk: Arc<EmbeddedDisk>,
    facts: Facts,
}

impl Embedded {
    pub(super) fn new(disk: EmbeddedDisk, driver: &Driver) -> Self {
        let facts = disk.facts();
        let grows = if *driver == Driver::None { Grows::Fixed } else { Grows::Embedded };
        let facts = Facts {
            size: facts.size,
            flags: facts.flags,
            framing: Framing::Extended,
            contexts: facts.contexts,
            block_sizes: Some(facts.block_sizes),
            description: None,
            resize: None,
            style: BackendStyle { grows, tells: Tells::Itself },
        };
        Self { disk: Arc::new(disk), facts }
    }

    /// Runs `act`, which blocks, on the blocking pool. Cancel-safe: dropped, it still runs.
    fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&EmbeddedDisk) -> Result<T, DiskError> + Send + 'static,
    ) -> Pending<'static, Result<T, DiskError>> {
        let disk = Arc::clone(&self.disk);
        Box::pin(async move { tokio::task::spawn_blocking(move || act(&disk)).await.unwrap_or(Err(DiskError::Closed)) })
    }
}

impl Target for Embedded {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn submit(&self, _origin: Origin, jobs: &mut Vec<Job>, _finished: &mut Finished) {
        self.disk.submit(jobs);
    }

    fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        self.disk.ranges_of(session)
    }

    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.disk.is_idle()
    }

    fn read_size(&self, _purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        let measured = self.blocking(EmbeddedDisk::measure);
        Box::pin(async { measured.await.map_err(Fault::from) })
    }

    fn set_size(&self, size: u64) -> Pending<'_, Result<u64, DiskError>> {
        self.blocking(move |disk| disk.set_size(size))
    }

    fn close<'a>(&'a self, export: &'a ExportName) -> Pending<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.disk.close().await {
                tracing::error!(export = export.as_str(), %error, "closing the disk failed");
            }
        })
    }
}
