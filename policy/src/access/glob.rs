//! Texts with `*`, and whether another text fits one, whole.

use std::fmt;

/// A text in which each `*` stands for any characters, also none. All the rest stands for itself, case included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    /// What stands between the stars: one more than there are stars.
    pieces: Vec<String>,
}

/// What a star can't stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stops {
    /// These characters.
    pub(super) at: &'static [char],
    /// A star at the very end can stand for them too.
    pub(super) but_not_at_the_end: bool,
}

impl Stops {
    const NONE: Self = Self { at: &[], but_not_at_the_end: false };
}

impl Glob {
    /// A text in which every `*` is a star.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { pieces: text.split('*').map(str::to_owned).collect() }
    }

    /// What stands between the stars, at least one piece: so a star can also stand for itself, in a piece.
    pub(super) fn of_pieces(pieces: Vec<String>) -> Self {
        Self { pieces }
    }

    /// What stands between the stars, at least one piece.
    pub(super) fn pieces(&self) -> &[String] {
        &self.pieces
    }

    /// Whether all of `text` fits.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.matches_within(text, Stops::NONE)
    }

    /// Whether all of `text` fits, with stars that do not stand for everything.
    pub(super) fn matches_within(&self, text: &str, stops: Stops) -> bool {
        let Some((first, rest)) = self.pieces.split_first() else { return text.is_empty() };
        let Some((last, middle)) = rest.split_last() else { return text == first };
        let Some(mut text) = text.strip_prefix(first.as_str()) else { return false };
        let free = |gap: &str| !gap.contains(stops.at);
        // The first place where a piece stands is as good as any later one: a stop in what is left after it would, for a
        // later place, stand in what is skipped before it.
        for piece in middle {
            let Some((gap, after)) = text.split_once(piece.as_str()) else { return false };
            if !free(gap) {
                return false;
            }
            text = after;
        }
        let Some(gap) = text.strip_suffix(last.as_str()) else { return false };
        free(gap) || (stops.but_not_at_the_end && last.is_empty())
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pieces.join("*"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by trying everything.
    fn naive(pattern: &[char], text: &[char], stops: &[char]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            (['*', rest @ ..], _) => (0..=text.len())
                .take_while(|n| !text[..*n].iter().any(|c| stops.contains(c)))
                .any(|n| naive(rest, &text[n..], stops)),
            ([c, rest @ ..], [d, others @ ..]) => c == d && naive(rest, others, stops),
            _ => false,
        }
    }

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        for (pattern, fits, others) in [
            ("", &[""][..], &["a"][..]),
            ("a", &["a"], &["", "A", "aa", " a"]),
            ("*", &["", "a", "ä/\n"], &[]),
            ("blue-*", &["blue-", "blue-1"], &["blue", "Blue-1", "xblue-1"]),
            ("*aa*", &["aa", "baab"], &["a"]),
            ("a*a", &["aa", "aba"], &["a"]),
        ] {
            assert_eq!(Glob::new(pattern).to_string(), pattern);
            fits.iter().for_each(|text| assert!(Glob::new(pattern).matches(text), "{pattern} {text}"));
            others.iter().for_each(|text| assert!(!Glob::new(pattern).matches(text), "{pattern} {text}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_match_is_what_trying_everything_finds(pattern in "[ab.*]{0,7}", text in "[ab.]{0,9}") {
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(Glob::new(&pattern).matches(&text), naive(&p, &t, &[]));
            let stops = Stops { at: &['.'], but_not_at_the_end: false };
            prop_assert_eq!(Glob::new(&pattern).matches_within(&text, stops), naive(&p, &t, &['.']));
        }
    }
}
