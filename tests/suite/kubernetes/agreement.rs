//! What has to be the same in several files is the same: ports, labels, Secrets, times and sizes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nbd_gateway_config::{AdminAddress, Config, ListenAddress};
use serde_json::Value;

use super::{Manifests, list, port, shipped, text};
use crate::trouble::{Trouble, ensure};

fn config() -> Result<Config, Trouble> {
    let file = shipped("kubernetes/config.toml");
    Config::load(&file).map_err(|problems| Trouble::new(problems.to_string()))
}

/// Whether `labels` are among those of the thing.
fn selects(labels: &Value, thing: &Value) -> bool {
    labels.as_object().is_some_and(|map| {
        !map.is_empty() && map.iter().all(|(label, value)| thing["metadata"]["labels"][label] == *value)
    })
}

#[test]
fn each_kustomization_takes_in_every_manifest_beside_it() -> Result<(), Trouble> {
    let manifests = Manifests::read()?;
    let kustomizations = manifests.all.iter().filter(|(_, manifest)| manifest["kind"] == "Kustomization");
    let mut taken = 0;
    for (file, kustomization) in kustomizations {
        let folder = file.parent().expect("a file is in a folder");
        let listed: BTreeSet<_> = list(&kustomization["resources"]).iter().map(|r| folder.join(text(r))).collect();
        let beside =
            manifests.all.iter().filter(|(other, m)| other.parent() == Some(folder) && m["kind"] != "Kustomization");
        let beside: BTreeSet<_> = beside.map(|(file, _)| file.clone()).collect();
        ensure(listed == beside, || format!("{} lists {listed:?}; there are {beside:?}", file.display()))?;
        ensure(kustomization["namespace"] == manifests.one("Namespace", "nbd-gateway")?["metadata"]["name"], || {
            format!("{} should put all into the namespace that there is", file.display())
        })?;
        taken += listed.len();
    }
    ensure(taken >= 6, || format!("only {taken} files are taken in"))
}

#[test]
fn services_policies_and_the_monitor_lead_to_where_the_gateway_listens() -> Result<(), Trouble> {
    let (manifests, config) = (Manifests::read()?, config()?);
    let template = &manifests.one("StatefulSet", "nbd-gateway")?["spec"]["template"];
    let (_, container) = manifests.pod()?;
    let ListenAddress::Tcp(nbd) = config.listeners[0].address else { return Err(Trouble::new("a listener on TCP")) };
    let Some(AdminAddress::Tcp(admin)) = config.admin else { return Err(Trouble::new("an admin interface on TCP")) };
    ensure(!nbd.ip().is_loopback() && !admin.ip().is_loopback(), || "other hosts can't reach it".to_owned())?;

    for (service, listening) in [("nbd-gateway", nbd), ("nbd-gateway-admin", admin)] {
        let service = manifests.one("Service", service)?;
        ensure(selects(&service["spec"]["selector"], template), || format!("{service} selects no pod"))?;
        let [target] = list(&service["spec"]["ports"]) else { return Err(Trouble::new("a service has one port")) };
        let reached = port(container, &target["targetPort"])?;
        ensure(reached == u64::from(listening.port()), || format!("{service} leads to {reached}, not {listening}"))?;
    }

    let policy = &manifests.one("NetworkPolicy", "nbd-gateway")?["spec"];
    ensure(selects(&policy["podSelector"]["matchLabels"], template), || "the policy selects no pod".to_owned())?;
    let open: Result<Vec<_>, _> = list(&policy["ingress"])
        .iter()
        .flat_map(|rule| list(&rule["ports"]))
        .map(|open| port(container, &open["port"]))
        .collect();
    ensure(open? == [nbd.port(), admin.port()].map(u64::from), || "the policy opens other ports".to_owned())?;

    let monitor = &manifests.one("ServiceMonitor", "nbd-gateway")?["spec"];
    let labels = &monitor["selector"]["matchLabels"];
    ensure(selects(labels, manifests.one("Service", "nbd-gateway-admin")?), || "no service is scraped".to_owned())?;
    ensure(!selects(labels, manifests.one("Service", "nbd-gateway")?), || "disks are scraped".to_owned())?;
    let admin_port = &manifests.one("Service", "nbd-gateway-admin")?["spec"]["ports"][0]["name"];
    ensure(monitor["endpoints"][0]["port"] == *admin_port, || format!("{monitor} names no port"))
}

#[test]
fn the_monitor_brings_the_token_that_the_gateway_reads() -> Result<(), Trouble> {
    let (manifests, config) = (Manifests::read()?, config()?);
    let (pod, container) = manifests.pod()?;
    let mount = &list(&container["volumeMounts"])[0];
    let token = config.token_file.ok_or_else(|| Trouble::new("a token file"))?;
    let within = token.strip_prefix(text(&mount["mountPath"])).map_err(|e| Trouble::new(e.to_string()))?;
    let sources = list(&list(&pod["volumes"])[0]["projected"]["sources"]);
    let secret = sources.iter().map(|source| &source["secret"]).find_map(|secret| {
        let item = list(&secret["items"]).iter().find(|item| Path::new(text(&item["path"])) == within)?;
        Some((&secret["name"], &item["key"]))
    });
    let brought = &manifests.one("ServiceMonitor", "nbd-gateway")?["spec"]["endpoints"][0]["authorization"];
    let brought = (&brought["credentials"]["name"], &brought["credentials"]["key"]);
    ensure(secret == Some(brought), || format!("the gateway reads {secret:?}, the monitor brings {brought:?}"))
}

#[test]
fn the_pod_has_the_time_and_the_memory_that_its_configuration_asks_for() -> Result<(), Trouble> {
    let (manifests, config) = (Manifests::read()?, config()?);
    let (pod, container) = manifests.pod()?;

    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap_or_default());
    let drained = config.limits.drain_timeout + Duration::from_secs(1);
    ensure(grace > drained, || format!("killed after {grace:?}, done after {drained:?}"))?;

    // README.md, "Limits", says what a gateway holds at most; 64 MiB for the program itself.
    let sessions = u64::from(config.limits.sessions_per_listener) * config.listeners.len() as u64;
    let session = u64::from(config.limits.largest_payload) + (128 << 10);
    let held = config.limits.tenant_bytes * config.tenants().len().max(1) as u64 + sessions * session + (80 << 20);
    let limit = text(&container["resources"]["limits"]["memory"]).strip_suffix("Gi").map(str::parse::<u64>);
    let Some(Ok(limit)) = limit else { return Err(Trouble::new("a memory limit in Gi")) };
    ensure(limit << 30 > held, || format!("a limit of {limit} GiB; sessions can make it hold {} MiB", held >> 20))
}

#[test]
fn the_metrics_have_no_label_that_the_operator_gives_to_targets() -> Result<(), Trouble> {
    let golden = fs::read_to_string(shipped("../metrics/golden.txt"))?;
    let labels: BTreeSet<_> = golden
        .lines()
        .filter_map(|line| line.split_once('{')?.1.split_once('}'))
        .flat_map(|(labels, _)| labels.split(','))
        .collect();
    ensure(labels.contains("export"), || "golden.txt has labels in braces".to_owned())?;
    let given = ["namespace", "service", "pod", "container", "endpoint", "job", "instance"];
    let clash: Vec<_> = given.iter().filter(|label| labels.contains(*label)).collect();
    ensure(clash.is_empty(), || format!("rules and panels would not find {clash:?}"))
}

#[test]
fn the_secrets_that_the_readme_makes_are_those_that_the_pod_needs() -> Result<(), Trouble> {
    let readme = fs::read_to_string(shipped("../README.md"))?;
    let manifests = Manifests::read()?;
    let sources = list(&list(&manifests.pod()?.0["volumes"])[0]["projected"]["sources"]);
    let secrets: Vec<_> = sources.iter().map(|source| &source["secret"]).filter(|secret| secret.is_object()).collect();
    ensure(secrets.len() == 2, || format!("two Secrets: {secrets:?}"))?;
    for secret in secrets {
        let line = format!("create secret generic {} ", text(&secret["name"]));
        let line = readme.lines().find(|l| l.contains(&line)).ok_or_else(|| Trouble::new(format!("README: {line}")))?;
        for item in list(&secret["items"]) {
            let key = text(&item["key"]);
            ensure(["literal", "file"].iter().any(|from| line.contains(&format!("--from-{from}={key}="))), || {
                format!("the README's `{line}` makes no {key}")
            })?;
        }
    }
    Ok(())
}
