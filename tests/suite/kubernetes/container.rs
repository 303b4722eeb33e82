//! What the container file says of the image, in the few instructions that matter to whoever runs it.

use std::fs;

use serde_json::Value;

use super::{Manifests, list, port, shipped, text};
use crate::trouble::{Trouble, ensure};

/// The container file's last stage.
pub(super) struct Image(String);

impl Image {
    pub(super) fn read() -> Result<Self, Trouble> {
        let file = fs::read_to_string(shipped("container/Containerfile"))?.replace("\\\n", " ");
        let last = file.rfind("\nFROM ").ok_or_else(|| Trouble::new("the container file has no FROM"))?;
        Ok(Self(file[last..].to_owned()))
    }

    /// What follows an instruction, which has to be there once.
    pub(super) fn says(&self, instruction: &str) -> Result<&str, Trouble> {
        let mut found = self.0.lines().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' '));
        match (found.next(), found.next()) {
            (Some(words), None) => Ok(words.trim()),
            _ => Err(Trouble::new(format!("the image's stage should have one {instruction}"))),
        }
    }

    /// The program that it is there to run.
    pub(super) fn entrypoint(&self) -> Result<Vec<String>, Trouble> {
        Ok(serde_json::from_str(self.says("ENTRYPOINT")?)?)
    }
}

#[test]
fn the_image_is_what_the_pod_expects() -> Result<(), Trouble> {
    let (image, manifests) = (Image::read()?, Manifests::read()?);
    let (pod, container) = manifests.pod()?;

    let command: Vec<Value> = serde_json::from_str(image.says("CMD")?)?;
    ensure(command == list(&container["args"]), || format!("CMD {command:?}, args {}", container["args"]))?;
    ensure(image.entrypoint()? == ["nbd-gateway"], || "the entry point is the program".to_owned())?;

    let user = format!("{}:{}", pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]);
    ensure(image.says("USER")? == user, || format!("the image should run as {user}"))?;

    let ports: Result<Vec<_>, Trouble> =
        list(&container["ports"]).iter().map(|p| port(container, &p["name"]).map(|p| p.to_string())).collect();
    let exposed = image.says("EXPOSE")?;
    ensure(ports?.join(" ") == exposed, || format!("EXPOSE {exposed}, and the pod has other ports"))?;

    let volume = image.says("VOLUME")?;
    let mounts = list(&container["volumeMounts"]);
    let state = mounts.iter().find(|m| m["name"] == "state").map(|m| text(&m["mountPath"]));
    ensure(state == Some(volume), || format!("VOLUME {volume}, and the pod has its state at {state:?}"))
}

#[test]
fn the_image_is_built_by_a_compiler_that_can() -> Result<(), Trouble> {
    let manifest = fs::read_to_string(shipped("../Cargo.toml"))?;
    let needed = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let needed = needed.ok_or_else(|| Trouble::new("Cargo.toml should tell rust-version"))?.trim_matches('"');
    let file = fs::read_to_string(shipped("container/Containerfile"))?;
    ensure(file.contains(&format!("ARG BUILD=docker.io/library/rust:{needed}-slim-")), || {
        format!("the container file should build with Rust {needed}")
    })
}
