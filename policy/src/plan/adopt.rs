//! What an operator orders about a size that is there already: to show what another hand added, to take what is lost for lost.
//!
//! Nothing here asks a backend for anything, and nothing exposes bytes that were not there. A smaller size is taken only
//! where no session stands in the way, and frees quota because it was read.

use super::{Adopt, Ask, Grow, Lanes, Plan, Situation, Standing, grow, outside, shrink};
use crate::export::Publish;
use crate::refusal::Reason;
use crate::types::Size;

/// Shows all that the backend has. Bounded as an operator's resize is.
pub(super) fn publish(situation: &Situation<'_>) -> Result<Plan, Reason> {
    if situation.is_window() {
        return Err(Reason::OnlyAWindow { size: situation.size, disk: situation.disk });
    }
    match situation.policy.publish {
        Publish::Auto | Publish::Manual => grow::for_operator(situation, situation.disk, true),
        Publish::Never if situation.disk == situation.size => Ok(Plan::Nothing { size: situation.size }),
        Publish::Never => Err(Reason::SizeStays { size: situation.size }),
    }
}

/// Takes the backend for what it was found to be; `target` is what the operator saw.
pub(super) fn take(situation: &Situation<'_>, target: Size) -> Result<Plan, Reason> {
    let found = match situation.standing {
        // An impossible size can't be taken for true.
        Standing::Quarantined { found } => Size::new(found).map_err(|_| Reason::Quarantined)?,
        Standing::Ready => situation.disk,
        Standing::Unmeasured | Standing::Unsettled { .. } | Standing::Draining => {
            return situation.may_act().map(|()| Plan::Nothing { size: situation.size });
        }
    };
    if situation.is_window() { window(situation, found, target) } else { whole(situation, found, target) }
}

fn whole(situation: &Situation<'_>, found: Size, target: Size) -> Result<Plan, Reason> {
    if target != found {
        return Err(Reason::AdoptOther { asked: target, disk: found });
    }
    let show = match situation.policy.publish {
        Publish::Auto | Publish::Manual => found,
        Publish::Never => found.min(situation.size),
    };
    adopt(situation, found, show)
}

/// A window may show any part of what is behind it. What it shows of that without zeroing is, by the operator's word, its
/// tenant's.
fn window(situation: &Situation<'_>, found: Size, target: Size) -> Result<Plan, Reason> {
    if target > found {
        return Err(Reason::OverWindow { asked: target.bytes(), disk: found });
    }
    if situation.unrecorded && target < situation.size {
        return Err(Reason::BelowMinimum { asked: target, min: situation.size });
    }
    if found < situation.size || (target == situation.size && !situation.unrecorded) {
        return adopt(situation, found, target);
    }
    situation.may_act()?;
    if target < situation.size {
        // All that it shows is there: this is an ordinary shrink.
        return shrink::to(situation, target, true);
    }
    // Exactly that: what rounding would add may be another's.
    let to = grow::fit(situation, target, target, target)?;
    let reserve = to.above(situation.counted());
    Ok(Plan::Grow(Grow {
        from: situation.size,
        to,
        need: target,
        reserve,
        reread: false,
        ask: Ask::Nothing,
        zero: None,
        lanes: Lanes::Keep,
        show: true,
    }))
}

fn adopt(situation: &Situation<'_>, found: Size, show: Size) -> Result<Plan, Reason> {
    let drain = (show < situation.size).then_some(show);
    if drain.is_some() {
        shrink::others_allow(situation)?;
    } else if situation.standing == Standing::Ready && show == situation.size && found == situation.disk {
        return Ok(Plan::Nothing { size: situation.size });
    }
    Ok(Plan::Adopt(Adopt {
        disk: found,
        count: (!situation.is_window()).then_some(found),
        zero: None,
        publish: (show != situation.size).then_some(show),
        drain,
        lanes: outside::lanes(situation, found),
    }))
}
