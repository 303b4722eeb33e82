//! Rules about the source that a program can hold: which room may use which, and words that this project avoids.

mod arrows;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below `folder` with one of the extensions, relative to `folder`, in order, with their text.
fn files(folder: &Path, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()) {
            let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
            if path.is_dir() {
                // What cargo writes is not source.
                if !path.join("CACHEDIR.TAG").exists() {
                    folders.push(path);
                }
            } else if extension.is_some_and(|extension| extensions.contains(&extension.as_str())) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(folder).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}
