//! `explain` says what the gateway does, without one.

use std::path::Path;

use super::{blue, disk, unix};
use crate::gateway::{binary, configuration};
use crate::place::Place;
use crate::process::{Call, Output};
use crate::recipe::Recipe;
use crate::trouble::{Trouble, ensure};

fn explain(config: &Path, words: &[&str]) -> Result<Output, Trouble> {
    Call::new(&binary()?.display().to_string()).args(["explain", "--config"]).arg(config).args(words).run()
}

#[test]
fn explain_says_by_its_exit_code_and_in_words_who_may_do_what() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let clients = [
        "{ dn = \"CN=blue-*,O=Acme\" }",
        "{ address = \"10.1.0.0/16\", verbs = [\"list\", \"read\"] }",
        "{ uid = 1000 }",
    ];
    let listener = format!("[[listener]]\naddress = {:?}\n", unix(&place.path("g")));
    let config = configuration(&place, &(listener + &blue(&clients) + &disk("vm1", "")))?;
    for (words, code, told) in [
        (&["--as", "dn=CN=blue-7,OU=x,O=Acme", "vm1", "resize"][..], 0, "allowed: resize \"vm1\""),
        (&["--as", "dn=CN=red\\,CN=blue-7,O=Acme", "vm1", "list"], 1, "denied: list \"vm1\""),
        (&["--as", "address=::ffff:10.1.2.3", "vm1", "read"], 0, "tenant[0].clients[1] (line 9): fits"),
        (&["--as", "address=10.1.2.3", "vm1", "write"], 1, "and allows list read"),
        (&["--as", "uid=1000", "--as", "gid=5", "vm1", "write"], 0, "tenant[0].clients[2] (line 10): fits"),
        (&["--as", "uid=1001", "vm1", "list"], 1, "no entry fits, so nothing is allowed"),
        (&["vm1", "list"], 1, "no entry fits"),
        (&["--as", "uid=1000", "vm2", "list"], 1, "there is no such export"),
        (&["--json", "--as", "uid=1000", "vm1", "trim"], 0, "\"rule\": \"tenant[0].clients[2]\""),
    ] {
        let output = explain(&config, words)?;
        ensure(output.status.code() == Some(code) && output.stdout.contains(told), || {
            output.trouble(&format!("should have ended with {code} and said {told:?}")).to_string()
        })?;
    }
    for words in [&["--as", "listener=unix:/nowhere", "vm1", "list"][..], &["vm1", "own"], &["vm1"]] {
        let output = explain(&config, words)?;
        ensure(output.status.code() == Some(2), || output.trouble("should have been bad usage").to_string())?;
    }
    Ok(())
}

#[test]
fn the_recipe_of_who_may_do_what_works_as_printed() -> Result<(), Trouble> {
    let said = Recipe::named("access")?.run("/tmp/nbd-access")?;
    for told in [
        "allowed: resize \"vm1\"",
        "denied: write \"vm1\"",
        "fits (address = \"10.1.0.0/16\"), and allows list read",
        "export=\"golden\":",
    ] {
        ensure(said.contains(told), || format!("it did not say {told:?}: {said}"))?;
    }
    ensure(!said.contains("export=\"vm1\":"), || format!("it told of a hidden export: {said}"))?;
    let sizes: Vec<&str> = said.lines().filter(|line| line.contains(" bytes)") && !line.starts_with('$')).collect();
    ensure(sizes == ["128 MiB (134217728 bytes)"], || format!("it should have grown, and not shrunk: {said}"))
}
