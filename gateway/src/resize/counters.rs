//! Who counts resizes: the metrics of one export, counted by its coordinator.

use std::time::Duration;

use nbd_gateway_config::Driver;
use nbd_gateway_metrics::{ResizeDriver, ResizeMetrics, ResizeResult, ResizeStyle};
use nbd_gateway_policy::plan::{Standing, Wish};
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::Size;

use super::coordinator::Answer;

/// What is shown, and how often that has changed.
pub(crate) fn size(metrics: &ResizeMetrics, size: Size, generation: u64) {
    metrics.size.set(i64::try_from(size.bytes()).unwrap_or(i64::MAX));
    metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
}

/// What stands now. A grow or shrink of unknown outcome stays unknown when the export is closed.
pub(super) fn stands(metrics: &ResizeMetrics, standing: Standing, size: Size, disk: Size, is_window: bool) {
    let shown = i128::from(size.bytes());
    let drift = match standing {
        Standing::Quarantined { found } => i128::from(found) - shown,
        Standing::Draining => 0,
        // A window is to show less than there is.
        _ if is_window => (i128::from(disk.bytes()) - shown).min(0),
        Standing::Ready | Standing::Unmeasured | Standing::Unsettled { .. } => i128::from(disk.bytes()) - shown,
    };
    metrics.drift.set(i64::try_from(drift).unwrap_or(i64::MAX));
    metrics.quarantined.set(i64::from(matches!(standing, Standing::Quarantined { .. })));
    if standing != Standing::Draining {
        metrics.unsettled.set(i64::from(matches!(standing, Standing::Unsettled { .. })));
    }
}

/// A wish is answered, so long after its turn came.
pub(super) fn ended(
    metrics: &ResizeMetrics,
    wish: &Wish,
    answer: &Answer,
    size: Size,
    standing: Standing,
    took: Duration,
) {
    let style = style(wish);
    let result = match answer {
        Ok(_) => ResizeResult::Ok,
        Err(refusal) if is_unsettled(&refusal.reason, standing) => ResizeResult::Unsettled,
        Err(_) => ResizeResult::Refused,
    };
    metrics.ended(style, result);
    metrics.took(result, took.as_secs_f64());
    if let Err(refusal) = answer {
        metrics.denied(refusal.reason.label());
        tracing::info!(style = style.as_str(), size = size.bytes(), why = %refusal, "resize refused");
    }
}

/// A wish is refused whose turn never came.
pub(super) fn turned_away(metrics: &ResizeMetrics, wish: &Wish, refusal: &Refusal) {
    metrics.ended(style(wish), ResizeResult::Refused);
    metrics.denied(refusal.reason.label());
}

/// The label of who wishes, and how.
pub(super) const fn style(wish: &Wish) -> ResizeStyle {
    match wish {
        Wish::Explicit { client: ClientStyle::ExplicitSimple | ClientStyle::Kernel, .. } => ResizeStyle::Simple,
        Wish::Explicit { .. } => ResizeStyle::Structured,
        Wish::Automatic { .. } => ResizeStyle::Automatic,
        Wish::Operator { .. } | Wish::Publish | Wish::Adopt { .. } => ResizeStyle::Operator,
        Wish::Backend { .. } => ResizeStyle::Backend,
    }
}

/// Whether a wish that was answered so has an outcome that nobody knows; one that came later was just refused.
pub(super) fn is_unsettled(reason: &Reason, standing: Standing) -> bool {
    *reason == Reason::BackendTimedOut && matches!(standing, Standing::Unsettled { .. })
}

/// The label of what resizes an export.
pub(crate) fn label(driver: &Driver) -> ResizeDriver {
    match driver {
        Driver::Origin => ResizeDriver::Origin,
        Driver::Wire => ResizeDriver::Wire,
        Driver::Automatic => ResizeDriver::Automatic,
        Driver::Window { .. } => ResizeDriver::Window,
        Driver::File { .. } => ResizeDriver::File,
        Driver::Qmp(_) => ResizeDriver::Qmp,
        Driver::Restart { .. } => ResizeDriver::Restart,
        Driver::Exec { .. } => ResizeDriver::Exec,
        Driver::None => ResizeDriver::None,
    }
}
