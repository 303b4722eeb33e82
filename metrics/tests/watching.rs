//! Promise: no alert and no panel names a metric or a label that is not there.
//!
//! Whether a query is right is Prometheus' to say: the suite asks a real one. This looks at names only.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected must fail at once"
)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const GOLDEN: &str = include_str!("../golden.txt");
const ALERTS: &str = include_str!("../alerts.yml");
const ALERT_TESTS: &str = include_str!("../alerts_test.yml");
const DASHBOARD: &str = include_str!("../dashboard.json");

/// What Prometheus adds to every series.
const ADDED: [&str; 2] = ["instance", "job"];

/// The labels of each name that a query can use: of a histogram, those of its parts.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for line in GOLDEN.lines() {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, rest) = rest.split_once("} ").unwrap();
        let mut labels: BTreeSet<String> =
            labels.split(',').filter(|l| !l.is_empty()).chain(ADDED).map(str::to_owned).collect();
        if rest.starts_with("histogram") {
            for part in ["sum", "count"] {
                known.insert(format!("{name}_{part}"), labels.clone());
            }
            labels.insert("le".to_owned());
            known.insert(format!("{name}_bucket"), labels);
        } else {
            known.insert(name.to_owned(), labels);
        }
    }
    known
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// The labels that a text between `{{` and `}}` names.
fn placeholders(text: &str) -> Vec<&str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim).collect()
}

/// Checks one query; answers the labels of its metrics.
fn check(query: &str, of: &str) -> BTreeSet<String> {
    let known = known();
    let mut all = BTreeSet::new();
    let mut rest = query;
    while let Some(at) = rest.find("nbd_gateway_") {
        let from = rest.get(at..).unwrap();
        let name: String = from.chars().take_while(|c| is_word(*c)).collect();
        rest = from.get(name.len()..).unwrap();
        let labels = known.get(&name).unwrap_or_else(|| panic!("{of} names {name}, which is not there: {query}"));
        all.extend(labels.iter().cloned());
        if let Some(matchers) = rest.strip_prefix('{') {
            let matchers = matchers.split('}').next().unwrap();
            for matcher in matchers.split(',') {
                let label = matcher.split(['=', '!']).next().unwrap().trim();
                assert!(labels.contains(label), "{of}: {name} has no label {label:?}: {query}");
            }
        }
    }
    assert!(!all.is_empty(), "{of} names no metric: {query}");
    for clause in ["by", "without", "on", "ignoring", "group_left", "group_right"] {
        for list in query.split(&format!("{clause} (")).skip(1) {
            for label in words(list.split(')').next().unwrap()) {
                assert!(all.contains(label), "{of} groups by {label}, which none of its metrics has: {query}");
            }
        }
    }
    match query.split("by (").nth(1) {
        // What is left of the series is what it is grouped by.
        Some(list) => words(list.split(')').next().unwrap()).map(str::to_owned).collect(),
        None => all,
    }
}

#[test]
fn every_panel_variable_and_annotation_names_what_is_there() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut queries, mut ids) = (0, BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has the id of another panel");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let labels = check(target["expr"].as_str().unwrap(), title);
            for label in placeholders(target["legendFormat"].as_str().unwrap()) {
                assert!(labels.contains(label), "{title}: the legend names {label}, which its query does not leave");
            }
            queries += 1;
        }
    }
    assert!(queries > 30, "only {queries} queries");
    let mut names = Vec::new();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        names.push(name);
        if let Some(query) = variable["definition"].as_str() {
            let (of, label) = query.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
            assert!(check(of, name).contains(label.trim_end_matches(')')), "{name}: {query}");
        }
    }
    assert_eq!(names, ["datasource", "tenant", "export"]);
    let [resizes] = dashboard["annotations"]["list"].as_array().unwrap().as_slice() else { panic!("one annotation") };
    let labels = check(resizes["expr"].as_str().unwrap(), "the annotation");
    for text in ["titleFormat", "textFormat"] {
        for label in placeholders(resizes[text].as_str().unwrap()) {
            assert!(labels.contains(label), "the annotation names {label}");
        }
    }
}

#[test]
fn every_alert_names_what_is_there_and_says_what_to_do() {
    let alerts: Vec<_> = ALERTS.split("- alert: ").skip(1).collect();
    for alert in &alerts {
        let name = alert.lines().next().unwrap();
        let query = alert.split_once("expr:").unwrap().1;
        let query = query.split("labels:").next().unwrap().split(" for:").next().unwrap();
        let labels = check(query, name);
        for label in alert.split("$labels.").skip(1) {
            let label: String = label.chars().take_while(|c| is_word(*c)).collect();
            assert!(labels.contains(&label), "{name} tells {label}, which its query does not leave");
        }
        for what in ["severity: ", "summary: ", "description: ", "runbook: "] {
            assert!(alert.contains(what), "{name} has no {what}");
        }
        assert!(ALERT_TESTS.contains(&format!("alertname=\"{name}\"")), "{name} has no test that it fires");
    }
    assert!(alerts.len() >= 10, "only {} alerts", alerts.len());
}
