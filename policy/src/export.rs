//! What an operator decided about one export's size, as the config hands it over.
//!
//! Data only. `offer` reads it to say what a client may do, `plan` to say what is done.

use crate::access::{Verb, Verbs};
use crate::offer::Features;
use crate::types::{Bytes, Granularity, Size};
use crate::words;

/// An export's policy (`[export.resize]` in the config).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPolicy {
    /// Which writes past the end grow it.
    pub automatic: AutomaticGrowth,
    /// Clients that know nothing of resizing are shown `max_size`, and their writes grow the backend behind it, whoever
    /// else's do.
    pub ceiling: bool,
    /// Whether it may go down.
    pub shrink: bool,
    /// What a wish gets that is over the quota.
    pub over_quota: OverQuota,
    /// What happens to a size that came from outside.
    pub external: External,
    /// When clients see a larger size, wherever it came from.
    pub publish: Publish,
    /// The least size that a shrink may reach.
    pub min_size: Size,
    /// The most that it may become by this gateway; [`Size::MAX`]: no ceiling.
    pub max_size: Size,
    /// Sizes are multiples of this.
    pub granularity: Granularity,
    /// Automatic growth goes by at least this much, where there is room for it; by more while a stream of writes goes on
    /// ([`crate::plan::Situation::stream`]); 0: by what each write needs.
    pub step: Bytes,
    /// The most that one write may grow it by; none: no bound.
    pub max_step: Option<Bytes>,
    /// Nobody but this gateway resizes the backend.
    pub exclusive: bool,
    /// Clients may not change it.
    pub read_only: bool,
    /// The most that is offered, of what can be kept.
    pub offer: Features,
}

impl ExportPolicy {
    /// Grows for those who ask, by no more than they need, never shrinks, adopts what comes from outside, no bounds. The
    /// defaults of the config, but for its step.
    pub const DEFAULT: Self = Self {
        automatic: AutomaticGrowth::OptIn,
        ceiling: false,
        shrink: false,
        over_quota: OverQuota::Reject,
        external: External::Adopt,
        publish: Publish::Auto,
        min_size: Size::ZERO,
        max_size: Size::MAX,
        granularity: Granularity::ONE,
        step: Bytes(0),
        max_step: None,
        exclusive: false,
        read_only: false,
        offer: Features::ALL,
    };

    /// What is left of it for a client with these verbs.
    #[must_use]
    pub fn for_verbs(&self, verbs: Verbs) -> Self {
        let grows = Features::EXPLICIT.with(Features::AUTOMATIC);
        let resize = verbs.has(Verb::Resize);
        Self {
            read_only: self.read_only || !verbs.has(Verb::Write),
            offer: if resize { self.offer } else { self.offer.without(grows) },
            ceiling: self.ceiling && resize,
            shrink: self.shrink && resize && verbs.has(Verb::Shrink),
            ..self.clone()
        }
    }

    /// Whether a client that was told `told` and asks for `target` bytes wants it to shrink.
    #[must_use]
    pub fn shrinks(&self, told: Size, target: u64) -> bool {
        target > 0
            && Size::new(target)
                .is_ok_and(|target| self.granularity.round_up(target).is_some_and(|target| target < told))
    }
}

impl Default for ExportPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

words! {
    /// Which writes past the end grow an export.
    #[derive(Hash)]
    pub enum AutomaticGrowth {
        /// Those of clients that opted in.
        OptIn => "opt-in",
        /// Everyone's, except of clients that opted out by `x-resize:no-automatic`.
        Always => "always",
        /// Nobody's.
        Never => "never",
        /// Those of clients that opted in; stock clients with structured replies are cut after the grow without a reply,
        /// come back, see the size and send the write again.
        Reconnect => "reconnect",
    }
}

words! {
    /// What a wish gets that is over the quota or the ceiling.
    #[derive(Hash)]
    pub enum OverQuota {
        /// It is refused.
        Reject => "reject",
        /// As much as there is, where the reply can say how much that was.
        Clamp => "clamp",
    }
}

words! {
    /// What happens to a size that came from outside. It is counted at once in any case.
    #[derive(Hash)]
    pub enum External {
        /// It is shown to clients.
        Adopt => "adopt",
        /// It is not shown.
        Ignore => "ignore",
        /// It is shown when an operator says so.
        Manual => "manual",
    }
}

words! {
    /// When clients see that an export has become larger, by an operator's order or by another hand. It is counted at once in
    /// any case. A smaller size can't be kept from anybody.
    #[derive(Hash)]
    pub enum Publish {
        /// As soon as it is there.
        Auto => "auto",
        /// When an operator says so. Clients can't grow it: the reply to a resize would confirm a size that nobody has published.
        Manual => "manual",
        /// When it is opened the next time. What was shown then stays, so nobody resizes it for clients meanwhile.
        Never => "never",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Verb;

    #[test]
    fn what_a_client_may_not_is_not_offered_to_it() {
        let whole = ExportPolicy { shrink: true, ceiling: true, ..ExportPolicy::DEFAULT };
        assert_eq!(whole.for_verbs(Verbs::ALL), whole);
        let no_shrink = whole.for_verbs(Verbs::ALL.without(Verb::Shrink));
        assert_eq!(no_shrink, ExportPolicy { shrink: false, ..whole.clone() });
        let no_resize = whole.for_verbs(Verbs::ALL.without(Verb::Resize).without(Verb::Shrink));
        assert!(!no_resize.offer.has(Features::EXPLICIT) && !no_resize.offer.has(Features::AUTOMATIC));
        assert!(
            no_resize.offer.has(Features::QUERY)
                && no_resize.offer.has(Features::NOTIFY)
                && !no_resize.shrink
                && !no_resize.ceiling
        );
        assert!(whole.for_verbs(Verbs::ALL.without(Verb::Write)).read_only);
        let closed = ExportPolicy { read_only: true, shrink: false, offer: Features::QUERY, ..ExportPolicy::DEFAULT };
        assert_eq!(closed.for_verbs(Verbs::ALL), closed, "a verb opens nothing that the export does not");
    }

    #[test]
    fn a_shrink_is_what_is_less_than_was_told_after_rounding() {
        let policy = ExportPolicy { granularity: Granularity::new(4096).unwrap(), ..ExportPolicy::DEFAULT };
        let told = Size::new(8192).unwrap();
        for (target, expected) in [(0, false), (1, true), (4096, true), (4097, false), (8192, false), (u64::MAX, false)]
        {
            assert_eq!(policy.shrinks(told, target), expected, "{target}");
        }
    }
}
