//! A table that the README shows between two marks, held against what there is.

use std::fs;
use std::path::Path;

/// Whether the README shows `table` between `<!-- mark -->` and its end; prints it, to be pasted there.
pub(crate) fn is_in_the_readme(mark: &str, table: &str) {
    println!("{table}");
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let shown = readme.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(shown, _)| shown.trim());
    assert_eq!(shown, Some(table.trim()), "README.md shows another table between {begin:?} and {end:?}");
}
