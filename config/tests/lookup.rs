//! Which export a name means, and what it brings with it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test crate")]

use std::path::Path;
use std::time::Duration;

use nbd_gateway_config::{
    AdminAddress, Config, Fence, IoRates, Limits, ListenAddress, LogFormat, LogLevel, NoExport, OnBackendLoss, Resolved,
};
use nbd_gateway_policy::rate::{Oversize, Rate};
use nbd_gateway_policy::types::Size;
use proptest::prelude::*;

fn config(text: &str) -> Config {
    let text = format!("[[listener]]\naddress = \"[::]:10809\"\n{text}");
    Config::parse(&text, Path::new("test")).unwrap_or_else(|problems| panic!("{problems}"))
}

fn exports(list: &[(&str, &str)]) -> Config {
    let sections = list.iter().map(|(name, backend)| format!("[[export]]\nname = {name:?}\nbackend = {backend:?}\n"));
    config(&sections.collect::<String>())
}

fn backend(config: &Config, name: &str) -> Option<String> {
    config.export_for(name).ok().map(|export| export.backend.to_string())
}

#[test]
fn an_exact_name_comes_before_templates_and_a_longer_template_before_a_shorter_one() {
    let config = exports(&[
        ("*", "nbd://any/{}"),
        ("blue/*", "nbd://blue/{}"),
        ("blue/vm-*", "nbd://vm/{}"),
        ("blue/vm-1", "nbd://one/x"),
        ("ää*", "nbd://umlaut/{}"),
        ("", "nbd://default"),
    ]);
    for (name, expected) in [
        ("blue/vm-1", "nbd://one/x"),
        ("blue/vm-2", "nbd://vm/2"),
        ("blue/vm-", "nbd://vm/"),
        ("blue/x/y", "nbd://blue/x/y"),
        ("green", "nbd://any/green"),
        ("ääh", "nbd://umlaut/h"),
        ("", "nbd://default/"),
        ("*", "nbd://any/%2A"),
    ] {
        assert_eq!(backend(&config, name).as_deref(), Some(expected), "{name}");
        assert_eq!(config.export_for(name).unwrap().name.as_str(), name);
    }
    assert_eq!(config.listable().collect::<Vec<_>>(), ["blue/vm-1", ""]);
    assert_eq!(config.templates().collect::<Vec<_>>(), ["blue/vm-*", "blue/*", "ää*", "*"]);
}

#[test]
fn a_name_that_nothing_fits_means_nothing() {
    let config = exports(&[("a", "nbd://h/a"), ("b/*.img", "file:/srv/{}")]);
    for name in ["", "A", "a ", "b/", "b/x", "a\0", &"a".repeat(4097), &format!("b/{}.img", "a".repeat(4097))] {
        assert_eq!(config.export_for(name), Err(NoExport::Unknown), "{name:?}");
    }
    assert_eq!(backend(&config, "b/x.img").as_deref(), Some("file:/srv/x"));
}

#[test]
fn a_name_that_its_template_refuses_is_told_from_one_that_nothing_fits() {
    let config = exports(&[("b/*.img", "file:/srv/{}"), ("s/*", "nbd+unix:///x?socket=/{}"), ("n*", "nbd://h/xx{}")]);
    let refused = |name: &str, template: &str, why: &str| {
        let refused = NoExport::Refused { template: template.to_owned(), why: why.to_owned() };
        assert_eq!(config.export_for(name), Err(refused), "{name}");
    };
    let harmful = "what `*` matched is put into a path, so it cannot be empty, `.`, or contain `/`, `..` or NUL";
    for name in ["b/.img", "b/x/y.img", "b/...img"] {
        refused(name, "b/*.img", harmful);
    }
    let long = "the path of a Unix socket has at most 107 bytes, this one has 108";
    refused(&format!("s/{}", "x".repeat(107)), "s/*", long);
    let long = "the backend's export has no such name: the name has 4097 bytes; the most is 4096";
    refused(&format!("n{}", "x".repeat(4095)), "n*", long);
    assert_eq!(
        config.export_for("b/.img").unwrap_err().to_string(),
        format!("the template `b/*.img` fits, but its backend cannot be asked for that name: {harmful}")
    );
    assert_eq!(NoExport::Unknown.to_string(), "no export has that name and no template fits it");
}

#[test]
fn a_name_that_its_template_refuses_does_not_fall_to_another_template() {
    let config = exports(&[("*", "nbd://h/{}"), ("b/*", "file:/srv/{}")]);
    assert!(matches!(config.export_for("b/x/y"), Err(NoExport::Refused { template, .. }) if template == "b/*"));
}

#[test]
fn a_name_means_the_same_if_its_entry_is_the_same_wherever_it_stands() {
    let one = exports(&[("a", "nbd://one/a"), ("b", "nbd://one/b"), ("t/*", "nbd://one/{}")]);
    let other = exports(&[("t/*", "nbd://one/{}"), ("t/x", "nbd://one/x"), ("b", "nbd://two/b"), ("a", "nbd://one/a")]);
    for (name, same) in [("a", true), ("b", false), ("t/y", true), ("t/x", false), ("c", false)] {
        assert_eq!((one.has_same_export(&other, name), other.has_same_export(&one, name)), (same, same), "{name}");
        let resolved = [&one, &other].map(|config| config.export_for(name));
        assert_eq!(resolved[0].is_ok() && resolved[0] == resolved[1], same, "{name}");
    }
    let limited = config("[limits]\nsession-requests = 1\n[[export]]\nname = \"a\"\nbackend = \"nbd://one/a\"\n");
    assert!(!one.has_same_export(&limited, "a"), "its bounds come from above");
}

#[test]
fn limits_come_from_the_export_then_its_tenant_then_the_top() {
    let config = config(
        r#"
        [limits]
        session-requests = 100
        drain-timeout = "1s"
        [[tenant]]
        name = "blue"
        [tenant.limits]
        session-requests = 10
        tenant-bytes = "100MiB"
        [[tenant]]
        name = "red"
        [[export]]
        name = "a"
        tenant = "blue"
        backend = "nbd://h/a"
        [export.limits]
        session-requests = 1
        largest-payload = "1MiB"
        [[export]]
        name = "b/*"
        tenant = "blue"
        backend = "nbd://h/{}"
        [[export]]
        name = "c"
        tenant = "red"
        backend = "nbd://h/c"
        "#,
    );
    let shown = |limits: Limits| {
        (
            limits.session_requests,
            limits.tenant_bytes >> 20,
            limits.largest_payload >> 20,
            limits.drain_timeout.as_secs(),
        )
    };
    let of = |name: &str| config.export_for(name).unwrap().limits;
    assert_eq!(shown(of("a")), (1, 100, 1, 1));
    assert_eq!(shown(of("b/x")), (10, 100, 32, 1));
    assert_eq!(shown(of("c")), (100, 1024, 32, 1));
    let tenants: Vec<_> = config.tenants().iter().map(|tenant| (tenant.id.as_str(), shown(tenant.limits))).collect();
    assert_eq!(tenants, [("blue", (10, 100, 32, 1)), ("red", (100, 1024, 32, 1))]);
}

#[test]
fn every_key_of_an_export_arrives() {
    let config = config(
        r#"
        [[export]]
        name = "a"
        backend = "nbd://h:7/x"
        description = "the disk"
        read-only = true
        lanes = 3
        on-backend-loss = { hold = "5s", durable = true }
        late-write-guard = "3s"
        fence = ["/bin/fence", "-x"]
        dial-timeout = "250ms"
        idle-timeout = "0s"
        [[export]]
        name = "b"
        backend = "memory:"
        size = 4096
        [[export]]
        name = "c"
        backend = "nbd+unix:///x?socket=/run/x"
        on-backend-loss = "error"
        [[export]]
        name = "d"
        backend = "nbd://h/x"
        on-backend-loss = { }
        late-write-guard = "0s"
        fence = "off"
        "#,
    );
    let Resolved { description, read_only, lanes, on_backend_loss, dial_timeout, idle_timeout, tenant, .. } =
        config.export_for("a").unwrap();
    let found = config.export_for("a").unwrap();
    let words = ["/bin/fence", "-x"].map(str::to_owned).to_vec();
    assert_eq!((found.late_write_guard, found.fence), (Duration::from_secs(3), Fence::Command(words)));
    assert_eq!(
        (description.as_deref(), read_only, lanes.get(), tenant.as_str()),
        (Some("the disk"), true, 3, "default")
    );
    assert_eq!(on_backend_loss, OnBackendLoss::Hold { time: Duration::from_secs(5), durable: true });
    assert_eq!((dial_timeout, idle_timeout), (Duration::from_millis(250), Duration::ZERO));
    let memory = config.export_for("b").unwrap();
    assert_eq!(memory.backend, nbd_gateway_config::Backend::Memory { size: Size::new(4096).unwrap() });
    assert!(memory.backend.is_embedded() && !memory.read_only);
    let (other, off) = (config.export_for("c").unwrap(), config.export_for("d").unwrap());
    assert_eq!((other.late_write_guard, other.fence), (Duration::from_secs(10), Fence::Driver));
    assert_eq!((off.late_write_guard, off.fence), (Duration::ZERO, Fence::Off));
    assert_eq!(config.export_for("c").unwrap().on_backend_loss, OnBackendLoss::Error);
    assert_eq!(config.export_for("d").unwrap().on_backend_loss, OnBackendLoss::default());
}

#[test]
fn every_key_of_the_process_arrives() {
    let config = Config::parse(
        r#"
        state = "/var/lib/x"
        listener = [ { address = "127.0.0.1:0" }, { address = "unix:/run/a.sock" }, { address = "systemd:nbd" } ]
        admin = { address = "unix:/run/b.sock" }
        log = { format = "json", level = "debug" }
        runtime.threads = 3
        [[export]]
        name = "a"
        backend = "file:a.img"
        [limits]
        handshake-timeout = "1s"
        option-length = "16KiB"
        sessions-per-listener = 7
        session-bytes = "128MiB"
        largest-payload = "64MiB"
        "#,
        Path::new("test"),
    )
    .unwrap();
    assert_eq!(
        config.listeners.iter().map(|listener| listener.address.clone()).collect::<Vec<_>>(),
        [
            ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()),
            ListenAddress::Unix("/run/a.sock".into()),
            ListenAddress::Systemd("nbd".to_owned()),
        ]
    );
    assert_eq!(config.admin, Some(AdminAddress::Unix("/run/b.sock".into())));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Debug));
    assert_eq!(config.threads.map(std::num::NonZeroUsize::get), Some(3));
    assert_eq!(backend(&config, "a").as_deref(), Some("file:/var/lib/x/a.img"));
    let limits = config.limits;
    assert_eq!((limits.handshake_timeout, limits.option_length), (Duration::from_secs(1), 16384));
    assert_eq!((limits.sessions_per_listener, limits.session_bytes, limits.largest_payload), (7, 128 << 20, 64 << 20));
}

#[test]
fn the_admin_interface_is_on_unless_it_is_switched_off() {
    let export = "[[export]]\nname = \"a\"\nbackend = \"nbd://h\"\n";
    assert_eq!(config(export).admin, Some(AdminAddress::Tcp("127.0.0.1:9809".parse().unwrap())));
    assert_eq!(config(&format!("{export}[admin]")).admin, Some(AdminAddress::Tcp("127.0.0.1:9809".parse().unwrap())));
    assert_eq!(config(&format!("{export}[admin]\naddress = \"off\"")).admin, None);
    let v6 = config(&format!("{export}[admin]\naddress = \"[::1]:1\""));
    assert_eq!(v6.admin, Some(AdminAddress::Tcp("[::1]:1".parse().unwrap())));
}

#[test]
fn rates_of_io_are_those_of_the_nearest_and_each_may_burst() {
    let config = config(
        r#"
        [[export]]
        name = "a"
        backend = "nbd://h"
        [export.limits]
        io = { iops = "5/s", write-bandwidth = "1MiB/s", burst = "2s" }
        session-io = { read-iops = "1/min" }
        [limits]
        session-io = { iops = "1000/s" }
        "#,
    );
    let limits = config.export_for("a").unwrap().limits;
    let rate = |amount, per, burst| Rate::new(amount, Duration::from_secs(per), burst, Oversize::Borrow).ok();
    let export = IoRates { requests: rate(5, 1, 10), bytes_written: rate(1 << 20, 1, 2 << 20), ..IoRates::NONE };
    assert_eq!((limits.export_io, limits.tenant_io), (export, IoRates::NONE));
    // Less than one request fits in 100 ms: one passes all the same.
    assert_eq!(limits.session_io, IoRates { reads: rate(1, 60, 1), ..IoRates::NONE });
    assert_eq!(config.limits.session_io, IoRates { requests: rate(1000, 1, 100), ..IoRates::NONE });
}

proptest! {
    #[test]
    fn whatever_a_client_asks_for_stays_on_the_server_and_in_the_directory_that_are_written(name in "\\PC{0,12}") {
        let config = exports(&[("u/*", "nbd://h:7/p/{}"), ("f/*", "file:/srv/d/{}.img"), ("s/*", "nbd+unix:///e?socket=/run/{}.s")]);
        let uri = backend(&config, &format!("u/{name}")).unwrap();
        prop_assert!(uri.starts_with("nbd://h:7/p/") && !uri.contains(['?', '#', '@', '*']), "{uri}");
        for (prefix, directory) in [("f", "/srv/d"), ("s", "/run")] {
            let Ok(export) = config.export_for(&format!("{prefix}/{name}")) else { continue };
            let path = match &export.backend {
                nbd_gateway_config::Backend::File { path, .. } => path.clone(),
                nbd_gateway_config::Backend::Nbd(uri) => match uri.endpoint() {
                    nbd_gateway_config::Endpoint::Unix(path) => path.clone(),
                    other => panic!("{other}"),
                },
                other => panic!("{other}"),
            };
            prop_assert_eq!(path.parent(), Some(Path::new(directory)));
        }
    }
}
