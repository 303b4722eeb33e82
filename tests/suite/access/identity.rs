//! Who a client is: by its Unix user and group, its address over either family, and its listener.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{blue, disk, gateway, page, unix};
use crate::client::run_python;
use crate::place::Place;
use crate::process::Call;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// What stock libnbd, run as this user and group, may do: whether it is told of the export, and whether it may write.
fn seen_by(user: (u32, u32), uri: &str) -> Result<(bool, bool), Trouble> {
    let (uid, gid) = user;
    let run = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    let output = Call::new("setpriv").args(run).args(["nbdinfo", "--json", uri]).run()?;
    if !output.status.success() {
        ensure(output.stderr.contains("No such file or directory for export"), || {
            output.trouble("should have been told so").to_string()
        })?;
        return Ok((false, false));
    }
    let info: Value = serde_json::from_str(&output.stdout)?;
    Ok((true, info["exports"][0]["is_read_only"] == Value::Bool(false)))
}

#[test]
fn over_a_unix_socket_a_client_is_its_user_and_its_primary_group() -> Result<(), Trouble> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return Ok(());
    }
    let place = Place::fresh()?;
    let socket = place.path("g");
    let clients = [
        "{ uid = 4001, gid = 4100 }",
        "{ gid = 4100, verbs = [\"list\", \"read\"] }",
        "{ uid = 4002 }",
        "{ address = \"0.0.0.0/0\" }",
    ];
    let gateway = gateway(place, &[unix(&socket)], &(blue(&clients) + &disk("vm1", "")))?;
    // Whoever may use the socket decides nothing here.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777))?;
    let uri = gateway.uri("vm1");
    for (user, expected) in [
        ((4001, 4100), (true, true)),
        ((4003, 4100), (true, false)),
        ((4002, 4200), (true, true)),
        // The user of one entry and the group of none.
        ((4001, 4001), (false, false)),
        ((4100, 4001), (false, false)),
        ((0, 0), (false, false)),
    ] {
        assert_eq!(seen_by(user, &uri)?, expected, "{user:?}");
    }
    gateway.end()
}

/// What stock libnbd may do that connects to the gateway's port from this address.
fn seen_from(source: &str, target: &str, port: u16) -> Result<(bool, bool), Trouble> {
    let words = [source, target, &port.to_string(), "vm1"].map(str::to_owned);
    let told = run_python("access/from_address.py", &words)?.success()?.stdout;
    match told.trim() {
        "nothing" => Ok((false, false)),
        "read" => Ok((true, false)),
        "write" => Ok((true, true)),
        other => Err(Trouble::new(format!("from {source}: {other}"))),
    }
}

#[test]
fn over_tcp_a_client_is_its_address_and_the_same_host_by_both_families() -> Result<(), Trouble> {
    let clients = [
        "{ address = \"127.0.0.9\", verbs = [] }",
        "{ address = \"127.0.0.0/24\" }",
        "{ address = \"127.1.0.0/16\", verbs = [\"list\", \"read\"] }",
        "{ address = \"::1\" }",
        "{ uid = 0 }",
    ];
    for (listener, target) in
        [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        if listener.starts_with('[') && TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped: this machine has no IPv6 loopback address");
            continue;
        }
        let gateway = gateway(Place::fresh()?, &[listener.to_owned()], &(blue(&clients) + &disk("vm1", "")))?;
        let port = gateway.tcp().port();
        let cases: &[(&str, (bool, bool))] = if target == "::1" {
            &[("::1", (true, true))]
        } else {
            &[
                ("127.0.0.1", (true, true)),
                ("127.0.0.254", (true, true)),
                ("127.0.0.9", (false, false)),
                ("127.1.2.3", (true, false)),
                ("127.2.0.1", (false, false)),
            ]
        };
        for (source, expected) in cases {
            assert_eq!(seen_from(source, target, port)?, *expected, "{listener} from {source}");
        }
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn an_ipv6_rule_lets_no_ipv4_host_in_and_the_other_way_round() -> Result<(), Trouble> {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback address");
        return Ok(());
    }
    for (rule, v4, v6) in [("::/0", false, true), ("0.0.0.0/0", true, false)] {
        let entry = format!("{{ address = {rule:?} }}");
        let gateway = gateway(Place::fresh()?, &["[::]:0".to_owned()], &(blue(&[&entry]) + &disk("vm1", "")))?;
        let port = gateway.tcp().port();
        assert_eq!(seen_from("127.0.0.1", "127.0.0.1", port)?.0, v4, "{rule}");
        assert_eq!(seen_from("::1", "::1", port)?.0, v6, "{rule}");
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_client_is_known_by_its_listener_and_the_sessions_tell_the_rule() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (one, two) = (place.path("one"), place.path("two"));
    let clients = [
        format!("{{ listener = {:?} }}", unix(&one)),
        format!("{{ listener = {:?}, verbs = [\"list\", \"read\"] }}", unix(&two)),
    ];
    let clients = clients.each_ref().map(String::as_str);
    let gateway =
        gateway(place, &[unix(&one), unix(&two), "127.0.0.1:0".into()], &(blue(&clients) + &disk("vm1", "")))?;
    let (mut first, _) = RawClient::open(&one, "vm1", Framing::Structured)?;
    let (mut second, _) = RawClient::open(&two, "vm1", Framing::Simple)?;
    first.write(0, &[1; 512])?.success()?;
    assert_eq!(second.read(0, 512)?, [1; 512]);
    ensure(second.write(0, &[2; 512])?.error != 0, || "it may only read".into())?;
    assert_eq!(seen_from("127.0.0.1", "127.0.0.1", gateway.tcp().port())?, (false, false));
    let sessions = page(&gateway, "/api/v1/sessions")?;
    for (session, rule, verbs) in [(0, "tenant[0].clients[0] (line 14)", 6), (1, "tenant[0].clients[1] (line 15)", 2)] {
        let session = &sessions[session];
        assert_eq!((session["tenant"].as_str(), session["rule"].as_str()), (Some("blue"), Some(rule)), "{sessions}");
        assert_eq!(session["verbs"].as_array().map(Vec::len), Some(verbs), "{sessions}");
    }
    let log = gateway.log();
    let opened = log.lines().filter(|line| line.contains("session opened") && line.contains("rule=tenant[0].clients["));
    assert_eq!(opened.count(), 2, "{log}");
    first.leave()?;
    second.leave()?;
    gateway.end()
}
