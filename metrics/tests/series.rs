//! Promise: the number of series is bounded by the configuration and a constant, whatever names clients make up.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that meets the unexpected must fail at once")]

use nbd_gateway_metrics::{ExportMetrics, HookMetrics, Metrics, ResizeDriver, ResizeMetrics};

fn series(page: &str) -> usize {
    page.lines().filter(|line| !line.starts_with('#')).count()
}

fn open(metrics: &Metrics, name: &str) -> (ExportMetrics, ResizeMetrics, HookMetrics) {
    let template = Some("vm*");
    let resize = metrics.resize(name, template, "blue", ResizeDriver::Wire);
    (metrics.export(name, template), resize, metrics.hooks(name, template))
}

#[test]
fn ten_thousand_exports_of_a_template_make_about_a_hundred_thousand_series() {
    let metrics = Metrics::new("0").unwrap();
    let before = series(&metrics.render().unwrap());
    drop(open(&metrics, "vm0"));
    let each = series(&metrics.render().unwrap()) - before;
    (1..10_000).for_each(|n| drop(open(&metrics, &format!("vm{n}"))));
    let page = metrics.render().unwrap();
    let all = series(&page);
    assert!(all <= before + 1001 * each, "{all} series, {each} for each export");
    assert!(each <= 120, "{each} series for each export");
    assert!(all < 125_000, "{all} series");
    assert_eq!(page.lines().filter(|line| line.starts_with("nbd_gateway_lane_up{")).count(), 1001);
}

#[test]
fn exports_that_share_a_series_add_up_in_it() {
    let metrics = Metrics::new("0").unwrap();
    (0..1000).for_each(|n| drop(metrics.hooks(&format!("vm{n}"), Some("vm*"))));
    let (one, two) = (open(&metrics, "vmone"), open(&metrics, "vmtwo"));
    one.1.size.set(5);
    two.1.size.set(7);
    two.0.lane_up.set(1);
    let says = |line: &str| {
        let page = metrics.render().unwrap();
        assert!(page.lines().any(|l| l == line), "no {line} in\n{page}");
    };
    says(r#"nbd_gateway_export_size_bytes{export="vm*",tenant="blue"} 12"#);
    drop(one);
    says(r#"nbd_gateway_export_size_bytes{export="vm*",tenant="blue"} 7"#);
    says(r#"nbd_gateway_lane_up{export="vm*"} 1"#);
    drop(two);
    says(r#"nbd_gateway_lane_up{export="vm*"} 0"#);
}

/// They fell under a label that all shared, beside whatever clients had made up.
#[test]
fn what_the_configuration_names_has_series_of_its_own_however_many_names_clients_make_up() {
    let metrics = Metrics::new("0").unwrap();
    (0..2000).for_each(|n| drop(open(&metrics, &format!("vm{n}"))));
    drop(open(&metrics, "vm*"));
    for name in ["added", "other", "vm2"] {
        metrics.export(name, None).open.set(7);
    }
    let page = metrics.render().unwrap();
    for line in ["{export=\"added\"} 7", "{export=\"other\"} 7", "{export=\"vm2\"} 7", "{export=\"vm*\"} 0"] {
        assert!(page.contains(&format!("nbd_gateway_export_open{line}")), "no {line}");
    }
    assert!(!page.contains("\"vm1999\""));
    // What is closed gives its place back.
    metrics.forget_export("vm0");
    drop(open(&metrics, "vm1999"));
    let page = metrics.render().unwrap();
    assert!(page.contains("\"vm1999\"") && !page.contains("\"vm0\""));
}

/// A name that could not be opened was made up, as far as anybody knows.
#[test]
fn a_name_that_could_not_be_opened_makes_no_series() {
    let metrics = Metrics::new("0").unwrap();
    drop(metrics.export("known", None));
    metrics.open_failed("known", None);
    metrics.open_failed("made/up", Some("made/*"));
    let page = metrics.render().unwrap();
    assert!(page.contains("nbd_gateway_export_open_failures_total{export=\"known\"} 1"), "{page}");
    assert!(page.contains("nbd_gateway_export_open_failures_total{export=\"made/*\"} 1"), "{page}");
    assert!(!page.contains("made/up"), "{page}");
}

#[test]
fn every_way_to_resize_and_every_end_has_its_durations_from_the_start() {
    let page = Metrics::new("0").unwrap().render().unwrap();
    for result in ["ok", "refused", "quarantined", "unsettled"] {
        let line = format!("nbd_gateway_resize_duration_seconds_count{{driver=\"qmp\",result=\"{result}\"}} 0");
        assert!(page.lines().any(|l| l == line), "no {line}");
    }
}

/// Reloads that bring and take exports must not fill the page, nor the places that names have.
#[test]
fn what_is_forgotten_leaves_nothing_behind_and_makes_room() {
    let metrics = Metrics::new("0").unwrap();
    let other = metrics.export("stays", None);
    let before = series(&metrics.render().unwrap());
    let reasons = ["quota", "rate"];
    for round in 0..1500 {
        let (name, tenant) = (format!("vm{round}"), format!("t{round}"));
        let handles = (open(&metrics, &name), metrics.tenant(&tenant, &reasons));
        handles.1.uses(Some(5), 4, 3, 2);
        metrics.forget_export(&name);
        metrics.forget_tenant(&tenant, &reasons);
        handles.1.denied("quota");
        metrics.forget_tenant(&tenant, &reasons);
    }
    let page = metrics.render().unwrap();
    assert_eq!(series(&page), before, "{page}");
    drop(open(&metrics, "last"));
    assert!(metrics.render().unwrap().contains("lane_up{export=\"last\"}"), "there was room for it");
    metrics.forget_export("nobody");
    other.open.set(1);
    assert!(metrics.render().unwrap().contains("export_open{export=\"stays\"} 1"));
}

#[test]
fn a_configuration_that_was_refused_is_told_until_one_is_in_force() {
    let metrics = Metrics::new("0").unwrap();
    let says = |success: u8, at: i64| {
        let page = metrics.render().unwrap();
        for line in [
            format!("nbd_gateway_config_reload_success {success}"),
            format!("nbd_gateway_config_last_reload_success_timestamp_seconds {at}"),
        ] {
            assert!(page.lines().any(|l| l == line), "no {line} in\n{page}");
        }
    };
    metrics.config_in_force(1000);
    says(1, 1000);
    metrics.config_refused();
    says(0, 1000);
    metrics.config_in_force(2000);
    says(1, 2000);
}
