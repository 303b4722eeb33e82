//! Promise: what differs between two configurations is told in the words of the file, once, and no secret is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected must fail at once")]

use std::path::Path;

use nbd_gateway_config::{Changes, Config, How, Thing};
use proptest::prelude::*;

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("config.toml")).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn lines(old: &str, new: &str) -> Vec<String> {
    config(old).changes_to(&config(new)).iter().map(ToString::to_string).collect()
}

const BASE: &str = r#"
state = "data"
[[listener]]
address = "127.0.0.1:1"
[admin]
address = "127.0.0.1:2"
[log]
[limits]
[runtime]
[[tenant]]
name = "blue"
#tenant
[tenant.limits]
[[export]]
name = "vm1"
tenant = "blue"
backend = "nbd://host/vm1"
#export
[export.resize]
#resize
[export.limits]
[[export]]
name = "t/*"
tenant = "blue"
backend = "file:/srv/{}.img"
size = "1GiB"
"#;

/// BASE with `text` below the line `after`.
fn with(after: &str, text: &str) -> String {
    assert!(BASE.contains(after), "{after}");
    BASE.replacen(after, &format!("{after}\n{text}"), 1)
}

/// BASE with one thing for another.
fn instead(of: &str, text: &str) -> String {
    assert!(BASE.contains(of), "{of}");
    BASE.replacen(of, text, 1)
}

/// A change of the file, and the lines that tell it.
fn table() -> Vec<(String, Vec<&'static str>)> {
    let one = |text: String, line: &'static str| (text, vec![line]);
    vec![
        one(instead("\"data\"", "\"other\""), r#"the gateway: state "data" -> "other""#),
        one(with("[[listener]]", "tls = \"off\"").replacen(":1\"", ":3\"", 1), "listener 127.0.0.1:3 added"),
        one(instead("127.0.0.1:2", "127.0.0.1:4"), "[admin]: address 127.0.0.1:2 -> 127.0.0.1:4"),
        one(with("[admin]", "token-file = \"/t\""), r#"[admin]: token-file none -> "/t""#),
        one(with("[log]", "level = \"debug\"\nformat = \"json\""), "[log]: format human -> json, level info -> debug"),
        one(with("[runtime]", "threads = 3"), "[runtime]: threads none -> 3"),
        // Told once, where it stands, not again for each that takes it from there.
        one(with("[limits]", "session-bytes = \"128MiB\""), "[limits]: session-bytes 64MiB -> 128MiB"),
        one(with("[limits]", "drain-timeout = \"5s\""), "[limits]: drain-timeout 30s -> 5s"),
        one(with("[limits]", "session-io = {iops = \"10/s\"}"), "[limits]: session-io.iops none -> 10/s (1 at once)"),
        one(with("[tenant.limits]", "session-requests = 7"), "tenant blue: limits.session-requests 256 -> 7"),
        one(
            with("[tenant.limits]", "io = {bandwidth = \"200MiB/s\", burst = \"1s\"}"),
            "tenant blue: limits.io.bandwidth none -> 200MiB/s",
        ),
        one(with("[export.limits]", "session-requests = 7"), "export vm1: limits.session-requests 256 -> 7"),
        one(
            with("#tenant", "quota = \"2TiB\"\nsoft-quota = \"1536GiB\"\ngrowth-rate = \"500GiB/h\""),
            "tenant blue: quota none -> 2TiB, soft-quota none -> 1.5TiB, growth-rate none -> 500GiB/h",
        ),
        one(
            with("#tenant", "clients = [{uid = 0, exports = [\"vm*\"], verbs = [\"list\", \"read\"]}]"),
            r#"tenant blue: clients none -> 1 entries, clients[0] none -> {uid = 0, exports = ["vm*"], may list read}"#,
        ),
        one(
            with("#export", "max-size = \"200GiB\""),
            "export vm1: max-size none -> 200GiB, resize.max-step 64GiB -> none",
        ),
        one(with("#export", "description = \"a b\""), r#"export vm1: description none -> "a b""#),
        one(
            with("#export", "on-backend-loss = \"error\""),
            "export vm1: on-backend-loss {hold = 30s, durable = false} -> error",
        ),
        one(instead("nbd://host/vm1", "nbd://other:7/vm1"), "export vm1: backend nbd://host/vm1 -> nbd://other:7/vm1"),
        one(
            with("#resize", "poll = \"off\"\nshrink = true"),
            "export vm1: resize.shrink false -> true, resize.poll 5s -> off",
        ),
        one(instead("/srv/{}.img", "/mnt/{}.img"), "export t/*: backend file:/srv/{}.img -> file:/mnt/{}.img"),
        one(instead("\"1GiB\"", "\"2GiB\""), "export t/*: size 1GiB -> 2GiB"),
        one(instead("\"vm1\"", "\"vm 2\""), "export \"vm 2\" added"),
        one(instead("name = \"blue\"", "name = \"blue\"\n[[tenant]]\nname = \"red\""), "tenant red added"),
    ]
}

#[test]
fn each_key_is_told_in_the_words_of_the_file() {
    for (text, expected) in table() {
        let mut told = lines(BASE, &text);
        told.retain(|line| !line.ends_with(" removed"));
        assert_eq!(told, expected, "{text}");
        let back: Changes = config(&text).changes_to(&config(BASE));
        assert!(!back.is_empty(), "{text}");
    }
}

#[test]
fn where_an_entry_stands_and_how_a_value_is_written_is_no_difference() {
    let text = "#a comment\n".to_owned() + &with("#tenant", "clients = [{uid = 0}]").replace("\"1GiB\"", "\"1024MiB\"");
    assert_eq!(lines(&with("#tenant", "clients = [{uid = 0}]"), &text), [""; 0]);
    let two = |a: &str, b: &str| {
        format!(
            "listener = [{{address = \"{a}\"}}, {{address = \"{b}\"}}]\n\
             [[export]]\nname = \"{a}\"\nbackend = \"memory:\"\nsize = 1\n\
             [[export]]\nname = \"{b}\"\nbackend = \"memory:\"\nsize = 1\n"
        )
    };
    assert_eq!(lines(&two("[::1]:1", "[::1]:2"), &two("[::1]:2", "[::1]:1")), [""; 0]);
}

#[test]
fn what_may_be_a_secret_is_told_to_differ_and_not_what_it_is() {
    let exec = |word: &str| with("#resize", &format!("driver = \"exec\"\ncommand = [\"grow\", \"{word}\"]"));
    let hooks = |word: &str| {
        format!("\n[[export.notify]]\nhttp = \"http://h/?key={word}\"\n[[export.notify]]\nexec = [\"{word}\"]\n")
    };
    let text = |word: &str| exec(word) + &hooks(word);
    let told = lines(&text("hunter1"), &text("hunter2"));
    assert_eq!(
        told,
        ["export vm1: resize.command changed", "export t/*: notify[0].http changed, notify[1].exec changed"]
    );
    let told = lines(BASE, &text("hunter2")).join("\n");
    assert!(told.contains("notify[0].http added") && !told.contains("hunter"), "{told}");
    let told = lines(&text("hunter2"), BASE).join("\n");
    assert!(told.contains("notify[1].exec removed") && !told.contains("hunter"), "{told}");
}

#[test]
fn listeners_at_port_0_are_told_apart_by_their_number() {
    let text = |n: usize| {
        "[[listener]]\naddress = \"127.0.0.1:0\"\n".repeat(n)
            + "[[export]]\nname = \"a\"\nbackend = \"memory:\"\nsize = 1\n"
    };
    assert_eq!(lines(&text(2), &text(3)), ["listener 127.0.0.1:0 added"]);
    assert_eq!(lines(&text(3), &text(1)), ["listener 127.0.0.1:0 removed"; 2]);
}

#[test]
fn what_only_a_restart_can_bring_is_known() {
    let text = with("[runtime]", "threads = 3").replace("127.0.0.1:2", "off").replace("\"data\"", "\"other\"");
    let text = text
        .replace("[log]", "[log]\nformat = \"json\"\nlevel = \"warn\"")
        .replace("[limits]", "[limits]\ndrain-timeout = \"1s\"");
    let changes = config(BASE).changes_to(&config(&text));
    let told: Vec<String> = changes.by_restart_only().collect();
    assert_eq!(
        told,
        [
            r#"the gateway: state "data" -> "other""#,
            "[admin]: address 127.0.0.1:2 -> off",
            "[log]: format human -> json",
            "[runtime]: threads none -> 3"
        ]
    );
}

proptest! {
    /// Any of the table's changes at once: each thing that differs is told once, and the way back tells the same things.
    #[test]
    fn every_difference_is_told_once_and_the_same_on_the_way_back(picks in prop::collection::vec(any::<bool>(), 8)) {
        let edits = [
            ("\"data\"", "\"other\""),
            ("[runtime]", "[runtime]\nthreads = 2"),
            ("#tenant", "quota = \"1TiB\""),
            ("#export", "lanes = 4"),
            ("#resize", "shrink = true"),
            ("\"1GiB\"", "\"3GiB\""),
            ("[tenant.limits]", "[tenant.limits]\nsession-bytes = \"1GiB\""),
            ("[export.limits]", "[export.limits]\nsession-bytes = \"1GiB\""),
        ];
        let mut text = BASE.to_owned();
        for ((of, by), _) in edits.iter().zip(&picks).filter(|(_, pick)| **pick) {
            text = text.replacen(of, by, 1);
        }
        let (old, new) = (config(BASE), config(&text));
        let (there, back) = (old.changes_to(&new), new.changes_to(&old));
        prop_assert_eq!(there.is_empty(), !picks.contains(&true));
        prop_assert!(old.changes_to(&old).is_empty() && new.changes_to(&new).is_empty());
        let things: Vec<&Thing> = there.iter().map(|change| &change.what).collect();
        prop_assert_eq!(&things, &back.iter().map(|change| &change.what).collect::<Vec<_>>());
        for (at, thing) in things.iter().enumerate() {
            prop_assert!(!things[..at].contains(thing), "{:?} twice", thing);
        }
        for (there, back) in there.iter().zip(back.iter()) {
            let (How::Changed(there), How::Changed(back)) = (&there.how, &back.how) else { panic!("nothing came or went") };
            for key in there {
                prop_assert!(back.iter().any(|k| k.key == key.key && k.old == key.new && k.new == key.old), "{:?}", key);
            }
        }
    }
}
