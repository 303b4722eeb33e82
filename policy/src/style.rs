//! The two axes on which peers differ, automatic or explicit and poll or notify, for either side of the gateway.
//!
//! Owns what a client is ([`ClientStyle`]), what a backend is ([`BackendStyle`]), and the rules that follow
//! from the style alone: who may use a new size, whom a reply can tell it, when a backend's claim is believed. What a
//! client is offered is `offer`'s; what is done about a wish is `plan`'s.

use crate::types::Size;

/// How replies are framed on a connection (proto.md, `NBD_OPT_STRUCTURED_REPLY`, `NBD_OPT_EXTENDED_HEADERS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replies {
    /// Simple replies only.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers, which include structured replies.
    Extended,
}

impl Replies {
    /// Whether a reply can carry chunks.
    #[must_use]
    pub const fn chunked(self) -> bool {
        !matches!(self, Self::Simple)
    }
}

/// What a client is, as far as sizes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientStyle {
    /// Opted in by `NBD_INFO_RESIZE`, without structured replies: its replies carry no size.
    ExplicitSimple,
    /// Opted in, with structured replies: its replies carry the size in force.
    ExplicitStructured,
    /// Opted in by the context `x-resize:automatic` (or by using AUTOMATIC alone): its writes grow the export.
    Automatic,
    /// Structured replies, never heard of resize: what its handshake said is true for it for ever.
    Stock,
    /// No structured replies, never heard of resize: the Linux kernel, whose host learns a size by another way.
    Kernel,
}

impl ClientStyle {
    /// Every style, for tables.
    pub const ALL: [Self; 5] =
        [Self::ExplicitSimple, Self::ExplicitStructured, Self::Automatic, Self::Stock, Self::Kernel];

    /// How its successful `NBD_CMD_RESIZE` is answered.
    #[must_use]
    pub const fn success(self) -> Success {
        match self {
            Self::ExplicitSimple | Self::Kernel => Success::Simple,
            Self::ExplicitStructured | Self::Automatic => Success::SizeChunk,
            Self::Stock => Success::EmptyChunk,
        }
    }

    /// How far its requests are admitted: to the end of the export if it opted in or has no structured replies, else to
    /// what its handshake said or its own successful resize or growing write confirmed (`confirmed`), and never past the end.
    #[must_use]
    pub fn admitted_end(self, end: Size, confirmed: Size) -> Size {
        match self {
            Self::ExplicitSimple | Self::ExplicitStructured | Self::Automatic | Self::Kernel => end,
            Self::Stock => end.min(confirmed),
        }
    }
}

/// The form of a successful answer to `NBD_CMD_RESIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Success {
    /// A simple reply without error: it can't carry a size.
    Simple,
    /// One `NBD_REPLY_TYPE_RESIZE` chunk with DONE: the size in force.
    SizeChunk,
    /// One `NBD_REPLY_TYPE_NONE` chunk with DONE.
    EmptyChunk,
}

impl Success {
    /// Whether it tells the size in force.
    #[must_use]
    pub const fn tells_size(self) -> bool {
        matches!(self, Self::SizeChunk)
    }
}

/// What a backend is, as far as sizes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendStyle {
    /// How it is resized.
    pub grows: Grows,
    /// How it tells that its size has changed.
    pub tells: Tells,
}

/// How a backend is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grows {
    /// By `NBD_CMD_RESIZE`.
    Explicit {
        /// How its replies are framed; only a structured reply to one that opted in carries the size.
        replies: Replies,
        /// Why it is believed.
        proof: Proof,
    },
    /// By writes past its end, and by nothing else; it never shrinks.
    Automatic {
        /// Why it is believed.
        proof: Proof,
    },
    /// The gateway's own embedded backend: a file or memory.
    Embedded,
    /// Part of a larger disk is shown; the backend itself is never asked.
    Window,
    /// By something outside the wire: a file on this host, QMP, a restart, an operator's command.
    Driver {
        /// The connections to it have to be gone while that acts.
        aside: bool,
    },
    /// Not at all.
    Fixed,
}

/// Why a backend's capability is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// It answered `NBD_INFO_RESIZE`: it speaks the extension.
    OptedIn,
    /// A real grow has been read back.
    ReadBack,
    /// Bit 9 or the config says so; servers in the wild set that bit and know nothing of command 8.
    Claimed,
}

crate::words! {
    /// How a backend tells that its size has changed.
    #[derive(Hash)]
    pub enum Tells {
        /// It answers NOTIFY.
        Notify => "notify",
        /// It answers QUERY.
        Query => "query",
        /// Only a new handshake shows it.
        SecondHandshake => "handshake",
        /// It can't change but by this gateway's hand: an embedded one.
        Itself => "itself",
    }
}

/// What became of the first grow asked of a backend that only claimed to be able to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trial {
    /// It was asked, and the new size has been read back.
    Grew,
    /// It refused for want of room or by its own policy: neither proof nor disproof.
    Refused,
    /// It hung, hung up, answered another error, or said yes and changed nothing.
    Broke,
}

impl BackendStyle {
    /// Whether it can grow at all, or claims to.
    #[must_use]
    pub const fn can_grow(self) -> bool {
        !matches!(self.grows, Grows::Fixed)
    }

    /// Whether a shrink may be asked of it: never as the first proof of a mere claim.
    #[must_use]
    pub const fn can_shrink(self) -> bool {
        !matches!(self.grows, Grows::Explicit { proof: Proof::Claimed, .. } | Grows::Automatic { .. } | Grows::Fixed)
    }

    /// What it is taken for after its first grow: a claim becomes proof, or the capability (not the backend) is given up.
    #[must_use]
    pub const fn after(self, trial: Trial) -> Self {
        let grows = match (self.grows, trial) {
            (Grows::Explicit { replies, proof: Proof::Claimed }, Trial::Grew) => {
                Grows::Explicit { replies, proof: Proof::ReadBack }
            }
            (Grows::Automatic { proof: Proof::Claimed }, Trial::Grew) => Grows::Automatic { proof: Proof::ReadBack },
            (
                Grows::Explicit { proof: Proof::Claimed, .. } | Grows::Automatic { proof: Proof::Claimed },
                Trial::Broke,
            ) => Grows::Fixed,
            (same, Trial::Grew | Trial::Refused | Trial::Broke) => same,
        };
        Self { grows, tells: self.tells }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_style_keeps_its_line_of_the_table() {
        // style, success, tells the size, admitted to the export's end
        let table = [
            (ClientStyle::ExplicitSimple, Success::Simple, false, true),
            (ClientStyle::ExplicitStructured, Success::SizeChunk, true, true),
            (ClientStyle::Automatic, Success::SizeChunk, true, true),
            (ClientStyle::Stock, Success::EmptyChunk, false, false),
            (ClientStyle::Kernel, Success::Simple, false, true),
        ];
        let (told, end) = (Size::new(10).unwrap(), Size::new(20).unwrap());
        for (style, success, tells, whole) in table {
            assert_eq!((style.success(), success.tells_size()), (success, tells), "{style:?}");
            assert_eq!(style.admitted_end(end, told), if whole { end } else { told }, "{style:?}");
            assert_eq!(style.admitted_end(told, end), told, "{style:?}: nobody is admitted past the end");
        }
        assert_eq!(table.map(|row| row.0), ClientStyle::ALL);
    }

    #[test]
    fn a_claim_is_believed_after_a_grow_was_read_back_and_dropped_after_a_broken_one() {
        let explicit = |proof| Grows::Explicit { replies: Replies::Simple, proof };
        let automatic = |proof| Grows::Automatic { proof };
        let driver = Grows::Driver { aside: true };
        let (claimed, read_back, opted_in) = (Proof::Claimed, Proof::ReadBack, Proof::OptedIn);
        // before, after a grow, after a refusal, after it broke
        let table = [
            (explicit(claimed), explicit(read_back), explicit(claimed), Grows::Fixed),
            (explicit(read_back), explicit(read_back), explicit(read_back), explicit(read_back)),
            (explicit(opted_in), explicit(opted_in), explicit(opted_in), explicit(opted_in)),
            (automatic(claimed), automatic(read_back), automatic(claimed), Grows::Fixed),
            (automatic(opted_in), automatic(opted_in), automatic(opted_in), automatic(opted_in)),
            (Grows::Embedded, Grows::Embedded, Grows::Embedded, Grows::Embedded),
            (Grows::Window, Grows::Window, Grows::Window, Grows::Window),
            (driver, driver, driver, driver),
            (Grows::Fixed, Grows::Fixed, Grows::Fixed, Grows::Fixed),
        ];
        for (before, grew, refused, broke) in table {
            let style = BackendStyle { grows: before, tells: Tells::Query };
            assert_eq!(style.after(Trial::Grew).grows, grew, "{before:?}");
            assert_eq!(style.after(Trial::Refused).grows, refused, "{before:?}");
            assert_eq!(style.after(Trial::Broke).grows, broke, "{before:?}");
            assert_eq!(style.after(Trial::Broke).tells, Tells::Query);
        }
    }

    #[test]
    fn a_mere_claim_never_shrinks() {
        let style = |grows| BackendStyle { grows, tells: Tells::Query };
        let explicit = |proof| style(Grows::Explicit { replies: Replies::Structured, proof });
        assert!(explicit(Proof::Claimed).can_grow() && !explicit(Proof::Claimed).can_shrink());
        assert!(explicit(Proof::ReadBack).can_shrink() && explicit(Proof::OptedIn).can_shrink());
        assert!(!style(Grows::Automatic { proof: Proof::OptedIn }).can_shrink());
        assert!(!style(Grows::Fixed).can_grow() && !style(Grows::Fixed).can_shrink());
    }
}
