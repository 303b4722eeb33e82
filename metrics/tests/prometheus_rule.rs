//! Promise: the rules that a cluster's Prometheus operator gets are the rules that are tested here.

const ALERTS: &str = include_str!("../alerts.yml");
const RULE: &str = include_str!("../../config/kubernetes/monitoring/prometheusrule.yaml");

/// What stands below `groups:`, and how far that is indented.
fn groups(file: &str) -> (usize, Vec<&str>) {
    let mut lines = file.lines().skip_while(|line| line.trim() != "groups:");
    let indent = lines.next().map_or(0, |line| line.len() - line.trim_start().len());
    (indent, lines.collect())
}

#[test]
fn the_prometheus_rule_for_kubernetes_has_exactly_the_alert_rules() {
    let (none, rules) = groups(ALERTS);
    let (indent, shipped) = groups(RULE);
    assert!(none == 0 && indent == 2 && !rules.is_empty());
    let wanted: Vec<_> =
        rules.iter().map(|line| if line.is_empty() { String::new() } else { format!("  {line}") }).collect();
    let first = wanted.iter().zip(&shipped).position(|(wanted, shipped)| wanted != shipped);
    assert!(
        first.is_none() && wanted.len() == shipped.len(),
        "prometheusrule.yaml is not alerts.yml any more, from line {} of the rules. To make it so again:\n\
         cd config/kubernetes/monitoring && sed -i '/^  groups:/q' prometheusrule.yaml && \
         sed '1,/^groups:/d; s/^./  &/' ../../../metrics/alerts.yml >>prometheusrule.yaml",
        first.unwrap_or(wanted.len().min(shipped.len())) + 1
    );
}
