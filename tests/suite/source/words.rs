//! Phrases that this project's plain English does without. CONTRIBUTING, "House rules", has the rule.

use std::path::Path;

/// Phrase, and how often it may occur in all that people read, comments included. These numbers only get smaller.
const AVOIDED: &[(&str, usize)] = &[
    ("anew", 100),
    ("whoever", 142),
    ("what is", 578),
    ("is told", 188),
    ("another hand", 49),
    ("of its own", 127),
    ("nobody", 514),
];

/// It names them all.
const THIS_FILE: &str = "tests/suite/source/words.rs";

fn count(text: &str, phrase: &str) -> usize {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(phrase)
        .filter(|(at, _)| !text[..*at].ends_with(is_letter) && !text[at + phrase.len()..].starts_with(is_letter))
        .count()
}

#[test]
fn avoided_phrases_do_not_get_more() {
    let texts: Vec<String> = super::files(&super::top(), &["rs", "md", "toml", "html", "js", "yml"])
        .into_iter()
        .filter(|(file, _)| file != Path::new(THIS_FILE))
        .map(|(_, text)| text.to_lowercase())
        .collect();
    let more: Vec<String> = AVOIDED
        .iter()
        .map(|(phrase, ceiling)| (phrase, ceiling, texts.iter().map(|text| count(text, phrase)).sum::<usize>()))
        .filter(|(_, ceiling, found)| found > *ceiling)
        .map(|(phrase, ceiling, found)| format!("{phrase:?} occurs {found} times, and was to occur {ceiling} times"))
        .collect();
    assert!(more.is_empty(), "say it in other words, see CONTRIBUTING, \"House rules\":\n{}", more.join("\n"));
}

#[test]
fn a_phrase_counts_as_whole_words_only() {
    assert_eq!(count("anew, begun anew", "anew"), 2);
    assert_eq!(count("a canewood", "anew"), 0);
}
