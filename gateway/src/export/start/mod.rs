//! Opening an export in stages that can't be reordered: [`Opening`] has a target, [`Measured`] has its sizes. Only that one
//! can be counted, recorded and run.
//!
//! An error after the target was opened closes it, in one place. A cancelled opening drops its target, which closes it
//! without a flush: no request over it has changed data.

mod counted;
mod measured;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use nbd_gateway_config::{self as config, Resolved};
use nbd_gateway_metrics::ExportMetrics;
use nbd_gateway_policy::types::SizeError;
use tokio::sync::mpsc;

use super::Export;
use super::registry::Shared;
use crate::driver::{Driver, Healed, Qmp};
use crate::limits::TenantBudget;
use crate::resize::Resizer;
use crate::resize::coordinator::Act;
use crate::resize::window::WindowError;
use crate::target::{self, ObserveSize, OpenTargetError, Target, View};
use measured::Measured;

/// Why an export can't be opened, for operators.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Its target can't be opened.
    #[error("{0}")]
    Target(#[from] OpenTargetError),
    /// The same, and the driver knows the cause.
    #[error("{error}; {missing}")]
    Missing { error: OpenTargetError, missing: String },
    /// Its disk is larger than an export can be.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Its window does not fit its disk.
    #[error("{0}")]
    Window(#[from] WindowError),
}

impl StartError {
    /// Whether its server does not know the name.
    pub(super) fn is_unknown_name(&self) -> bool {
        matches!(self, Self::Target(error) | Self::Missing { error, .. } if error.is_unknown_name())
    }

    /// Whether another export or process has its file.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Target(error) if error.is_locked())
    }
}

/// Opens an export. Cancel-safe: yes, the target is closed.
pub(super) async fn open(
    config: &Resolved,
    shared: &Shared,
    budget: Arc<TenantBudget>,
    metrics: impl Fn() -> ExportMetrics,
) -> Result<Export, StartError> {
    let opening = Opening::begin(config, shared, &metrics).await?;
    Ok(opening.measured().await?.run(budget, metrics).await)
}

/// The stage with a target.
struct Opening<'a> {
    config: &'a Resolved,
    shared: &'a Shared,
    target: Arc<dyn Target>,
    view: Arc<View>,
    driver: Option<Driver>,
    resizer: Resizer,
    acts: mpsc::Receiver<Act>,
}

impl<'a> Opening<'a> {
    async fn begin(
        config: &'a Resolved,
        shared: &'a Shared,
        metrics: impl Fn() -> ExportMetrics,
    ) -> Result<Self, StartError> {
        let (export, resize, parts) = (&config.name, &config.resize, &shared.parts);
        let openers = shared.known_openers.of(export, resize.shrink_grace);
        let (resizer, acts) =
            Resizer::new(export.clone(), config.tenant.clone(), openers, Arc::clone(&shared.accounts));
        let driver = Driver::of(&resize.driver, &parts.state, export.as_str());
        let observer: Arc<dyn ObserveSize> = Arc::new(resizer.clone());
        let open = || target::open(config, parts, driver.as_ref(), &metrics, &observer);
        let (target, view) = match open().await {
            Ok(opened) => opened,
            Err(error) => {
                heal(config, &parts.state, error).await?;
                open().await?
            }
        };
        Ok(Self { config, shared, target, view, driver, resizer, acts })
    }

    /// Measures; closes the target on an error.
    async fn measured(self) -> Result<Measured<'a>, StartError> {
        let (target, export) = (Arc::clone(&self.target), &self.config.name);
        let measured = Measured::of(self).await;
        if measured.is_err() {
            target.close(export).await;
        }
        measured
    }
}

/// Has the driver repair a backend that can't be opened.
///
/// # Errors
/// The driver can't; with the cause, if it knows that.
async fn heal(export: &Resolved, state: &Path, error: OpenTargetError) -> Result<(), StartError> {
    let (config::Driver::Qmp(at), config::Backend::Nbd(uri)) = (&export.resize.driver, &export.backend) else {
        return Err(error.into());
    };
    match Qmp::new(at, state, export.name.as_str()).heal(uri.export().as_str()).await {
        Healed::Back => Ok(()),
        Healed::Missing(missing) => Err(StartError::Missing { error, missing }),
        Healed::NotThis => Err(error.into()),
    }
}
