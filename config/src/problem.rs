//! What is wrong with a configuration: all of it at once, each with its place, its key path and an example.
//!
//! Owns how problems look to people and how they are gathered. Never decides what one is.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use strsim::osa_distance;

use crate::schema;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, like `export[0].backend` (entries count from 0); empty where the file itself is meant.
    pub path: String,
    /// Line and column of the key, or of the table where it is missing, both from 1. None: there is no such place.
    pub position: Option<(usize, usize)>,
    /// What is wrong, and what to do about it.
    pub what: String,
    /// How it could be written, as TOML.
    pub example: Option<String>,
}

/// Everything that is wrong, in the order of the file; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    origin: String,
    list: Vec<Problem>,
}

impl Problems {
    /// The file could not be read at all.
    pub(crate) fn unreadable(path: &Path, what: String) -> Self {
        let problem = Problem { path: String::new(), position: None, what, example: None };
        Self { origin: path.display().to_string(), list: vec![problem] }
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

/// One problem a paragraph: `FILE:LINE:COLUMN: KEY: WHAT`, and below it the example.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.origin)?;
            if let Some((line, column)) = problem.position {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {problem}")?;
        }
        Ok(())
    }
}

/// `KEY: WHAT`, and below it the example.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)?;
        if let Some(example) = &self.example {
            write!(f, "\n  for example: {}", example.replace('\n', "\n               "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Gathers problems while a configuration is read.
#[derive(Default)]
pub(crate) struct Report {
    positions: BTreeMap<String, (usize, usize)>,
    list: Vec<Problem>,
    paths: HashSet<String>,
}

impl Report {
    /// Remembers where a key stands.
    pub(crate) fn place(&mut self, path: &str, position: (usize, usize)) {
        self.positions.insert(path.to_owned(), position);
    }

    /// Something is wrong with the key `path`; the example is the schema's.
    pub(crate) fn note(&mut self, path: &str, what: impl fmt::Display) {
        self.note_with(path, what, schema::example(path));
    }

    /// Something is wrong with the key `path`.
    pub(crate) fn note_with(&mut self, path: &str, what: impl fmt::Display, example: Option<String>) {
        self.paths.insert(path.to_owned());
        let problem = Problem { path: path.to_owned(), position: self.position(path), what: what.to_string(), example };
        self.list.push(problem);
    }

    /// The key `path` is missing. Nothing is said if it was there and taken out for another problem.
    pub(crate) fn missing(&mut self, path: &str, what: impl fmt::Display, example: Option<String>) {
        // A list of which an entry was taken out has its problem at the entry.
        let inside =
            |other: &String| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        if !self.paths.iter().any(inside) {
            self.note_with(path, what, example);
        }
    }

    /// The text is not TOML.
    pub(crate) fn syntax(&mut self, position: Option<(usize, usize)>, what: &str) {
        let what = format!("this is not TOML: {what}");
        self.list.push(Problem { path: String::new(), position, what, example: None });
    }

    /// Whether nothing is wrong so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether nothing is wrong so far with the table at `path` and what is in it.
    pub(crate) fn is_clean(&self, path: &str) -> bool {
        let inside = |other: &String| {
            other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        !self.paths.iter().any(inside)
    }

    /// The keys that are written in the table at `path`, but for those of which something is wrong already.
    pub(crate) fn stated(&self, path: &str) -> Vec<String> {
        let after = |key: &String| key.strip_prefix(path)?.strip_prefix('.').map(str::to_owned);
        let within = self.positions.range(format!("{path}.")..).map_while(|(key, _)| after(key));
        let plain = |key: &String| !key.contains(['.', '[']) && !self.paths.contains(&key_path(path, key));
        within.filter(plain).collect()
    }

    /// Everything that is wrong, or what was read.
    pub(crate) fn finish<T>(mut self, origin: &Path, value: T) -> Result<T, Problems> {
        if self.list.is_empty() {
            return Ok(value);
        }
        // What has no place of its own (a section that is missing) comes last.
        self.list.sort_by_key(|problem| problem.position.unwrap_or((usize::MAX, usize::MAX)));
        Err(Problems { origin: origin.display().to_string(), list: self.list })
    }

    /// The place of the key, or of the innermost table around it that is there.
    pub(crate) fn position(&self, path: &str) -> Option<(usize, usize)> {
        let mut path = path;
        loop {
            if let Some(position) = self.positions.get(path) {
                return Some(*position);
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
    }
}

/// The path of `key` in the table at `path`; a key that is not bare is quoted, as in TOML.
pub(crate) fn key_path(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The known word that was probably meant by `word`.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let rated = known.into_iter().map(|candidate| (osa_distance(&lower, candidate), candidate));
    let (distance, best) = rated.min_by_key(|(distance, _)| *distance)?;
    (distance <= best.chars().count().max(3) / 3).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_that_is_close_is_suggested() {
        let known = ["lanes", "size", "backend", "on-backend-loss"];
        assert_eq!(nearest("lane", known), Some("lanes"));
        assert_eq!(nearest("Backend", known), Some("backend"));
        assert_eq!(nearest("on_backend_loss", known), Some("on-backend-loss"));
        assert_eq!(nearest("quota", known), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_key_that_is_not_bare_is_quoted() {
        assert_eq!(key_path("", "export"), "export");
        assert_eq!(key_path("export[0]", "a.b \n"), "export[0].\"a.b \\n\"");
    }

    #[test]
    fn a_missing_key_stands_where_its_table_stands() {
        let mut report = Report::default();
        report.place("export[0]", (7, 1));
        report.note("export[0].backend", "is missing");
        report.note("listener", "is missing");
        let problems = report.finish(Path::new("f"), ()).unwrap_err();
        let positions: Vec<_> = problems.iter().map(|problem| problem.position).collect();
        assert_eq!(positions, [Some((7, 1)), None]);
    }
}
