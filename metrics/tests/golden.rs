//! Promise: no metric is renamed, relabelled or explained anew by accident: `golden.txt` has each one, and the README the
//! same ones. Scripts, alerts and dashboards of others hang on them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that meets the unexpected must fail at once")]

use nbd_gateway_metrics::{AgentMetrics, Metrics, ResizeDriver};

const GOLDEN: &str = include_str!("../golden.txt");
const README: &str = include_str!("../../README.md");

/// The metrics of the gateway and of the agent, as the golden list writes them.
fn registered() -> Vec<String> {
    let mut lines = Metrics::new("0").unwrap().catalogue();
    lines.extend(AgentMetrics::new("0", "nbd0").unwrap().catalogue());
    lines
}

#[test]
fn every_metric_is_as_the_golden_list_says() {
    let (golden, registered): (Vec<&str>, _) = (GOLDEN.lines().collect(), registered());
    let missing: Vec<_> = registered.iter().filter(|line| !golden.contains(&line.as_str())).collect();
    let gone: Vec<_> = golden.iter().filter(|line| !registered.iter().any(|r| r == *line)).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "golden.txt lacks {missing:#?}\nand has too many: {gone:#?}\nall of it, to be golden.txt if that is meant:\n{}",
        registered.join("\n")
    );
    assert!(
        golden.iter().eq(registered.iter()),
        "golden.txt is not sorted, the gateway's first:\n{}",
        registered.join("\n")
    );
}

#[test]
fn the_tables_of_the_readme_have_the_same_metrics_with_the_same_labels_and_types() {
    let told: Vec<_> = README
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            let kind = cells.next()?;
            ["counter", "gauge", "histogram"].contains(&kind).then(|| format!("{name} {kind}"))
        })
        .collect();
    for line in GOLDEN.lines() {
        let (name, rest) = line.split_once(' ').unwrap();
        let kind = rest.split(' ').next().unwrap();
        let short = name.strip_prefix("nbd_gateway_agent_").or(name.strip_prefix("nbd_gateway_")).unwrap();
        let row = format!("{} {kind}", short.trim_end_matches("{}"));
        assert!(told.contains(&row), "the README's tables have no `{row}`; they have {told:#?}");
    }
    let known = |row: &&String| GOLDEN.contains(&format!("_{}{{", row.split(['{', ' ']).next().unwrap()));
    let unknown: Vec<_> = told.iter().filter(|row| !known(row)).collect();
    assert!(unknown.is_empty(), "the README has what is not there: {unknown:?}");
}

/// What a name tells Prometheus: a counter ends in `_total`, and nothing else does.
#[test]
fn names_follow_the_conventions_and_every_help_is_a_sentence() {
    for line in GOLDEN.lines() {
        let mut words = line.splitn(3, ' ');
        let (name, kind, help) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let name = name.split('{').next().unwrap();
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        assert!(help.ends_with('.') && help.len() > 15, "{line}");
    }
}

/// Everything that a page can have is in the list: also what was registered by another way than the others.
#[test]
fn a_page_has_nothing_that_the_golden_list_has_not() {
    let metrics = Metrics::new("0").unwrap();
    drop((
        metrics.export("a", None),
        metrics.resize("a", None, "t", ResizeDriver::Wire),
        metrics.hooks("a", None),
        metrics.listener("l"),
    ));
    drop(metrics.tenant("t", &["quota"]));
    let page = metrics.render().unwrap();
    for name in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(GOLDEN.lines().any(|line| line.starts_with(&format!("{name}{{"))), "{name} is not in the golden list");
    }
}
