//! A Prometheus scrapes a gateway that works, as the README says, and is asked all that panels and rules ask.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use nbd_gateway_tests::pki::Ca;
use serde_json::Value;

use super::server::{Prometheus, secret};
use super::shipped;
use crate::gateway::Gateway;
use crate::place::Place;
use crate::process::{Call, DEADLINE};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

/// The names of the metrics that a query has.
fn names(query: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    query.split(|c| !is_word(c)).filter(|word| word.starts_with("nbd_gateway_")).map(str::to_owned).collect()
}

/// The gateway's metrics, as a query names them.
fn golden() -> Result<BTreeSet<String>, Trouble> {
    let golden = fs::read_to_string(shipped("golden.txt"))?;
    let lines = golden.lines().filter(|line| !line.starts_with("nbd_gateway_agent_"));
    Ok(lines
        .filter_map(|line| {
            let (name, rest) = line.split_once('{')?;
            Some(if rest.contains("} histogram ") { format!("{name}_bucket") } else { name.to_owned() })
        })
        .collect())
}

/// What every panel and the annotation ask, with the variables as Grafana fills them in for "All".
fn asked_by_panels() -> Result<Vec<String>, Trouble> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(shipped("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let annotations = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    let filled_in = |expr: &str| {
        expr.replace("$tenant", ".*")
            .replace("$export", ".*")
            .replace("$__rate_interval", "1m")
            .replace("$__range", "1m")
    };
    Ok(targets.chain(annotations).filter_map(|target| target["expr"].as_str()).map(filled_in).collect())
}

/// The configuration in the README, for this gateway; it is looked at five times a second.
fn configuration(admin: &str, token_file: &str) -> Result<String, Trouble> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let section = readme.split_once("<!-- scrape -->").and_then(|(_, rest)| rest.split_once("<!-- /scrape -->"));
    let yaml = section.and_then(|(section, _)| section.split("```").nth(1)?.strip_prefix("yaml\n"));
    let mut yaml = yaml.ok_or_else(|| Trouble::new("README.md has no scrape configuration"))?.to_owned();
    let rules = shipped("alerts.yml").display().to_string();
    for (theirs, ours) in [
        ("/etc/prometheus/nbd-gateway.token", token_file),
        ("/etc/prometheus/nbd-gateway-alerts.yml", rules.as_str()),
        ("10.0.0.5:9809", admin),
    ] {
        ensure(yaml.matches(theirs).count() == 1, || format!("the README's configuration has no {theirs}:\n{yaml}"))?;
        yaml = yaml.replace(theirs, ours);
    }
    Ok(format!("global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n  evaluation_interval: 200ms\n\n{yaml}"))
}

/// Reads, writes, a read past the end, a resize and one that is refused.
fn load(gateway: &Gateway, vm: &mut RawClient, far: &mut RawClient) -> Result<(), Trouble> {
    for client in [vm, far] {
        client.write(0, &[7; 4096])?.success()?;
        client.read(0, 4096)?;
        client.ask(Ask::read(9, 1 << 40, 512), &[])?;
    }
    let order = |size: &str| gateway.operator(&["resize", "vm", size])?.run();
    order("+64KiB")?.success()?;
    ensure(!order("100MiB")?.status.success(), || "a resize beyond the quota was done".into())
}

#[test]
fn a_real_prometheus_answers_every_panel_and_no_rule_fires_until_it_should() -> Result<(), Trouble> {
    let (place, backend) = (Place::fresh()?, Backend::start(Script::default())?);
    let token = secret(&place, "token", "a-token-of-this-suite")?;
    // Nobody comes by it; its certificates count.
    let certificates = place.path("pki");
    Ca::new("a CA of this suite").listener(&certificates, &["localhost"]);
    let tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"require\"\ntls-certificates = {certificates:?}\n\n[admin]\naddress = \"0.0.0.0:0\"\ntoken-file = {token:?}\n\n\
         [[tenant]]\nname = \"blue\"\nquota = \"64MiB\"\n\n\
         [[export]]\nname = \"vm\"\ntenant = \"blue\"\nbackend = \"memory:\"\nsize = \"8MiB\"\n\
         [[export.notify]]\nexec = [\"true\"]\n\n\
         [[export]]\nname = \"far\"\ntenant = \"blue\"\nbackend = {:?}\n[export.resize]\npoll = \"100ms\"\n",
        place.path("g").display(),
        backend.uri(),
    );
    let gateway = Gateway::start_in(place, &tables)?.expecting_errors();
    let admin = gateway.told("admin on http://").replace("0.0.0.0", "127.0.0.1");
    let refused = Call::new("curl").args(["--silent", "--fail", &format!("http://{admin}/metrics")]).run()?;
    ensure(!refused.status.success(), || "anybody may scrape it".into())?;
    let prometheus = Prometheus::start(Place::fresh()?, &configuration(&admin, &token)?)?;
    let (mut vm, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let (mut far, _) = RawClient::open(gateway.socket(), "far", Framing::Structured)?;

    let golden = golden()?;
    let is_there = |query: &String| names(query).is_subset(&golden);
    let panels: Vec<_> = asked_by_panels()?.into_iter().filter(is_there).collect();
    ensure(panels.len() >= 25, || format!("only {} panels ask for what is there", panels.len()))?;
    let mut open: Vec<String> = panels.into_iter().chain(golden.iter().cloned()).collect();
    let end = Instant::now() + DEADLINE;
    while !open.is_empty() {
        ensure(Instant::now() < end, || {
            format!("Prometheus has no data for {open:#?}; it scrapes {:#?}", prometheus.targets())
        })?;
        load(&gateway, &mut vm, &mut far)?;
        let mut still = Vec::new();
        for query in open {
            if !prometheus.knows(&query)? {
                still.push(query);
            }
        }
        open = still;
    }

    let rules = prometheus.rules()?;
    ensure(rules.len() >= 10, || format!("only {} rules", rules.len()))?;
    eventually("all rules are evaluated", || {
        prometheus.rules().is_ok_and(|rules| rules.iter().all(|rule| rule["health"] == "ok"))
    })?;
    for rule in prometheus.rules()? {
        ensure(rule["state"] == "inactive", || format!("of a gateway that is well: {rule:#}"))?;
    }
    backend.meddle(|bytes| bytes.truncate(4096));
    eventually("the loss of bytes is told", || {
        let firing = |rule: &Value| rule["name"] == "NbdExportQuarantined" && rule["state"] == "firing";
        let runbook = |rule: &Value| {
            rule["alerts"][0]["annotations"]["runbook"]
                .as_str()
                .is_some_and(|text| text.contains("`nbd-gateway resize far SIZE --adopt`"))
        };
        prometheus.rules().is_ok_and(|rules| rules.iter().any(|rule| firing(rule) && runbook(rule)))
    })?;
    vm.leave()?;
    far.leave()?;
    prometheus.end()?;
    gateway.end()
}
