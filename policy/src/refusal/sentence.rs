//! What a person reads: one sentence for each reason, naming the thing and the values, saying what to do where something can be.

use std::fmt;

use super::{Reason, Refusal};
use crate::types::{Bytes, Count, Span};

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { export, tenant, reason } = self;
        match reason {
            Reason::Zero => write!(f, "export `{export}` can't have size 0; ask for at least one byte"),
            Reason::Impossible { asked } => {
                write!(f, "export `{export}` can't have {}; the most there can be is 2^63-1 bytes", Bytes(*asked))
            }
            Reason::NotOffered => {
                write!(f, "export `{export}` did not offer this to you; ask for NBD_INFO_RESIZE in NBD_OPT_GO first")
            }
            Reason::NotAuthorised { verb } => {
                write!(f, "export `{export}`: you may not {verb} it; ask the operator for the verb `{verb}`")
            }
            Reason::ReadOnly => write!(f, "export `{export}` is read-only, so its size stays"),
            Reason::FixedSize { size } => write!(f, "export `{export}` is {size} and its backend can't be resized"),
            Reason::AutomaticNotOffered { size } => {
                write!(f, "export `{export}` is {size} and does not grow by your writes; resize it first")
            }
            Reason::ShrinkForbidden => {
                write!(f, "export `{export}` may not shrink; its `shrink` would have to be true")
            }
            Reason::BackendCannotShrink => write!(f, "export `{export}` can't shrink: its backend only grows"),
            Reason::BackendUnproven => {
                write!(f, "export `{export}` can't shrink before its backend has shown that it can grow")
            }
            Reason::BelowMinimum { asked, min } => {
                write!(f, "export `{export}` may not be {asked}; the least it may be is {min}")
            }
            Reason::OthersDidNotOptIn { sessions } => write!(
                f,
                "export `{export}` can't shrink under {} that did not opt in to resize; close them first",
                Count(u64::from(*sessions), "other session")
            ),
            Reason::KernelClients { sessions } => write!(
                f,
                "export `{export}` can't shrink under {} without structured replies; close them first",
                Count(u64::from(*sessions), "other session")
            ),
            Reason::MayComeBack { sessions } => write!(
                f,
                "export `{export}` can't shrink yet: {} that did not opt in left without DISC and may come back; wait for shrink-grace",
                Count(u64::from(*sessions), "session")
            ),
            Reason::AlreadySmaller { asked, size } => {
                write!(f, "export `{export}` is {size}, already smaller than {asked}; learn its size and ask again")
            }
            Reason::HiddenBytes { size, disk } => write!(
                f,
                "export `{export}` shows {size} of the {disk} that its backend has; publish them all or take them away before it shrinks"
            ),
            Reason::OperatorPublishes { size } => write!(
                f,
                "export `{export}` is {size} until its operator publishes another size; ask the operator to resize it and to publish that"
            ),
            Reason::SizeStays { size } => {
                write!(f, "export `{export}` stays at {size} until it is opened again; its `publish` is `never`")
            }
            Reason::RateLimited { limit, again_after: Some(wait) } => {
                write!(f, "export `{export}`: tenant `{tenant}` is at its {limit}; try again in {}", Span(*wait))
            }
            Reason::RateLimited { limit, again_after: None } => {
                write!(f, "export `{export}`: this is more than the {limit} of tenant `{tenant}` ever allows at once")
            }
            Reason::OverQuota { size, wanted, left, quota } => write!(
                f,
                "export `{export}` is {size} and would grow by {wanted}; tenant `{tenant}` has {left} left of {quota}"
            ),
            Reason::OverCeiling { asked, ceiling } => {
                write!(f, "export `{export}` can't be {}; its max-size is {ceiling}", Bytes(*asked))
            }
            Reason::OverWindow { asked, disk } => {
                write!(f, "export `{export}` can't be {}; the disk behind it has {disk}", Bytes(*asked))
            }
            Reason::OnlyAWindow { size, disk } => {
                write!(f, "export `{export}` is a window of {size} on a disk of {disk}; resize it to show more")
            }
            Reason::AdoptOther { asked, disk } => {
                write!(f, "export `{export}`: its backend has {disk}, not {asked}; look again, and adopt what it has")
            }
            Reason::LargestExport { asked, largest } => {
                write!(f, "export `{export}` can't be {asked}; the largest export of tenant `{tenant}` is {largest}")
            }
            Reason::TooManyExports { most } => {
                write!(
                    f,
                    "export `{export}` is one too many: tenant `{tenant}` may have {most} open at once; close another"
                )
            }
            Reason::TooManySessions { most } => {
                write!(
                    f,
                    "export `{export}`: tenant `{tenant}` may have {} at once and has them; end another",
                    Count(u64::from(*most), "session")
                )
            }
            Reason::OverMaxStep { size, end, max_step } => write!(
                f,
                "export `{export}` is {size} and a write ends at {}; one write may grow it by {max_step}",
                Bytes(*end)
            ),
            Reason::BackendFull => write!(f, "export `{export}`: its backend has no room to grow"),
            Reason::Unrecorded { size } => write!(
                f,
                "export `{export}` shows the first {size} of its backend, nobody has on record whether it had more, and what is there does not read as zeroes; say which size it had: nbd-gateway resize {export} SIZE --adopt"
            ),
            Reason::OlderLedger => write!(
                f,
                "export `{export}` can't be resized: the ledger is an older copy; say what the export has: nbd-gateway ledger settle {export} --zero, or --keep"
            ),
            Reason::LedgerUnavailable => {
                write!(f, "export `{export}` can't grow now: the ledger can't record it; ask the operator")
            }
            Reason::Unmeasured => {
                write!(f, "export `{export}` can't be resized before its backend has been measured; try again")
            }
            Reason::Busy => write!(f, "export `{export}` is being resized; try again when that is done"),
            Reason::Unsettled => {
                write!(f, "export `{export}`: what an earlier resize did is not known yet; try again when it is")
            }
            Reason::Quarantined => {
                write!(f, "export `{export}`: its backend came back smaller than it was; ask the operator")
            }
            Reason::BackendFailed => write!(f, "export `{export}`: its backend failed to resize"),
            Reason::BackendTimedOut => write!(
                f,
                "export `{export}`: its backend did not say in time, or not clearly, what became of the resize"
            ),
            Reason::BackendUnchanged { size } => {
                write!(f, "export `{export}`: its backend accepted the resize and still is {size}")
            }
            Reason::BackendGaveLess { needed, size } => {
                write!(f, "export `{export}`: its backend went to {size} where {needed} was needed")
            }
            Reason::DrainTimedOut => {
                write!(f, "export `{export}`: requests past the new end did not end in time; its size stays")
            }
            Reason::Cancelled => write!(f, "export `{export}`: the resize was called off"),
            Reason::Draining => write!(f, "export `{export}` is draining"),
        }
    }
}
