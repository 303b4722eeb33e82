//! What to do about a wish for another size: one function from a situation and a wish to a plan, which is data.
//!
//! [`plan`] decides, the export's coordinator executes and decides nothing. A plan for a grow or a shrink says its steps
//! in order ([`Grow::steps`], [`Shrink::steps`]); what the backend's size is afterwards goes back into
//! [`Grow::settle`] or [`Shrink::settle`], which say what to show and what to answer. Where a step re-reads the size and
//! it is not [`Situation::disk`], that size is a wish of its own ([`Wish::Backend`]) and the first wish is planned anew.
//!
//! Direction is judged against what the asking connection was last told, so nobody who is behind the times truncates
//! what another wrote; sizes are rounded up to the granularity; nothing here grows by itself or goes back by itself.

mod adopt;
mod grow;
mod outside;
mod settle;
mod shrink;
mod steps;

use std::fmt;

use crate::export::{ExportPolicy, Publish};
use crate::quota::Headroom;
use crate::refusal::{Reason, Refusal};
use crate::style::{BackendStyle, ClientStyle, Grows};
use crate::types::{ByteRange, Bytes, ExportName, Size, TenantId};

pub use settle::{Grown, Shrunk};
pub use steps::Step;

/// All that a decision looks at.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The export, for sentences.
    pub export: &'a ExportName,
    /// Whose it is, for sentences.
    pub tenant: &'a TenantId,
    /// What its operator decided.
    pub policy: &'a ExportPolicy,
    /// The size in force: what clients are shown.
    pub size: Size,
    /// The backend's size as last read. Larger than `size` where it is a window's disk, or where another hand grew it and
    /// that is not shown.
    pub disk: Size,
    /// How the backend is resized and how it tells.
    pub backend: BackendStyle,
    /// What a grow exposes reads as zeroes without the gateway's doing.
    pub zeroed_by_backend: bool,
    /// What the tenant may still grow; none: no quota.
    pub headroom: Option<Headroom>,
    /// The other sessions on the export.
    pub others: Others,
    /// Whether anything can be done at all.
    pub standing: Standing,
    /// It is a window, nobody has on record how far it went, and its disk has data past `size`: nobody can tell this
    /// tenant's from another's until an operator says so ([`Wish::Adopt`]).
    pub unrecorded: bool,
    /// What the last grow for a write added, if writes go on past the end since; zero: they do not.
    pub stream: Bytes,
}

/// Sessions on the export, but for the asking one, that a shrink looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// With structured replies, not opted in.
    pub stock: u32,
    /// Without structured replies, not opted in.
    pub kernel: u32,
    /// Gone without DISC within `shrink-grace`, not opted in.
    pub lost: u32,
}

/// Whether an export can be resized at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Ready,
    /// Its backend has not been measured since the start: `size` and `disk` are what the ledger last knew.
    Unmeasured,
    /// Nobody knows what an earlier resize to this size did.
    Unsettled {
        /// The size that the backend was asked for.
        asked: Size,
    },
    /// Its backend says a size that can't be: smaller than what clients rely on, or none that there is.
    Quarantined {
        /// The size that it says, in bytes.
        found: u64,
    },
    /// It, or the gateway, is going.
    Draining,
}

/// Who wants which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A client's `NBD_CMD_RESIZE`.
    Explicit {
        /// What it is.
        client: ClientStyle,
        /// The size that this connection was last told.
        told: Size,
        /// The size asked for, as it came from the wire.
        target: u64,
    },
    /// A client's WRITE or WRITE_ZEROES past the size, where [`crate::offer::Offer::past_end`] lets it grow the export.
    Automatic {
        /// Where it ends: offset and length together, saturating.
        end: u64,
    },
    /// An operator's order, for a size that is compared with the size now.
    Operator {
        /// The size asked for.
        target: u64,
    },
    /// An operator's order to show all that the backend has, where that is more: by another hand, or by a grow that waits for
    /// it.
    Publish,
    /// An operator's order to take what the backend is for true, after a person has looked: what it has lost is lost, what
    /// a window shows is its tenant's.
    Adopt {
        /// The size that the operator takes it to be, so that nobody adopts what changed meanwhile.
        target: u64,
    },
    /// The backend says, or was found, to have this size: by a notice, a poll, a reconnect, a probe.
    Backend {
        /// The size read.
        size: u64,
    },
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit { client: ClientStyle::ExplicitSimple | ClientStyle::Kernel, target, .. } => {
                write!(f, "a client (simple replies) asks for {}", Bytes(*target))
            }
            Self::Explicit { target, .. } => write!(f, "a client asks for {}", Bytes(*target)),
            Self::Automatic { end } => write!(f, "a write ends at {}", Bytes(*end)),
            Self::Operator { target } => write!(f, "an operator asks for {}", Bytes(*target)),
            Self::Publish => f.write_str("an operator shows all that the backend has"),
            Self::Adopt { target } => write!(f, "an operator adopts {}", Bytes(*target)),
            Self::Backend { size } => write!(f, "the backend has {}", Bytes(*size)),
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing; the wish is met by the size in force.
    Nothing {
        /// The size to answer.
        size: Size,
    },
    /// Grow.
    Grow(Grow),
    /// Shrink.
    Shrink(Shrink),
    /// Take what the backend is for true.
    Adopt(Adopt),
    /// Serve what can be served at the old size, change nothing, call a person.
    Quarantine(Quarantine),
    /// Answer an error.
    Refuse(Refusal),
}

/// A grow, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grow {
    /// The size in force.
    pub from: Size,
    /// The size to go to: rounded, clamped, or a whole step.
    pub to: Size,
    /// The least size that meets the wish.
    pub need: Size,
    /// What to reserve of the tenant's quota first; the ledger may still say no.
    pub reserve: Bytes,
    /// Re-read the backend's size right before asking: somebody else may have grown it, and asking would truncate.
    pub reread: bool,
    /// How to ask the backend.
    pub ask: Ask,
    /// What to make read as zeroes before anyone sees it; durably noted before the backend is asked.
    pub zero: Option<ByteRange>,
    /// What the connections to the backend need before the new size is shown.
    pub lanes: Lanes,
    /// Whether clients are to see it. If not, what they are shown stays, and the rest is there until somebody publishes it.
    pub show: bool,
}

/// A shrink, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrink {
    /// The size in force, to go back to if the backend refuses.
    pub from: Size,
    /// The end to admit requests to from now on, and the size to go to.
    pub to: Size,
    /// Re-read the backend's size right before asking: what somebody else added would be cut off.
    pub reread: bool,
    /// How to ask the backend, once all requests past the new end are answered.
    pub ask: Ask,
    /// What the connections to the backend need.
    pub lanes: Lanes,
}

/// How a backend is asked for a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Not at all: it has that size already, or only the view moves.
    Nothing,
    /// `NBD_CMD_RESIZE` with this size.
    ExplicitResize(Size),
    /// WRITE_ZEROES (or a WRITE of zeroes) that ends at the new size. Only after re-reading, and not if the backend is
    /// already that big: it would zero what another wrote.
    ZeroWriteLastGranule {
        /// Where it begins.
        offset: Size,
        /// How many bytes it has; at most 1 MiB.
        len: u32,
    },
    /// Set the length of the embedded file or memory.
    ResizeEmbedded(Size),
    /// Let the driver do it.
    Driver(Size),
}

/// What the connections to a backend need when its size changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lanes {
    /// Nothing: each of them knows the new size.
    Keep,
    /// All but the one that asked do their handshake anew: this server may show a new size only to that one.
    RehandshakeOthers,
    /// All are replaced after the backend has changed: it pins the size at the handshake.
    ReplaceAfter,
    /// All are dropped before the backend changes and dialled anew after it: a stale one would grow it back.
    DropBefore,
}

/// A backend's own size to be taken for true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The backend's size from now on.
    pub disk: Size,
    /// What the ledger counts from now on, at once; none: a window counts what it shows.
    pub count: Option<Size>,
    /// What to make read as zeroes first: only ever what this gateway's own unsettled grow exposed.
    pub zero: Option<ByteRange>,
    /// The size to show; none: what is shown stays.
    pub publish: Option<Size>,
    /// Where requests are to end before anything else is done: none past it is admitted, and those that were are answered.
    pub drain: Option<Size>,
    /// What the connections to the backend need first.
    pub lanes: Lanes,
}

/// Why a backend is not believed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quarantine {
    /// It came back smaller than what clients rely on.
    Smaller {
        /// What they rely on.
        was: Size,
        /// What it says.
        now: Size,
    },
    /// It says 2^63 or more.
    Impossible {
        /// What it says.
        bytes: u64,
    },
}

impl Quarantine {
    /// The size that the backend says, in bytes.
    #[must_use]
    pub const fn found(&self) -> u64 {
        match self {
            Self::Smaller { now, .. } => now.bytes(),
            Self::Impossible { bytes } => *bytes,
        }
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smaller { was, now } => {
                write!(
                    f,
                    "the backend was {was} and is {now}; give the bytes back, or adopt what is left (nbd-gateway resize --adopt)"
                )
            }
            Self::Impossible { bytes } => {
                write!(f, "the backend says it has {}; the most there can be is 2^63-1 bytes", Bytes(*bytes))
            }
        }
    }
}

/// Decides what to do about a wish.
#[must_use]
pub fn plan(situation: &Situation<'_>, wish: &Wish) -> Plan {
    let decided = match *wish {
        Wish::Explicit { client, told, target } => asked_size(target)
            .and_then(|target| situation.may_act().map(|()| target))
            .and_then(|target| explicit(situation, client, told, target)),
        Wish::Automatic { end } => situation.may_act().and_then(|()| grow::for_write(situation, end)),
        Wish::Operator { target } => asked_size(target)
            .map_err(|reason| match (reason, situation.backend.grows) {
                // Any other size is out of reach too.
                (Reason::Impossible { .. }, Grows::Fixed) => Reason::FixedSize { size: situation.size },
                (reason, _) => reason,
            })
            .and_then(|target| situation.may_act().map(|()| target))
            .and_then(|target| operator(situation, target)),
        Wish::Publish => situation.may_act().and_then(|()| adopt::publish(situation)),
        Wish::Adopt { target } => asked_size(target).and_then(|target| adopt::take(situation, target)),
        Wish::Backend { size } => Ok(outside::judge(situation, size)),
    };
    decided.unwrap_or_else(|reason| {
        Plan::Refuse(Refusal { export: situation.export.clone(), tenant: situation.tenant.clone(), reason })
    })
}

/// A size as it may be asked for: an export may be empty, but nobody may ask for that.
const fn asked_size(target: u64) -> Result<Size, Reason> {
    match (target, Size::new(target)) {
        (0, _) => Err(Reason::Zero),
        (_, Ok(size)) => Ok(size),
        (asked, Err(_)) => Err(Reason::Impossible { asked }),
    }
}

fn explicit(situation: &Situation<'_>, client: ClientStyle, told: Size, target: Size) -> Result<Plan, Reason> {
    if situation.policy.read_only {
        return Err(Reason::ReadOnly);
    }
    if target < told {
        shrink::to(situation, target, client.success().tells_size())
    } else {
        grow::for_client(situation, client, target)
    }
}

fn operator(situation: &Situation<'_>, target: Size) -> Result<Plan, Reason> {
    if target < situation.size {
        // Nobody is behind here: the size compared with is the size now.
        shrink::to(situation, target, true)
    } else {
        grow::for_operator(situation, target, situation.policy.publish == Publish::Auto)
    }
}

impl Situation<'_> {
    const fn may_act(&self) -> Result<(), Reason> {
        match self.standing {
            Standing::Ready => Ok(()),
            Standing::Unmeasured => Err(Reason::Unmeasured),
            Standing::Unsettled { .. } => Err(Reason::Unsettled),
            Standing::Quarantined { .. } => Err(Reason::Quarantined),
            Standing::Draining => Err(Reason::Draining),
        }
    }

    /// Whether a size is to go anywhere that nobody has said how far it was.
    const fn on_record(&self) -> Result<(), Reason> {
        if self.unrecorded { Err(Reason::Unrecorded { size: self.size }) } else { Ok(()) }
    }

    /// Whether only the view moves.
    #[must_use]
    pub const fn is_window(&self) -> bool {
        matches!(self.backend.grows, Grows::Window)
    }

    /// What the ledger counts this export at: what there is, or what a window shows.
    fn counted(&self) -> Size {
        if self.is_window() { self.size } else { self.size.max(self.disk) }
    }
}
