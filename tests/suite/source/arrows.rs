//! Which room of the gateway may use which. A room is a file or folder directly under `gateway/src`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rooms from the bottom up. A room may use the rooms of the lines above its own, and no others: neither those of
/// its own line nor those below.
const LAYERS: &[&str] = &[
    "fault descriptors ordered_watch stamp",
    "command http qmp token request",
    "handover",
    "embedded limits log",
    "driver lane shards",
    "fence service",
    "target",
    "accounting hooks",
    "resize",
    "export",
    "session",
    "listener",
    "reload",
    "admin",
    "app",
    "cmd fuzz simulation",
];

/// `main.rs` starts the program and `lib.rs` lists the rooms; neither is a room.
const NO_ROOM: [&str; 2] = ["main", "lib"];

/// Room, the room that it uses, and the files that do.
type Arrows = BTreeMap<(String, String), Vec<PathBuf>>;

fn room_of(file: &Path) -> String {
    Path::new(file.iter().next().unwrap()).with_extension("").display().to_string()
}

/// Whether the whole file is a test's.
fn is_test(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs" || part == "simulation")
}

/// The names that directly follow `crate::`, or a `super::` that reaches the crate, in the file's code.
fn names_at_the_top(file: &Path, text: &str) -> Vec<String> {
    let depth = file.with_extension("").iter().filter(|part| *part != "mod").count();
    // A file's own tests stand at its end.
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let mut names = Vec::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let mut parts = line.split("::").peekable();
        let mut climbed = 0;
        while let Some(part) = parts.next() {
            let last_word = part.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
            climbed = if last_word == "super" { climbed + 1 } else { 0 };
            if let Some(next) = parts.peek()
                && (last_word == "crate" || (climbed > 0 && climbed == depth))
            {
                names.extend(first_names(next, line));
            }
        }
    }
    names
}

/// The name that `part` begins with; of a group `{a, b::c}` the first names of all its members, from the whole line.
fn first_names(part: &str, line: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    match part.strip_prefix('{') {
        None => vec![name(part)],
        Some(_) => line.split_once('{').map_or("", |(_, group)| group).split(',').map(name).collect(),
    }
}

fn arrows() -> (BTreeSet<String>, Arrows) {
    let all = super::files(&super::top().join("gateway/src"), &["rs"]);
    let rooms: BTreeSet<String> =
        all.iter().map(|(file, _)| room_of(file)).filter(|room| !NO_ROOM.contains(&room.as_str())).collect();
    let mut found = Arrows::new();
    for (file, text) in all.iter().filter(|(file, _)| !is_test(file)) {
        let room = room_of(file);
        let used: BTreeSet<String> = names_at_the_top(file, text).into_iter().collect();
        for name in used.into_iter().filter(|name| *name != room && rooms.contains(name) && rooms.contains(&room)) {
            found.entry((room.clone(), name)).or_default().push(file.clone());
        }
    }
    (rooms, found)
}

#[test]
fn arrows_between_rooms_point_downwards() {
    let (rooms, found) = arrows();
    let layer = |room: &str| LAYERS.iter().position(|rooms| rooms.split_whitespace().any(|name| name == room));
    let mut wrong = Vec::new();
    for room in rooms.iter().filter(|room| layer(room).is_none()) {
        wrong.push(format!("{room} stands in no layer: give it the lowest that is above all that it uses"));
    }
    for room in LAYERS.iter().flat_map(|rooms| rooms.split_whitespace()).filter(|room| !rooms.contains(*room)) {
        wrong.push(format!("there is no room {room}: take it out of its layer"));
    }
    for ((room, used), files) in &found {
        if layer(used) >= layer(room) {
            let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            wrong.push(format!("{room} may not use {used}, and does in {}", files.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "LAYERS in tests/suite/source/arrows.rs has the rule:\n{}", wrong.join("\n"));
}

#[test]
fn every_way_to_name_a_room_is_seen() {
    let names = |file: &str, text: &str| names_at_the_top(Path::new(file), text);
    assert_eq!(names("lane/run.rs", "use crate::proto::Cmd;\nlet x = crate::net::pool();"), ["proto", "net"]);
    assert_eq!(names("lane/run.rs", "fn f(a: crate::net::Stream, b: crate::tls::Tls) {"), ["net", "tls"]);
    assert_eq!(names("fuzz.rs", "use crate::{lane, proto as p, session::Session};"), ["lane", "proto", "session"]);
    assert_eq!(names("app.rs", "use super::session::Session;"), ["session"]);
    assert_eq!(names("lane/mod.rs", "use super::export::Export;"), ["export"]);
    assert_eq!(names("lane/run.rs", "use super::super::export::Export;"), ["export"]);
    assert!(names("lane/run.rs", "use super::table::Table;\n// crate::session").is_empty());
    assert!(names("lane/mod.rs", "#[cfg(test)]\nmod tests {\nuse crate::session;\n}").is_empty());
}
