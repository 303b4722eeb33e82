//! The reference configuration is true: it parses, has every key of the schema, and its values are the defaults.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test crate")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nbd_gateway_config::{
    Backend, Config, Driver, IoRates, LimitOverrides, Limits, NoExport, OnBackendLoss, TenantId, schema,
};
use nbd_gateway_policy::types::Size;
use serde_json::Value;

const EXAMPLE: &str = include_str!("../example.toml");

/// The example with the keys switched on that it only mentions.
fn everything() -> String {
    let key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '"']));
    let switched = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if key(rest) => rest,
        _ => line,
    });
    switched.collect::<Vec<_>>().join("\n")
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("example.toml")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Every key of a schema with its own schema, by path.
fn keys(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    for shape in schema["anyOf"].as_array().unwrap_or(&vec![schema.clone()]) {
        let table = if shape["items"].is_null() { shape } else { &shape["items"] };
        for (name, inner) in table["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            keys(inner, &path, found);
            found.push((path, inner.clone()));
        }
    }
}

/// Every key of a document with its value, by path; entries of a list count as one.
fn stated(value: &toml::Value, path: &str, found: &mut Vec<(String, toml::Value)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, inner) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                found.push((path.clone(), inner.clone()));
                stated(inner, &path, found);
            }
        }
        toml::Value::Array(list) => list.iter().for_each(|entry| stated(entry, path, found)),
        _ => {}
    }
}

fn stated_in(text: &str) -> Vec<(String, toml::Value)> {
    let mut found = Vec::new();
    stated(&toml::Value::Table(text.parse().unwrap()), "", &mut found);
    found
}

/// Rates of I/O have no defaults.
const UNBOUNDED: LimitOverrides = LimitOverrides {
    session_requests: None,
    session_bytes: None,
    tenant_bytes: None,
    largest_payload: None,
    session_io: Some(IoRates::NONE),
    session_notices: None,
    export_notices: None,
    tenant_io: Some(IoRates::NONE),
    export_io: Some(IoRates::NONE),
};

#[test]
fn the_example_parses_with_and_without_the_keys_that_it_only_mentions() {
    for text in [EXAMPLE, &everything()] {
        let config = parse(text);
        let quiet = |limits: Limits| {
            let mut limits = limits.with(&UNBOUNDED);
            (limits.session_notices, limits.export_notices) = (None, None);
            limits
        };
        assert_eq!(quiet(config.limits), Limits::default());
        assert_eq!(config.listable().collect::<Vec<_>>(), ["vm1", "vm2", "vm3", "vm4", "vm5", "vm6", "scratch"]);
        assert_eq!(quiet(config.export_for("vm1").unwrap().limits), Limits::default());
        assert_eq!(quiet(config.tenants()[0].limits), Limits::default());
    }
}

#[test]
fn every_key_of_the_schema_stands_in_the_example_and_nothing_else() {
    let mut known = Vec::new();
    keys(schema(), "", &mut known);
    // The rates of I/O stand in several places and are shown in full in one.
    let again = |path: &String| path.contains("io.") && !path.starts_with("export.limits.io.");
    let known: BTreeSet<_> = known.into_iter().map(|(path, _)| path).filter(|path| !again(path)).collect();
    let stated: BTreeSet<_> =
        stated_in(&everything()).into_iter().map(|(path, _)| path).filter(|p| !again(p)).collect();
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(known, stated);
}

#[test]
fn the_values_in_the_example_are_the_defaults_of_the_schema() {
    let mut known = Vec::new();
    keys(schema(), "", &mut known);
    let stated = stated_in(EXAMPLE);
    let mut count = 0;
    for (path, schema) in known {
        let Some(default) = schema.get("default") else { continue };
        let values: Vec<_> = stated.iter().filter(|(other, _)| *other == path).collect();
        assert!(!values.is_empty(), "{path} has a default, but does not stand in the example");
        for (_, value) in values {
            assert_eq!(&serde_json::to_value(value).unwrap(), default, "{path}");
            count += 1;
        }
    }
    assert!(count >= 18, "{count}");
}

#[test]
fn the_defaults_of_the_schema_are_what_a_file_without_those_keys_means() {
    let short = r#"
        [[listener]]
        address = "0.0.0.0:10809"
        [[tenant]]
        name = "blue"
        [[export]]
        name = "vm1"
        tenant = "blue"
        backend = "nbd://10.0.0.5:10809/vm1"
        HOOKS AND DRIVERS
        [[export]]
        name = "blue/*"
        tenant = "blue"
        backend = "nbds://10.0.0.5/{}?tls-certificates=/etc/pki/nbd-gateway"
        [[export]]
        name = "scratch"
        tenant = "blue"
        backend = "file:scratch.img"
        size = "10GiB"
    "#;
    // These have keys that have no default.
    let (from, to) = (EXAMPLE.find("[[export.notify]]").unwrap(), EXAMPLE.find("# A name with one `*`").unwrap());
    assert_eq!(parse(&short.replace("HOOKS AND DRIVERS", &EXAMPLE[from..to])), parse(EXAMPLE));
}

#[test]
fn without_a_configuration_there_is_one_disk_on_this_host_only() {
    let config = Config::embedded_default(Path::new("/home/me"));
    assert_eq!(config.listeners.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:10809"]);
    assert_eq!(config.admin.as_ref().unwrap().to_string(), "127.0.0.1:9809");
    assert_eq!(config.state, Path::new("/home/me/nbd-gateway-data"));
    assert_eq!(config.token_file.as_deref(), Some(Path::new("/home/me/nbd-gateway-data/token")));
    assert_eq!(config.listable().collect::<Vec<_>>(), ["demo"]);
    assert_eq!(config.export_for(""), Err(NoExport::Unknown));
    let demo = config.export_for("demo").unwrap();
    let path = "/home/me/nbd-gateway-data/demo.img".into();
    assert_eq!(demo.backend, Backend::File { path, size: Some(Size::new(1 << 30).unwrap()), beneath: None });
    assert_eq!(demo.tenant, TenantId::new("demo").unwrap());
    assert_eq!(demo.on_backend_loss, OnBackendLoss::Hold { time: Duration::from_secs(30), durable: false });
    assert_eq!((demo.resize.driver, demo.resize.policy.max_size.bytes()), (Driver::Origin, 4 << 30));
    assert_eq!(config.tenants().len(), 1);
    let allowance = config.tenant("demo").unwrap().allowance;
    assert_eq!((allowance.quota.map(|quota| quota.0), allowance.enforce), (Some(4 << 30), true));
}
