//! Reading the configuration anew while the gateway runs: all of it, or nothing.
//!
//! Whoever asks ([`Reload::ask`]: a signal, an operator) waits for one outcome; those who ask while it is under way share
//! the next. In this order: the file is read and checked, and compared with what is in force; what needs a restart refuses
//! all of it; new listeners are bound, certificates and the token are read, new disks of the gateway's own are opened. Only
//! when all of that has gone well is anything changed, and from there on nothing can fail (`apply`).
//! Refused, everything is as it was, and whoever asked is told every reason.

mod apply;
mod certificates;
mod listeners;

use std::path::PathBuf;
use std::sync::Arc;

use nbd_gateway_config::Config;
use tokio::sync::{mpsc, oneshot};

pub(crate) use apply::{Embedded, Reloader};
pub(crate) use certificates::check_backend_certificates;
pub(crate) use listeners::{ListenerContext, ListenerError, Listeners, PlannedListener};

use crate::log::SetLevel;

/// How many may wait for the next outcome; more are told that it is at it.
const WAITING: usize = 64;

/// Why the configuration was not read anew; everything is as it was.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The gateway was started without a file.
    #[error("there is no file to read: the gateway was started without --config; start it with one")]
    NoFile,
    /// It ends, or begins.
    #[error("the gateway is not running, or drains: the configuration is not read")]
    NotNow,
    /// Reasons, each in a line or more; at least one.
    #[error("the configuration is not reloaded, and everything stays as it was:\n{}", .0.join("\n"))]
    Wrong(Arc<[String]>),
}

impl ReloadError {
    fn wrong(reasons: impl IntoIterator<Item = String>) -> Self {
        Self::Wrong(reasons.into_iter().collect())
    }
}

/// What came of it: a line for each thing that has changed.
pub(crate) type Outcome = Result<Arc<[String]>, ReloadError>;

/// Who waits for an outcome.
pub(crate) type Ask = oneshot::Sender<Outcome>;

/// The way to have the configuration read anew; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reload(mpsc::Sender<Ask>);

impl Reload {
    /// The way, and where the questions come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(WAITING);
        (Self(asks), asked)
    }

    /// Has it read anew. Cancel-safe: yes; what was begun goes on.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(crate) async fn ask(&self) -> Outcome {
        let (ask, answer) = oneshot::channel();
        self.0.try_send(ask).map_err(|_| ReloadError::NotNow)?;
        answer.await.unwrap_or(Err(ReloadError::NotNow))
    }
}

/// Where the configuration comes from, and what else of the process goes by it.
#[derive(Default)]
pub(crate) struct Source {
    /// The file; None: the gateway was started without.
    pub file: Option<PathBuf>,
    /// Sets the log's level.
    pub level: Option<SetLevel>,
}

impl Source {
    async fn load(&self) -> Result<Config, ReloadError> {
        let file = self.file.clone().ok_or(ReloadError::NoFile)?;
        let read = tokio::task::spawn_blocking(move || Config::load(&file)).await;
        match read {
            Ok(Ok(config)) => Ok(config),
            Ok(Err(problems)) => Err(ReloadError::wrong([problems.to_string()])),
            Err(error) => Err(ReloadError::wrong([error.to_string()])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_file_there_is_nothing_to_read() {
        assert!(matches!(Source::default().load().await, Err(ReloadError::NoFile)));
    }

    #[tokio::test]
    async fn whoever_asks_when_nobody_answers_is_told_so() {
        let (reload, asked) = Reload::new();
        let waiting = tokio::spawn({
            let reload = reload.clone();
            async move { reload.ask().await }
        });
        tokio::task::yield_now().await;
        drop(asked);
        assert!(matches!(waiting.await, Ok(Err(ReloadError::NotNow))), "it had asked before");
        assert!(matches!(reload.ask().await, Err(ReloadError::NotNow)));
    }

    #[tokio::test]
    async fn more_than_can_wait_are_told_so_at_once() {
        let (reload, _asked) = Reload::new();
        let asks: Vec<_> = (0..WAITING)
            .map(|_| {
                tokio::spawn({
                    let reload = reload.clone();
                    async move { reload.ask().await }
                })
            })
            .collect();
        // The runtime polls others than these in between.
        while reload.0.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(reload.ask().await, Err(ReloadError::NotNow)));
        asks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
