//! Files that the documentation names: each exists, and where a promise says that it is tested there is a test.
//!
//! A name stands for every path that has its parts in a row, without `src`, `mod` and `.rs`: `proto/request.rs` is
//! `gateway/proto/src/request.rs`, and `limits/turns.rs` has the tests of `limits/turns/tests.rs`.

/// The crate's page and the documents. README's other names are files of its readers.
const PAGE: &str = "gateway/src/lib.rs";
const DOCUMENTS: &[&str] = &[PAGE, "CONTRIBUTING.md", "README.md"];
/// What a name starts with that can only be one of this project's files.
const FOLDERS: &[&str] = &["gateway/", "policy/", "config/", "metrics/", "tests/"];

/// The parts of a path, or of a name.
fn parts(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let parts = path.split(['/', ':']).filter(|part| !matches!(*part, "" | "src" | "mod"));
    // A crate's name is not its folder's.
    parts.map(|part| part.strip_prefix("nbd_gateway_").unwrap_or(part)).collect()
}

/// `a/{b,c}.rs` names two files.
fn each(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (among, after))) => among.split(',').map(|one| format!("{before}{one}{after}")).collect(),
        None => vec![name.to_owned()],
    }
}

/// The texts between backquotes, but for code blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

struct Source(Vec<(String, String)>);

impl Source {
    fn read() -> Self {
        let files = super::files(&super::top(), &[]);
        Self(files.into_iter().map(|(path, text)| (path.to_string_lossy().into_owned(), text)).collect())
    }

    fn text(&self, path: &str) -> &str {
        &self.0.iter().find(|(file, _)| file == path).expect("a document").1
    }

    /// The texts of all files that a name stands for.
    fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let name: Vec<String> = parts(name).into_iter().map(str::to_owned).collect();
        self.0
            .iter()
            .filter(move |(path, _)| parts(path).windows(name.len()).any(|run| run == name))
            .map(|(_, text)| &**text)
    }

    fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    fn tests(&self, name: &str) -> bool {
        self.named(name).any(|text| text.contains("#[test]") || text.contains("#[tokio::test"))
    }
}

#[test]
fn files_that_the_documentation_names_exist() {
    let source = Source::read();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = source.text(document);
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-/.{},".contains(c);
        let rust = text.split(|c| !is_part(c)).filter(|name| name.ends_with(".rs"));
        let paths = quoted(text).filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder)));
        let links = text.split("](").skip(1).filter_map(|link| link.split([')', '#']).next());
        let links = links.filter(|link| *document != PAGE && !link.is_empty() && !link.contains(':'));
        let names = rust.chain(paths.filter(|name| !name.contains([' ', '*', '=']))).chain(links).flat_map(each);
        missing.extend(names.filter(|name| !source.has(name)).map(|name| format!("{document} names {name}")));
    }
    assert!(missing.is_empty(), "there are no such files:\n{}", missing.join("\n"));
}

#[test]
fn promises_are_kept_and_tested_where_the_crates_page_says() {
    let source = Source::read();
    let mut wrong = Vec::new();
    let promises = source.text(PAGE).lines().filter_map(|line| line.strip_prefix("//! | **"));
    let mut count = 0;
    for promise in promises {
        let cells: Vec<&str> = promise.split(" | ").collect();
        let [text, kept, tested] = cells[..] else { panic!("not three cells: {promise}") };
        let title = text.split("**").next().expect("a title");
        let keepers: Vec<String> = quoted(kept).flat_map(each).collect();
        let functions = |name: &str| source.0.iter().any(|(_, text)| text.contains(&format!("fn {name}(")));
        wrong.extend(
            keepers.iter().filter(|name| !source.has(name) && !functions(name)).map(|name| format!("{title}: {name}")),
        );
        for name in quoted(tested).flat_map(each).filter(|name| !source.tests(name)) {
            wrong.push(format!("{title}: no tests in {name}"));
        }
        let here = tested.starts_with("there");
        if here && !keepers.is_empty() && !keepers.iter().any(|name| source.tests(name)) {
            wrong.push(format!("{title}: no tests there"));
        }
        count += 1;
    }
    assert!(count > 50, "the table of promises is not read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_name_stands_for_the_paths_that_have_its_parts_in_a_row() {
    assert_eq!(parts("gateway/proto/src/request.rs"), ["gateway", "proto", "request"]);
    assert_eq!(parts("lane/mod.rs"), ["lane"]);
    assert_eq!(parts("plan::steps"), ["plan", "steps"]);
    assert_eq!(parts("nbd_gateway_client::agent"), ["client", "agent"]);
    assert_eq!(each("a/{b,c}.rs"), ["a/b.rs", "a/c.rs"]);
    let source = Source(vec![("gateway/src/limits/turns/tests.rs".to_owned(), "#[test]".to_owned())]);
    assert!(source.tests("limits/turns.rs") && !source.has("turns/limits"));
}
