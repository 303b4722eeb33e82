//! Plans that go up: for a client's resize, an operator's order, a write past the end.
//!
//! Owns rounding, steps, clamping and the bounds (ceiling, window, quota, max-step), and how each backend style is asked.

use super::{Ask, Grow, Lanes, Plan, Situation};
use crate::export::{OverQuota, Publish};
use crate::refusal::Reason;
use crate::style::{ClientStyle, Grows, Proof};
use crate::types::{ByteRange, Bytes, Size};

/// The most bytes that the write which grows an automatic backend has.
const LARGEST_ZERO_WRITE: u32 = 1 << 20;

/// How much of its size a stream of writes may add to an export at once, as a divisor: as much is there unused at most.
const STREAM_SHARE: u64 = 8;
/// The most that it may add at once, where the step is not larger.
const STREAM_MOST: Bytes = Bytes(1 << 30);

/// A client asks for `target`, which is not smaller than what it was told.
pub(super) fn for_client(situation: &Situation<'_>, client: ClientStyle, target: Size) -> Result<Plan, Reason> {
    if target <= situation.size {
        return Ok(Plan::Nothing { size: situation.size });
    }
    clients_may_grow(situation)?;
    if !situation.backend.can_grow() {
        // What another hand added to a fixed backend is the operator's to show.
        return Err(Reason::FixedSize { size: situation.size });
    }
    situation.on_record()?;
    let clamp = situation.policy.over_quota == OverQuota::Clamp && client.success().tells_size();
    let must = rounded(situation, target)?;
    let least = if clamp { situation.size.plus(Bytes(1)) } else { must };
    let to = fit(situation, must, least, must)?;
    grow(situation, to, if clamp { target.min(to) } else { target }, true)
}

/// A client is answered with a size that everybody is shown, so it can't grow what an operator publishes.
const fn clients_may_grow(situation: &Situation<'_>) -> Result<(), Reason> {
    match situation.policy.publish {
        Publish::Auto => Ok(()),
        Publish::Manual => Err(Reason::OperatorPublishes { size: situation.size }),
        Publish::Never => Err(Reason::SizeStays { size: situation.size }),
    }
}

/// An operator asks for `target`, to be shown or not. Never clamped: a person who says a size means it.
pub(super) fn for_operator(situation: &Situation<'_>, target: Size, show: bool) -> Result<Plan, Reason> {
    if target <= situation.size || (!show && target <= situation.disk) {
        return Ok(Plan::Nothing { size: situation.size });
    }
    if situation.backend.grows == Grows::Fixed && target > situation.disk && !situation.policy.read_only {
        return Err(Reason::FixedSize { size: situation.size });
    }
    situation.on_record()?;
    let must = rounded(situation, target)?;
    let to = fit(situation, must, must, must)?;
    // What is there already may be shown on a read-only export too.
    if situation.policy.read_only && to > situation.disk {
        return Err(Reason::ReadOnly);
    }
    grow(situation, to, target, show)
}

/// A write ends at `end`. It goes by a whole step where there is room for one, and by what the write needs where not.
pub(super) fn for_write(situation: &Situation<'_>, end: u64) -> Result<Plan, Reason> {
    let (size, policy) = (situation.size, situation.policy);
    if policy.read_only {
        return Err(Reason::ReadOnly);
    }
    let Ok(need) = Size::new(end) else { return Err(over_hard_bound(situation, end)) };
    if need <= size {
        return Ok(Plan::Nothing { size });
    }
    situation.on_record()?;
    clients_may_grow(situation)?;
    if let Some(max_step) = policy.max_step
        && need.above(size) > max_step
    {
        return Err(Reason::OverMaxStep { size, end, max_step });
    }
    let must = rounded(situation, need)?;
    let stepped = policy.granularity.round_up(size.plus(step(situation))).unwrap_or(must);
    let capped = policy.max_step.map_or(stepped, |most| stepped.min(policy.granularity.round_down(size.plus(most))));
    let want = if must <= situation.disk && !situation.is_window() {
        // There already: what a step would add is not worth asking for.
        capped.min(situation.disk).max(must)
    } else {
        capped.max(must)
    };
    let to = fit(situation, want, must, must)?;
    grow(situation, to, need, true)
}

/// By how much a write grows the export at least: twice what the last one added while a stream of them goes on, so that it
/// costs few resizes however small the step is. A step of 0 stays 0.
fn step(situation: &Situation<'_>) -> Bytes {
    let least = situation.policy.step;
    if least == Bytes(0) {
        return least;
    }
    let share = Bytes(situation.size.bytes() / STREAM_SHARE);
    Bytes(situation.stream.0.saturating_mul(2)).min(share).min(STREAM_MOST).max(least)
}

/// Rounds up to the granularity; up to the end of the backend, where that has the target already and is no multiple.
pub(super) fn rounded(situation: &Situation<'_>, target: Size) -> Result<Size, Reason> {
    let up = situation.policy.granularity.round_up(target);
    if target <= situation.disk {
        return Ok(up.map_or(situation.disk, |up| up.min(situation.disk)));
    }
    up.ok_or_else(|| over_hard_bound(situation, target.bytes()))
}

/// The largest size up to `want` that the bounds allow, if it is at least `least`; `must` is what a refusal speaks of.
pub(super) fn fit(situation: &Situation<'_>, want: Size, least: Size, must: Size) -> Result<Size, Reason> {
    let hard = hard_bound(situation);
    let counted = situation.counted();
    let reach = situation.headroom.map_or(hard, |headroom| hard.min(counted.plus(headroom.left)));
    if want <= reach {
        return Ok(want);
    }
    let cut = situation.policy.granularity.round_down(reach);
    if cut >= least {
        return Ok(cut);
    }
    Err(match situation.headroom {
        Some(headroom) if must <= hard => Reason::OverQuota {
            size: situation.size,
            wanted: must.above(counted),
            left: headroom.left,
            quota: headroom.quota,
        },
        Some(_) | None => over_hard_bound(situation, must.bytes()),
    })
}

/// How far it may go, quota aside.
fn hard_bound(situation: &Situation<'_>) -> Size {
    let ceiling = situation.policy.max_size;
    if situation.is_window() { ceiling.min(situation.disk) } else { ceiling }
}

fn over_hard_bound(situation: &Situation<'_>, asked: u64) -> Reason {
    if situation.is_window() && situation.disk < situation.policy.max_size {
        Reason::OverWindow { asked, disk: situation.disk }
    } else {
        Reason::OverCeiling { asked, ceiling: situation.policy.max_size }
    }
}

fn grow(situation: &Situation<'_>, to: Size, need: Size, show: bool) -> Result<Plan, Reason> {
    let (ask, lanes) = ask(situation, to)?;
    // Only what the gateway itself grows is ever zeroed, so it begins where the backend ends, not where the view does.
    let exposed_from = if situation.is_window() { situation.size } else { situation.disk };
    let zero = if situation.zeroed_by_backend { None } else { ByteRange::new(exposed_from, to) };
    let reread = match ask {
        Ask::ExplicitResize(_) | Ask::Driver(_) => !situation.policy.exclusive,
        Ask::ZeroWriteLastGranule { .. } => true,
        Ask::Nothing | Ask::ResizeEmbedded(_) => false,
    };
    let reserve = to.above(situation.counted());
    Ok(Plan::Grow(Grow { from: situation.size, to, need, reserve, reread, ask, zero, lanes, show }))
}

/// How to ask each backend for a size, and what its connections need then.
fn ask(situation: &Situation<'_>, to: Size) -> Result<(Ask, Lanes), Reason> {
    let by_wire = |proof| match proof {
        Proof::OptedIn => Lanes::Keep,
        Proof::ReadBack | Proof::Claimed => Lanes::RehandshakeOthers,
    };
    Ok(match (situation.backend.grows, to > situation.disk) {
        (Grows::Window, true | false)
        | (
            Grows::Explicit { .. } | Grows::Automatic { .. } | Grows::Embedded | Grows::Driver { .. } | Grows::Fixed,
            false,
        ) => (Ask::Nothing, Lanes::Keep),
        (Grows::Explicit { proof, .. }, true) => (Ask::ExplicitResize(to), by_wire(proof)),
        (Grows::Automatic { proof }, true) => (zero_write(situation, to), by_wire(proof)),
        (Grows::Embedded, true) => (Ask::ResizeEmbedded(to), Lanes::Keep),
        (Grows::Driver { aside: false }, true) => (Ask::Driver(to), Lanes::ReplaceAfter),
        (Grows::Driver { aside: true }, true) => (Ask::Driver(to), Lanes::DropBefore),
        (Grows::Fixed, true) => return Err(Reason::FixedSize { size: situation.size }),
    })
}

/// The last granule before `to`, or what of it is new.
fn zero_write(situation: &Situation<'_>, to: Size) -> Ask {
    let granule = u32::try_from(situation.policy.granularity.bytes()).unwrap_or(LARGEST_ZERO_WRITE);
    let new = u32::try_from(to.above(situation.disk).0).unwrap_or(LARGEST_ZERO_WRITE);
    let len = granule.min(LARGEST_ZERO_WRITE).min(new);
    let offset = Size::new(to.bytes().saturating_sub(u64::from(len))).unwrap_or(situation.disk);
    Ask::ZeroWriteLastGranule { offset, len }
}
