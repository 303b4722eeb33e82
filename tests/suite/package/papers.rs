//! What the package brings for people: manual pages, completions, and a configuration whose examples are right.

use std::fs;

use super::Root;
use crate::process::{Call, installed};
use crate::trouble::{Trouble, ensure};

#[test]
fn its_manual_pages_render_without_a_complaint_and_name_commands_and_keys() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    for (page, words) in [
        ("man1/nbd-gateway.1", ["nbd-gateway client resize", "--token-file"]),
        ("man5/nbd-gateway.toml.5", ["[[export]]", "drain-timeout"]),
    ] {
        let packed = root.path(&format!("usr/share/man/{page}.gz"));
        let text = Call::new("gzip").args(["--decompress", "--stdout"]).arg(packed).run()?.success()?.stdout;
        let file = root.path("page");
        fs::write(&file, text)?;
        // Every kind of warning.
        let shown = Call::new("groff").args(["-man", "-Tutf8", "-ww", "-P-cbou"]).arg(&file).run()?.success()?;
        ensure(shown.stderr.is_empty(), || format!("{page}: {}", shown.stderr))?;
        for word in words {
            ensure(shown.stdout.contains(word), || format!("{page} says nothing of {word}"))?;
        }
    }
    Ok(())
}

#[test]
fn its_completions_complete_in_bash_and_are_what_zsh_and_fish_take() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    let script = root.path("usr/share/bash-completion/completions/nbd-gateway").display().to_string();
    let ask = format!(
        ". {script}; complete -p nbd-gateway; COMP_WORDS=(nbd-gateway client re); COMP_CWORD=2; \
         _nbd__gateway nbd-gateway re client; echo \"${{COMPREPLY[*]}}\""
    );
    let said = Call::new("bash").args(["-euc", &ask]).run()?.success()?.stdout;
    ensure(said.lines().last() == Some("resize read"), || format!("bash completes: {said}"))?;
    for (shell, file) in [
        ("zsh", "usr/share/zsh/vendor-completions/_nbd-gateway"),
        ("fish", "usr/share/fish/vendor_completions.d/nbd-gateway.fish"),
    ] {
        installed(shell)?;
        Call::new(shell).arg("-n").arg(root.path(file)).run()?.success()?;
    }
    Ok(())
}

#[test]
fn its_control_file_has_a_checksum_of_each_file_and_asks_for_no_essential_package() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    let sums = root.read("var/lib/dpkg/info/nbd-gateway.md5sums")?;
    let named: Vec<&str> = sums.lines().filter_map(|line| line.split_once("  ")).map(|(_, file)| file).collect();
    let wanted = super::FILES.iter().map(|file| file.trim_start_matches('/'));
    for file in wanted {
        ensure(named.contains(&file), || format!("no checksum of {file} in:\n{sums}"))?;
    }
    root.dpkg(&["--verify", "nbd-gateway"])?;
    let control =
        Call::new("dpkg-deb").args(["--field"]).arg(super::package()?).arg("Depends").run()?.success()?.stdout;
    ensure(!control.contains("init-system-helpers"), || control.clone())
}

#[test]
fn each_unit_names_its_manual_and_a_service_bounds_its_memory() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    for unit in ["nbd-gateway.service", "nbd-gateway-agent@.service", "nbd-gateway.socket"] {
        let text = root.read(&format!("lib/systemd/system/{unit}"))?;
        let says = |key: &str| text.lines().any(|line| line.starts_with(key));
        ensure(says("Documentation=man:nbd-gateway"), || format!("{unit} names no manual"))?;
        ensure(says("MemoryMax=") || unit.ends_with(".socket"), || format!("{unit} does not bound its memory"))?;
    }
    Ok(())
}

#[test]
fn the_examples_in_its_configuration_are_right_too() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    let text = root.read("etc/nbd-gateway/config.toml")?;
    let key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(example) if example.starts_with('[') || key(example) => example,
        _ => line,
    });
    let all: Vec<&str> = lines.collect();
    ensure(all.iter().filter(|line| line.starts_with("tenant = ")).count() == 2, || text.clone())?;
    let file = root.path("all.toml");
    fs::write(&file, all.join("\n"))?;
    let program = root.path("usr/bin/nbd-gateway").display().to_string();
    Call::new(&program).args(["check", "--config"]).arg(&file).run()?.success()?;
    Ok(())
}
