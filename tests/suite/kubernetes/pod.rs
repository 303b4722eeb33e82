//! What a kubelet would do with the pod, done by hand: its volumes laid out of the ConfigMap and the Secrets, its root
//! read-only, its user, no privileges, its arguments and environment. Then come the probes, and whoever else comes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nbd_gateway_tests::pki::{Ca, Wish};
use rustix::process::geteuid;
use serde_json::{Value, json};

use super::container::Image;
use super::{Manifests, list, port, shipped, text};
use crate::gateway::binary;
use crate::place::Place;
use crate::process::{Call, Output};
use crate::readme::WITH_LOOPBACK;
use crate::trouble::{Trouble, ensure};

const TOKEN: &str = "0123456789abcdef";

/// The Secrets that an operator made, by name and key.
fn secrets(ca: &Ca) -> Value {
    let server = ca.issue(&Wish::server(&["localhost"]));
    json!({
        "nbd-gateway-token": { "token": TOKEN },
        "nbd-gateway-tls": { "tls.crt": server.certificate, "tls.key": server.key, "ca.crt": ca.pem() },
    })
}

/// The files of a volume: paths in it, and what is in them.
fn files(manifests: &Manifests, secrets: &Value, volume: &Value) -> Result<Vec<(String, String)>, Trouble> {
    let mut files = Vec::new();
    for source in list(&volume["projected"]["sources"]) {
        let generated = manifests.all.iter().flat_map(|(_, manifest)| list(&manifest["configMapGenerator"]));
        for map in generated.filter(|map| map["name"] == source["configMap"]["name"]) {
            for file in list(&map["files"]).iter().map(text) {
                files.push((file.to_owned(), fs::read_to_string(shipped("kubernetes").join(file))?));
            }
        }
        let secret = &source["secret"];
        for item in list(&secret["items"]) {
            files.push((
                text(&item["path"]).to_owned(),
                text(&secrets[text(&secret["name"])][text(&item["key"])]).to_owned(),
            ));
        }
    }
    Ok(files)
}

/// Gives it to the pod's group, as fsGroup does. Only root can; for all others the pod's user is another name of theirs.
fn give(path: &Path, group: u32, mode: u32) -> Result<(), Trouble> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if geteuid().is_root() {
        chown(path, None, Some(group))?;
    }
    Ok(())
}

/// Runs the pod, and `checks` once it is ready. They end the shell when something fails.
fn run(checks: &str) -> Result<Output, Trouble> {
    let (place, manifests) = (Place::fresh()?, Manifests::read()?);
    let (pod, container) = manifests.pod()?;
    let security = &pod["securityContext"];
    let [user, group] =
        ["runAsUser", "fsGroup"].map(|key| security[key].as_u64().and_then(|id| u32::try_from(id).ok()));
    let (Some(user), Some(group)) = (user, group) else { return Err(Trouble::new("the pod should say who it is")) };

    let ca = Ca::new("a CA of this suite");
    ca.client(&place.path("client"), "blue");
    let secrets = secrets(&ca);
    let mut mounts = String::new();
    for mount in list(&container["volumeMounts"]) {
        let folder = place.path(text(&mount["name"]));
        fs::create_dir(&folder)?;
        for volume in list(&pod["volumes"]).iter().filter(|volume| volume["name"] == mount["name"]) {
            let mode = volume["projected"]["defaultMode"].as_u64().and_then(|mode| u32::try_from(mode).ok());
            for (path, content) in files(&manifests, &secrets, volume)? {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().expect("a file is in a folder"))?;
                fs::write(&path, content)?;
                give(&path, group, mode.unwrap_or(0o644))?;
            }
        }
        give(&folder, group, 0o2775)?;
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        mounts += &format!("{} {} {mode}\n", folder.display(), text(&mount["mountPath"]));
    }
    fs::write(place.path("mounts"), mounts)?;
    let variables = list(&container["env"]);
    let environment: Vec<_> = variables.iter().map(|v| format!("{}={}", text(&v["name"]), text(&v["value"]))).collect();
    fs::write(place.path("env"), environment.join("\n"))?;
    fs::write(place.path("checks"), checks)?;

    let own = if geteuid().is_root() { &[][..] } else { &["--map-root-user"] };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/kubernetes/pod.sh");
    ensure(Image::read()?.entrypoint()? == ["nbd-gateway"], || "it is the program that is run here".to_owned())?;
    Call::new("unshare")
        .args(own)
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "/usr/bin/python3", "-c", WITH_LOOPBACK, "bash"])
        .args([script, place.root().to_owned()])
        .args([user.to_string(), group.to_string()])
        .arg(binary()?)
        .args(list(&container["args"]).iter().map(text))
        .inside(place.root())
        .run()
}

/// An HTTP probe of the kubelet's.
fn probe(container: &Value, which: &str) -> Result<String, Trouble> {
    let get = &container[which]["httpGet"];
    let port = port(container, &get["port"])?;
    Ok(format!("curl --silent --show-error --fail --max-time 5 http://127.0.0.1:{port}{}\n", text(&get["path"])))
}

#[test]
fn the_pod_answers_its_probes_and_serves_its_disk_to_those_with_a_certificate() -> Result<(), Trouble> {
    let manifests = Manifests::read()?;
    let (_, container) = manifests.pod()?;
    let nbd = port(container, &json!("nbd"))?;
    let checks = [
        probe(container, "readinessProbe")?,
        probe(container, "livenessProbe")?,
        format!("\"$gateway\" client info --tls-certificates \"$place/client\" nbds://localhost:{nbd}/demo\n"),
        format!("refused \"$gateway\" client info nbd://localhost:{nbd}/demo\n"),
        "inside nbd-gateway resize demo +1GiB\n".to_owned(),
        "inside nbd-gateway exports demo\n".to_owned(),
    ];
    let said = run(&checks.concat())?.success()?;
    ensure(said.stdout.contains("2 GiB"), || said.trouble("should have grown the disk").to_string())
}

#[test]
fn a_changed_config_map_is_in_force_after_a_reload() -> Result<(), Trouble> {
    let manifests = Manifests::read()?;
    let nbd = port(manifests.pod()?.1, &json!("nbd"))?;
    let checks = format!(
        "more() {{ \"$gateway\" client size --tls-certificates \"$place/client\" nbds://localhost:{nbd}/more; }}
        refused more
        chmod u+w \"$place/config/config.toml\"
        printf '[[export]]\\nname = \"more\"\\nbackend = \"memory:\"\\nsize = \"3MiB\"\\n' >>\"$place/config/config.toml\"
        inside nbd-gateway reload
        more\n"
    );
    let said = run(&checks)?.success()?;
    ensure(said.stdout.ends_with("3145728\n"), || said.trouble("should have served the new disk").to_string())
}

#[test]
fn prometheus_gets_metrics_from_the_pod_with_the_token_and_nothing_without() -> Result<(), Trouble> {
    let manifests = Manifests::read()?;
    let (_, container) = manifests.pod()?;
    let monitor = &manifests.one("ServiceMonitor", "nbd-gateway")?["spec"]["endpoints"][0];
    let url = format!("http://127.0.0.1:{}{}", port(container, &monitor["port"])?, text(&monitor["path"]));
    let kind = text(&monitor["authorization"]["type"]);
    let checks = format!(
        "curl --silent --show-error --fail --header 'Authorization: {kind} {TOKEN}' {url}\nrefused curl --silent --fail {url}\n"
    );
    let said = run(&checks)?.success()?;
    let pages = said.stdout.matches("\nnbd_gateway_build_info{").count();
    ensure(pages == 1, || said.trouble(&format!("should have shown one page, not {pages}")).to_string())
}

#[test]
fn nothing_in_the_pod_can_be_written_but_its_volume_and_it_has_no_privilege() -> Result<(), Trouble> {
    let checks = "
        inside touch /var/lib/nbd-gateway/here
        for path in /here /image/here /usr/here /etc/nbd-gateway/here; do refused inside touch $path; done
        inside cat /proc/self/status
        cat $root/proc/$server/status
    ";
    let said = run(checks)?.success()?;
    let none = said.stdout.matches("CapEff:\t0000000000000000").count();
    let user = said.stdout.matches("NoNewPrivs:\t1").count();
    ensure(none == 2 && user == 2, || said.trouble("should have run without privileges").to_string())?;
    let refused = said.stderr.matches("Read-only file system").count();
    ensure(refused == 4, || said.trouble(&format!("should have refused 4 files, not {refused}")).to_string())
}
