//! The tables of refusal: which error each reason answers with, and which metric label it counts under.
//!
//! Both are exhaustive: a new reason does not compile before it has its lines here.

use super::{Asked, Errno, Reason};

impl Reason {
    /// The error on the wire. A write that may not grow the export now answers `ENOSPC` whatever the reason, so that
    /// guests that pause for room do pause and can go on later. What no waiting and no room would mend keeps its own
    /// error: the export may not be written at all, the backend failed, the gateway is going.
    #[must_use]
    pub const fn errno(&self, asked: Asked) -> Errno {
        match asked {
            Asked::Resize => self.resize_errno(),
            Asked::Write => match self {
                Self::ReadOnly
                | Self::BackendFailed
                | Self::BackendTimedOut
                | Self::BackendUnchanged { .. }
                | Self::BackendGaveLess { .. }
                | Self::Draining => self.resize_errno(),
                Self::Zero
                | Self::Impossible { .. }
                | Self::NotOffered
                | Self::NotAuthorised { .. }
                | Self::FixedSize { .. }
                | Self::AutomaticNotOffered { .. }
                | Self::ShrinkForbidden
                | Self::BackendCannotShrink
                | Self::BackendUnproven
                | Self::BelowMinimum { .. }
                | Self::OthersDidNotOptIn { .. }
                | Self::KernelClients { .. }
                | Self::MayComeBack { .. }
                | Self::AlreadySmaller { .. }
                | Self::HiddenBytes { .. }
                | Self::OperatorPublishes { .. }
                | Self::SizeStays { .. }
                | Self::RateLimited { .. }
                | Self::OverQuota { .. }
                | Self::OverCeiling { .. }
                | Self::OverWindow { .. }
                | Self::OnlyAWindow { .. }
                | Self::AdoptOther { .. }
                | Self::LargestExport { .. }
                | Self::TooManyExports { .. }
                | Self::TooManySessions { .. }
                | Self::OverMaxStep { .. }
                | Self::BackendFull
                | Self::Unrecorded { .. }
                | Self::OlderLedger
                | Self::LedgerUnavailable
                | Self::Unmeasured
                | Self::Busy
                | Self::Unsettled
                | Self::Quarantined
                | Self::DrainTimedOut
                | Self::Cancelled => Errno::NoSpc,
            },
        }
    }

    const fn resize_errno(&self) -> Errno {
        match self {
            Self::Zero | Self::Impossible { .. } | Self::NotOffered => Errno::Inval,
            Self::NotAuthorised { .. }
            | Self::ReadOnly
            | Self::FixedSize { .. }
            | Self::AutomaticNotOffered { .. }
            | Self::ShrinkForbidden
            | Self::BackendCannotShrink
            | Self::BackendUnproven
            | Self::BelowMinimum { .. }
            | Self::OthersDidNotOptIn { .. }
            | Self::KernelClients { .. }
            | Self::MayComeBack { .. }
            | Self::AlreadySmaller { .. }
            | Self::HiddenBytes { .. }
            | Self::OperatorPublishes { .. }
            | Self::SizeStays { .. }
            | Self::RateLimited { .. }
            | Self::OnlyAWindow { .. }
            | Self::AdoptOther { .. }
            | Self::TooManyExports { .. }
            | Self::Unrecorded { .. }
            | Self::OlderLedger
            | Self::TooManySessions { .. }
            | Self::Cancelled => Errno::Perm,
            Self::OverQuota { .. }
            | Self::OverCeiling { .. }
            | Self::OverWindow { .. }
            | Self::LargestExport { .. }
            | Self::OverMaxStep { .. }
            | Self::BackendFull
            | Self::LedgerUnavailable => Errno::NoSpc,
            Self::Unmeasured
            | Self::Busy
            | Self::Unsettled
            | Self::Quarantined
            | Self::BackendFailed
            | Self::BackendTimedOut
            | Self::BackendUnchanged { .. }
            | Self::BackendGaveLess { .. }
            | Self::DrainTimedOut => Errno::Io,
            Self::Draining => Errno::Shutdown,
        }
    }

    /// The metric label: short, closed, stable.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Impossible { .. } => "impossible",
            Self::NotOffered => "not-offered",
            Self::NotAuthorised { .. } => "not-authorised",
            Self::ReadOnly => "read-only",
            Self::FixedSize { .. } => "fixed-size",
            Self::AutomaticNotOffered { .. } => "automatic-not-offered",
            Self::ShrinkForbidden => "shrink-forbidden",
            Self::BackendCannotShrink => "backend-cannot-shrink",
            Self::BackendUnproven => "backend-unproven",
            Self::BelowMinimum { .. } => "minimum",
            Self::OthersDidNotOptIn { .. } => "others-did-not-opt-in",
            Self::KernelClients { .. } => "kernel-clients",
            Self::MayComeBack { .. } => "may-come-back",
            Self::AlreadySmaller { .. } => "already-smaller",
            Self::HiddenBytes { .. } => "hidden-bytes",
            Self::OperatorPublishes { .. } => "operator-publishes",
            Self::SizeStays { .. } => "size-stays",
            Self::RateLimited { .. } => "rate",
            Self::OverQuota { .. } => "quota",
            Self::OverCeiling { .. } => "ceiling",
            Self::OverWindow { .. } => "window",
            Self::OnlyAWindow { .. } => "only-a-window",
            Self::AdoptOther { .. } => "adopt-other",
            Self::LargestExport { .. } => "largest-export",
            Self::TooManyExports { .. } => "exports",
            Self::TooManySessions { .. } => "sessions",
            Self::OverMaxStep { .. } => "max-step",
            Self::BackendFull => "backend-full",
            Self::Unrecorded { .. } => "unrecorded",
            Self::OlderLedger => "older-ledger",
            Self::LedgerUnavailable => "ledger",
            Self::Unmeasured => "unmeasured",
            Self::Busy => "busy",
            Self::Unsettled => "unsettled",
            Self::Quarantined => "quarantined",
            Self::BackendFailed => "backend-failed",
            Self::BackendTimedOut => "backend-timed-out",
            Self::BackendUnchanged { .. } => "backend-unchanged",
            Self::BackendGaveLess { .. } => "backend-gave-less",
            Self::DrainTimedOut => "drain-timed-out",
            Self::Cancelled => "cancelled",
            Self::Draining => "draining",
        }
    }

    /// Every label there is, in the order of the list: so that each series can exist from the start, at 0.
    pub const LABELS: [&'static str; 43] = [
        "zero",
        "impossible",
        "not-offered",
        "not-authorised",
        "read-only",
        "fixed-size",
        "automatic-not-offered",
        "shrink-forbidden",
        "backend-cannot-shrink",
        "backend-unproven",
        "minimum",
        "others-did-not-opt-in",
        "kernel-clients",
        "may-come-back",
        "already-smaller",
        "hidden-bytes",
        "operator-publishes",
        "size-stays",
        "rate",
        "quota",
        "ceiling",
        "window",
        "only-a-window",
        "adopt-other",
        "largest-export",
        "exports",
        "sessions",
        "max-step",
        "backend-full",
        "unrecorded",
        "older-ledger",
        "ledger",
        "unmeasured",
        "busy",
        "unsettled",
        "quarantined",
        "backend-failed",
        "backend-timed-out",
        "backend-unchanged",
        "backend-gave-less",
        "drain-timed-out",
        "cancelled",
        "draining",
    ];
}
