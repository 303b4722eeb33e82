//! `exports`, `tenants`, `sessions`, `resize`, `publish`, `drain`: an operator's words, to a gateway that runs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::Value;

use super::{fails, fails_in_a_line, gateway};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;

/// What it prints when all goes well.
fn said(gateway: &Gateway, words: &[&str]) -> Result<String, Trouble> {
    Ok(gateway.operator(words)?.run()?.success()?.stdout)
}

/// The same as JSON.
fn json(gateway: &Gateway, words: &[&str]) -> Result<Value, Trouble> {
    Ok(serde_json::from_str(&said(gateway, &[words, &["--json"]].concat())?)?)
}

/// It is refused, in a line that says all of these words.
fn refused(gateway: &Gateway, words: &[&str], because: &[&str]) -> Result<(), Trouble> {
    fails_in_a_line(&gateway.operator(words)?.run()?, 1, because)
}

const TABLES: &str = r#"
[[tenant]]
name = "blue"
quota = "32MiB"
soft-quota = "16MiB"

[[export]]
name = "disk"
tenant = "blue"
backend = "memory:"
size = "8MiB"
max-size = "64MiB"

[export.resize]
shrink = true
"#;

#[test]
fn an_operator_resizes_and_sees_what_came_of_it() -> Result<(), Trouble> {
    let gateway = Gateway::start(TABLES)?.expecting_warnings();
    assert_eq!(
        said(&gateway, &["exports"])?,
        "EXPORT  TENANT  SIZE  DISK    MAX  STATE  BACKEND   GROWS     CLIENTS\n\
         disk    blue    8MiB  8MiB  64MiB  ready  embedded  embedded        0\n"
    );
    assert_eq!(said(&gateway, &["resize", "disk", "10MiB"])?, "disk is now 10 MiB\n");
    assert_eq!(json(&gateway, &["resize", "disk", "+10MiB"])?["size"], 20 * MIB);
    assert_eq!(said(&gateway, &["resize", "disk", "12MiB"])?, "disk is now 12 MiB\n");
    refused(&gateway, &["resize", "disk", "33MiB"], &["export `disk` is 12 MiB", "has 20 MiB left of 32 MiB"])?;
    refused(&gateway, &["resize", "disk", "65MiB"], &["its max-size is 64 MiB"])?;
    assert_eq!(
        said(&gateway, &["resize", "disk", "12MiB", "--adopt"])?,
        "disk is now 12 MiB\n",
        "it is as it should be"
    );
    refused(&gateway, &["resize", "disk", "11MiB", "--adopt"], &["its backend has 12 MiB, not 11 MiB"])?;
    let (mut client, _) = RawClient::open(gateway.socket(), "disk", Framing::Structured)?;
    // The last reply of a handshake comes before the session is one that is shown.
    client.read(0, 512)?;
    let export = json(&gateway, &["exports", "disk"])?;
    for (key, value) in
        [("size", 12 * MIB), ("disk", 12 * MIB), ("max_size", 64 * MIB), ("generation", 3), ("sessions", 1)]
    {
        assert_eq!(export[key], value, "{key}");
    }
    let states: Vec<_> = export["jobs"].as_array().expect("a list").iter().map(|job| job["state"].as_str()).collect();
    assert_eq!(states, ["done", "done", "done", "refused", "refused", "done", "refused"].map(Some));
    assert_eq!(json(&gateway, &["exports"])?[0], export);
    let shown = said(&gateway, &["exports", "disk"])?;
    for line in
        ["size         12 MiB (12582912 bytes)\n", "state        ready\n", "\n  4  refused  an operator asks for "]
    {
        ensure(shown.contains(line), || shown.clone())?;
    }
    let tenants = said(&gateway, &["tenants"])?;
    ensure(tenants.ends_with("blue    32MiB  12MiB        0B         0B  20MiB        1\n"), || tenants.clone())?;
    let sessions = said(&gateway, &["sessions"])?;
    for part in ["  disk    blue    unix    all  12MiB  stock   structured  no   2", "  unix:"] {
        ensure(sessions.contains(part), || sessions.clone())?;
    }
    client.leave()?;
    eventually("nobody", || said(&gateway, &["sessions"]).is_ok_and(|text| text == "no client is connected\n"))?;
    gateway.end()
}

#[test]
fn a_name_with_anything_in_it_is_an_exports_name() -> Result<(), Trouble> {
    let name = "a/b c?ü%2F";
    let gateway = Gateway::start(&export(name, "memory:", "size = \"1MiB\""))?;
    assert_eq!(said(&gateway, &["resize", name, "2MiB"])?, format!("{name} is now 2 MiB\n"));
    assert_eq!(json(&gateway, &["exports", name])?["name"], name);
    gateway.end()
}

#[test]
fn an_export_that_is_not_open_is_told_from_one_that_is_not_there() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("vm", &backend.uri(), ""))?;
    refused(&gateway, &["exports", "vm"], &["\"vm\" is not open: no client uses it"])?;
    refused(&gateway, &["exports", "nothing"], &["there is no export \"nothing\""])?;
    refused(&gateway, &["resize", "nothing", "1MiB"], &["there is no export \"nothing\""])?;
    refused(&gateway, &["publish", "nothing"], &["there is no export \"nothing\""])?;
    assert_eq!(said(&gateway, &["exports"])?, "no export is open: no client uses one\n");
    gateway.end()
}

#[test]
fn only_who_brings_the_token_changes_anything() -> Result<(), Trouble> {
    let gateway_ = Gateway::start(TABLES)?;
    let url = gateway_.told("admin on ");
    let place = Place::fresh()?;
    let wrong = place.path("wrong").display().to_string();
    fs::write(&wrong, "not-the-token\n")?;
    for order in [&["resize", "disk", "9MiB"][..], &["publish", "disk"], &["drain"]] {
        let ask = |more: &[&str]| gateway([order, &["--admin", url], more].concat())?.run();
        fails_in_a_line(&ask(&[])?, 1, &["admin.token-file", "--token-file"])?;
        fails_in_a_line(&ask(&["--token-file", &wrong])?, 1, &["does not take the token in", "wrong"])?;
        fails_in_a_line(&ask(&["--token-file", "/nonexistent/token"])?, 1, &["/nonexistent/token", "No such file"])?;
    }
    // Looking is free, on this host.
    gateway(["exports", "--admin", url])?.run()?.success()?;
    assert_eq!(json(&gateway_, &["exports", "disk"])?["size"], 8 * MIB);
    gateway_.end()
}

/// There the token is needed to look as well; whether the process lives says nothing else.
#[test]
fn an_address_that_other_hosts_reach_asks_everybody_for_the_token() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    fs::write(place.path("token"), "a-token-of-this-suite")?;
    let listener = format!("[[listener]]\naddress = \"unix:{}\"\n", place.path("g").display());
    let admin = format!("[admin]\naddress = \"0.0.0.0:0\"\ntoken-file = {:?}\n", place.path("token"));
    let gateway_ = Gateway::start_in(place, &format!("{listener}{admin}{TABLES}"))?;
    let url = gateway_.told("admin on ").to_owned();
    for words in [&["exports"][..], &["exports", "disk"], &["tenants"], &["sessions"]] {
        fails_in_a_line(&gateway([words, &["--admin", &url]].concat())?.run()?, 1, &["--token-file"])?;
        said(&gateway_, words)?;
    }
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 401), ("/api/v1/openapi.json", 401)] {
        let page = Call::new("curl").args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        assert_eq!(page.arg(url.clone() + path).run()?.success()?.stdout, status.to_string(), "{path}");
    }
    gateway_.end()
}

#[test]
fn an_operator_reaches_a_gateway_by_its_socket_or_is_told_who_is_not_there() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    fs::write(place.path("token"), "a-token-of-this-suite")?;
    let listener = format!("[[listener]]\naddress = \"unix:{}\"\n", place.path("g").display());
    let socket = place.path("a").display().to_string();
    let admin = format!("[admin]\naddress = \"unix:{socket}\"\ntoken-file = {:?}\n", place.path("token"));
    let gateway_ = Gateway::start_in(place, &format!("{listener}{admin}{TABLES}"))?;
    assert_eq!(said(&gateway_, &["resize", "disk", "9MiB"])?, "disk is now 9 MiB\n");
    // As an operator would have it in a profile.
    let output = Call::new("env").arg(format!("NBD_GATEWAY_ADMIN=unix:{socket}"));
    let output = output.arg(crate::gateway::binary()?).arg("tenants").run()?.success()?;
    ensure(output.stdout.contains("9MiB"), || output.stdout.clone())?;
    gateway_.end()?;
    let output = gateway(["exports", "--admin", &format!("unix:{socket}")])?.run()?;
    fails_in_a_line(&output, 1, &[&socket, "No such file", "does the gateway run"])?;
    fails_in_a_line(&gateway(["exports", "--admin", "https://h"])?.run()?, 2, &["TLS is not spoken here"])?;
    fails_in_a_line(&gateway(["resize", "disk", "+1MiB", "--adopt"])?.run()?, 2, &["without a `+`"])?;
    fails(&gateway(["resize", "disk", "1G"])?.run()?, 2, &["`1G` could mean two things"])
}

#[test]
fn who_is_no_gateway_is_told_as_such() -> Result<(), Trouble> {
    let gateway_ = Gateway::start(TABLES)?;
    // An NBD server speaks first, and not HTTP.
    let nbd = format!("http://{}", gateway_.tcp());
    fails_in_a_line(
        &gateway(["exports", "--admin", &nbd])?.run()?,
        1,
        &["gave no answer in HTTP", "admin interface?"],
    )?;
    let elsewhere = format!("{}/elsewhere", gateway_.told("admin on "));
    fails_in_a_line(
        &gateway(["exports", "--admin", &elsewhere])?.run()?,
        1,
        &["there is nothing at /elsewhere/api/v1/exports"],
    )?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let answering = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")
    });
    fails_in_a_line(
        &gateway(["exports", "--admin", &url])?.run()?,
        1,
        &["answered something else", "admin interface?"],
    )?;
    answering.join().expect("it does not panic")?;
    // What another hand opened is closed again.
    gateway_.expecting_warnings().end()
}

#[test]
fn what_another_hand_added_is_shown_when_the_operator_says_so() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let more = "[export.resize]\nexternal = \"manual\"\npoll = \"20ms\"\n";
    let gateway = Gateway::start(&export("vm", &backend.uri(), more))?;
    let (client, told) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    assert_eq!(told.size, 8 * MIB);
    assert_eq!(said(&gateway, &["publish", "vm"])?, "vm is now 8 MiB\n");
    backend.meddle(|disk| disk.resize(9 << 20, 7));
    eventually("the poll", || json(&gateway, &["exports", "vm"]).is_ok_and(|export| export["disk"] == 9 * MIB))?;
    let shown = said(&gateway, &["exports"])?;
    ensure(shown.contains("\n\nvm: the backend has 1 MiB more than is shown; publish shows it\n"), || shown.clone())?;
    assert_eq!(json(&gateway, &["exports", "vm"])?["size"], 8 * MIB, "nobody has said so yet");
    assert_eq!(said(&gateway, &["publish", "vm"])?, "vm is now 9 MiB\n");
    let (mut later, told) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    assert_eq!(told.size, 9 * MIB);
    assert_eq!(later.read(8 * MIB, 512)?, [7; 512], "what is another's is not zeroed");
    later.leave()?;
    client.leave()?;
    gateway.end()
}

#[test]
fn an_export_whose_server_came_back_smaller_is_brought_back_by_order() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let more = "on-backend-loss = { hold = \"100ms\", durable = true }\n[export.resize]\npoll = \"50ms\"\n";
    let gateway = Gateway::start(&export("vm", &served.uri(), more))?.expecting_errors();
    let (mut stock, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    stock.read(0, 512)?;
    served.kill()?;
    fs::File::options().write(true).open(served.file().expect("it has one"))?.set_len(4 * MIB)?;
    served.start_again()?;
    let quarantined =
        |export: &Value| export["standing"] == "quarantined" && export["disk"] == 4 * MIB && export["size"] == 8 * MIB;
    eventually("the quarantine", || json(&gateway, &["exports", "vm"]).is_ok_and(|export| quarantined(&export)))?;
    let shown = said(&gateway, &["exports"])?;
    ensure(shown.contains("the backend has 4 MiB where clients rely on 8 MiB; give the bytes back, or adopt"), || {
        shown.clone()
    })?;
    refused(&gateway, &["resize", "vm", "16MiB"], &["its backend came back smaller"])?;
    refused(&gateway, &["resize", "vm", "5MiB", "--adopt"], &["its backend has 4 MiB, not 5 MiB"])?;
    // It would read past the end that it was told.
    refused(&gateway, &["resize", "vm", "4MiB", "--adopt"], &["1 other session that did not opt in"])?;
    stock.leave()?;
    eventually("the way is free", || said(&gateway, &["resize", "vm", "4MiB", "--adopt"]).is_ok())?;
    let export = json(&gateway, &["exports", "vm"])?;
    assert_eq!((export["standing"].as_str(), export["size"].as_u64()), (Some("ready"), Some(4 * MIB)));
    assert_eq!(json(&gateway, &["tenants"])?[0]["used"], 4 * MIB, "what is lost counts no more");
    let (mut client, told) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    assert_eq!(told.size, 4 * MIB);
    client.write(4 * MIB - 512, &[9; 512])?.success()?;
    assert_eq!(client.read(4 * MIB - 512, 512)?, [9; 512]);
    client.leave()?;
    gateway.end()
}

#[test]
fn a_drain_by_order_is_the_drain_of_sigterm() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let mut gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.hold();
    client.send(Ask { command: cmd::WRITE, cookie: 1, offset: 0, length: 512, flags: 0 }, &[0xe1; 512])?;
    backend.await_that("the WRITE", |story| story.count(cmd::WRITE) == 1)?;
    assert_eq!(said(&gateway, &["drain"])?, "the gateway shuts down after the requests of 1 session are answered\n");
    assert_eq!(json(&gateway, &["drain"])?["sessions"], 1, "it may be said twice");
    backend.release();
    client.reply()?.success()?;
    drop(client);
    gateway.await_end()
}

#[test]
fn the_interface_describes_itself() -> Result<(), Trouble> {
    let gateway = Gateway::start(TABLES)?;
    let url = gateway.told("admin on ").to_owned();
    let page = Call::new("curl").args(["--silent", "--fail", &format!("{url}/api/v1/openapi.json")]);
    let document: Value = serde_json::from_str(&page.run()?.success()?.stdout)?;
    let paths = document["paths"].as_object().expect("it has paths");
    // What it says can be asked for is there, and answers as it says.
    for (path, methods) in paths {
        let at = path.replace("{name}", "disk").replace("{job}", "1");
        for method in methods.as_object().expect("each has methods").keys() {
            let call = Call::new("curl").args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
            let status =
                call.args(["--request", &method.to_uppercase(), &format!("{url}{at}")]).run()?.success()?.stdout;
            let answers = methods[method]["responses"].as_object().expect("each has answers");
            ensure(answers.contains_key(&status), || format!("{method} {at}: {status}, not of {answers:?}"))?;
        }
    }
    gateway.end()
}

/// `nbd://host` without a path means it, so an operator has to be able to.
#[test]
fn the_export_with_the_empty_name_can_be_spoken_of() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("", "memory:", "size = \"1MiB\"\nmax-size = \"4MiB\""))?;
    assert_eq!(said(&gateway, &["resize", "", "2MiB"])?, "\"\" is now 2 MiB\n");
    assert_eq!(json(&gateway, &["exports", ""])?["size"], 2 * MIB);
    assert_eq!(said(&gateway, &["publish", ""])?, "\"\" is now 2 MiB\n");
    refused(&gateway, &["resize", "", "8MiB"], &["its max-size is 4 MiB"])?;
    // As the tables show it.
    assert_eq!(said(&gateway, &["resize", "\"\"", "+1MiB"])?, "\"\" is now 3 MiB\n");
    eventually("it is told", || {
        json(&gateway, &["events", "--export", ""])
            .is_ok_and(|events| events.as_array().is_some_and(|events| events.len() == 3))
    })?;
    gateway.end()
}
