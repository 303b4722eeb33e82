//! What was made of a directory of certificates, made anew when its files change.
//!
//! Looked at before each handshake, which costs a few `stat`s. Files that can't be used are reported once for each change,
//! and what was made before stays in use.

use std::sync::Arc;

use nbd_gateway_metrics::Metrics;
use parking_lot::Mutex;

use super::directory::{CertificateFault, Directory, Expiry, Stamp};

/// What is made of the files, and until when each is valid.
pub(super) type Made<T> = (T, Vec<Expiry>);

type Make<T> = dyn Fn(&Directory) -> Result<Made<T>, CertificateFault> + Send + Sync;

/// Something made of certificates.
pub(super) struct Kept<T> {
    directory: Directory,
    names: &'static [&'static str],
    make: Box<Make<T>>,
    metrics: Option<Arc<Metrics>>,
    now: Mutex<(Stamp, Arc<T>)>,
}

impl<T> Kept<T> {
    /// Reads the files `names` of the directory for the first time, by way of `make`.
    pub(super) fn open(
        directory: Directory,
        names: &'static [&'static str],
        metrics: Option<Arc<Metrics>>,
        make: Box<Make<T>>,
    ) -> Result<Self, CertificateFault> {
        // Looked at before they are read: what changes in between is read again.
        let stamp = directory.stamp(names);
        let (made, expiries) = make(&directory)?;
        let kept = Self { directory, names, make, metrics, now: Mutex::new((stamp, Arc::new(made))) };
        kept.tell(&expiries);
        Ok(kept)
    }

    /// What the files hold now, or held when they last could be used.
    pub(super) fn now(&self) -> Arc<T> {
        let stamp = self.directory.stamp(self.names);
        let mut now = self.now.lock();
        if now.0 != stamp {
            now.0 = stamp;
            match (self.make)(&self.directory) {
                Ok((made, expiries)) => {
                    now.1 = Arc::new(made);
                    self.tell(&expiries);
                    tracing::info!(directory = %self.directory, "certificates read again");
                }
                Err(fault) => {
                    tracing::error!(directory = %self.directory, %fault, "changed certificates can't be used; those read before stay in use");
                }
            }
        }
        Arc::clone(&now.1)
    }

    fn tell(&self, expiries: &[Expiry]) {
        let Some(metrics) = &self.metrics else { return };
        expiries.iter().for_each(|(file, at)| metrics.certificate_expiry(&file.to_string_lossy()).set(*at));
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("directory", &self.directory).finish_non_exhaustive()
    }
}
