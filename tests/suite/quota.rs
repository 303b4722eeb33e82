//! Promise: an operator changes a tenant's quota while it is used; that holds over a crash, and until the configuration says
//! something else than it did.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::qmp::Monitor;
use crate::trouble::{Trouble, ensure, eventually};
use crate::vm::Machine;

const MIB: u64 = 1 << 20;

/// A gateway with one tenant, `blue`, and its disk of 4 MiB; and its configuration, to be changed.
fn started(quota: &str) -> Result<(Gateway, PathBuf), Trouble> {
    let place = Place::fresh()?;
    let (config, token, disk) = (place.path("config.toml"), place.path("token"), place.path("disk.img"));
    fs::write(&token, "a-token-of-this-suite")?;
    let tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {token:?}\n\
         [[tenant]]\nname = \"blue\"\n{quota}\n{}",
        place.path("g").display(),
        export("disk", &format!("file:{}", disk.display()), "tenant = \"blue\"\nsize = \"4MiB\"\n"),
    );
    Ok((Gateway::start_in(place, &tables)?, config))
}

/// Has the configuration say something else.
fn rewrite(config: &Path, from: &str, to: &str) -> Result<(), Trouble> {
    let text = fs::read_to_string(config)?;
    ensure(text.contains(from), || format!("no {from} in {text}"))?;
    fs::write(config, text.replace(from, to))?;
    Ok(())
}

fn said(gateway: &Gateway, words: &[&str]) -> Result<String, Trouble> {
    Ok(gateway.operator(words)?.run()?.success()?.stdout)
}

fn refused(gateway: &Gateway, words: &[&str], because: &str) -> Result<(), Trouble> {
    let output = gateway.operator(words)?.run()?;
    let fits = output.status.code() == Some(1) && output.stderr.contains(because);
    ensure(fits, || output.trouble(&format!("should have been refused: {because}")).to_string())
}

fn tenant(gateway: &Gateway) -> Result<Value, Trouble> {
    Ok(serde_json::from_str::<Value>(&said(gateway, &["tenants", "--json"])?)?[0].clone())
}

fn quota(gateway: &Gateway) -> Result<f64, Trouble> {
    gateway.metric("nbd_gateway_tenant_quota_bytes", &["tenant=\"blue\""])
}

#[test]
fn an_order_holds_over_a_crash_and_until_the_file_says_something_else() -> Result<(), Trouble> {
    let (mut gateway, config) = started("quota = \"8MiB\"")?;
    let over = "has 4 MiB left of 8 MiB";
    refused(&gateway, &["resize", "disk", "12MiB"], over)?;
    assert_eq!(
        said(&gateway, &["quota", "blue", "16MiB", "--soft", "14MiB"])?,
        "blue may have 16 MiB now, and the gateway warns from 14 MiB on\n\
         an operator ordered this quota, and it holds as long as the configuration says what it says now \
         (quota = \"8MiB\"); to keep it, write quota = \"16MiB\" and write soft-quota = \"14MiB\" in the [[tenant]] there\n"
    );
    assert_eq!(said(&gateway, &["resize", "disk", "12MiB"])?, "disk is now 12 MiB\n");
    assert_eq!(quota(&gateway)?, (16 * MIB) as f64);
    gateway.kill_and_restart()?;
    let now = tenant(&gateway)?;
    for (key, value) in
        [("quota", 16 * MIB), ("soft_quota", 14 * MIB), ("configured_quota", 8 * MIB), ("used", 12 * MIB)]
    {
        assert_eq!(now[key], value, "{key}: {now}");
    }
    assert_eq!(now["quota_ordered"], true);
    assert_eq!(said(&gateway, &["resize", "disk", "13MiB"])?, "disk is now 13 MiB\n");
    refused(&gateway, &["resize", "disk", "17MiB"], "has 3 MiB left of 16 MiB")?;
    let table = said(&gateway, &["tenants"])?;
    ensure(table.contains("blue: an operator ordered this quota"), || table.clone())?;
    gateway.kill()?;
    rewrite(&config, "quota = \"8MiB\"", "quota = \"32MiB\"")?;
    gateway.start_again()?;
    let now = tenant(&gateway)?;
    assert_eq!((&now["quota"], &now["quota_ordered"]), (&json!(32 * MIB), &json!(false)), "{now}");
    assert_eq!((&now["soft_quota"], &now["note"]), (&Value::Null, &Value::Null), "{now}");
    ensure(gateway.whole_log().contains("the order is dropped"), || gateway.log())?;
    assert_eq!(said(&gateway, &["resize", "disk", "30MiB"])?, "disk is now 30 MiB\n");
    // For good: what it said first is what it says, and no more.
    gateway.kill()?;
    rewrite(&config, "quota = \"32MiB\"", "quota = \"8MiB\"")?;
    gateway.start_again()?;
    let now = tenant(&gateway)?;
    assert_eq!((&now["quota"], &now["over_quota"]), (&json!(8 * MIB), &json!(true)), "{now}");
    let events: Value = serde_json::from_str(&said(&gateway, &["events", "--json", "--kind", "quota-changed"])?)?;
    let sizes: Vec<_> =
        events.as_array().unwrap().iter().map(|event| (&event["old_size"], &event["new_size"])).collect();
    assert_eq!(
        sizes,
        [(&json!(8 * MIB), &json!(16 * MIB)), (&json!(16 * MIB), &json!(32 * MIB))],
        "a start with another configuration is no change of it"
    );
    assert_eq!((&events[0]["tenant"], &events[0]["export"]), (&json!("blue"), &Value::Null));
    gateway.end()
}

#[test]
fn an_order_stands_over_a_reload_that_is_not_about_it_and_falls_with_one_that_is() -> Result<(), Trouble> {
    let (gateway, config) = started("quota = \"8MiB\"")?;
    said(&gateway, &["quota", "blue", "16MiB"])?;
    rewrite(&config, "quota = \"8MiB\"", "quota = \"8MiB\"\nlargest-export = \"15MiB\"\nmax-sessions = 7")?;
    said(&gateway, &["reload"])?;
    assert_eq!((quota(&gateway)?, &tenant(&gateway)?["quota_ordered"]), ((16 * MIB) as f64, &json!(true)));
    refused(&gateway, &["resize", "disk", "16MiB"], "the largest export of tenant `blue` is 15 MiB")?;
    said(&gateway, &["resize", "disk", "15MiB"])?;
    rewrite(&config, "quota = \"8MiB\"", "quota = \"12MiB\"")?;
    said(&gateway, &["reload"])?;
    let now = tenant(&gateway)?;
    assert_eq!((&now["quota"], &now["quota_ordered"]), (&json!(12 * MIB), &json!(false)), "{now}");
    assert_eq!((&now["used"], &now["over_quota"]), (&json!(15 * MIB), &json!(true)), "nothing shrinks");
    ensure(gateway.whole_log().contains("the order is dropped"), || gateway.log())?;
    gateway.end()
}

#[test]
fn a_quota_below_what_is_used_shrinks_nothing_and_stops_growth() -> Result<(), Trouble> {
    let (gateway, _) = started("")?;
    assert_eq!(said(&gateway, &["resize", "disk", "12MiB"])?, "disk is now 12 MiB\n");
    let lowered = said(&gateway, &["quota", "blue", "8MiB"])?;
    let begins = "blue may have 8 MiB now\nit has 12 MiB already: nothing shrinks, and nothing of it grows\n";
    ensure(lowered.starts_with(begins), || lowered.clone())?;
    ensure(lowered.contains("(none); to keep it, write quota = \"8MiB\" in"), || lowered.clone())?;
    assert_eq!(quota(&gateway)?, (8 * MIB) as f64);
    assert_eq!(gateway.metric("nbd_gateway_tenant_used_bytes", &["tenant=\"blue\""])?, (12 * MIB) as f64);
    refused(&gateway, &["resize", "disk", "13MiB"], "has 0 bytes left of 8 MiB")?;
    assert_eq!(tenant(&gateway)?["used"], 12 * MIB);
    // What the configuration says is no order.
    assert_eq!(said(&gateway, &["quota", "blue", "none"])?, "blue may have as much as there is now\n");
    assert_eq!(tenant(&gateway)?["quota_ordered"], false);
    said(&gateway, &["resize", "disk", "13MiB"])?;
    gateway.end()
}

#[test]
fn an_order_that_can_not_be_is_refused_with_a_sentence() -> Result<(), Trouble> {
    let (gateway, _) = started("quota = \"8MiB\"\nsoft-quota = \"6MiB\"")?;
    refused(&gateway, &["quota", "green", "1GiB"], "there is no tenant \"green\"")?;
    refused(&gateway, &["quota", "a/b", "1GiB"], "there is no tenant \"a/b\"")?;
    refused(&gateway, &["quota", "blue", "4MiB"], "soft-quota (6MiB) is more than quota (4MiB)")?;
    refused(&gateway, &["quota", "blue", "9EiB"], "more than 2^63-1")?;
    let patch = |body: &str, token: &str| -> Result<String, Trouble> {
        let bearer = format!("Authorization: Bearer {token}");
        let url = format!("{}/api/v1/tenants/blue", gateway.told("admin on "));
        let call = Call::new("curl").args(["--silent", "--show-error", "--write-out", " %{http_code}"]);
        let call = call.args(["--request", "PATCH", "--header", &bearer, "--header", "Content-Type: application/json"]);
        Ok(call.args(["--data", body, &url]).run()?.success()?.stdout)
    };
    let token = "a-token-of-this-suite";
    let long = format!("{{\"quota\": \"{}\"}}", "9".repeat(20_000));
    for (body, with, says) in [
        ("{\"quota\": 1}", "another-token", " 401"),
        ("{\"quota\": \"1GiB\"}", "", " 401"),
        ("{}", token, "nothing is to be changed"),
        ("{}", token, " 400"),
        ("{\"quota\": \"much\"}", token, " 400"),
        ("{\"quota\": -1}", token, " 400"),
        ("{\"quotas\": 1}", token, " 400"),
        ("{\"soft_quota\": \"9MiB\"}", token, " 400"),
        (&*long, token, "length limit"),
    ] {
        let told = patch(body, with)?;
        ensure(told.contains(says), || format!("{body}: {told}"))?;
    }
    assert_eq!((&tenant(&gateway)?["quota"], &tenant(&gateway)?["quota_ordered"]), (&json!(8 * MIB), &json!(false)));
    // In bytes, in words, and away; what is not there stays.
    for (body, hard, soft) in [
        ("{\"quota\": 16777216}", json!(16 * MIB), json!(6 * MIB)),
        ("{\"soft_quota\": null}", json!(16 * MIB), Value::Null),
        ("{\"quota\": null}", Value::Null, Value::Null),
        ("{\"quota\": \"2TiB\", \"soft_quota\": \"1TiB\"}", json!(2u64 << 40), json!(1u64 << 40)),
    ] {
        let told = patch(body, token)?;
        let answer: Value = serde_json::from_str(told.strip_suffix(" 200").unwrap_or(&told))?;
        assert_eq!((&answer["quota"], &answer["soft_quota"]), (&hard, &soft), "{body}: {told}");
        assert_eq!(tenant(&gateway)?, answer, "{body}");
    }
    gateway.end()
}

/// qemu's own way with a full disk: the guest stops, and finds nothing amiss when it goes on.
#[test]
fn a_guest_that_a_full_quota_has_paused_goes_on_when_an_operator_raises_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("d.img");
    let disk = "tenant = \"blue\"\nsize = 1\nmax-size = \"64MiB\"\n\
                [export.resize]\npresent = \"ceiling\"\nstep = \"4MiB\"\n";
    let tables = export("d", &format!("file:{}", file.display()), disk);
    let gateway = Gateway::start(&format!("[[tenant]]\nname = \"blue\"\nquota = \"8MiB\"\n{tables}"))?;
    let mut machine = Machine::boot_with(&[
        "-blockdev".to_owned(),
        format!("driver=nbd,node-name=disk0,export=d,server.type=unix,server.path={}", gateway.socket().display()),
        "-device".to_owned(),
        "virtio-blk-pci,drive=disk0".to_owned(),
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", place.path("qmp").display()),
    ])?;
    let mut monitor = Monitor::connect(&place.path("qmp"))?;
    let write = "(sleep 1; dd if=/dev/zero bs=1M count=12 | tr '\\0' x | dd of=/dev/vda bs=1M iflag=fullblock oflag=direct \
                 2>/tmp/said && touch /tmp/written || touch /tmp/failed) >/dev/null 2>&1 &";
    machine.sh(write)?;
    let mut status = || Ok::<_, Trouble>(monitor.ask("query-status", json!({}))?["status"].clone());
    eventually("a guest that is paused", || status().is_ok_and(|status| status == "io-error"))?;
    ensure(fs::metadata(&file)?.len() <= 8 * MIB, || "the quota was exceeded".into())?;
    said(&gateway, &["quota", "blue", "32MiB"])?;
    monitor.ask("cont", json!({}))?;
    machine.await_that("its write goes on", "[ -e /tmp/written ] || [ -e /tmp/failed ]")?;
    let seen = machine.sh("cat /tmp/said; [ -e /tmp/written ]; dmesg | grep -i 'i/o error' || true")?;
    ensure(!seen.to_lowercase().contains("error"), || seen.clone())?;
    assert_eq!(monitor.ask("query-status", json!({}))?["status"], "running");
    let written = fs::read(&file)?;
    ensure(written.len() as u64 >= 12 * MIB, || format!("only {} bytes were written", written.len()))?;
    ensure(written[..12 << 20].iter().all(|byte| *byte == b'x'), || "what was written is not what is there".into())?;
    drop(machine);
    gateway.end()
}
