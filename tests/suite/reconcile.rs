//! Promise: what is on record can be held against what there is, and be made to agree; nothing that is owed is forgotten.

use std::fs;

use serde_json::Value;

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Output;
use crate::scripted::backend::Backend;
use crate::scripted::numbers::{cmd, info, opt};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const MIB: u64 = 1 << 20;

fn enter(gateway: &Gateway, name: &str) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.learn(opt::GO, name, &[info::RESIZE])?;
    Ok(client)
}

/// What the tenant uses, and what nobody knows of it.
fn used(gateway: &Gateway) -> Result<(u64, u64), Trouble> {
    let said = gateway.operator(&["tenants", "--json"])?.run()?.success()?.stdout;
    let tenants: Value = serde_json::from_str(&said)?;
    Ok((tenants[0]["used"].as_u64().expect("a size"), tenants[0]["unsettled"].as_u64().expect("a size")))
}

/// The exit code, and each export's name, size on record, size now, drift and state.
fn reconcile(gateway: &Gateway, how: &str) -> Result<(Option<i32>, Vec<String>), Trouble> {
    let said = gateway.operator(&["ledger", "reconcile", how, "--json"])?.run()?;
    let all: Value =
        serde_json::from_str(&said.stdout).map_err(|e| Trouble::new(format!("{e}: {}{}", said.stdout, said.stderr)))?;
    let line = |account: &Value| {
        let word = |key: &str| account[key].as_str().unwrap_or_default().to_owned();
        let of = |key: &str| account[key].as_i64().map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        format!("{} {} {} {} {}", word("name"), of("record"), of("measured"), of("drift"), word("state"))
    };
    Ok((said.status.code(), all["exports"].as_array().expect("a list").iter().map(line).collect()))
}

fn in_words(gateway: &Gateway, how: &str) -> Result<Output, Trouble> {
    gateway.operator(&["ledger", "reconcile", how])?.run()
}

#[test]
fn what_another_hand_did_to_a_backend_is_drift_until_it_is_applied() -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let more = "tenant = \"blue\"\n[export.resize]\npoll = \"1h\"\n";
    let tables = "[[tenant]]\nname = \"blue\"\n\n".to_owned() + &export("disk", &backend.uri(), more);
    let gateway = Gateway::start(&tables)?;
    assert_eq!(in_words(&gateway, "--dry-run")?.success()?.stdout, "the ledger has no exports\n");
    let client = enter(&gateway, "disk")?;
    let agreed = format!("disk {} {} 0 agrees", 8 * MIB, 8 * MIB);
    assert_eq!(reconcile(&gateway, "--dry-run")?, (Some(0), vec![agreed]));
    backend.meddle(|disk| disk.resize(10 << 20, 0));
    let drifted = format!("disk {} {} {} drifted", 8 * MIB, 10 * MIB, 2 * MIB);
    for _ in 0..2 {
        assert_eq!(reconcile(&gateway, "--dry-run")?, (Some(1), vec![drifted.clone()]));
        assert_eq!(used(&gateway)?, (8 * MIB, 0), "a dry run changes nothing");
    }
    let shown = in_words(&gateway, "--dry-run")?.stdout;
    assert_eq!(
        shown,
        "EXPORT  TENANT  RECORD    NOW    DRIFT  HELD  UNSETTLED  STATE\n\
         disk    blue      8MiB  10MiB  2097152    0B         0B  drifted\n"
    );
    let corrected = format!("disk {} {} {} corrected", 8 * MIB, 10 * MIB, 2 * MIB);
    assert_eq!(reconcile(&gateway, "--apply")?, (Some(0), vec![corrected]));
    assert_eq!(used(&gateway)?, (10 * MIB, 0));
    let agreed = format!("disk {} {} 0 agrees", 10 * MIB, 10 * MIB);
    assert_eq!(reconcile(&gateway, "--dry-run")?, (Some(0), vec![agreed]));
    client.leave()?;
    gateway.end()
}

#[test]
fn an_export_that_nobody_has_open_is_opened_to_be_measured() -> Result<(), Trouble> {
    let backend = Backend::growing()?;
    let tables = "[[tenant]]\nname = \"blue\"\n\n".to_owned()
        + &export("disk", &backend.uri(), "tenant = \"blue\"\n[export.resize]\npoll = \"1h\"\n");
    let mut gateway = Gateway::start(&tables)?;
    enter(&gateway, "disk")?.leave()?;
    gateway.kill()?;
    backend.meddle(|disk| disk.resize(9 << 20, 0));
    gateway.start_again()?;
    assert_eq!(used(&gateway)?, (8 * MIB, 0));
    let drifted = format!("disk {} {} {} drifted", 8 * MIB, 9 * MIB, MIB);
    assert_eq!(reconcile(&gateway, "--dry-run")?, (Some(1), vec![drifted]));
    assert_eq!(used(&gateway)?, (9 * MIB, 0), "it counts at what it has from its opening on");
    assert_eq!(reconcile(&gateway, "--apply")?.0, Some(0));
    gateway.end()
}

#[test]
fn what_left_the_configuration_is_forgotten_when_an_operator_says_so_and_nothing_is_owed() -> Result<(), Trouble> {
    let (here, gone, unknown) = (Backend::growing()?, Backend::growing()?, Backend::growing()?);
    let place = Place::fresh()?;
    fs::write(place.path("token"), "a-token-of-this-suite")?;
    let top = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {:?}\n\n\
         [[tenant]]\nname = \"blue\"\n\n",
        place.path("g").display(),
        place.path("token")
    );
    let of_blue = |name: &str, backend: &Backend| export(name, &backend.uri(), "tenant = \"blue\"");
    let without = top + &of_blue("here", &here);
    let with = without.clone() + &of_blue("gone", &gone) + &of_blue("unknown", &unknown);
    // The same files, written again before the second start.
    let (config, state) = (place.path("config.toml"), place.path("state"));
    let mut gateway = Gateway::start_in(place, &with)?.expecting_warnings();
    for name in ["here", "gone"] {
        enter(&gateway, name)?.leave()?;
    }
    let mut client = enter(&gateway, "unknown")?;
    unknown.hold();
    client.send(Ask { command: cmd::RESIZE, cookie: 7, offset: 12 * MIB, ..Ask::default() }, &[])?;
    unknown.await_that("the RESIZE", |story| story.count(cmd::RESIZE) == 1)?;
    gateway.kill()?;
    fs::write(config, format!("state = {state:?}\n\n{without}"))?;
    drop(here);
    gateway.start_again()?;
    let counted = 24 * MIB;
    assert_eq!(used(&gateway)?, (counted, 4 * MIB));

    let size = 8 * MIB;
    let line = |name: &str, state: &str| format!("{name} {size} - - {state}");
    let lines =
        |of_gone: &str| vec![line("gone", of_gone), line("here", "unmeasured"), line("unknown", "not configured")];
    assert_eq!(reconcile(&gateway, "--dry-run")?, (Some(1), lines("not configured")));
    assert_eq!(used(&gateway)?, (counted, 4 * MIB), "a dry run changes nothing");
    let applied = in_words(&gateway, "--apply")?;
    for words in [
        "gone     blue      8MiB    -      -    0B         0B  forgotten\n",
        "unknown  blue      8MiB    -      -    0B       4MiB  not configured\n",
        "here: export \"here\" can't be opened: ",
        "unknown: nobody knows whether it grew by 4 MiB",
    ] {
        ensure(applied.stdout.contains(words), || applied.stdout.clone())?;
    }
    assert_eq!(applied.status.code(), Some(1), "not all of it could be told");
    assert_eq!(used(&gateway)?, (16 * MIB, 4 * MIB));
    assert_eq!(reconcile(&gateway, "--apply")?, (Some(1), lines("")[1..].to_vec()));
    let told = gateway.operator(&["events", "--kind", "forgotten", "--json"])?.run()?.success()?.stdout;
    let told: Value = serde_json::from_str(&told)?;
    assert_eq!((told[0]["export"].as_str(), told[0]["old_size"].as_u64()), (Some("gone"), Some(size)));
    gateway.kill_and_restart()?;
    assert_eq!(used(&gateway)?, (16 * MIB, 4 * MIB));
    drop(client);
    gateway.end()
}

#[test]
fn only_who_brings_the_token_has_the_ledger_reconciled() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("own", "memory:", "size = \"1MiB\""))?;
    let words = ["ledger", "reconcile", "--dry-run", "--admin", gateway.told("admin on ")];
    let binary = crate::gateway::binary()?.display().to_string();
    let refused = crate::process::Call::new(&binary).args(words).run()?;
    ensure(refused.status.code() == Some(1) && refused.stderr.contains("--token-file"), || refused.stderr.clone())?;
    assert_eq!(reconcile(&gateway, "--dry-run")?, (Some(0), vec![format!("own {MIB} {MIB} 0 agrees")]));
    gateway.end()
}
