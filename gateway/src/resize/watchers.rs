//! Who counts resizes: the metrics of one export, told by its coordinator.

use nbd_gateway_metrics::{ResizeMetrics, ResizeResult, ResizeStyle};
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::Size;

use super::coordinator::Answer;

/// Where a coordinator tells what came of things.
#[derive(Clone, Debug)]
pub struct Told(pub ResizeMetrics);

impl Told {
    /// The size that the export has when it is opened.
    pub fn size_at_start(&self, size: Size) {
        self.size(size, 0);
    }

    pub(super) fn size(&self, size: Size, generation: u64) {
        self.0.size.set(i64::try_from(size.bytes()).unwrap_or(i64::MAX));
        self.0.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    pub(super) fn quarantined(&self) {
        self.0.ended(ResizeStyle::Backend, ResizeResult::Quarantined);
    }

    pub(super) fn claim_lost(&self) {
        self.0.claims_lost.inc();
    }

    pub(super) fn ended(&self, wish: &Wish, answer: &Answer, size: Size) {
        let style = match wish {
            Wish::Explicit { client: ClientStyle::ExplicitSimple | ClientStyle::Kernel, .. } => ResizeStyle::Simple,
            Wish::Explicit { .. } => ResizeStyle::Structured,
            Wish::Automatic { .. } => ResizeStyle::Automatic,
            Wish::Operator { .. } | Wish::Publish | Wish::Adopt { .. } => ResizeStyle::Operator,
            Wish::Backend { .. } => ResizeStyle::Backend,
        };
        match answer {
            Ok(_) => self.0.ended(style, ResizeResult::Ok),
            Err(refusal) => {
                self.0.ended(style, ResizeResult::Refused);
                self.0.denied(refusal.reason.label());
                tracing::info!(export = refusal.export.as_str(), style = style.as_str(), size = size.bytes(), why = %refusal, "resize refused");
            }
        }
    }
}
