//! Names with one `*`, and texts with `{}` that take what it matched.

use std::path::PathBuf;

/// A name with one `*`: what stands before it and after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    text: String,
    prefix: String,
    suffix: String,
}

impl Template {
    /// Takes the name if it has exactly one `*`.
    pub(super) fn new(name: &str) -> Option<Self> {
        let (prefix, suffix) = name.split_once('*')?;
        let template = || Self { text: name.to_owned(), prefix: prefix.to_owned(), suffix: suffix.to_owned() };
        (!suffix.contains('*')).then(template)
    }

    /// The name as it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What `*` stands for in `name`, if the name fits; it may be empty.
    pub(super) fn matched<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix.as_str())?.strip_suffix(self.suffix.as_str())
    }

    /// The name in which `*` stands for `matched`.
    pub(super) fn name_of(&self, matched: &str) -> String {
        format!("{}{matched}{}", self.prefix, self.suffix)
    }

    /// How many characters a name must share with it: more go first.
    pub(super) fn literal(&self) -> usize {
        self.prefix.chars().count() + self.suffix.chars().count()
    }

    /// Whether two names, one of each template's, make the same of the one's and the other's blanks, where what stands in
    /// a blank is not empty and has no slash. Looked at where both have one blank.
    pub(super) fn shares(&self, own: &Blanks, other: &Self, others: &Blanks) -> bool {
        let (Some(own_ends), Some(others_ends)) = (own.ends(), others.ends()) else { return false };
        if own_ends.0.len() > others_ends.0.len() {
            return other.shares(others, self, own);
        }
        let Some(begin) = others_ends.0.strip_prefix(own_ends.0) else { return false };
        let longer = |end: &str| !begin.contains('/') && !end.contains('/');
        // The same name leads to one export only. A percent sign stands for something else in a name.
        let prefixes = !begin.contains('%') && other.prefix == format!("{}{begin}", self.prefix);
        if let Some(end) = others_ends.1.strip_suffix(own_ends.1) {
            // What stands for the one's star is what stands for the other's, between `begin` and `end`.
            return longer(end) && !(prefixes && other.suffix == format!("{end}{}", self.suffix));
        }
        let Some(end) = own_ends.1.strip_suffix(others_ends.1) else { return false };
        // The one's begins with `begin`, the other's ends with `end`, and what else they have is the same;
        let whole = longer(end) && !(prefixes && self.suffix == format!("{end}{}", other.suffix));
        // or the one's is all of `begin` but what `end` begins with, the other's the rest of that.
        let parted = begin.char_indices().skip(1).any(|(at, _)| {
            let Some((one, both)) = begin.split_at_checked(at) else { return false };
            let rest = end.strip_prefix(both).filter(|rest| !rest.is_empty() && !rest.contains('/'));
            !one.contains('/') && rest.is_some_and(|rest| self.name_of(one) != other.name_of(rest))
        });
        whole || parted
    }

    /// Whether some name fits both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let starts = self.prefix.starts_with(&other.prefix) || other.prefix.starts_with(&self.prefix);
        let ends = self.suffix.ends_with(&other.suffix) || other.suffix.ends_with(&self.suffix);
        starts && ends
    }
}

/// A text with any number of `{}`: the pieces between them, one more than there are blanks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Blanks(Vec<String>);

impl Blanks {
    /// Parts a text at its blanks and reads each piece, so that what the pieces mean is settled before a name comes in.
    pub(super) fn read<E>(text: &str, piece: impl FnMut(&str) -> Result<String, E>) -> Result<Self, E> {
        text.split("{}").map(piece).collect::<Result<_, _>>().map(Self)
    }

    /// The same, where each piece is taken as it stands.
    pub(super) fn plain(text: &str) -> Self {
        Self(text.split("{}").map(str::to_owned).collect())
    }

    /// What stands before and after the blank, if there is exactly one.
    fn ends(&self) -> Option<(&str, &str)> {
        match self.0.as_slice() {
            [before, after] => Some((before, after)),
            _ => None,
        }
    }

    /// As a path: the directory in which what stands in the blanks can make a difference.
    pub(super) fn directory(&self) -> PathBuf {
        let first = self.0.first().map_or("", String::as_str);
        let (directory, _) = first.rsplit_once('/').unwrap_or((".", first));
        if directory.is_empty() { PathBuf::from("/") } else { PathBuf::from(directory) }
    }

    /// As a path: whether what stands in a blank can be a directory.
    pub(super) fn names_directories(&self) -> bool {
        self.0.iter().skip(1).any(|piece| piece.contains('/'))
    }

    /// Whether there is a blank.
    pub(super) fn any(&self) -> bool {
        self.0.len() > 1
    }

    /// The text with `matched` in every blank.
    pub(super) fn fill(&self, matched: &str) -> String {
        self.0.join(matched)
    }

    /// What has to stand in every blank to make `text`, if something does. None where there is no blank.
    pub(super) fn matched<'a>(&self, text: &'a str) -> Option<&'a str> {
        let first = self.0.first()?;
        let rest = text.strip_prefix(first.as_str())?;
        let blanks = self.0.len().checked_sub(1).filter(|blanks| *blanks > 0)?;
        let literal: usize = self.0.iter().map(String::len).sum();
        let length = text.len().checked_sub(literal)? / blanks;
        let matched = rest.get(..length)?;
        (self.fill(matched) == text).then_some(matched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(name: &str) -> Template {
        Template::new(name).unwrap()
    }

    fn blanks(text: &str) -> Blanks {
        Blanks::plain(text)
    }

    #[test]
    fn a_template_has_exactly_one_star() {
        assert!(Template::new("a").is_none());
        assert!(Template::new("a**").is_none());
        assert_eq!(template("*").matched("x/y"), Some("x/y"));
        assert_eq!(template("a/*.img").matched("a/.img"), Some(""));
        assert_eq!(template("aa*aa").matched("aaa"), None, "the two ends do not share a letter");
    }

    #[test]
    fn templates_overlap_if_one_name_fits_both() {
        assert!(template("a*").overlaps(&template("*b")));
        assert!(template("*").overlaps(&template("a/*")));
        assert!(!template("a/*").overlaps(&template("b/*")));
        assert!(!template("*.raw").overlaps(&template("*.img")));
    }

    #[test]
    fn templates_share_a_file_where_two_names_lead_to_it() {
        let shares = |a: (&str, &str), b: (&str, &str)| {
            let (one, other) = (template(a.0).shares(&blanks(a.1), &template(b.0), &blanks(b.1)), (b, a));
            let ((b, a), back) = (other, template(b.0).shares(&blanks(b.1), &template(a.0), &blanks(a.1)));
            assert_eq!(one, back, "{a:?} {b:?}");
            one
        };
        // a-b-x and b-x.
        assert!(shares(("a-*", "/d/{}.img"), ("b-*", "/d/b-{}.img")));
        assert!(shares(("*", "/d/{}.img"), ("blue/*", "/d/blue-{}.img")));
        assert!(shares(("a-*", "/d/a-{}"), ("b-*", "/d/{}.img")));
        // One entry for the name blue-x and another for the rest.
        assert!(!shares(("*", "/d/{}.img"), ("blue-*", "/d/blue-{}.img")));
        assert!(!shares(("*", "/d/{}"), ("*.raw", "/d/{}.raw")));
        assert!(!shares(("a/*", "/d/a/{}.img"), ("b/*", "/d/{}.img")));
        assert!(!shares(("a/*", "/d/{}/a.img"), ("b/*", "/d/{}/b.img")));
        assert!(!shares(("a/*", "/d/a-{}.img"), ("b/*", "/d/b-{}.img")));
    }

    proptest! {
        #[test]
        fn two_names_share_a_file_if_trying_finds_them(
            names in proptest::collection::vec("[ab]{0,2}\\*[ab]{0,2}", 2),
            files in proptest::collection::vec("[ab/]{0,2}\\{\\}[ab/]{0,2}", 2),
        ) {
            let (one, other) = (template(&names[0]), template(&names[1]));
            let (own, others) = (blanks(&files[0]), blanks(&files[1]));
            let mut words = Vec::new();
            let mut last = vec![String::new()];
            for _ in 0..6 {
                last = last.iter().flat_map(|word| [format!("{word}a"), format!("{word}b")]).collect();
                words.extend(last.iter().cloned());
            }
            let found = words.iter().any(|a| {
                let file = own.fill(a);
                others.matched(&file).is_some_and(|b| !b.is_empty() && !b.contains('/') && other.name_of(b) != one.name_of(a))
            });
            prop_assert_eq!(one.shares(&own, &other, &others), found);
        }

        #[test]
        fn a_match_and_its_name_belong_together(prefix in "[ab/]{0,3}", suffix in "[ab/]{0,3}", star in "[ab/*]{0,4}") {
            let template = template(&format!("{prefix}*{suffix}"));
            let name = template.name_of(&star);
            prop_assert_eq!(template.matched(&name), Some(star.as_str()));
        }

        #[test]
        fn overlap_is_what_a_search_for_a_common_name_finds(names in proptest::collection::vec("[ab]{0,2}\\*[ab]{0,2}", 2)) {
            let (one, other) = (template(&names[0]), template(&names[1]));
            let mut words = vec![String::new()];
            for _ in 0..6 {
                let longer: Vec<_> = words.iter().flat_map(|word| [format!("{word}a"), format!("{word}b")]).collect();
                words.extend(longer);
            }
            let common = words.iter().any(|word| one.matched(word).is_some() && other.matched(word).is_some());
            prop_assert_eq!(one.overlaps(&other), common);
        }

        #[test]
        fn what_was_filled_in_is_found_again(text in "[ab]{0,3}\\{\\}[ab{}]{0,6}", matched in "[ab]{0,3}") {
            let blanks = blanks(&text);
            let filled = blanks.fill(&matched);
            prop_assert_eq!(blanks.matched(&filled), Some(matched.as_str()));
        }
    }
}
