//! What to make of the size that a backend is found to have, when nobody asked it for one just now.
//!
//! Size never goes back by itself: smaller than what clients rely on is a quarantine, unless this gateway's own shrink
//! is what is being settled. Larger is counted at once, and shown as the policy says.

use super::{Adopt, Lanes, Plan, Quarantine, Situation, Standing};
use crate::export::{External, Publish};
use crate::style::{Grows, Proof, Tells};
use crate::types::{ByteRange, Size};

/// Judges the size that was read.
pub(super) fn judge(situation: &Situation<'_>, read: u64) -> Plan {
    let Ok(disk) = Size::new(read) else { return Plan::Quarantine(Quarantine::Impossible { bytes: read }) };
    let (least, own) = match situation.standing {
        Standing::Unsettled { asked } => (situation.size.min(asked), Some(asked)),
        Standing::Ready | Standing::Unmeasured | Standing::Quarantined { .. } | Standing::Draining => {
            (situation.size, None)
        }
    };
    if disk < least {
        return Plan::Quarantine(Quarantine::Smaller { was: least, now: disk });
    }
    let publish = publish(situation, disk, own);
    let news = match situation.standing {
        Standing::Ready | Standing::Draining => disk != situation.disk || publish.is_some(),
        // Hearing anything at all is what these wait for.
        Standing::Unmeasured | Standing::Unsettled { .. } | Standing::Quarantined { .. } => true,
    };
    if !news {
        return Plan::Nothing { size: situation.size };
    }
    Plan::Adopt(Adopt {
        disk,
        count: (!situation.is_window()).then_some(disk),
        zero: zero(situation, disk, own),
        publish,
        // An own shrink has lowered the end already.
        drain: None,
        lanes: lanes(situation, disk),
    })
}

/// What to show; `own` is what this gateway asked for in vain or not.
fn publish(situation: &Situation<'_>, disk: Size, own: Option<Size>) -> Option<Size> {
    if situation.is_window() {
        // The window moves only when somebody asks, unless its own move is what is settled.
        return own.filter(|asked| *asked != situation.size && *asked <= disk);
    }
    if disk < situation.size {
        // Only an own shrink gets here: anything else smaller is a quarantine.
        return Some(disk);
    }
    let ours = own.map_or(situation.size, |asked| asked.min(disk)).max(situation.size);
    let show = match (situation.policy.publish, situation.policy.external) {
        (Publish::Auto, External::Adopt) => disk,
        (Publish::Auto, External::Ignore | External::Manual) => ours,
        (Publish::Manual | Publish::Never, _) => situation.size,
    };
    (show != situation.size).then_some(show)
}

/// What an own grow of unknown outcome exposed.
fn zero(situation: &Situation<'_>, disk: Size, own: Option<Size>) -> Option<ByteRange> {
    let asked = own.filter(|_| !situation.zeroed_by_backend)?;
    let exposed_from = if situation.is_window() { situation.size } else { situation.disk };
    // Alone with its backend, what it has more than was asked for is this gateway's doing too.
    ByteRange::new(exposed_from, if situation.policy.exclusive { disk } else { asked.min(disk) })
}

/// Connections from before keep the old size where only a handshake tells it, unless the backend speaks the extension:
/// then each of them may use the new one.
pub(super) const fn lanes(situation: &Situation<'_>, disk: Size) -> Lanes {
    let follows = matches!(
        situation.backend.grows,
        Grows::Embedded | Grows::Explicit { proof: Proof::OptedIn, .. } | Grows::Automatic { proof: Proof::OptedIn }
    );
    let by_handshake = matches!(situation.backend.tells, Tells::SecondHandshake);
    if follows || !by_handshake || disk.bytes() == situation.disk.bytes() { Lanes::Keep } else { Lanes::ReplaceAfter }
}
