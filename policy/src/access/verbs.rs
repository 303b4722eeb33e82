//! What can be done with an export, and sets of that.

use std::fmt;
use std::str::FromStr;

use crate::words;

words! {
    /// One thing that a client can do with an export, each after what it needs.
    #[derive(PartialOrd, Ord, Hash)]
    pub enum Verb {
        /// See that it is there: in a listing, and by its name.
        List => "list",
        /// Open it, and read.
        Read => "read",
        /// Change its content.
        Write => "write",
        /// Give up what a range holds (NBD_CMD_TRIM).
        Trim => "trim",
        /// Make it larger.
        Resize => "resize",
        /// Make it smaller.
        Shrink => "shrink",
    }
}

impl Verb {
    /// The verb without which this one is of no use.
    #[must_use]
    pub const fn needs(self) -> Option<Self> {
        match self {
            Self::List => None,
            Self::Read => Some(Self::List),
            Self::Write => Some(Self::Read),
            // NBD has no way to tell a client that it may trim or resize what it may not write.
            Self::Trim | Self::Resize => Some(Self::Write),
            Self::Shrink => Some(Self::Resize),
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::List => 0x01,
            Self::Read => 0x02,
            Self::Write => 0x04,
            Self::Trim => 0x08,
            Self::Resize => 0x10,
            Self::Shrink => 0x20,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no verb.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no verb: use list, read, write, trim, resize or shrink")]
pub struct NoVerb(String);

impl FromStr for Verb {
    type Err = NoVerb;

    fn from_str(word: &str) -> Result<Self, NoVerb> {
        Self::ALL.iter().copied().find(|verb| verb.as_str() == word).ok_or_else(|| NoVerb(word.to_owned()))
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verbs(u8);

impl Verbs {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(0x3f);

    /// Whether it holds that one.
    #[must_use]
    pub const fn has(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }

    /// The set with that one.
    #[must_use]
    pub const fn with(self, verb: Verb) -> Self {
        Self(self.0 | verb.bit())
    }

    /// The set without that one.
    #[must_use]
    pub const fn without(self, verb: Verb) -> Self {
        Self(self.0 & !verb.bit())
    }

    /// Those in it, in the order of [`Verb::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.iter().copied().filter(move |verb| self.has(*verb))
    }

    /// The first that is of no use in it, and what is missing for that.
    #[must_use]
    pub fn useless(self) -> Option<(Verb, Verb)> {
        self.iter().find_map(|verb| Some((verb, verb.needs().filter(|needed| !self.has(*needed))?)))
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        verbs.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The words, with spaces between them; `nothing` for the empty set.
impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("nothing");
        }
        for (index, verb) in self.iter().enumerate() {
            write!(f, "{}{verb}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_read_from_its_word_and_no_other() {
        for verb in Verb::ALL.iter().copied() {
            assert_eq!(verb.to_string().parse(), Ok(verb));
        }
        for word in ["", "Read", "all", "delete"] {
            let fault = word.parse::<Verb>().unwrap_err();
            assert_eq!(
                fault.to_string(),
                format!("`{word}` is no verb: use list, read, write, trim, resize or shrink")
            );
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        for bits in 0..=0x3f_u8 {
            let wanted = |verb: &Verb| bits & verb.bit() != 0;
            let set: Verbs = Verb::ALL.iter().copied().filter(wanted).collect();
            for verb in Verb::ALL.iter().copied() {
                assert_eq!(set.has(verb), wanted(&verb));
                assert!(set.with(verb).has(verb) && !set.without(verb).has(verb));
            }
        }
        assert_eq!(Verb::ALL.iter().copied().collect::<Verbs>(), Verbs::ALL);
        assert_eq!(Verbs::ALL.to_string(), "list read write trim resize shrink");
        assert_eq!(Verbs::NONE.to_string(), "nothing");
    }

    #[test]
    fn what_is_of_no_use_alone_is_found() {
        let set = |words: &[Verb]| words.iter().copied().collect::<Verbs>();
        assert_eq!(Verbs::ALL.useless(), None);
        assert_eq!(Verbs::NONE.useless(), None);
        assert_eq!(set(&[Verb::Read]).useless(), Some((Verb::Read, Verb::List)));
        assert_eq!(set(&[Verb::List, Verb::Read, Verb::Trim]).useless(), Some((Verb::Trim, Verb::Write)));
        assert_eq!(Verbs::ALL.without(Verb::Resize).useless(), Some((Verb::Shrink, Verb::Resize)));
        assert_eq!(Verbs::ALL.without(Verb::Trim).useless(), None);
    }
}
