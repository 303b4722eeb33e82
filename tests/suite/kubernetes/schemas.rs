//! Whether Kubernetes would take the manifests: its own schemas, strictly, of the oldest version that is meant and of the
//! newest at hand. The Prometheus operator's are not to be had as schemas, so its two are held to the few fields used.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Manifests, list};
use crate::place::Place;
use crate::process::{Call, Output};
use crate::trouble::{Trouble, ensure};

/// 1.29 is the first with ReadWriteOncePod for good.
const VERSIONS: [&str; 2] = ["1.29", "1.37"];

/// Whose schemas Kubernetes itself does not have.
const OPERATOR: &str = "monitoring.coreos.com/v1";

/// The Python that has the schemas, as `tests/suite/kubernetes/prepare` leaves it.
fn python() -> Result<PathBuf, Trouble> {
    let target = std::env::current_exe()?.ancestors().nth(3).map(Path::to_owned);
    let folder = target.ok_or_else(|| Trouble::new("the suite runs outside a target directory"))?;
    let folder = folder.join("suite-kubernetes");
    let python = folder.join("bin/python");
    let prepared = fs::read_dir(&folder).is_ok_and(|mut all| {
        all.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("stamp-")))
    });
    ensure(prepared, || {
        let folder = folder.display();
        format!(
            "no schemas of Kubernetes in {folder}; with PyPI in reach, run: tests/suite/kubernetes/prepare {folder}"
        )
    })?;
    Ok(python)
}

fn fits(manifest: &Value) -> Result<Output, Trouble> {
    let place = Place::fresh()?;
    let file = place.path("manifest.json");
    fs::write(&file, manifest.to_string())?;
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/kubernetes/fits.py");
    Call::new(&python()?.display().to_string()).arg(checker).args(VERSIONS).reading(&file).run()
}

#[test]
fn every_manifest_fits_the_schemas_of_kubernetes() -> Result<(), Trouble> {
    let manifests = Manifests::read()?;
    let (operators, own): (Vec<_>, Vec<_>) = manifests.resources().partition(|m| m["apiVersion"] == OPERATOR);
    ensure(own.len() >= 5 && operators.len() == 2, || format!("{} and {} manifests", own.len(), operators.len()))?;
    for manifest in own {
        fits(manifest)?.success()?;
    }
    Ok(())
}

#[test]
fn a_key_that_kubernetes_does_not_know_is_noticed() -> Result<(), Trouble> {
    let mut manifest = Manifests::read()?.one("StatefulSet", "nbd-gateway")?.clone();
    manifest["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = json!({});
    let said = fits(&manifest)?;
    let noticed = !said.status.success() && said.stderr.contains("'livenessProb' was unexpected");
    ensure(noticed, || said.trouble("should have noticed a key that is wrong").to_string())
}

/// The keys of a map are all among these.
fn only(value: &Value, keys: &[&str]) -> Result<(), Trouble> {
    let map = value.as_object().ok_or_else(|| Trouble::new(format!("a map was expected, there is {value}")))?;
    let unknown: Vec<_> = map.keys().filter(|key| !keys.contains(&key.as_str())).collect();
    ensure(unknown.is_empty(), || format!("{unknown:?} should be among {keys:?}"))
}

#[test]
fn what_the_prometheus_operator_gets_has_only_fields_that_it_knows() -> Result<(), Trouble> {
    let manifests = Manifests::read()?;
    let monitor = manifests.one("ServiceMonitor", "nbd-gateway")?;
    let rule = manifests.one("PrometheusRule", "nbd-gateway")?;
    for manifest in [monitor, rule] {
        ensure(manifest["apiVersion"] == OPERATOR, || format!("of {OPERATOR}: {manifest}"))?;
        only(manifest, &["apiVersion", "kind", "metadata", "spec"])?;
    }
    only(&monitor["spec"], &["selector", "endpoints"])?;
    only(&monitor["spec"]["selector"], &["matchLabels"])?;
    for endpoint in list(&monitor["spec"]["endpoints"]) {
        only(endpoint, &["port", "path", "interval", "authorization"])?;
        only(&endpoint["authorization"], &["type", "credentials"])?;
        only(&endpoint["authorization"]["credentials"], &["name", "key"])?;
    }
    only(&rule["spec"], &["groups"])?;
    for group in list(&rule["spec"]["groups"]) {
        only(group, &["name", "rules"])?;
        for rule in list(&group["rules"]) {
            only(rule, &["alert", "expr", "for", "labels", "annotations"])?;
        }
    }
    Ok(())
}
