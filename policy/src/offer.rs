//! What a client is offered in its handshake: the answer to `NBD_INFO_RESIZE`, bit 9 of the transmission flags, the
//! `x-resize:*` contexts, and what becomes of its writes past the end.
//!
//! Computed per client, from what it negotiated so far; never from what another client got. Nothing is offered that
//! can't be kept: QUERY and NOTIFY only where a reply can carry a size, SHRINK only where the backend has been believed.

use std::fmt;

use crate::export::{AutomaticGrowth, ExportPolicy, Publish};
use crate::quota::Headroom;
use crate::style::{BackendStyle, ClientStyle, Grows, Replies};
use crate::types::{Granularity, Size};

/// The features bits of `NBD_INFO_RESIZE`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Features(u16);

impl Features {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `NBD_CMD_RESIZE` without flags is accepted.
    pub const EXPLICIT: Self = Self(0x01);
    /// A write that ends past the size grows the export first.
    pub const AUTOMATIC: Self = Self(0x02);
    /// `NBD_CMD_RESIZE` with QUERY is accepted.
    pub const QUERY: Self = Self(0x04);
    /// `NBD_CMD_RESIZE` with NOTIFY is accepted.
    pub const NOTIFY: Self = Self(0x08);
    /// EXPLICIT may go down.
    pub const SHRINK: Self = Self(0x10);
    /// What a grow exposes reads as zeroes.
    pub const ZEROED: Self = Self(0x20);
    /// All of them.
    pub const ALL: Self = Self(0x3f);

    /// The bits from the wire; unknown ones are dropped, as a receiver must not act on them.
    #[must_use]
    pub const fn from_wire(bits: u16) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The bits on the wire.
    #[must_use]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those and these.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// These, without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }
}

/// One letter for each feature, a dash where it is not: `EAQNSZ`.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Self::EXPLICIT, "E"),
            (Self::AUTOMATIC, "A"),
            (Self::QUERY, "Q"),
            (Self::NOTIFY, "N"),
            (Self::SHRINK, "S"),
            (Self::ZEROED, "Z"),
        ];
        for (feature, letter) in letters {
            f.write_str(if self.has(feature) { letter } else { "-" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({self})")
    }
}

/// What a client negotiated before the option that is answered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Negotiated {
    /// How its replies are framed.
    pub replies: Replies,
    /// It asks for `NBD_INFO_RESIZE` in this option.
    pub asks: bool,
    /// It selected `x-resize:automatic`.
    pub automatic: bool,
    /// It selected `x-resize:no-automatic`.
    pub no_automatic: bool,
    /// It selected `x-resize:size-low` or `x-resize:size-high`.
    pub polls: bool,
    /// It selected `x-resize:watch`.
    pub watches: bool,
}

impl Negotiated {
    /// A client that said nothing about resize.
    #[must_use]
    pub const fn nothing(replies: Replies) -> Self {
        Self { replies, asks: false, automatic: false, no_automatic: false, polls: false, watches: false }
    }

    /// Whether it opted in to being told of sizes, by asking or by selecting a context that tells or grows.
    /// Opting out of automatic growth is no opt-in.
    #[must_use]
    pub const fn opted_in(&self) -> bool {
        self.asks || self.automatic || self.polls || self.watches
    }

    /// What it is from now on. Where it opted in twice, what it can do by asking decides.
    #[must_use]
    pub const fn style(&self) -> ClientStyle {
        match (self.replies, self.opted_in()) {
            (Replies::Simple, true) => ClientStyle::ExplicitSimple,
            (Replies::Simple, false) => ClientStyle::Kernel,
            (Replies::Structured | Replies::Extended, false) => ClientStyle::Stock,
            (Replies::Structured | Replies::Extended, true) => {
                if self.automatic && !self.asks {
                    ClientStyle::Automatic
                } else {
                    ClientStyle::ExplicitStructured
                }
            }
        }
    }
}

/// What the export is at the moment of the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The size that clients of this kind are shown.
    pub size: Size,
    /// The backend's size as last read; equal to `size` unless some of it is not shown.
    pub disk: Size,
    /// What the tenant may still grow; none: no quota.
    pub headroom: Option<Headroom>,
}

/// What becomes of a client's write that ends past the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PastEnd {
    /// It grows the export first.
    Grow,
    /// It grows the export; then the session is cut without a reply to it.
    GrowAndCut,
    /// `ENOSPC`.
    Refuse,
}

/// Which `x-resize:*` contexts exist for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contexts {
    /// `x-resize:automatic`.
    pub automatic: bool,
    /// `x-resize:no-automatic`.
    pub no_automatic: bool,
    /// `x-resize:size-low` and `x-resize:size-high`.
    pub size: bool,
    /// `x-resize:watch`.
    pub watch: bool,
}

/// What one client is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The features of `NBD_INFO_RESIZE`; none if it is not to be sent to this client.
    pub features: Features,
    /// Whether `NBD_INFO_RESIZE` is answered: only when asked.
    pub answers: bool,
    /// `NBD_FLAG_SEND_RESIZE`, shown to every client.
    pub flag: bool,
    /// The contexts that it may select.
    pub contexts: Contexts,
    /// What becomes of its writes past the end.
    pub past_end: PastEnd,
    /// It is shown the ceiling (`max_size`, or the size where that is larger already) and not the size: what lies between
    /// is there for it, as zeroes, and its writes there grow the export.
    pub ceiling: bool,
    /// The least that a shrink may reach: 0 for none, the size now where there is no shrink.
    pub min: Size,
    /// The most that it could reach now; [`Size::MAX`]: no bound known.
    pub max: Size,
    /// What sizes are multiples of.
    pub granularity: Granularity,
}

/// Computes what a client is offered.
#[must_use]
pub fn offer(backend: BackendStyle, policy: &ExportPolicy, now: &Now, client: &Negotiated) -> Offer {
    let grows = backend.can_grow() && !policy.read_only;
    let ceiling = policy.ceiling && grows && !client.opted_in() && !client.no_automatic;
    // Who is shown the ceiling has nothing to grow to.
    let explicit = grows && !ceiling && policy.offer.has(Features::EXPLICIT);
    // A write that landed beyond what is published could not be read back; a resize is asked for and answered, so it stays.
    let by_writes = grows && policy.publish == Publish::Auto && policy.offer.has(Features::AUTOMATIC);
    let to_those_who_ask = by_writes && policy.automatic != AutomaticGrowth::Never;
    let automatic = to_those_who_ask && !client.no_automatic;
    let chunked = client.replies.chunked();
    let shrink = explicit
        && policy.publish != Publish::Never
        && policy.shrink
        && backend.can_shrink()
        && policy.offer.has(Features::SHRINK);

    let kept = Features::EXPLICIT
        .when(explicit)
        .with(Features::AUTOMATIC.when(automatic))
        .with(Features::QUERY.when(chunked))
        .with(Features::NOTIFY.when(chunked))
        .with(Features::SHRINK.when(shrink))
        // The gateway zeroes what the backend does not, before anyone can see it.
        .with(Features::ZEROED.when(explicit || automatic))
        .and(policy.offer);

    Offer {
        features: kept.when(client.asks),
        answers: client.asks,
        flag: explicit,
        contexts: Contexts {
            automatic: chunked && to_those_who_ask,
            no_automatic: chunked && to_those_who_ask,
            size: chunked && policy.offer.has(Features::QUERY),
            watch: chunked && policy.offer.has(Features::NOTIFY),
        },
        past_end: if ceiling { PastEnd::Grow } else { past_end(policy.automatic, by_writes, client) },
        ceiling,
        min: if shrink { least(policy, now) } else { now.size },
        max: most(backend, policy, now),
        granularity: policy.granularity,
    }
}

fn past_end(automatic: AutomaticGrowth, by_writes: bool, client: &Negotiated) -> PastEnd {
    if !by_writes || client.no_automatic {
        return PastEnd::Refuse;
    }
    let asked_for_it = client.asks || client.automatic;
    match (automatic, asked_for_it) {
        (AutomaticGrowth::OptIn | AutomaticGrowth::Always | AutomaticGrowth::Reconnect, true)
        | (AutomaticGrowth::Always, false) => PastEnd::Grow,
        (AutomaticGrowth::Reconnect, false) => match client.style() {
            ClientStyle::Stock => PastEnd::GrowAndCut,
            // Who learns sizes in another way is not to be cut for one; nor is the kernel, whose device may not come back.
            ClientStyle::ExplicitSimple
            | ClientStyle::ExplicitStructured
            | ClientStyle::Automatic
            | ClientStyle::Kernel => PastEnd::Refuse,
        },
        (AutomaticGrowth::OptIn, false) | (AutomaticGrowth::Never, true | false) => PastEnd::Refuse,
    }
}

/// The least that a shrink may reach, never more than the size now: a multiple of the granularity, or the size itself.
fn least(policy: &ExportPolicy, now: &Now) -> Size {
    policy.granularity.round_up(policy.min_size).map_or(now.size, |min| min.min(now.size))
}

/// The most that the export could reach now, never less than the size.
fn most(backend: BackendStyle, policy: &ExportPolicy, now: &Now) -> Size {
    let disk = now.disk.max(now.size);
    let (bound, counted) = match backend.grows {
        Grows::Fixed => return now.size,
        Grows::Window => (policy.max_size.min(disk), now.size),
        Grows::Explicit { .. } | Grows::Automatic { .. } | Grows::Embedded | Grows::Driver { .. } => {
            (policy.max_size, disk)
        }
    };
    if policy.read_only || policy.publish != Publish::Auto {
        return now.size;
    }
    let bound = now.headroom.map_or(bound, |headroom| bound.min(counted.plus(headroom.left)));
    if bound == Size::MAX { bound } else { policy.granularity.round_down(bound).max(now.size) }
}
