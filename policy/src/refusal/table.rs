//! The table of refusal: which error each reason answers with, and which metric label it counts under.
//!
//! It is exhaustive: a new reason does not compile before it has its line here.

use super::{Asked, Errno, Reason};

macro_rules! table {
    ($($reason:ident => $resize:ident, $write:ident, $label:literal;)*) => {
        impl Reason {
            /// The error on the wire. A write that may not grow the export now answers `ENOSPC` whatever the reason, so that
            /// guests that pause for room do pause and can go on later. What no waiting and no room would mend keeps its own
            /// error: the export may not be written at all, the backend failed, the gateway is going.
            #[must_use]
            pub const fn errno(&self, asked: Asked) -> Errno {
                match (asked, self) {
                    $((Asked::Resize, Self::$reason { .. }) => Errno::$resize,
                    (Asked::Write, Self::$reason { .. }) => Errno::$write,)*
                }
            }

            /// The metric label: short, closed, stable.
            #[must_use]
            pub const fn label(&self) -> &'static str {
                match self { $(Self::$reason { .. } => $label,)* }
            }

            /// Every label there is, in the order of the list: so that each series can exist from the start, at 0.
            pub const LABELS: &[&'static str] = &[$($label),*];
        }
    };
}

// reason, the error to a resize, the error to a write, label
table! {
    Zero                => Inval,    NoSpc,    "zero";
    Impossible          => Inval,    NoSpc,    "impossible";
    NotOffered          => Inval,    NoSpc,    "not-offered";
    NotAuthorised       => Perm,     NoSpc,    "not-authorised";
    ReadOnly            => Perm,     Perm,     "read-only";
    FixedSize           => Perm,     NoSpc,    "fixed-size";
    AutomaticNotOffered => Perm,     NoSpc,    "automatic-not-offered";
    ShrinkForbidden     => Perm,     NoSpc,    "shrink-forbidden";
    BackendCannotShrink => Perm,     NoSpc,    "backend-cannot-shrink";
    BackendUnproven     => Perm,     NoSpc,    "backend-unproven";
    BelowMinimum        => Perm,     NoSpc,    "minimum";
    OthersDidNotOptIn   => Perm,     NoSpc,    "others-did-not-opt-in";
    KernelClients       => Perm,     NoSpc,    "kernel-clients";
    MayComeBack         => Perm,     NoSpc,    "may-come-back";
    AlreadySmaller      => Perm,     NoSpc,    "already-smaller";
    HiddenBytes         => Perm,     NoSpc,    "hidden-bytes";
    OperatorPublishes   => Perm,     NoSpc,    "operator-publishes";
    SizeStays           => Perm,     NoSpc,    "size-stays";
    RateLimited         => Perm,     NoSpc,    "rate";
    OverQuota           => NoSpc,    NoSpc,    "quota";
    OverCeiling         => NoSpc,    NoSpc,    "ceiling";
    OverWindow          => NoSpc,    NoSpc,    "window";
    OnlyAWindow         => Perm,     NoSpc,    "only-a-window";
    AdoptOther          => Perm,     NoSpc,    "adopt-other";
    LargestExport       => NoSpc,    NoSpc,    "largest-export";
    TooManyExports      => Perm,     NoSpc,    "exports";
    TooManySessions     => Perm,     NoSpc,    "sessions";
    OverMaxStep         => NoSpc,    NoSpc,    "max-step";
    BackendFull         => NoSpc,    NoSpc,    "backend-full";
    Unrecorded          => Perm,     NoSpc,    "unrecorded";
    OlderLedger         => Perm,     NoSpc,    "older-ledger";
    LedgerUnavailable   => NoSpc,    NoSpc,    "ledger";
    Unmeasured          => Io,       NoSpc,    "unmeasured";
    Busy                => Io,       NoSpc,    "busy";
    Unsettled           => Io,       NoSpc,    "unsettled";
    Quarantined         => Io,       NoSpc,    "quarantined";
    BackendFailed       => Io,       Io,       "backend-failed";
    BackendTimedOut     => Io,       Io,       "backend-timed-out";
    BackendUnchanged    => Io,       Io,       "backend-unchanged";
    BackendGaveLess     => Io,       Io,       "backend-gave-less";
    DrainTimedOut       => Io,       NoSpc,    "drain-timed-out";
    Cancelled           => Perm,     NoSpc,    "cancelled";
    Draining            => Shutdown, Shutdown, "draining";
}
