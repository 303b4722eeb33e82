//! An export's name as a part of a path. The empty name can't be one; it is written as the tables of the command line show
//! it, as two quotation marks.

use serde::Deserialize;

/// Stands for the empty name. An export that really has this name can't be spoken of here.
const EMPTY: &str = "\"\"";

/// The export that a path means.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(super) struct Name(pub(super) String);

impl From<String> for Name {
    fn from(part: String) -> Self {
        Self(if part == EMPTY { String::new() } else { part })
    }
}

/// How a path says `name`; still to be escaped.
pub(crate) fn in_a_path(name: &str) -> &str {
    if name.is_empty() { EMPTY } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_meant_by_the_part_of_a_path_that_says_it() {
        for name in ["", "disk", "a/b", "\"", "''"] {
            let part = in_a_path(name);
            assert!(!part.is_empty());
            assert_eq!(Name::from(part.to_owned()), Name(name.to_owned()));
        }
    }
}
