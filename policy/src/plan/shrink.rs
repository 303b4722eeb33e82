//! Plans that go down: all that has to be true before anybody loses bytes.

use super::{Ask, Lanes, Plan, Shrink, Situation};
use crate::export::Publish;
use crate::refusal::Reason;
use crate::style::{Grows, Proof};
use crate::types::Size;

/// Somebody asks for `target`, smaller than what they were told. `tells_size`: the answer can carry the size in force.
pub(super) fn to(situation: &Situation<'_>, target: Size, tells_size: bool) -> Result<Plan, Reason> {
    let (size, policy) = (situation.size, situation.policy);
    if target > size {
        // Another was faster, and went further. A shrink never grows.
        return if tells_size {
            Ok(Plan::Nothing { size })
        } else {
            Err(Reason::AlreadySmaller { asked: target, size })
        };
    }
    // Rounding alone fails nothing: where it leads back to the size now, that is the answer.
    let Some(to) = policy.granularity.round_up(target).filter(|to| *to < size) else {
        return Ok(Plan::Nothing { size });
    };
    if policy.publish == Publish::Never {
        return Err(Reason::SizeStays { size });
    }
    if policy.read_only {
        return Err(Reason::ReadOnly);
    }
    situation.on_record()?;
    if !policy.shrink {
        return Err(Reason::ShrinkForbidden);
    }
    if to < policy.min_size {
        return Err(Reason::BelowMinimum { asked: to, min: policy.min_size });
    }
    let (ask, lanes) = ask(situation, to)?;
    others_allow(situation)?;
    let reread = match ask {
        Ask::ExplicitResize(_) | Ask::Driver(_) => !policy.exclusive,
        Ask::Nothing | Ask::ZeroWriteLastGranule { .. } | Ask::ResizeEmbedded(_) => false,
    };
    Ok(Plan::Shrink(Shrink { from: size, to, reread, ask, lanes }))
}

/// How to ask each backend, and what its connections need then.
fn ask(situation: &Situation<'_>, to: Size) -> Result<(Ask, Lanes), Reason> {
    let (ask, lanes) = match situation.backend.grows {
        // The disk stays; what the window leaves is zeroed when it comes back.
        Grows::Window => return Ok((Ask::Nothing, Lanes::Keep)),
        Grows::Explicit { proof: Proof::OptedIn, .. } => (Ask::ExplicitResize(to), Lanes::Keep),
        Grows::Explicit { proof: Proof::ReadBack, .. } => (Ask::ExplicitResize(to), Lanes::RehandshakeOthers),
        Grows::Explicit { proof: Proof::Claimed, .. } => return Err(Reason::BackendUnproven),
        Grows::Automatic { .. } => return Err(Reason::BackendCannotShrink),
        Grows::Embedded => (Ask::ResizeEmbedded(to), Lanes::Keep),
        Grows::Driver { .. } => (Ask::Driver(to), Lanes::DropBefore),
        Grows::Fixed => return Err(Reason::FixedSize { size: situation.size }),
    };
    if situation.disk > situation.size {
        return Err(Reason::HiddenBytes { size: situation.size, disk: situation.disk });
    }
    Ok((ask, lanes))
}

/// Whether every other session can live with less.
pub(super) const fn others_allow(situation: &Situation<'_>) -> Result<(), Reason> {
    let others = situation.others;
    if others.stock > 0 {
        Err(Reason::OthersDidNotOptIn { sessions: others.stock })
    } else if others.kernel > 0 {
        Err(Reason::KernelClients { sessions: others.kernel })
    } else if others.lost > 0 {
        Err(Reason::MayComeBack { sessions: others.lost })
    } else {
        Ok(())
    }
}
