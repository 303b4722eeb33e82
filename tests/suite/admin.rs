//! Promise: the admin interface says whether the gateway lives, whether it takes clients, and what it does.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::gateway::{Gateway, TOKEN, export};
use crate::place::Place;
use crate::process::{Call, Output};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

/// Body and status of a page, as `BODY STATUS`.
fn page(words: &[&str]) -> Result<Output, Trouble> {
    Call::new("curl").args(["--silent", "--show-error", "--write-out", " %{http_code}"]).args(words).run()?.success()
}

fn says(words: &[&str], expected: &str) -> Result<(), Trouble> {
    let output = page(words)?;
    ensure(output.stdout == expected, || output.trouble(&format!("should have said {expected:?}")).to_string())
}

#[test]
fn a_gateway_is_alive_and_ready_until_it_drains() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let mut gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let url = gateway.told("admin on ").to_owned();
    let at = |path: &str| format!("{url}{path}");
    says(&[&at("/livez")], "alive\n 200")?;
    says(&[&at("/readyz")], "ready\n 200")?;
    ensure(page(&[&at("/nothing")])?.stdout.ends_with(" 404"), || "an unknown page is no 404".into())?;
    ensure(page(&["--request", "POST", &at("/readyz")])?.stdout.ends_with(" 405"), || "a POST is taken".into())?;
    // A request in flight keeps the drain going for as long as the test looks.
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    backend.hold();
    client.send(Ask::read(1, 0, 512), &[])?;
    backend.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    gateway.ask_to_end();
    eventually("readyz says that it drains", || says(&[&at("/readyz")], "draining\n 503").is_ok())?;
    says(&[&at("/livez")], "alive\n 200")?;
    backend.release();
    client.reply()?.success()?;
    gateway.await_end()
}

#[test]
fn the_series_of_named_exports_and_listeners_exist_before_the_first_client() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = export("vm", &backend.uri(), "") + &export("own", "memory:", "size = \"1MiB\"");
    let gateway = Gateway::start(&tables)?;
    for name in ["vm", "own"] {
        let label = format!("export=\"{name}\"");
        let requests = gateway.metric("nbd_gateway_requests_total", &[&label]);
        assert!(requests.is_err(), "a command has series from its first request on, {name} has {requests:?}");
        for metric in ["bytes_total", "in_flight_requests", "lane_reconnects_total"] {
            assert_eq!(gateway.metric(&format!("nbd_gateway_{metric}"), &[&label])?, 0.0, "{metric} {name}");
        }
        let up = if name == "own" { 1.0 } else { 0.0 };
        assert_eq!(gateway.metric("nbd_gateway_lane_up", &[&label])?, up, "{name}");
    }
    for listener in [format!("unix:{}", gateway.socket().display()), "127.0.0.1:0".to_owned()] {
        assert_eq!(gateway.metric("nbd_gateway_sessions", &[&format!("listener=\"{listener}\"")])?, 0.0);
    }
    assert_eq!(gateway.metric("nbd_gateway_build_info", &["version="])?, 1.0);
    assert_eq!(gateway.metric("nbd_gateway_request_duration_seconds_count", &["command=\"read\""])?, 0.0);
    gateway.end()
}

#[test]
fn counters_follow_what_clients_do() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("vm", &backend.uri(), ""))?.expecting_warnings();
    let metric = |name: &str, labels: &[&str]| gateway.metric(&format!("nbd_gateway_{name}"), labels);
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let (other, _) = RawClient::open(gateway.socket(), "vm", Framing::Simple)?;
    assert_eq!(metric("sessions", &["listener=\"unix:"])?, 2.0);
    assert_eq!(metric("lane_up", &["export=\"vm\""])?, 1.0);
    for round in 0..3 {
        client.write(round * 512, &[1; 512])?.success()?;
    }
    client.read(0, 4096)?;
    let past = client.ask(Ask::read(9, 1 << 40, 512), &[])?;
    assert_eq!(past.error, errno::EINVAL);
    for (command, result, count) in [("write", "ok", 3.0), ("read", "ok", 1.0), ("read", "einval", 1.0)] {
        let labels = [&*format!("command=\"{command}\""), &*format!("result=\"{result}\""), "export=\"vm\""];
        assert_eq!(metric("requests_total", &labels)?, count, "{labels:?}");
    }
    assert_eq!(metric("bytes_total", &["direction=\"write\""])?, 1536.0);
    assert_eq!(metric("bytes_total", &["direction=\"read\""])?, 4096.0);
    assert_eq!(metric("request_duration_seconds_count", &["command=\"write\""])?, 3.0);
    backend.hold();
    client.send(Ask::read(1, 0, 512), &[])?;
    client.send(Ask::read(2, 0, 512), &[])?;
    backend.await_that("both", |story| story.count(cmd::READ) == 3)?;
    assert_eq!(metric("in_flight_requests", &["export=\"vm\""])?, 2.0);
    backend.cut();
    eventually("the loss is counted", || {
        metric("lane_reconnects_total", &["reason=\"lost\""]).is_ok_and(|n| n == 1.0)
    })?;
    backend.release();
    client.reply()?.success()?;
    client.reply()?.success()?;
    assert_eq!(metric("in_flight_requests", &["export=\"vm\""])?, 0.0);
    assert_eq!(metric("lane_up", &["export=\"vm\""])?, 1.0);
    client.leave()?;
    other.leave()?;
    eventually("no sessions", || metric("sessions", &["listener=\"unix:"]).is_ok_and(|n| n == 0.0))?;
    gateway.end()
}

/// Prometheus takes the page: every series stands below its own HELP and TYPE, and nothing stands twice.
#[test]
fn the_page_of_metrics_is_in_prometheus_format() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("we\\\"ird\\\\\\nname", "memory:", "size = \"1MiB\""))?;
    let url = gateway.told("admin on ").to_owned() + "/metrics";
    let headers = Call::new("curl").args(["--silent", "--head", "--request", "GET", &url]).run()?.success()?.stdout;
    ensure(headers.to_lowercase().contains("content-type: text/plain; version=0.0.4"), || headers.clone())?;
    let text = page(&[&url])?.stdout;
    let (mut current, mut seen) = (String::new(), std::collections::HashSet::new());
    for line in text.lines().filter(|line| line.starts_with("# TYPE ") || line.starts_with("nbd_gateway_")) {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            current = declared.split(' ').next().unwrap_or_default().to_owned();
            ensure(text.contains(&format!("# HELP {current} ")), || format!("{current} has no help"))?;
        } else {
            let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
            ensure(series.starts_with(&current), || format!("{series} stands below {current}"))?;
            ensure(seen.insert(series), || format!("{series} stands twice"))?;
        }
    }
    ensure(seen.len() > 50, || format!("only {} series", seen.len()))?;
    gateway.end()
}

#[test]
fn the_admin_interface_can_be_a_unix_socket_or_off() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (socket, admin) = (place.path("g"), place.path("a"));
    let tables = |admin: &str| {
        let disk = export("a", "memory:", "size = \"1MiB\"");
        format!("[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = {admin:?}\n{disk}", socket.display())
    };
    let address = format!("unix:{}", admin.display());
    let gateway = Gateway::start_in(place, &tables(&address))?;
    assert_eq!(gateway.told("admin on "), address);
    let path = admin.display().to_string();
    says(&["--unix-socket", &path, "http://localhost/readyz"], "ready\n 200")?;
    let metrics = page(&["--unix-socket", &path, "http://localhost/metrics"])?.stdout;
    ensure(metrics.contains("nbd_gateway_build_info"), || metrics.clone())?;
    // Whom the file system lets in may call it what they like.
    ensure(page(&["--unix-socket", &path, "http://any.name/"])?.stdout.ends_with(" 200"), || "by its name".into())?;
    gateway.end_with(|| ensure(!admin.exists(), || "the admin socket was left behind".into()))?;
    let place = Place::fresh()?;
    let tables = tables("off").replace(&socket.display().to_string(), &place.path("g").display().to_string());
    let gateway = Gateway::start_in(place, &tables)?;
    ensure(!gateway.says("admin on "), || "an admin interface that is off has an address".into())?;
    RawClient::open(gateway.socket(), "a", Framing::Simple)?.0.leave()?;
    gateway.end()
}

/// DNS rebinding: a stranger's name leads here, and the browser of somebody on this host asks by it.
#[test]
fn on_this_host_only_its_own_names_are_answered() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("a", "memory:", "size = \"1MiB\""))?;
    let url = gateway.told("admin on ").to_owned();
    let asked = |host: &str, path: &str| page(&["--header", &format!("Host:{host}"), &format!("{url}{path}")]);
    let data = [
        "/",
        "/metrics",
        "/page/page.js",
        "/api/v1/exports",
        "/api/v1/sessions",
        "/api/v1/events",
        "/api/v1/openapi.json",
    ];
    for path in data {
        for host in ["127.0.0.1", "localhost:80", "a.localhost", "[::1]:9809"] {
            let output = asked(host, path)?;
            ensure(output.stdout.ends_with(" 200"), || output.trouble(&format!("{host} {path}")).to_string())?;
        }
        for host in ["evil.example", "evil.example:9809", "localhost.evil.example"] {
            let said = asked(host, path)?.stdout;
            ensure(said.ends_with(" 421") && said.contains("http://localhost"), || format!("{host} {path}: {said}"))?;
        }
    }
    // Who brings the token gets no further.
    let order = ["--request", "POST", "--header", "Host: evil.example", &format!("{url}/api/v1/drain")];
    ensure(page(&order)?.stdout.ends_with(" 421"), || "an order was taken".into())?;
    for path in ["/livez", "/readyz"] {
        let output = asked("gateway.example", path)?;
        ensure(output.stdout.ends_with(" 200"), || output.trouble(path).to_string())?;
    }
    // HTTP/1.0 says no name.
    let output = page(&["--http1.0", "--header", "Host:", &format!("{url}/api/v1/exports")])?;
    ensure(output.stdout.ends_with(" 200"), || output.trouble("HTTP/1.0").to_string())?;
    gateway.end()
}

#[test]
fn every_error_is_a_sentence_in_json_and_says_what_to_do() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("a", "memory:", "size = \"1MiB\""))?;
    let url = gateway.told("admin on ").to_owned();
    let token = format!("Authorization: Bearer {TOKEN}");
    let json = "Content-Type: application/json";
    for (method, path, body, status, says) in [
        ("GET", "/nothing", "", 404, "there is nothing at /nothing"),
        ("GET", "/api/v1/exports//jobs/1", "", 405, "takes no GET; it takes DELETE"),
        ("POST", "/api/v1/exports//resize", "{\"size\": 1}", 404, "there is no export"),
        ("GET", "/api/v1/exports/", "", 404, "there is nothing at /api/v1/exports/"),
        ("POST", "/api/v1/sessions", "", 405, "takes no POST; it takes GET"),
        ("POST", "/readyz", "", 405, "takes no POST; it takes GET"),
        ("GET", "/api/v1/drain", "", 405, "it takes POST"),
        ("DELETE", "/api/v1/exports/a/jobs/abc", "", 400, "not the number of a resize"),
        ("GET", "/api/v1/exports/%ff", "", 400, "UTF-8"),
        ("GET", "/api/v1/events?limit=many", "", 400, "cannot read the query: limit"),
        ("PATCH", "/api/v1/tenants/default", "[null]", 400, "expected an object"),
        ("POST", "/api/v1/exports/a/resize", "[\"3MiB\", true]", 400, "expected an object"),
        ("POST", "/api/v1/exports/a/resize", "{\"size\": {}}", 400, "expected a number of bytes, or a text such as"),
        ("POST", "/api/v1/ledger/reconcile", "[true]", 400, "expected an object"),
        ("POST", "/api/v1/exports/a/settle", "[true]", 400, "expected an object"),
        ("POST", "/api/v1/exports/a/settle", "{\"zero\": true}", 409, "is not in doubt"),
        ("POST", "/api/v1/ledger/reconcile", "{", 400, "cannot read the body"),
    ] {
        let said = page(&[
            "--request",
            method,
            "--header",
            &token,
            "--header",
            json,
            "--data",
            body,
            "--path-as-is",
            &format!("{url}{path}"),
        ])?
        .stdout;
        let about = || format!("{method} {path} {body}: {said}");
        let (text, code) = said.rsplit_once(' ').unwrap_or_default();
        ensure(code == status.to_string(), about)?;
        let error = serde_json::from_str::<serde_json::Value>(text)
            .map_err(|error| Trouble::new(format!("{error}: {}", about())))?;
        let error = error["error"].as_str().unwrap_or_default();
        ensure(error.contains(says), about)?;
        for name in ["Wanted", "QuotaOrder", "struct", "enum", "u64", "u32"] {
            ensure(!error.contains(name), about)?;
        }
    }
    for accept in ["application/json", "text/event-stream"] {
        let words =
            ["--header", "Last-Event-ID: f", "--header", &format!("Accept: {accept}"), &format!("{url}/api/v1/events")];
        ensure(page(&words)?.stdout.ends_with(" 400"), || format!("{accept}: it is taken"))?;
    }
    gateway.end()
}

/// What a stranger's page or a broken scraper could do: ask and not read, and ask again as soon as there is an answer.
#[test]
fn scrapes_that_nobody_reads_delay_no_handshake_and_hold_a_bounded_number_of_bytes() -> Result<(), Trouble> {
    let mut tables = export("m", "memory:", "size = \"1MiB\"");
    for number in 0..700 {
        tables += &export(&format!("export-{number}"), &format!("nbd+unix:///{number}?socket=/nonexistent"), "");
    }
    let mut gateway = Gateway::start(&tables)?;
    let address = gateway.told("admin on http://").to_owned();
    let ask = |path: &str| -> Result<TcpStream, Trouble> {
        let mut stream = TcpStream::connect(&address)?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        Ok(stream)
    };
    let socket = gateway.socket().to_owned();
    let handshakes = || -> Result<Duration, Trouble> {
        let mut took: Vec<Duration> = Vec::new();
        for _ in 0..50 {
            let began = Instant::now();
            RawClient::open(&socket, "m", Framing::Structured)?.0.leave()?;
            took.push(began.elapsed());
        }
        took.sort();
        Ok(took[25])
    };
    let alone = handshakes()?;
    let before = gateway.peak_memory()?;
    let unread = (0..200).map(|_| ask("/metrics")).collect::<Result<Vec<_>, _>>()?;
    let meanwhile = handshakes()?;
    // One thread encodes, and whoever accepts does not wait for it: a fifth of a second is many times what an answer takes.
    ensure(meanwhile < alone * 10 + Duration::from_millis(200), || {
        format!("{alone:?} alone, {meanwhile:?} meanwhile")
    })?;
    let held = gateway.peak_memory()?.saturating_sub(before);
    ensure(held < 200 << 10, || format!("{held} KiB are held for those who do not read"))?;
    drop(unread);
    let page = page(&[&format!("http://{address}/metrics")])?.stdout;
    ensure(page.ends_with(" 200") && page.len() > 1 << 20, || format!("{} bytes", page.len()))?;
    gateway.end()
}

/// A scraper that hangs costs itself its page, and holds up no end.
#[test]
fn an_admin_client_that_says_nothing_does_not_hold_the_end_up() -> Result<(), Trouble> {
    let gateway = Gateway::start(&export("a", "memory:", "size = \"1MiB\""))?;
    let address = gateway.told("admin on http://").to_owned();
    let silent = TcpStream::connect(&address)?;
    says(&[&format!("http://{address}/livez")], "alive\n 200")?;
    gateway.end()?;
    drop(silent);
    Ok(())
}
