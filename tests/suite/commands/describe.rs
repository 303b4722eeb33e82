//! check, schema, completions, man: what the program says about a configuration and about itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{fails, gateway};
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::trouble::{Trouble, ensure, eventually};

fn example() -> Result<String, Trouble> {
    Ok(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/example.toml"))?)
}

fn check(text: &str) -> Result<crate::process::Output, Trouble> {
    let place = Place::fresh()?;
    let file = place.path("config.toml");
    fs::write(&file, text)?;
    gateway(["check".as_ref(), "--config".as_ref(), file.as_os_str()])?.run()
}

#[test]
fn check_accepts_the_reference_configuration() -> Result<(), Trouble> {
    let said = check(&example()?)?.success()?;
    ensure(said.stdout.contains("no problems") && said.stderr.is_empty(), || said.trouble("said").to_string())
}

#[test]
fn check_and_the_start_and_a_reload_warn_of_two_exports_of_one_disk_with_both_names() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let other = backend.uri().replace("nbd+unix:///?", "nbd+unix:///%3F?");
    let (one, same) =
        (export("one", &backend.uri(), ""), export("same", &backend.uri().replace("?socket=/", "?socket=/./%2F"), ""));
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let said = check(&[listener, &one, &same].concat())?.success()?;
    let words = ["warning: exports \"one\", \"same\" have one disk", "quotas", "zero"];
    ensure(words.iter().all(|word| said.stderr.contains(word)), || said.trouble("said").to_string())?;
    let quiet = check(&[listener, &one, &export("other", &other, "")].concat())?.success()?;
    ensure(quiet.stderr.is_empty(), || quiet.trouble("said").to_string())?;
    let gateway = Gateway::start(&one)?;
    ensure(!gateway.whole_log().contains("share a disk"), || gateway.log_tail(9))?;
    gateway.write_down(&[&*one, &same].concat())?;
    gateway.operator(&["reload"])?.run()?.success()?;
    let told = |gateway: &Gateway| gateway.whole_log().contains("exports share a disk twins=exports \"one\", \"same\"");
    eventually("a warning of what is new", || told(&gateway))?;
    gateway.end()?;
    let gateway = Gateway::start(&[&*one, &same].concat())?;
    ensure(told(&gateway), || gateway.log_tail(9))?;
    gateway.end()
}

/// A link led a client into the ledger, and two names to one file.
#[test]
fn check_and_the_start_and_a_reload_refuse_templates_that_links_lead_into_each_other_or_the_state()
-> Result<(), Trouble> {
    let place = Place::fresh()?;
    for name in ["disks", "state"] {
        fs::create_dir(place.path(name))?;
        std::os::unix::fs::symlink(place.path(name), place.path(&format!("to-{name}")))?;
    }
    let file = |name: &str, at: &str| export(name, &format!("file:{}", place.path(at).display()), "size = \"1MiB\"");
    let (plain, twice, inside) = (file("a/*", "disks/{}"), file("b/*", "to-disks/b-{}"), file("c/*", "to-state/{}"));
    let head = format!("state = {:?}\n[[listener]]\naddress = \"127.0.0.1:0\"\n", place.path("state"));
    for (tables, words) in [
        (&twice, "export \"b/*\": backend: `file:"),
        (&inside, "which is the state directory, with the ledger: use a directory that holds nothing but disks"),
    ] {
        let text = [&head, &plain, tables.as_str()].concat();
        let said = check(&text)?;
        ensure(said.status.code() == Some(2) && said.stderr.contains(words), || said.trouble("said").to_string())?;
        fs::write(place.path("config.toml"), &text)?;
        let said = gateway(["serve".as_ref(), "--config".as_ref(), place.path("config.toml").as_os_str()])?.run()?;
        ensure(!said.status.success() && said.stderr.contains(words), || said.trouble("said").to_string())?;
    }
    let gateway = Gateway::start(&plain)?.expecting_errors();
    gateway.write_down(&[&*plain, &twice].concat())?;
    let said = gateway.operator(&["reload"])?.run()?;
    let words = "two exports on one file destroy each other's data";
    ensure(!said.status.success() && said.stderr.contains(words), || said.trouble("said").to_string())?;
    gateway.end()
}

#[test]
fn check_tells_every_problem_at_once_with_its_key_and_an_example() -> Result<(), Trouble> {
    let wrong = "
        stat = \"/tmp\"
        [[listener]]
        address = \"nowhere\"
        [[export]]
        name = \"a\"
        backend = \"http://x\"
        lanes = 0
        [[export]]
        name = \"b/*\"
        backend = \"nbd://h/fixed\"
        [limits]
        largest-payload = \"1000\"
        handshake-timeout = \"10\"
    ";
    let output = check(wrong)?;
    let keys = [
        "stat:",
        "listener[0].address:",
        "export[0].backend:",
        "export[0].lanes:",
        "export[1].backend:",
        "limits.largest-payload:",
        "limits.handshake-timeout:",
    ];
    fails(&output, 2, &keys)?;
    let count = output.stderr.lines().filter(|line| line.contains("config.toml:")).count();
    ensure(count == keys.len(), || output.trouble(&format!("told {count} problems of {}", keys.len())).to_string())?;
    let examples = output.stderr.matches("for example:").count();
    // What could stand in place of an unknown key is a guess, and for `stat` there is one: `state`.
    ensure(examples >= keys.len() - 1 && output.stderr.contains("`state`"), || {
        output.trouble("lacks examples").to_string()
    })
}

#[test]
fn check_of_a_file_that_is_not_there_or_no_toml_says_so_and_exits_with_2() -> Result<(), Trouble> {
    let missing = gateway(["check", "--config", "/nowhere/x.toml"])?.run()?;
    fails(&missing, 2, &["/nowhere/x.toml", "No such file"])?;
    fails(&check("[[listener]\n")?, 2, &["config.toml:1:", "not TOML"])?;
    fails(&gateway(["check"])?.run()?, 2, &["--config <FILE>"])
}

#[test]
fn serve_refuses_a_wrong_configuration_as_check_does() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("config.toml");
    fs::write(&file, "[[export]]\nname = \"a\"\nbackend = \"ftp://x\"\n")?;
    let [served, checked] = ["serve", "check"]
        .map(|command| gateway([command.as_ref(), "--config".as_ref(), file.as_os_str()]).and_then(Call::run));
    let (served, checked) = (served?, checked?);
    fails(&served, 2, &["export[0].backend:", "listener"])?;
    assert_eq!(served.stderr, checked.stderr);
    Ok(())
}

/// Every key of the reference configuration, switched off or not, as `section.key`.
fn keys(text: &str) -> BTreeSet<(String, String)> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').map(|line| line.trim_matches(['[', ']'])) {
            section = name.to_owned();
        }
        let Some((key, _)) = line.split_once(" = ") else { continue };
        if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            keys.insert((section.clone(), key.to_owned()));
        }
    }
    keys
}

/// The tables that the schema allows at a path of sections, through lists and alternatives.
fn tables<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
    if schema.get("properties").is_some() {
        found.push(schema);
    }
    if let Some(items) = schema.get("items") {
        tables(items, found);
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        schema.get(word).and_then(Value::as_array).into_iter().flatten().for_each(|choice| tables(choice, found));
    }
}

fn describes(schema: &Value, section: &str, key: &str) -> bool {
    let mut here = vec![schema];
    for part in section.split('.').filter(|part| !part.is_empty()).chain([key]) {
        let mut inside = Vec::new();
        here.iter().for_each(|schema| tables(schema, &mut inside));
        here = inside.iter().filter_map(|table| table["properties"].get(part)).collect();
    }
    here.iter().any(|property| property.get("description").is_some_and(|text| !text.as_str().unwrap_or("").is_empty()))
}

#[test]
fn the_schema_is_json_and_describes_every_key_of_the_reference_configuration() -> Result<(), Trouble> {
    let schema: Value = serde_json::from_str(&gateway(["schema"])?.run()?.success()?.stdout)?;
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let keys = keys(&example()?);
    ensure(keys.len() > 30, || format!("the reference configuration has only these keys: {keys:?}"))?;
    let silent: Vec<_> = keys.iter().filter(|(section, key)| !describes(&schema, section, key)).collect();
    ensure(silent.is_empty(), || format!("the schema describes none of {silent:?}"))
}

#[test]
fn bash_completes_commands_and_options_by_the_script() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let script = place.path("completion.bash");
    fs::write(&script, gateway(["completions", "bash"])?.run()?.success()?.stdout)?;
    let complete = |words: &str| {
        let program = format!(
            "set -eu; . {}; function=$(complete -p nbd-gateway | sed 's/.*-F *//; s/ .*//'); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             COMPREPLY=(); \"$function\" nbd-gateway \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        Call::new("bash").args(["--norc", "-c", &program]).run()?.success().map(|output| output.stdout)
    };
    let commands = complete("nbd-gateway ''")?;
    for command in ["serve", "check", "client", "schema", "completions", "man"] {
        ensure(commands.lines().any(|line| line == command), || format!("{command} is not among {commands}"))?;
    }
    ensure(complete("nbd-gateway check --c")?.trim() == "--config", || "check --c does not complete".into())?;
    let clients = complete("nbd-gateway client ''")?;
    ensure(["info", "size", "read", "write"].iter().all(|word| clients.contains(word)), || clients.clone())
}

#[test]
fn every_shell_has_a_script() -> Result<(), Trouble> {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = gateway(["completions", shell])?.run()?.success()?.stdout;
        ensure(script.contains("nbd-gateway"), || format!("{shell}: {script}"))?;
    }
    fails(&gateway(["completions", "tcsh"])?.run()?, 2, &["'tcsh'", "bash"])
}

#[test]
fn the_manual_page_renders_without_complaint_and_tells_every_command() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let page = place.path("nbd-gateway.1");
    fs::write(&page, gateway(["man"])?.run()?.success()?.stdout)?;
    // groff is part of every Debian that has man; -ww is all warnings that it knows.
    let rendered = Call::new("groff").args(["-man", "-Tutf8", "-ww", "-P-cbou"]).arg(&page).run()?.success()?;
    ensure(rendered.stderr.is_empty(), || rendered.trouble("complained").to_string())?;
    let text = rendered.stdout.to_uppercase();
    for section in ["NAME", "SYNOPSIS", "NBD-GATEWAY SERVE", "NBD-GATEWAY CHECK", "NBD-GATEWAY CLIENT READ"] {
        ensure(text.lines().any(|line| line.trim() == section), || format!("no section {section} in\n{text}"))?;
    }
    ensure(text.contains("EXIT STATUS"), || format!("no exit codes in\n{text}"))
}
