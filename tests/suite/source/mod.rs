//! Rules about the source that a program can check: which room may use which, words that this project avoids, and that files
//! named in the documentation exist.

mod arrows;
mod names;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below `folder` with one of the extensions, or with any if none is given, relative to `folder`, in order, with their
/// text.
fn files(folder: &Path, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()) {
            let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
            if path.is_dir() {
                // What cargo and git write is not source.
                if !path.join("CACHEDIR.TAG").exists() && !path.ends_with(".git") {
                    folders.push(path);
                }
            } else if extensions.is_empty()
                || extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
            {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                found.push((path.strip_prefix(folder).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}
