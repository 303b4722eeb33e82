//! What was made of a directory of certificates, made anew when its files change.
//!
//! Looked at before each handshake, and before each page of metrics where somebody watches it: that costs a few `stat`s.
//! Files that can't be used are reported once for each change, and what was made before stays in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nbd_gateway_metrics::{Looked, Metrics};
use parking_lot::Mutex;

use super::directory::{CertificateError, Directory, Expiry, Stamp};

/// What is made of the files, and until when each is valid.
pub(super) type Made<T> = (T, Vec<Expiry>);

type Make<T> = dyn Fn(&Directory) -> Result<Made<T>, CertificateError> + Send + Sync;

/// Something made of certificates.
pub(super) struct Kept<T>(Arc<Inner<T>>);

struct Inner<T> {
    directory: Directory,
    names: &'static [&'static str],
    make: Box<Make<T>>,
    metrics: Option<Arc<Metrics>>,
    now: Mutex<Now<T>>,
}

struct Now<T> {
    stamp: Stamp,
    made: Arc<T>,
    /// The files that the metrics tell of.
    files: Vec<PathBuf>,
    /// Until when each is valid, without those that the log has called too old.
    valid: Vec<Expiry>,
}

impl<T> Now<T> {
    /// Logs each file that is past its date, once. What it holds stays in use: an old list of what is revoked still says so.
    fn remind(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        for (file, at) in self.valid.extract_if(.., |(_, at)| *at <= now) {
            let days = now.saturating_sub(at) / 86_400;
            tracing::warn!(file = %file.display(), days, "a certificate or revocation list is past its date; replace it");
        }
    }
}

impl<T> Kept<T> {
    /// Reads the files `names` of the directory for the first time, by way of `make`.
    pub(super) fn open(
        directory: Directory,
        names: &'static [&'static str],
        metrics: Option<Arc<Metrics>>,
        make: Box<Make<T>>,
    ) -> Result<Self, CertificateError> {
        // Looked at before they are read: what changes in between is read again.
        let stamp = directory.stamp(names);
        let (made, expiries) = make(&directory)?;
        let mut now = Now { stamp, made: Arc::new(made), files: Vec::new(), valid: expiries.clone() };
        now.remind();
        let kept = Inner { directory, names, make, metrics, now: Mutex::new(now) };
        kept.tell(&expiries, &mut kept.now.lock().files);
        Ok(Self(Arc::new(kept)))
    }

    /// Has it looked at before each page of metrics too, as long as it is kept.
    pub(super) fn watch(&self)
    where
        T: Send + Sync + 'static,
    {
        if let Some(metrics) = &self.0.metrics {
            let looked: Arc<dyn Looked> = Arc::<Inner<T>>::clone(&self.0);
            metrics.look_at(Arc::downgrade(&looked));
        }
    }

    /// What the files hold now, or held when they last could be used.
    pub(super) fn now(&self) -> Arc<T> {
        self.0.now()
    }
}

impl<T: Send + Sync> Looked for Inner<T> {
    fn look(&self) {
        drop(self.now());
    }
}

impl<T> Inner<T> {
    fn now(&self) -> Arc<T> {
        let stamp = self.directory.stamp(self.names);
        let now = &mut *self.now.lock();
        if now.stamp != stamp {
            now.stamp = stamp;
            match (self.make)(&self.directory) {
                Ok((made, expiries)) => {
                    now.made = Arc::new(made);
                    self.tell(&expiries, &mut now.files);
                    now.valid = expiries;
                    tracing::info!(directory = %self.directory, "certificates read again");
                }
                Err(fault) => {
                    tracing::error!(directory = %self.directory, %fault, "changed certificates can't be used; those read before stay in use");
                }
            }
        }
        now.remind();
        Arc::clone(&now.made)
    }

    /// Tells until when each is valid, and no more of those of `files` that are gone.
    fn tell(&self, expiries: &[Expiry], files: &mut Vec<PathBuf>) {
        let Some(metrics) = &self.metrics else { return };
        let now: Vec<PathBuf> = expiries.iter().map(|(file, _)| file.clone()).collect();
        let gone = files.iter().filter(|file| !now.contains(file));
        gone.for_each(|file| metrics.forget_certificate(&file.to_string_lossy()));
        expiries.iter().for_each(|(file, at)| metrics.certificate_expiry(&file.to_string_lossy()).set(*at));
        *files = now;
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}
