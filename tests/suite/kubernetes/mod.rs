//! Promise: the manifests in `config/kubernetes` are what Kubernetes takes, fit each other and the container file, and the
//! pod that they describe runs as they say. No cluster is here: `schemas` asks Kubernetes' own schemas, `agreement` reads
//! them beside each other, and `pod` does by hand what a kubelet would.

mod agreement;
mod container;
mod pod;
mod schemas;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::Call;
use crate::trouble::{Trouble, ensure};

/// A file of `config/`.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

/// What there is in YAML: for each folder, its manifests and its kustomization.
struct Manifests {
    /// File and document.
    all: Vec<(PathBuf, Value)>,
}

impl Manifests {
    /// All of `config/kubernetes`.
    fn read() -> Result<Self, Trouble> {
        let mut files = Vec::new();
        for folder in [shipped("kubernetes"), shipped("kubernetes/monitoring")] {
            for entry in fs::read_dir(folder)? {
                files.push(entry?.path());
            }
        }
        files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
        files.sort();
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/kubernetes/read.py");
        let read = Call::new("/usr/bin/python3").arg(reader).args(&files).run()?;
        ensure(!read.stderr.contains("No module named 'yaml'"), || {
            "Python has no YAML; run: apt-get install --yes python3-yaml".to_owned()
        })?;
        Ok(Self { all: serde_json::from_str(&read.success()?.stdout)? })
    }

    fn one(&self, kind: &str, name: &str) -> Result<&Value, Trouble> {
        let fits = |m: &&Value| m["kind"] == kind && m["metadata"]["name"] == name;
        let mut fitting = self.all.iter().map(|(_, manifest)| manifest).filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(manifest), None) => Ok(manifest),
            _ => Err(Trouble::new(format!("there should be one {kind} of the name {name}"))),
        }
    }

    /// The manifests that Kubernetes is given: all but the kustomizations.
    fn resources(&self) -> impl Iterator<Item = &Value> {
        self.all.iter().map(|(_, manifest)| manifest).filter(|m| m["kind"] != "Kustomization")
    }

    /// The gateway's pod: `spec` of the template, and its one container.
    fn pod(&self) -> Result<(&Value, &Value), Trouble> {
        let spec = &self.one("StatefulSet", "nbd-gateway")?["spec"]["template"]["spec"];
        let containers = list(&spec["containers"]);
        ensure(containers.len() == 1, || format!("the pod should have one container, and has {}", containers.len()))?;
        Ok((spec, &containers[0]))
    }
}

/// The elements of a list; none if it is not there.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text was expected, there is {value}"))
}

/// The number of a port that may be given by its name among the container's.
fn port(container: &Value, port: &Value) -> Result<u64, Trouble> {
    let named = || list(&container["ports"]).iter().find(|p| p["name"] == *port)?["containerPort"].as_u64();
    port.as_u64().or_else(named).ok_or_else(|| Trouble::new(format!("the container has no port {port}")))
}
