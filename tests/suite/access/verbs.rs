//! What each verb is worth on the wire, for clients that obey what they are told and for those that do not.

use super::{blue, disk, gateway, page, unix};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::numbers::{cmd, errno, flag, info, opt, rep};
use crate::scripted::{Ask, Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

/// An export for each set of verbs: its name, the verbs, and what comes of a WRITE, a TRIM, a larger and a smaller size,
/// and a WRITE past the end.
const SETS: [(&str, &str, [u32; 5]); 6] = [
    ("reads", r#"["list", "read"]"#, [EPERM, EPERM, EPERM, EPERM, EPERM]),
    ("writes", r#"["list", "read", "write"]"#, [0, EPERM, EPERM, EPERM, errno::ENOSPC]),
    ("trims", r#"["list", "read", "write", "trim"]"#, [0, 0, EPERM, EPERM, errno::ENOSPC]),
    ("grows", r#"["list", "read", "write", "resize"]"#, [0, EPERM, 0, EPERM, 0]),
    ("shrinks", r#"["list", "read", "write", "resize", "shrink"]"#, [0, EPERM, 0, 0, 0]),
    ("all", r#"["list", "read", "write", "trim", "resize", "shrink"]"#, [0, 0, 0, 0, 0]),
];
const EPERM: u32 = errno::EPERM;
const MIB: u64 = 1 << 20;

const GROWS: &str = "max-size = \"64MiB\"\n[export.resize]\nshrink = true\nstep = 0\nautomatic = \"always\"";

fn tables() -> String {
    let only = |name: &str, verbs: &str| format!("{{ exports = [{name:?}], verbs = {verbs} }}");
    let mut clients: Vec<String> = SETS.iter().map(|(name, verbs, _)| only(name, verbs)).collect();
    clients.push(only("listed", r#"["list"]"#));
    clients.push(only("none", "[]"));
    let clients: Vec<&str> = clients.iter().map(String::as_str).collect();
    let names = SETS.iter().map(|(name, ..)| *name).chain(["listed", "none"]);
    blue(&clients) + &names.map(|name| disk(name, GROWS)).collect::<String>()
}

#[test]
fn each_verb_is_offered_and_enforced_in_every_framing() -> Result<(), Trouble> {
    for framing in Framing::ALL {
        let place = Place::fresh()?;
        let listener = unix(&place.path("g"));
        let gateway = gateway(place, &[listener], &tables())?;
        for (name, verbs, expected) in SETS {
            let has = |verb: &str| verbs.contains(verb);
            let mut client = RawClient::connect(gateway.socket())?;
            client.upgrade(framing)?;
            let opened = client.learn(opt::GO, name, &[info::RESIZE])?;
            let told = |bit| opened.flags & bit != 0;
            assert_eq!(told(flag::READ_ONLY), !has("write"), "{name}");
            assert_eq!(told(flag::TRIM), has("trim"), "{name}");
            assert_eq!(told(flag::WRITE_ZEROES), has("write"), "{name}");
            assert_eq!(told(flag::SEND_RESIZE), has("resize"), "{name}");
            let features = opened.resize.map_or(0, |resize| resize.features);
            // EXPLICIT and AUTOMATIC; SHRINK; QUERY and NOTIFY are for everyone that has chunks.
            assert_eq!(features & 0x03, if has("resize") { 0x03 } else { 0 }, "{name} {features:#x}");
            assert_eq!(features & 0x10, if has("shrink") { 0x10 } else { 0 }, "{name} {features:#x}");
            assert_eq!(features & 0x0c, if framing == Framing::Simple { 0 } else { 0x0c }, "{name} {features:#x}");
            assert_eq!(client.read(0, 512)?, [0; 512]);
            let mut found = vec![client.write(0, &[1; 512])?.error];
            let mut ask = |command, offset, length| {
                client.ask(Ask { command, cookie: 7, offset, length, flags: 0 }, &[]).map(|reply| reply.error)
            };
            found.push(ask(cmd::TRIM, 4096, 4096)?);
            found.push(ask(cmd::RESIZE, 2 * MIB, 0)?);
            found.push(ask(cmd::RESIZE, MIB, 0)?);
            found.push(client.write(4 * MIB, &[1; 512])?.error);
            assert_eq!(found, expected, "{name} {framing:?}: WRITE, TRIM, grow, shrink, WRITE past the end");
            client.leave()?;
        }
        let denied = gateway.metric("nbd_gateway_quota_denials_total", &["reason=\"not-authorised\""])?;
        // Both sizes for three sets, the smaller one for a fourth.
        assert_eq!(denied, 7.0);
        let log = gateway.whole_log();
        let of = |name: &str| {
            log.lines().filter(|l| l.contains("request denied") && l.contains(&format!("export=\"{name}\""))).count()
        };
        assert_eq!(SETS.map(|(name, ..)| of(name)), [5, 3, 2, 2, 1, 0], "{log}");
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn what_may_only_be_listed_is_seen_and_not_opened() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let listener = unix(&place.path("g"));
    let gateway = gateway(place, &[listener], &tables())?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    let list = client.negotiate(opt::LIST, &[])?;
    let names: Vec<String> = list
        .iter()
        .filter(|a| a.kind == rep::SERVER)
        .map(|a| String::from_utf8_lossy(&a.data[4..]).into_owned())
        .collect();
    assert_eq!(names, ["reads", "writes", "trims", "grows", "shrinks", "all", "listed"]);
    assert_eq!(client.learn(opt::INFO, "listed", &[])?.size, MIB);
    assert_eq!(client.verdict(opt::GO, &go_request("listed", &[]))?, rep::ERR_POLICY);
    assert_eq!(client.verdict(opt::GO, &go_request("none", &[]))?, rep::ERR_UNKNOWN);
    let told = client.negotiate(opt::GO, &go_request("listed", &[]))?;
    let words = String::from_utf8_lossy(&told[0].data).into_owned();
    assert_eq!(words, "you may not read export \"listed\"; ask the operator for the verb `read`");
    // The way that has no words for it.
    let mut old = RawClient::connect(gateway.socket())?;
    old.option(opt::EXPORT_NAME, b"listed")?;
    old.link().await_close()?;
    eventually("nobody is left", || {
        page(&gateway, "/api/v1/sessions").is_ok_and(|list| list.as_array().is_some_and(Vec::is_empty))
    })?;
    gateway.end()
}

#[test]
fn stock_clients_see_what_they_may_not() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let listener = unix(&place.path("g"));
    let gateway = gateway(place, &[listener], &tables())?;
    for (name, read_only, trims) in [("reads", true, false), ("writes", false, false), ("trims", false, true)] {
        let info = Call::new("nbdinfo").args(["--json", &gateway.uri(name)]).run()?.success()?.stdout;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        let export = &info["exports"][0];
        assert_eq!(
            (export["is_read_only"].as_bool(), export["can_trim"].as_bool()),
            (Some(read_only), Some(trims)),
            "{name}"
        );
        let write = Call::new("qemu-io").args(["-f", "raw", "-c", "write -P 7 0 4k", &gateway.uri(name)]).run()?;
        ensure(write.status.success() != read_only, || write.trouble("is not what was expected").to_string())?;
    }
    let copy = Call::new("nbdcopy").args([&gateway.uri("writes"), &gateway.uri("reads")]).run()?;
    ensure(!copy.status.success() && copy.stderr.contains("read-only"), || copy.trouble("wrote").to_string())?;
    Call::new("nbdcopy").args([&gateway.uri("writes"), &gateway.uri("trims")]).run()?.success()?;
    let listed = Call::new("qemu-img").args(["info", "-f", "raw", &gateway.uri("listed")]).run()?;
    ensure(!listed.status.success() && listed.stderr.contains("you may not read"), || {
        listed.trouble("opened it").to_string()
    })?;
    gateway.end()
}
